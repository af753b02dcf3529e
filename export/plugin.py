"""The PSA mask as a TensorRT plugin whose kernel travels in the engine: running one needs no Python and no
shared library of ours. Quickly deployable form (`tensorrt.plugin`, ahead-of-time implementation).

    register(tensorrt)               # once, before the parser meets the nodes
    model = prepare(model)           # nodes as TensorRT's parser looks plugins up

Not here: the kernel (`export/kernels/psa_mask.cu`), building engines (`export/trt.py`), TensorRT-RTX, which
has no plugins. docs/plugin.md says what was executed and what was not.
"""

import importlib
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from export.errors import UnavailableError
from export.graph import DISTRIBUTE, DOMAIN, OP_NAME, has_psa_mask
from export.nvrtc import compile_ptx

PLUGIN_ID = f"{DOMAIN}::{OP_NAME}"
KERNEL = Path(__file__).with_name("kernels") / "psa_mask.cu"
ENTRIES = {"fp32": "psanet_psa_mask_32", "fp16": "psanet_psa_mask_16"}
TILE, THREAD_ROWS = 32, 8
"""Of the kernel: positions along either side of a block's tile, and its rows of threads."""
CAPABILITY = 75
"""7.5, the oldest GPUs that TensorRT 10.13 runs on; newer ones take their PTX too."""

Attribute = NDArray[np.int32]
# Not int: tensorrt.plugin (10.9 to 11.1) reads an attribute as an array of one value and calls its type on
# it, and int(array) is an error from numpy 2.4 on. The parser hands over ONNX's INT as int32.


def register(tensorrt: Any, *, capability: int = CAPABILITY) -> None:
    """Makes the plugin known to `tensorrt`, the module; a second call does nothing.

    capability: of the oldest GPU that engines shall run on, 80 for 8.0. Raises UnavailableError for
    TensorRT-RTX, for a TensorRT without ahead-of-time plugins, and where NVRTC is missing.
    """
    library = _plugin_module(tensorrt)
    if hasattr(library.op, DOMAIN) and hasattr(getattr(library.op, DOMAIN), OP_NAME):
        return
    _ptx(capability)  # what is missing is said before a build starts

    def describe(over_completed: Any, mask_h: Any, mask_w: Any, type: Any) -> Any:
        images, _, height, width = over_completed.shape_expr
        shape = (images, height * width, height, width)
        return library.from_shape_expr(shape, dtype=over_completed.dtype)

    def autotune(over_completed: Any, outputs: Any) -> Any:
        return [library.AutoTuneCombination("FP32|FP16, FP32|FP16", "LINEAR")]

    def implement(over_completed: Any, mask_h: Any, mask_w: Any, type: Any, outputs: Any, tactic: int) -> Any:
        images, _, height, width = over_completed.shape_expr
        precision = "fp16" if over_completed.dtype == tensorrt.DataType.HALF else "fp32"
        tiles = library.cdiv(height * width, TILE)
        launch = library.KernelLaunchParams(
            grid_x=tiles, grid_y=tiles, grid_z=images, block_x=TILE, block_y=THREAD_ROWS
        )
        # Between the kernel's input and its output.
        scalars = (height, width, _value(mask_h), _value(mask_w), int(_value(type) == DISTRIBUTE))
        extra = library.SymIntExprs.from_tuple([library.SymInt32(scalar) for scalar in scalars])
        return ENTRIES[precision], _ptx(capability), launch, extra

    # Set here: the decorators look at the annotations, and only now are the classes known.
    tensor, attributes = library.TensorDesc, dict.fromkeys(("mask_h", "mask_w", "type"), Attribute)
    inputs, outputs = {"over_completed": tensor, **attributes}, GenericAlias(tuple, (tensor,))
    combinations = GenericAlias(list, (library.AutoTuneCombination,))
    kernel = GenericAlias(tuple, (str, str, library.KernelLaunchParams, library.SymIntExprs))
    describe.__annotations__ = {**inputs, "return": tensor}
    autotune.__annotations__ = {"over_completed": tensor, "outputs": outputs, "return": combinations}
    implement.__annotations__ = {**inputs, "outputs": outputs, "tactic": int, "return": kernel}
    library.register(PLUGIN_ID)(describe)
    library.autotune(PLUGIN_ID)(autotune)
    library.aot_impl(PLUGIN_ID)(implement)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with PSAMask nodes that TensorRT's parser reads as the plugin.

    The parser prefers a local function to a plugin, so the function is left out; it finds plugins by the
    node's op type and the attributes `plugin_namespace` and `plugin_version`, and `aot` makes it refuse any
    implementation that would need Python at run time. Raises UnavailableError for a model without such nodes.
    """
    if not has_psa_mask(model):
        raise UnavailableError(
            "this model holds no PSAMask node for the plugin to stand in for (its context is another, is "
            "compact, or was inlined or rewritten): leave --plugin out"
        )
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    kept = [function for function in prepared.functions if (function.domain, function.name) != _NAME]
    del prepared.functions[:]
    prepared.functions.extend(kept)
    found = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}
    for node in prepared.graph.node:
        if (node.domain, node.op_type) == _NAME:
            node.attribute.extend(helper.make_attribute(key, value) for key, value in found.items())
    return prepared


_NAME = (DOMAIN, OP_NAME)


@cache
def _ptx(capability: int) -> str:
    return compile_ptx(KERNEL.read_text(encoding="utf-8"), KERNEL.name, capability=capability)


def _value(attribute: Attribute) -> int:
    return int(attribute.reshape(-1)[0])


def _plugin_module(tensorrt: Any) -> Any:
    """`tensorrt.plugin`, or UnavailableError."""
    # TensorRT-RTX has none of this; TensorRT had plugins in Python before it had ahead-of-time ones.
    if hasattr(tensorrt, "QuickPluginCreationRequest"):
        return importlib.import_module(f"{tensorrt.__name__}.plugin")
    version = getattr(tensorrt, "__version__", "")
    raise UnavailableError(
        f"{tensorrt.__name__} {version} has no ahead-of-time Python plugins: --plugin needs TensorRT 10.13 "
        "or later (--runtime tensorrt); without it the engine holds the function, which gives the same"
    )
