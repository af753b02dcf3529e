"""Pictures and statistics of a prediction, held against slow and obvious ways to make them."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco

from inference.bundle import ModelInfo
from inference.errors import ParameterError
from inference.render import (
    ImageFormat,
    colorize,
    confidence_image,
    encode_image,
    label_png,
    overlay,
    statistics,
)
from inference.rle import class_rles
from models.config import PRESETS
from models.labels import get_label_set
from tests.inference.fakes import made_info

# pycocotools 2.0.11's decode, which only these tests call, is not quite ready for numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CAMVID = get_label_set("camvid")
INFO = ModelInfo(
    name="tiny",
    architecture=PRESETS["psanet18_camvid"],
    dataset="camvid",
    class_names=CAMVID.class_names,
    palette=CAMVID.palette,
    crop_hw=(33, 33),
    base_size=64,
)
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 11, (6, 9), dtype=np.uint8).repeat(5, axis=0).repeat(5, axis=1)
PHOTO = RNG.integers(0, 256, (30, 45, 3), dtype=np.uint8)
MANY_COLORS = tuple((index % 256, index // 256, 7) for index in range(300))
MANY_LABELS = np.arange(300, dtype=np.uint16).reshape(15, 20)

label_arrays = arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2, 10])
)


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


class TestLabelPng:
    def test_pixel_values_are_class_ids_and_the_palette_colours_them(self) -> None:
        picture = decoded(label_png(LABELS, CAMVID.palette))
        assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (45, 30))
        assert np.array_equal(np.asarray(picture), LABELS)
        assert np.array_equal(np.asarray(picture.convert("RGB")), colorize(LABELS, CAMVID.palette))

    def test_every_value_has_a_colour_even_where_it_is_no_class(self) -> None:
        labels = np.array([[0, 255]], np.uint8)
        picture = decoded(label_png(labels, CAMVID.palette))
        assert len(picture.getpalette() or []) == 768
        assert np.asarray(picture.convert("RGB"))[0, 1].tolist() == [0, 0, 0]

    def test_more_than_256_classes_need_16_bits(self) -> None:
        picture = decoded(label_png(MANY_LABELS, MANY_COLORS))
        assert picture.mode == "I;16"
        assert np.array_equal(np.asarray(picture), MANY_LABELS)

    def test_exactly_256_classes_fit_8_bits(self) -> None:
        labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        picture = decoded(label_png(labels, MANY_COLORS[:256]))
        assert np.array_equal(np.asarray(picture.convert("RGB"))[15, 15], MANY_COLORS[255])

    @pytest.mark.parametrize("hw", [(1, 1), (1, 5000), (5000, 1)])
    def test_thin_images(self, hw: tuple[int, int]) -> None:
        assert decoded(label_png(np.zeros(hw, np.uint8), CAMVID.palette)).size == hw[::-1]


class TestColorize:
    @given(label_arrays)
    def test_each_pixel_gets_its_class_colour(self, labels: np.ndarray) -> None:
        assert np.array_equal(colorize(labels, CAMVID.palette), np.array(CAMVID.palette, np.uint8)[labels])

    def test_unknown_ids_are_black(self) -> None:
        assert colorize(np.array([[11, 255]], np.uint8), CAMVID.palette).tolist() == [[[0] * 3, [0] * 3]]
        assert colorize(np.array([[300, 65535]], np.uint16), MANY_COLORS).tolist() == [[[0] * 3, [0] * 3]]

    def test_more_than_256_classes(self) -> None:
        expected = np.array(MANY_COLORS, np.uint8)[MANY_LABELS]
        assert np.array_equal(colorize(MANY_LABELS, MANY_COLORS), expected)


class TestOverlay:
    @pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
    def test_colours_are_blended_over_the_photograph(self, alpha: float) -> None:
        expected = (1 - alpha) * PHOTO + alpha * np.array(CAMVID.palette)[LABELS]
        blended = overlay(PHOTO, LABELS, CAMVID.palette, alpha=alpha)
        assert blended.dtype == np.uint8
        assert np.abs(blended - expected).max() <= 0.5 + 1e-9

    def test_other_classes_stay_the_photographs(self) -> None:
        before = PHOTO.copy()
        chosen = overlay(PHOTO, LABELS, CAMVID.palette, classes=[2, 7])
        everything = overlay(PHOTO, LABELS, CAMVID.palette)
        inside = np.isin(LABELS, [2, 7])
        assert inside.any()
        assert np.array_equal(chosen[inside], everything[inside])
        assert np.array_equal(chosen[~inside], PHOTO[~inside])
        assert np.array_equal(PHOTO, before)

    def test_no_classes_at_all_is_the_photograph(self) -> None:
        assert np.array_equal(overlay(PHOTO, LABELS, CAMVID.palette, classes=[]), PHOTO)

    def test_classes_above_256(self) -> None:
        photo = np.full((15, 20, 3), 200, np.uint8)
        chosen = overlay(photo, MANY_LABELS, MANY_COLORS, alpha=1.0, classes={299})
        assert chosen[14, 19].tolist() == list(MANY_COLORS[299])
        assert (chosen.reshape(-1, 3)[:-1] == 200).all()

    @pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
    def test_alpha_outside_0_to_1_is_refused(self, alpha: float) -> None:
        with pytest.raises(ParameterError, match="between 0 and 1"):
            overlay(PHOTO, LABELS, CAMVID.palette, alpha=alpha)

    @pytest.mark.parametrize("class_id", [-1, 11, 255, 10**9])
    def test_unknown_classes_are_refused(self, class_id: int) -> None:
        with pytest.raises(ParameterError, match="0 to 10"):
            overlay(PHOTO, LABELS, CAMVID.palette, classes=[0, class_id])

    def test_sizes_that_differ_are_refused(self) -> None:
        with pytest.raises(ParameterError, match="same image"):
            overlay(PHOTO[1:], LABELS, CAMVID.palette)


def test_confidence_becomes_rounded_grey() -> None:
    confidence = np.array([[0, 0.25, 0.5, 0.998, 1]], np.float32)
    assert confidence_image(confidence).tolist() == [[0, 64, 128, 254, 255]]


class TestEncodeImage:
    def test_png_is_exact(self) -> None:
        assert np.array_equal(np.asarray(decoded(encode_image(PHOTO, "png"))), PHOTO)
        assert np.array_equal(np.asarray(decoded(encode_image(LABELS, "png"))), LABELS)

    @pytest.mark.parametrize("format", ["jpeg", "webp"])
    def test_red_stays_red(self, format: ImageFormat) -> None:
        red = np.zeros((32, 32, 3), np.uint8)
        red[..., 0] = 255
        picture = decoded(encode_image(red, format))
        assert picture.format == format.upper()
        assert np.abs(np.asarray(picture).astype(int) - red).max() < 10

    @pytest.mark.parametrize("format", ["jpeg", "webp"])
    def test_grey_is_kept(self, format: ImageFormat) -> None:
        grey = np.full((20, 30), 77, np.uint8)
        picture = decoded(encode_image(grey, format)).convert("L")
        assert np.abs(np.asarray(picture).astype(int) - 77).max() < 4

    @pytest.mark.parametrize(
        ("format", "side", "mend"),
        [("webp", 16_384, "png or jpeg"), ("jpeg", 65_501, "png"), ("png", 1_000_001, "smaller")],
    )
    def test_sides_too_long_for_the_format_are_refused(
        self, format: ImageFormat, side: int, mend: str
    ) -> None:
        with pytest.raises(ParameterError, match=mend):
            encode_image(np.zeros((1, side), np.uint8), format)
        longest = encode_image(np.zeros((1, side - 1), np.uint8), format)
        assert decoded(longest).size == (side - 1, 1)

    def test_unknown_formats_are_refused(self) -> None:
        with pytest.raises(ParameterError, match="png, jpeg, webp"):
            encode_image(PHOTO, "gif")  # type: ignore[arg-type]


class TestRle:
    @given(label_arrays)
    @settings(max_examples=300)
    def test_equals_pycocotools_on_each_mask(self, labels: np.ndarray) -> None:
        rles = class_rles(labels)
        assert sorted(rles) == np.unique(labels).tolist()
        for class_id, rle in rles.items():
            mask = np.asfortranarray(labels == class_id).astype(np.uint8, order="F")
            assert rle["counts"].encode() == coco.encode(mask)["counts"]
            assert rle["size"] == list(labels.shape)
            assert np.array_equal(coco.decode(rle), mask)  # type: ignore[arg-type]

    def test_16_bit_labels(self) -> None:
        rles = class_rles(MANY_LABELS)
        assert len(rles) == 300
        assert np.array_equal(coco.decode(rles[299]), MANY_LABELS == 299)  # type: ignore[arg-type]

    def test_large_image_with_long_runs(self) -> None:
        labels = np.zeros((3000, 2000), np.uint8)
        labels[10:2900, 500:1500] = 4
        rle = class_rles(labels)[4]
        assert coco.area(rle) == 2890 * 1000  # type: ignore[arg-type]


class TestStatistics:
    def test_classes_present_with_their_pixels_and_shares(self) -> None:
        labels = np.array([[0, 0, 3], [3, 3, 10]], np.uint8)
        entries = statistics(labels, INFO, rle=False)
        assert entries == [
            {"id": 0, "name": "sky", "color": list(CAMVID.palette[0]), "pixels": 2, "share": 2 / 6},
            {"id": 3, "name": "road", "color": list(CAMVID.palette[3]), "pixels": 3, "share": 3 / 6},
            {"id": 10, "name": "bicyclist", "color": list(CAMVID.palette[10]), "pixels": 1, "share": 1 / 6},
        ]

    @given(label_arrays)
    def test_everything_adds_up_and_is_json(self, labels: np.ndarray) -> None:
        entries = json.loads(json.dumps(statistics(labels, INFO, polygons=True)))
        assert sum(entry["pixels"] for entry in entries) == labels.size
        assert sum(entry["share"] for entry in entries) == pytest.approx(1)
        for entry in entries:
            assert coco.area(entry["rle"]) == entry["pixels"]

    def test_ids_that_are_no_class_are_left_out(self) -> None:
        entries = statistics(np.array([[0, 255]], np.uint8), INFO)
        assert [entry["id"] for entry in entries] == [0]
        assert entries[0]["share"] == 0.5

    def test_counts_are_exact_where_float32_is_not(self) -> None:
        labels = np.zeros((4097, 4097), np.uint8)
        labels[-1, -1] = 10
        entries = statistics(labels, INFO, rle=False)
        assert [entry["pixels"] for entry in entries] == [4097 * 4097 - 1, 1]

    def test_more_than_256_classes(self) -> None:
        many = made_info(300, crop_hw=(33, 33))
        entries = statistics(MANY_LABELS, many)
        assert [entry["id"] for entry in entries] == list(range(300))
        assert {entry["pixels"] for entry in entries} == {1}

    def test_polygons_outline_each_area(self) -> None:
        labels = np.zeros((20, 30), np.uint8)
        labels[2:8, 3:11] = 5
        labels[12:18, 20:28] = 5
        labels[19, 0] = 5  # a single pixel has no outline
        entry = statistics(labels, INFO, polygons=True)[1]
        boxes = sorted(
            (min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2])) for flat in entry["polygons"]
        )
        assert boxes == [(3, 2, 10, 7), (20, 12, 27, 17)]
        assert "polygons" not in statistics(labels, INFO)[1]
