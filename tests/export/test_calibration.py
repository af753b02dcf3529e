"""Calibration: which windows of a folder, and the ranges of activations on them."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import parser
from torch import Tensor

from export.calibration import calibration_images, measure
from export.errors import CalibrationError
from inference.bundle import ModelInfo
from inference.engines.pytorch import PyTorchEngine
from inference.images import read_image
from inference.predictor import Predictor
from models.config import MEAN_RGB
from models.labels import get_label_set
from tests.export.tiny import tiny_config, tiny_network

CROP_HW = (65, 65)


def info(**changes: object) -> ModelInfo:
    labels = get_label_set("camvid")
    values: dict[str, object] = {
        "name": "tiny",
        "architecture": tiny_config(),
        "dataset": "camvid",
        "class_names": labels.class_names,
        "palette": labels.palette,
        "crop_hw": CROP_HW,
        "base_size": 130,
    }
    return ModelInfo(**{**values, **changes})  # type: ignore[arg-type]


def write(folder: Path, name: str, hw: tuple[int, int] = (70, 100), seed: int = 0) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)
    return path


@pytest.mark.parametrize(
    "changes",
    [{}, {"base_size": 40}, {"protocol": "mmsegmentation", "base_short": 80}],
    ids=["published", "published, padded", "MMSegmentation"],
)
def test_windows_are_what_the_network_is_given(changes: dict[str, object], tmp_path: Path) -> None:
    """The oracle runs the network itself and keeps what goes in."""
    path = write(tmp_path, "street.png")
    model = info(**changes)
    seen: list[NDArray[np.float32]] = []
    network = tiny_network(tiny_config())
    own = network.coarse_logits

    def watched(images: Tensor) -> Tensor:
        seen.extend(images.numpy().copy())
        return own(images)

    network.coarse_logits = watched  # type: ignore[method-assign]
    engine = PyTorchEngine(network, threads=1)
    engine.crop_hw = CROP_HW
    Predictor(model, engine).predict(read_image(path))
    windows = list(calibration_images(tmp_path, model))
    assert all(window.shape == (1, 3, *CROP_HW) and window.dtype == np.float32 for window in windows)
    given = {window.tobytes() for window in seen}
    assert len(windows) == len(given) > 0
    assert {window.tobytes() for window in windows} == given


def test_padding_is_the_mean_colour(tmp_path: Path) -> None:
    write(tmp_path, "small.png", (20, 30))
    (window,) = calibration_images(tmp_path, info(base_size=30))
    np.testing.assert_allclose(window[0, :, 0, 0], MEAN_RGB, rtol=1e-6)


def test_few_windows_of_many_images_and_always_the_same(tmp_path: Path) -> None:
    for index in range(23):
        write(tmp_path, f"{index:02}.png", seed=index)
    first, again = (list(calibration_images(tmp_path, info(), most=10)) for _ in range(2))
    assert len(first) == 10
    assert [window.tobytes() for window in first] == [window.tobytes() for window in again]
    # The oracle: every window of an image tells which image it is of.
    owners = {
        window.tobytes(): index
        for index in range(23)
        for window in calibration_images(_alone(tmp_path, index), info())
    }
    assert [owners[window.tobytes()] for window in first] == [index * 23 // 10 for index in range(10)]
    assert len(list(calibration_images(_alone(tmp_path, 0), info(), most=2))) == 2


def _alone(folder: Path, index: int) -> Path:
    """A folder with a link to the one image."""
    alone = folder / ".alone" / f"{index:02}"
    alone.mkdir(parents=True, exist_ok=True)
    link = alone / "image.png"
    if not link.exists():
        link.symlink_to(folder / f"{index:02}.png")
    return alone


def test_images_of_sub_folders_count_and_a_whole_image_model_has_windows_of_its_crop(tmp_path: Path) -> None:
    write(tmp_path, "a/b/street.png")
    whole = info(test_mode="whole", protocol="mmsegmentation")
    windows = list(calibration_images(tmp_path, whole))
    assert windows
    assert {window.shape for window in windows} == {(1, 3, *CROP_HW)}


def test_a_folder_that_cannot_be_used_is_refused_at_once_and_the_mend_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    for folder, said in (
        (tmp_path / "missing", "does not exist: name a folder of images"),
        (tmp_path / "notes.txt", "is a file: name a folder of images"),
        (tmp_path, "holds no image: name a folder of images"),
    ):
        with pytest.raises(CalibrationError, match=said):
            calibration_images(folder, info())


def test_images_that_cannot_be_read_are_left_out_and_none_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write(tmp_path, "b.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.jpg").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING):
        assert len(list(calibration_images(tmp_path, info()))) > 0
    assert [record.getMessage().count("left out") for record in caplog.records] == [1, 1]
    (tmp_path / "b.png").unlink()
    with pytest.raises(CalibrationError, match="holds no image that can be read"):
        list(calibration_images(tmp_path, info()))


MODEL = """
<ir_version: 8, opset_import: ["" : 18]>
doubled (float[N, 3, 2, 2] image) => (float[N, 3, 2, 2] logits) {
    half = Constant <value = float {0.5}> ()
    middle = Mul (image, half)
    logits = Relu (middle)
}
"""


def test_ranges_are_the_extremes_over_all_images() -> None:
    images = [np.full((1, 3, 2, 2), value, np.float32) for value in (4.0, -6.0, 1.0)]
    model = parser.parse_model(MODEL)
    assert measure(model, ["middle", "logits"], images) == {"middle": (-3.0, 2.0), "logits": (0.0, 2.0)}
    assert model == parser.parse_model(MODEL), "the model itself stays as it is"


@pytest.mark.parametrize(
    ("value", "said"), [(None, "no images"), (np.nan, "not finite"), (np.inf, "not finite")]
)
def test_no_images_and_endless_activations_are_errors(value: float | None, said: str) -> None:
    images = [] if value is None else [np.full((1, 3, 2, 2), value, np.float32)]
    with pytest.raises(CalibrationError, match=said):
        measure(parser.parse_model(MODEL), ["middle"], images)
