"""The picture of the masks: a row for each point, its panels, the command line and its mistakes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.attention import Point, attention_at
from inference.heatmap import MARKS, draw_attention
from inference.images import read_image
from inference.predictor import Predictor
from inference.render import encode_image
from models.options import ArchitectureOptions
from tests.export.tiny import save_own, tiny_config, tiny_network
from training.visualize import main, visualize

IMAGE = np.random.default_rng(2).integers(0, 256, (60, 90, 3), np.uint8)
POINTS = [Point(10, 50), Point(80, 5)]


@pytest.fixture(scope="module")
def predictor() -> Iterator[Predictor]:
    opened = Predictor.open("psanet18_camvid", threads=1)
    yield opened
    opened.close()


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    path.write_bytes(encode_image(IMAGE, "png"))
    return path


def panel(picture: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    top, left = 24 + row * 64, column * 94
    return picture[top : top + 60, left : left + 90]


def test_each_point_has_a_row_of_the_image_both_masks_and_the_labels(predictor: Predictor) -> None:
    picture, seen = visualize(predictor, IMAGE, POINTS, base_size=90)
    assert picture.shape == (24 + 2 * 64 - 4, 4 * 94 - 4, 3)
    labels = predictor.predict(IMAGE, base_size=90).labels
    assert [each.point for each in seen] == POINTS
    for row, each in enumerate(attention_at(predictor, IMAGE, POINTS, base_size=90).points):
        color = MARKS[row]
        for column, direction in enumerate(each.weights, 1):
            expected = draw_attention(IMAGE, each, direction, color=color)
            np.testing.assert_array_equal(panel(picture, row, column), expected)
        x, y = each.point
        assert [tuple(panel(picture, row, column)[y, x]) for column in range(4)] == [color] * 4
        far = panel(picture, row, 0)[30, 45]
        assert tuple(far) == tuple(IMAGE[30, 45])
        mixed = 0.4 * IMAGE[30, 45] + 0.6 * np.array(predictor.info.palette[labels[30, 45]])
        np.testing.assert_allclose(panel(picture, row, 3)[30, 45], mixed, atol=1)
    assert (picture[:24] < 128).any(), "there are captions"


def test_a_large_image_is_drawn_small_and_one_branch_has_one_mask(tmp_path: Path) -> None:
    config = tiny_config(psa_type="distribute")
    checkpoint = save_own(tiny_network(config), tmp_path / "net.pth")
    predictor = Predictor.open(checkpoint, options=ArchitectureOptions(psa_type="distribute"))
    image = np.zeros((600, 1200, 3), np.uint8)
    picture, _ = visualize(predictor, image, POINTS[:1], scale=0.25)
    assert picture.shape == (24 + 240, 3 * 484 - 4, 3)


def test_the_command_writes_the_picture_and_tells_of_its_points(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "masks.png"
    arguments = [str(street), "--model", "psanet18_camvid", "--points", "10,50", "80,5", "--out", str(out)]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["picture"] == str(out)
    assert [point["point"] for point in told["points"]] == [[10, 50], [80, 5]]
    assert all(set(point["largest"]) == {"collect", "distribute"} for point in told["points"])
    assert read_image(out).shape == (24 + 2 * 64 - 4, 4 * 94 - 4, 3)
    jpeg = tmp_path / "masks.jpg"
    assert main([*arguments[:-1], str(jpeg), "--scale", "0.5"]) == 0
    assert jpeg.read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--points": "90,5"}, "outside the image of 90x60 pixels"),
        ({"--model": "psanet"}, "no model 'psanet'"),
        ({"--scale": "0"}, "scale"),
        ({"image": "missing.png"}, "missing.png: No such file"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_the_mend(
    change: dict[str, str], said: str, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"--model": "psanet18_camvid", "--points": "10,50", "--out": str(tmp_path / "x.png")} | change
    image = values.pop("image", str(street))
    assert main([image, *(text for pair in values.items() for text in pair)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == [street]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--points": "10"}, "takes points such as 240,60"),
        ({"--points": "-1,5"}, "--points"),
        ({"--out": "masks.tiff"}, "ends with .png, .jpg"),
        ({"--out": "street.png"}, "name another file"),
    ],
)
def test_arguments_that_cannot_be_end_with_the_usage(
    change: dict[str, str],
    said: str,
    street: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(street.parent)
    values = {"--model": "psanet18_camvid", "--points": "10,50", "--out": "x.png"} | change
    with pytest.raises(SystemExit) as ended:
        main([str(street), *(text for pair in values.items() for text in pair)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
