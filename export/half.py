"""A float32 model as a strongly typed float16 one, as TensorRT wants it: the file's types are the plan's.

Pixels come in and logits go out in float32. In float32 stay, too: the normalisation, whose pixels reach 255;
softmax; averages and other sums over positions; products of two activations neither of which is a softmax's
(all of these float16 would round coarsely or overflow); and what is quantized. Everything else, weights and
activations, is float16. Not `export/weights.py`, which stores weights as float16 and computes in float32.

    half = to_half(model)
    largest_activation(model, images) < FLOAT16_LARGEST
"""

from collections.abc import MutableSequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from export.errors import UnavailableError
from inference.onnxruntime_library import onnxruntime

FLOAT16_LARGEST = 65504.0
"""Beyond it float16 is infinite."""

_FLOAT, _HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
_HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"}
"""Where float16 pays: computed so whatever the inputs are, but for the exceptions above."""
_WIDE = {"Softmax", "LogSoftmax", "Exp", "Pow", "ReduceMean", "ReduceSum", "ReduceL2", "GlobalAveragePool",
         "AveragePool", "QuantizeLinear", "DequantizeLinear"}  # fmt: skip
"""Computed in float32."""
_FLOAT_INPUTS = {"Resize": (1, 2)}
"""Inputs of a type of their own."""
_MOVES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Mul", "Div"}
"""What may lie between a softmax and the product that it goes into."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float32 model (`image` to `logits`, with PSAMask's function or without) in float16.

    Raises UnavailableError for weights that float16 cannot hold, and for a model with branches (If, Loop).
    """
    conversion = _Conversion(model)
    conversion.run()
    half = conversion.model()
    onnx.checker.check_model(half)
    return half


def largest_activation(model: onnx.ModelProto, images: NDArray[np.float32]) -> float:
    """The largest absolute value, over images (N, 3, h, w), of what `to_half(model)` computes in float16.

    It is the float32 model that is measured: a float16 one would not tell, because ONNX Runtime on a CPU
    computes that in float32.
    """
    conversion = _Conversion(model)
    conversion.run()
    made = {name for node in model.graph.node if node.op_type != "Constant" for name in node.output}
    names = sorted(name for name in made if conversion.types.get(name) == _HALF)
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    graph = measured.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "peak_shape"))
    for name in names:
        graph.node.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        graph.node.append(helper.make_node("ReduceMax", [f"{name}/abs"], [f"{name}/max"], keepdims=0))
        graph.node.append(helper.make_node("Reshape", [f"{name}/max", "peak_shape"], [f"{name}/peak"]))
    graph.node.append(helper.make_node("Concat", [f"{name}/peak" for name in names], ["peaks"], axis=0))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("peaks", _FLOAT, [len(names)]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content, providers = measured.SerializeToString(), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=providers)
    return max(float(np.max(session.run(["peaks"], {"image": image[None]})[0])) for image in images)


