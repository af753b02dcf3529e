"""A float32 model as an int8 one: its convolutions on 8-bit integers, by scales written in the file (QDQ).

Weights are int8, symmetric, with a scale per output channel; activations uint8 with a scale per tensor, as
ONNX Runtime wants them on x64, or int8 around 0 (`to_symmetric`), as TensorRT does; biases stay float32.
docs/int8.md has the measurements behind every choice. Not here: which of the graph becomes integers
(`export/quantizable.py`), the pixels and ranges (`export/calibration.py`).

    small = quantize(model, calibration_images(folder, info))
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import onnx.inliner
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.calibration import measure
from export.errors import UnavailableError
from export.quantizable import Layout, Scale, lay_out

LEAST_OPSET: Final = 13
"""Of scales per channel."""
WEIGHT_LEVELS: Final = 63
"""Largest absolute weight. Processors without VNNI add two products of weight and activation in 16 bits: with
weights beyond 64 that sum overflows, and nothing says so."""
_BIAS_LIMIT: Final = 2.0**30
"""Runtimes hold biases in int32, as multiples of the product of the input's and the weights' scales."""


def quantize(model: ModelProto, images: Iterable[NDArray[np.float32]]) -> ModelProto:
    """An int8 copy of `model`, with functions inlined, for few quantized runtimes know them.

    model: in float32, from `image`; images: (N, 3, h, w) RGB in [0, 255] as it will see them. Each is one
    call of the model. Raises UnavailableError for a model that cannot be quantized, and CalibrationError for
    no images, or activations that are not finite.
    """
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise UnavailableError(
            f"int8 needs opset {LEAST_OPSET} or later, for a scale per channel, and this model has {opset}: "
            "export the checkpoint anew, or choose --precision fp16 or fp32"
        )
    model = onnx.inliner.inline_local_functions(model)
    layout = lay_out(model)
    if not layout.convolutions:
        raise UnavailableError(
            "int8 is for convolutions with float32 weights and a ReLU behind them, and this model has none: "
            "choose --precision fp16 or fp32"
        )
    _rewrite(model, layout, layout.scales(measure(model, layout.tensors, images)))
    return model


def to_symmetric(model: ModelProto) -> ModelProto:
    """A copy of what `quantize` made, with activations as int8 around 0: all that TensorRT takes.

    Rectified activations have half the steps then. ONNX Runtime runs it, but slower than float32.
    """
    symmetric = ModelProto()
    symmetric.CopyFrom(model)
    stored = {item.name: item for item in symmetric.graph.initializer}
    for size_name, zero_name in {
        tuple(node.input[1:]) for node in symmetric.graph.node if node.op_type == "QuantizeLinear"
    }:
        size, zero = (numpy_helper.to_array(stored[name]) for name in (size_name, zero_name))
        if zero.dtype == np.uint8:
            reach = float(size) * max(int(zero), 255 - int(zero))
            stored[size_name].CopyFrom(_tensor(size_name, reach / 127, np.float32))
            stored[zero_name].CopyFrom(_tensor(zero_name, 0, np.int8))
    return symmetric


def _rewrite(model: ModelProto, layout: Layout, scales: Mapping[str, Scale]) -> None:
    """Puts the integers into the graph, in place."""
    graph = model.graph
    stored = {item.name: item for item in graph.initializer}
    added: list[TensorProto] = []
    nodes: list[NodeProto] = []
    for node in layout.convolutions:
        name = node.input[1]
        weight = numpy_helper.to_array(stored[name])
        bias = numpy_helper.to_array(stored[node.input[2]]) if len(node.input) > 2 else None
        integers, sizes = round_weight(weight, bias, scales[node.input[0]].size)
        zeros = np.zeros(len(weight), np.int8)
        parts: dict[str, NDArray[Any]] = {"_quantized": integers, "_scale": sizes, "_zero_point": zeros}
        added += [numpy_helper.from_array(values, name + end) for end, values in parts.items()]
        inputs = [name + end for end in parts]
        dequantize = _node("DequantizeLinear", inputs, f"{name}_dequantized")
        dequantize.attribute.append(helper.make_attribute("axis", 0))
        nodes.append(dequantize)
        node.input[1] = f"{name}_dequantized"
    for node in graph.node:
        node.input[:] = [f"{name}_dequantized" if name in scales else name for name in node.input]
        nodes.append(node)
        for name in (name for name in node.output if name in scales):
            parameters = [f"{name}_scale", f"{name}_zero_point"]
            added.append(_tensor(parameters[0], scales[name].size, np.float32))
            added.append(_tensor(parameters[1], scales[name].zero, np.uint8))
            nodes.append(_node("QuantizeLinear", [name, *parameters], f"{name}_quantized"))
            inputs = [f"{name}_quantized", *parameters]
            nodes.append(_node("DequantizeLinear", inputs, f"{name}_dequantized"))
    used = {name for node in nodes for name in node.input}
    _replace(graph.initializer, [*(item for item in graph.initializer if item.name in used), *added])
    _replace(graph.node, nodes)
    del graph.value_info[:]


def round_weight(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, input_size: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(integers, scales) of a convolution's weight (O, I, h, w), one scale per output channel.

    A channel of tiny weights beside a large bias has a larger scale than it needs, so that its bias, as a
    multiple of input_size and the scale, stays within int32.
    """
    peaks = abs(weight).reshape(len(weight), -1).max(1) / WEIGHT_LEVELS
    if bias is not None:
        peaks = np.maximum(peaks, abs(bias) / (input_size * _BIAS_LIMIT))
    sizes = np.where(peaks > np.finfo(np.float32).tiny, peaks, 1).astype(np.float32)
    integers = np.rint(weight / sizes.reshape(-1, 1, 1, 1)).clip(-WEIGHT_LEVELS, WEIGHT_LEVELS)
    return integers.astype(np.int8), sizes


def _node(op_type: str, inputs: list[str], output: str) -> NodeProto:
    return helper.make_node(op_type, inputs, [output], name=f"{output}_{op_type}")


def _tensor(name: str, values: Any, kind: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, kind), name)


def _replace(field: Any, values: list[Any]) -> None:
    kept = list(values)
    del field[:]
    field.extend(kept)
