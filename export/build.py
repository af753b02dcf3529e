"""The ONNX model of a network: the one place where a model of a given precision and form is made.

Everything that writes an ONNX file, or builds an engine from one, starts here. Not here: bundles and the
command line (`export/onnx.py`), TensorRT (`export/trt.py`).

    python -c "from export.build import build_model; help(build_model)"
"""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import numpy as np
import onnx
import onnx.inliner
import torch
from numpy.typing import NDArray

from export.attention import LogitsAndAttention
from export.errors import UnavailableError
from export.graph import (
    DOMAIN,
    OPSET,
    add_psa_mask_function,
    has_psa_mask,
    strip_provenance,
    translation_table,
)
from export.quantize import quantize
from export.rewrite import add_psa_pairs_function, has_psa_pairs, pairs_translation_table, with_serving_tail
from export.weights import store_as_half
from inference.bundle import LOGITS, Precision, attention_output
from models.config import ModelConfig
from models.network import SceneParser

log = logging.getLogger(__name__)

PsaForm = Literal["function", "pairs"]
"""How the PSA mask is written: as the op PSAMask, with its function, or within the rewritten tail
(`export/rewrite.py`), as the op PSAPairs with its own."""
NETWORK = "network."
"""What the names of a model's weights have before the network's own."""


def build_model(
    network: SceneParser,
    *,
    precision: Precision = "fp32",
    calibration: Iterable[NDArray[np.float32]] | None = None,
    psa_form: PsaForm = "function",
    inline: bool = False,
    any_size: bool = False,
    attention: bool = False,
) -> onnx.ModelProto:
    """The network as a checked ONNX model, `image` (N, 3, h, w) RGB in [0, 255] to coarse `logits`.

    precision: "fp16" stores the weights so and computes in float32 (`export/half.py` has the typed graph
    that TensorRT wants); "int8" is calibrated on `calibration`, batches (N, 3, h, w) of the same pixels,
    and always inlined. inline: standard ops in place of the project's own functions, for what knows none.
    any_size: h and w are free, for networks that take whole images; otherwise they are the crop's.
    attention: with the attention of every branch as further outputs (docs/onnx.md), where there is a branch.
    Raises UnavailableError for a precision that cannot be had, CalibrationError for images of no use.
    """
    if precision == "int8" and calibration is None:
        raise UnavailableError("--precision int8 needs images to calibrate with: --calib FOLDER")
    model = to_onnx(network, psa_form=psa_form, inline=inline, any_size=any_size, attention=attention)
    if precision == "int8" and calibration is not None:
        model = quantize(model, calibration)
    if precision == "fp16":
        store_as_half(model, network.state_dict(), prefix=NETWORK)
    onnx.checker.check_model(model, full_check=True)
    return model


def to_onnx(
    network: SceneParser,
    *,
    psa_form: PsaForm = "function",
    inline: bool = False,
    any_size: bool = False,
    attention: bool = False,
) -> onnx.ModelProto:
    """The network in float32, batch norm folded: `image` (N, 3, h, w) to `logits`, for any N.

    See `build_model`.
    """
    log.info("exporting")
    config = network.config
    assert config.any_size or not any_size, "the network takes images of its crop alone"
    if psa_form == "pairs":
        network = with_serving_tail(network)
    # Two images: torch.export takes a size of 1 for a constant.
    images = torch.zeros(1, 3, *config.crop_hw).expand(2, -1, -1, -1)
    free = {0: torch.export.Dim("N", min=1)}
    if any_size:
        free |= {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    directions = config.directions if attention else ()
    with _quiet():
        program = torch.onnx.export(
            LogitsAndAttention(network, directions),
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[LOGITS, *map(attention_output, directions)],
            dynamic_shapes={"image": free},
            custom_translation_table={**translation_table(), **pairs_translation_table()},
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns a program"
    model = program.model_proto
    model.producer_name, model.producer_version = "psanet-serving", version_of("psanet-serving")
    strip_provenance(model)
    add_psa_mask_function(model)
    add_psa_pairs_function(model)
    return _inlined(model) if inline else model


def written_form(model: onnx.ModelProto, config: ModelConfig) -> str:
    """What `model.json` says of the PSA mask in `model`: a `PsaForm`, "inlined", or "none" without one."""
    if config.context != "psa" or config.compact:
        return "none"
    if has_psa_mask(model):
        return "function"
    return "pairs" if has_psa_pairs(model) else "inlined"


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    inlined = onnx.inliner.inline_local_functions(model)
    standard = [opset for opset in inlined.opset_import if opset.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(standard)
    return inlined


def version_of(distribution: str) -> str:
    """The installed version of a distribution, "unknown" where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps stdout for the JSON line, and the exporter's remarks on torchvision and torch's code unsaid."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning
            )
            yield
    finally:
        registration.setLevel(level)
