"""The models behind an engine: what is asked for, the ONNX files that answer it, and how far they are from
the network. Not here: building and writing the engine (`export/trt.py`).

    models = make_models(network, describe(checkpoint), Wanted(precision="fp16"))
"""

import dataclasses
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.build import NETWORK, build_model
from export.calibration import calibration_images
from export.errors import UnavailableError
from export.half import FLOAT16_LARGEST, largest_activation, to_half
from export.onnx import COMPARED_WINDOWS, verify_onnx
from export.quantize import to_symmetric
from export.verify import Comparison, compare, require, sample_images
from export.weights import store_as_half
from inference.bundle import MODEL_ONNX, Bundle, ModelInfo, PlanInfo, Precision, write_model_json
from inference.engines.tensorrt import TensorRTEngine
from inference.tensorrt_library import Profile
from models.network import SceneParser

log = logging.getLogger(__name__)

MAX_BATCH = 8
LARGEST_BATCH = 256


@dataclass(frozen=True)
class Wanted:
    """What to build, as the command line says it."""

    precision: Precision = "fp16"
    max_batch: int = MAX_BATCH
    runtime: str = "auto"
    target: str | None = None
    plugin: bool = False
    calib: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= LARGEST_BATCH:
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


def make_models(network: SceneParser, info: ModelInfo, wanted: Wanted) -> Models:
    """In int8, what is not quantized is float16."""
    if wanted.precision == "int8":
        assert wanted.calib is not None, "checked when it was made"
        images = np.concatenate(list(calibration_images(wanted.calib, info, most=COMPARED_WINDOWS)))
        calibration = calibration_images(wanted.calib, info)
        model = build_model(network, precision="int8", calibration=calibration)
        typed = to_symmetric(model)
    else:
        images = sample_images(info.crop_hw)
        model = typed = build_model(network, precision="fp32")
    if wanted.precision == "fp32":
        return Models(model, model, images)
    peak = largest_activation(typed, images)
    log.info("the largest activation in float16 is %.4g of %.0f", peak, FLOAT16_LARGEST)
    if not peak < FLOAT16_LARGEST:
        raise UnavailableError(
            f"activations reach {peak:.3g} and float16 ends at {FLOAT16_LARGEST:.0f}: choose --precision fp32"
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
    """On the GPU."""
    log.info("comparing the engine with PyTorch")
    with tempfile.TemporaryDirectory(prefix="psanet-trt-") as scratch:
        (Path(scratch) / plan.file).write_bytes(content)
        bundle = Bundle(dataclasses.replace(info, plans=(plan,)), Path(scratch))
        engine = TensorRTEngine(bundle)
        try:
            comparison = compare(engine, network, images, align_corners=info.align_corners)
        finally:
            engine.close()
    require(comparison, plan.precision)
    return comparison


def batch_profile(model: onnx.ModelProto, max_batch: int) -> Profile:
    """1 to `max_batch` images, tuned for half as many: a photograph's windows rarely fill the last call."""
    channels, height, width = (side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim[1:])
    least, usual, most = ((count, channels, height, width) for count in (1, (max_batch + 1) // 2, max_batch))
    return Profile(least, usual, most)
