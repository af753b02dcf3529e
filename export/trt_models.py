"""The models behind an engine: what is asked for, the ONNX files that answer it, and how far they are from
the network. Not here: building and writing the engine (`export/trt.py`).

    models = make_models(network, describe(checkpoint), Wanted(precision="fp16"))
"""

import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.build import NETWORK, build_model
from export.calibration import calibration_images
from export.comparison import Comparison, require_near, sample_images
from export.errors import UnavailableError
from export.half import FLOAT16_LARGEST, largest_activation, to_half
from export.onnx import COMPARED_WINDOWS, verify_onnx
from export.quantize import to_symmetric
from export.trt_sizes import Sizes, check_sizes, default_sizes, with_known_remainders
from export.weights import store_as_half
from inference.bundle import MODEL_ONNX, Bundle, ModelInfo, PlanInfo, Precision, write_model_json
from inference.engines.tensorrt import TensorRTEngine
from models.network import SceneParser

log = logging.getLogger(__name__)

MAX_BATCH, WHOLE_BATCH = 8, 1
"""Images in a call where nothing is said: windows, and whole images, one of which is work enough."""
LARGEST_BATCH = 256


@dataclass(frozen=True)
class Wanted:
    """What to build, as the command line says it."""

    precision: Precision = "fp16"
    max_batch: int | None = None
    runtime: str = "auto"
    target: str | None = None
    plugin: bool = False
    calib: Path | None = None
    sizes: Sizes | None = None

    def __post_init__(self) -> None:
        if self.max_batch is not None and not 1 <= self.max_batch <= LARGEST_BATCH:
            raise UnavailableError(f"--max-batch must be between 1 and {LARGEST_BATCH}, not {self.max_batch}")
        if self.precision == "int8" and self.calib is None:
            raise UnavailableError("--precision int8 needs images to calibrate with: --calib FOLDER")


@dataclass(frozen=True)
class Models:
    """kept: for the bundle's `model.onnx`; typed: what the engine is built from; images: (N, 3, *crop_hw) to
    compare on, for int8 some of the calibration's, whose ranges it has."""

    kept: onnx.ModelProto
    typed: onnx.ModelProto
    images: NDArray[np.float32]


def shapes_for(info: ModelInfo, wanted: Wanted) -> tuple[Sizes | None, int]:
    """Sizes of the images that the engine is to take, None for windows of the crop, and images in a call at
    most. Raises UnavailableError for what was asked for and cannot be."""
    if info.test_mode == "whole":
        max_batch = wanted.max_batch or WHOLE_BATCH
        sizes = wanted.sizes or default_sizes(info)
        check_sizes(sizes, info.architecture, max_batch)
        log.info("the engine will take images of these sizes (least, usual, most): %s", sizes)
        return sizes, max_batch
    if wanted.sizes is not None:
        height, width = info.crop_hw
        raise UnavailableError(
            f"--sizes is for networks that are tested on whole images, and this one takes windows of "
            f"{height}x{width}: leave it out, or choose --test-mode whole where the network takes any size"
        )
    return None, wanted.max_batch or MAX_BATCH


def make_models(network: SceneParser, info: ModelInfo, wanted: Wanted) -> Models:
    """In int8, what is not quantized is float16."""
    any_size = info.test_mode == "whole"
    if wanted.precision == "int8":
        assert wanted.calib is not None, "checked when it was made"
        images = np.concatenate(list(calibration_images(wanted.calib, info, most=COMPARED_WINDOWS)))
        calibration = calibration_images(wanted.calib, info)
        model = build_model(network, precision="int8", calibration=calibration, any_size=any_size)
        typed = to_symmetric(model)
    else:
        images = sample_images(info.crop_hw)
        model = typed = build_model(network, precision="fp32", any_size=any_size)
    if any_size:
        typed = with_known_remainders(typed)
    if wanted.precision == "fp32":
        return Models(typed, typed, images)
    peak = largest_activation(typed, images)
    log.info("the largest activation in float16 is %.4g of %.0f", peak, FLOAT16_LARGEST)
    if not peak < FLOAT16_LARGEST:
        raise UnavailableError(
            f"activations reach {peak:.3g} and float16 ends at {FLOAT16_LARGEST:.0f}: choose --precision fp32"
        )
    if peak > FLOAT16_LARGEST / 4:
        log.warning(
            "that is near the end of float16, and other images may pass it (their logits are then refused as "
            "not finite): --precision fp32 is safe"
        )
    typed = to_half(typed)
    if wanted.precision == "fp16":
        store_as_half(model, network.state_dict(), prefix=NETWORK)
    return Models(model, typed, images)


def verify_model(
    folder: Path,
    model: onnx.ModelProto,
    info: ModelInfo,
    network: SceneParser,
    images: NDArray[np.float32],
) -> Comparison:
    """In ONNX Runtime; `folder` is for its files."""
    (folder / MODEL_ONNX).write_bytes(model.SerializeToString())
    write_model_json(folder, info)
    log.info("comparing the ONNX file with PyTorch")
    return verify_onnx(folder, network, images)


def verify_plan(
    info: ModelInfo,
    plan: PlanInfo,
    content: bytes,
    network: SceneParser,
    images: NDArray[np.float32],
) -> Comparison:
    """On the GPU; of a plan for many sizes at two more: the comparison that is farther off."""
    log.info("comparing the engine with PyTorch")
    with tempfile.TemporaryDirectory(prefix="psanet-trt-") as scratch:
        (Path(scratch) / plan.file).write_bytes(content)
        bundle = Bundle(dataclasses.replace(info, plans=(plan,)), Path(scratch))
        engine = TensorRTEngine(bundle)
        subjects = _subjects(info, plan, images)
        try:
            return require_near(engine, network, subjects, plan.precision, align_corners=info.align_corners)
        finally:
            engine.close()


def _subjects(info: ModelInfo, plan: PlanInfo, images: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Images that the plan takes."""
    if plan.sizes is None:
        yield images
        return
    sizes, (height, width) = Sizes(*plan.sizes), info.crop_hw
    if sizes.nearest(info.crop_hw) == info.crop_hw:
        yield images
    # Odd features, whose corners are aligned, and even ones.
    for size_hw in {
        sizes.nearest((height * 3 // 4 + 1, width * 5 // 4)),
        sizes.nearest((height // 2, width // 2)),
    }:
        yield sample_images(size_hw)