class _Conversion:
    """Goes over a model's nodes in their order. types: float16 or float32, of every such value by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.types: dict[str, int] = {}
        self._source = model
        self._nodes: list[onnx.NodeProto] = []
        self._constants = {item.name: item for item in model.graph.initializer}
        self._copies: dict[tuple[str, int], str] = {}
        self._soft: set[str] = set()
        self._quantized: set[str] = set()
        self._inferred = _inferred_types(model)

    def run(self) -> None:
        """Converts every node."""
        for value in self._source.graph.input:
            self.types[value.name] = value.type.tensor_type.elem_type
        for node in self._source.graph.node:
            if any(item.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for item in node.attribute):
                raise UnavailableError(f"a model with a branch ({node.op_type}) has no float16 form")
            constant = _constant(node)
            if constant is not None:
                self._constants[constant.name] = constant
            else:
                self._convert(node)

    def model(self) -> onnx.ModelProto:
        """The model that the new nodes make, with outputs of the old names and types."""
        source, nodes = self._source, self._nodes
        for value in source.graph.output:
            if self.types[value.name] == _HALF:
                rounded = f"{value.name}_half"
                for node in nodes:
                    _rename(node.input, value.name, rounded)
                    _rename(node.output, value.name, rounded)
                nodes = [*nodes, helper.make_node("Cast", [rounded], [value.name], to=_FLOAT)]
        used = {name for node in nodes for name in node.input}
        return helper.make_model(
            helper.make_graph(
                nodes,
                source.graph.name,
                source.graph.input,
                source.graph.output,
                [item for name, item in self._constants.items() if name in used],
            ),
            functions=source.functions,
            ir_version=source.ir_version,
            opset_imports=source.opset_import,
            producer_name=source.producer_name,
            producer_version=source.producer_version,
        )

    def _convert(self, node: onnx.NodeProto) -> None:
        kind, fixed = self._kind(node), _FLOAT_INPUTS.get(node.op_type, ())
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for index, name in enumerate(node.input):
            if self._type(name) is not None and node.op_type not in ("Cast", "Shape"):
                new.input[index] = self._as(name, _FLOAT if index in fixed else kind)
        self._nodes.append(new)
        for name in node.output:
            if self._inferred.get(name, _FLOAT) == _FLOAT:
                # A cast of the file's own gives what it says.
                self.types[name] = _FLOAT if node.op_type == "Cast" else kind
        first = node.input[0] if node.input else ""
        if node.op_type == "Softmax" or (node.op_type in _MOVES and first in self._soft):
            self._soft.update(node.output)
        if node.op_type == "DequantizeLinear":
            self._quantized.update(node.output)

    def _kind(self, node: onnx.NodeProto) -> int:
        """The type that a node computes in: the narrowest of its inputs' where nothing else is said."""
        computed = [name for name in node.input if name in self.types]
        if node.op_type in _HEAVY:
            sums_freely = len(computed) > 1 and not any(name in self._soft for name in computed)
            return _FLOAT if sums_freely or any(name in self._quantized for name in node.input) else _HALF
        narrow = any(self.types[name] == _HALF for name in computed)
        return _HALF if narrow and node.op_type not in _WIDE else _FLOAT

    def _type(self, name: str) -> int | None:
        """Float16, float32, or None for what is neither."""
        kind = self._constants[name].data_type if name in self._constants else self.types.get(name)
        return kind if kind in (_FLOAT, _HALF) else None

    def _as(self, name: str, kind: int) -> str:
        """The name of a value in that type: its own, or that of a copy."""
        if self._type(name) == kind:
            return name
        if (name, kind) not in self._copies:
            copy = f"{name}_{'half' if kind == _HALF else 'float'}"
            self._copies[name, kind] = copy
            if name in self._constants:
                self._constants[copy] = _narrowed(self._constants[name], copy)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [copy], to=kind))
        return self._copies[name, kind]


def _inferred_types(model: onnx.ModelProto) -> dict[str, int]:
    """The types of the values that nodes give, where ONNX can tell, by name."""
    # Inference copies the model several times over: its weights are left out.
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = "types"
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for item in model.graph.initializer:
        if item.data_type == _FLOAT:
            light.graph.input.append(helper.make_tensor_value_info(item.name, _FLOAT, item.dims))
        else:
            light.graph.initializer.append(item)
    typed = onnx.shape_inference.infer_shapes(light).graph
    values = (*typed.value_info, *typed.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The float32 value of a Constant node, named as its output; None for any other node."""
    if node.op_type != "Constant":
        return None
    (attribute,) = node.attribute
    if attribute.name in ("value_float", "value_floats"):
        value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return numpy_helper.from_array(np.array(value, np.float32), node.output[0])
    if attribute.name != "value" or attribute.t.data_type != _FLOAT:
        return None
    return numpy_helper.from_array(numpy_helper.to_array(attribute.t), node.output[0])


def _narrowed(constant: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(constant)
    peak = float(abs(values).max(initial=0))
    if not peak <= FLOAT16_LARGEST:
        raise UnavailableError(
            f"{constant.name} holds {peak:.3g}, and float16 ends at {FLOAT16_LARGEST:.0f}: "
            "choose --precision fp32"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new
