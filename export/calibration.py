"""What int8 is calibrated on: windows of a folder's images, cut as the predictor cuts them, and the ranges
that activations have on them. Not here: what becomes of the ranges (`export/quantize.py`).

    ranges = measure(model, tensors, calibration_images(Path("data/camvid/images/train"), info))

`info.protocol` decides how an image is scaled, padded and cut. Few images are enough, but they must be like
those that the model will see, and none that it will be judged by.
"""

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from export.errors import CalibrationError
from inference.bundle import ModelInfo
from inference.errors import ImageError, ParameterError
from inference.files import plan_jobs
from inference.images import read_image
from inference.onnxruntime_library import onnxruntime
from inference.predictor import Predictor

log = logging.getLogger(__name__)

MOST_WINDOWS: Final = 64


def calibration_images(
    folder: Path, info: ModelInfo, *, most: int = MOST_WINDOWS
) -> Iterator[NDArray[np.float32]]:
    """Windows (1, 3, *crop_hw) float32 RGB in [0, 255], `most` at the most; always the same of a folder.

    They are of as many images as there are, evenly spread over the names in order: one window of each, or
    more where the folder holds few. Of a model for whole images they are of the training's crop. Raises
    CalibrationError at once where the folder is missing or holds no image; images that cannot be read are
    left out with a warning, and when none can be read, that is an error.
    """
    files = _files(folder)
    chosen = [files[index * len(files) // most] for index in range(most)] if len(files) > most else files
    return _windows(folder, chosen, info, -(-most // len(chosen)), most)


def measure(
    model: ModelProto, tensors: Iterable[str], images: Iterable[NDArray[np.float32]]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each tensor of a float32 model over all images, (N, 3, h, w) each.

    They are found inside the graph, so that a call holds no more memory than an ordinary one. Raises
    CalibrationError for no images, and for activations that are not finite.
    """
    names = list(tensors)
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in names:
        for op in ("ReduceMin", "ReduceMax"):
            probe.graph.node.append(helper.make_node(op, [name], [f"{name}/{op}"], keepdims=0))
            probe.graph.output.append(helper.make_tensor_value_info(f"{name}/{op}", TensorProto.FLOAT, []))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = [np.array(session.run(None, {"image": batch}), np.float64).reshape(-1, 2) for batch in images]
    if not found:
        raise CalibrationError("int8 cannot be calibrated on no images: give some with --calib")
    if not np.isfinite(found).all():
        raise CalibrationError("there are activations that are not finite; is the checkpoint sound?")
    log.info("calibrated %d tensors on %d windows", len(names), len(found))
    lowest, highest = np.min(found, 0)[:, 0], np.max(found, 0)[:, 1]
    return {name: (float(low), float(high)) for name, low, high in zip(names, lowest, highest, strict=True)}


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CalibrationError(
            f"--calib {folder} {what}: name a folder of images that the model is meant for"
        )
    try:
        return [job.source for job in plan_jobs([str(folder)], out=folder, suffixes={}, recursive=True)]
    except ParameterError:
        raise CalibrationError(
            f"--calib {folder} holds no image: name a folder of images that the model is meant for"
        ) from None


def _windows(
    folder: Path, files: list[Path], info: ModelInfo, each: int, most: int
) -> Iterator[NDArray[np.float32]]:
    given = 0
    for number, path in enumerate(files):
        try:
            image = read_image(path)
        except ImageError as error:
            log.warning("left out %s: %s", path, error)
            continue
        windows = _cut(image, info)
        # Another place in every image, so that sky and road both come.
        start = number * 7919 % len(windows)
        for index in itertools.islice(range(len(windows)), min(each, most - given)):
            given += 1
            yield windows[(start + index) % len(windows)]
    if not given:
        raise CalibrationError(f"--calib {folder} holds no image that can be read: name a folder that does")


def _cut(image: NDArray[np.uint8], info: ModelInfo) -> list[NDArray[np.float32]]:
    """All windows of an image at scale 1, each (1, 3, *crop_hw)."""
    recorder = _Recorder(info)
    # A model for whole images has seen crops while it was trained, and the file is the same.
    Predictor(dataclasses.replace(info, test_mode="sliding"), recorder).predict(image)
    return recorder.windows


class _Recorder:
    """An engine that keeps what it is given, and finds nothing in it: whatever the protocol, it is asked for
    just the pixels that the network would see."""

    name, device = "recorder", "cpu"
    preferred_batch, max_batch, limits_hw = 1, 1, None

    def __init__(self, info: ModelInfo) -> None:
        self.crop_hw, self.coarse_hw = info.crop_hw, info.architecture.feature_hw
        self.windows: list[NDArray[np.float32]] = []
        self._logits = np.zeros((1, info.classes, *self.coarse_hw), np.float32)

    def to_device(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.windows.append(images.copy())
        return self._logits

    def close(self) -> None:
        self.windows.clear()
