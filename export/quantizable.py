"""What of a graph becomes integers in int8, and which scales that needs. Decided by structure, not by names.

In float32 stay: the first convolution, which sees pixels; every convolution that is not rectified, which are
those that predict something (logits of classes, and of attention); and whatever is no convolution, pooling,
residual sum or joining. Not here: writing it into the file (`export/quantize.py`).

    layout = lay_out(model)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

Range = tuple[float, float]
"""Smallest and largest value."""


@dataclass(frozen=True)
class Scale:
    """A real number is `size * (integer - zero)`, with an integer in 0..255."""

    size: float
    zero: int

    @classmethod
    def of(cls, extremes: Range) -> "Scale":
        """That reaches from the smallest to the largest value, and holds 0 exactly."""
        low, high = min(extremes[0], 0.0), max(extremes[1], 0.0)
        size = float(np.float32((high - low) / 255))
        if size < np.finfo(np.float32).tiny:
            return cls(1.0, 0)
        return cls(size, min(round(-low / size), 255))


@dataclass(frozen=True)
class Layout:
    """convolutions: the nodes to compute in integers; tensors: the activations to round to them; shared:
    activations that have another's scale, so that pooling and joining are moving bytes."""

    convolutions: list[NodeProto]
    tensors: list[str]
    shared: Mapping[str, str]

    def scales(self, ranges: Mapping[str, Range]) -> dict[str, Scale]:
        """Of each tensor, over the ranges of all that share one."""
        common: dict[str, Range] = {}
        for name in self.tensors:
            low, high = common.get(self._root(name), ranges[name])
            common[self._root(name)] = min(low, ranges[name][0]), max(high, ranges[name][1])
        return {name: Scale.of(common[self._root(name)]) for name in self.tensors}

    def _root(self, name: str) -> str:
        while name in self.shared:
            name = self.shared[name]
        return name


def lay_out(model: ModelProto) -> Layout:
    """What of a float32 model without local functions becomes integers; perhaps nothing."""
    graph = _Graph(model)
    convolutions: list[NodeProto] = []
    wanted: set[str] = set()
    for node in graph.nodes:
        if (
            node.op_type != "Conv"
            or node.input[0] not in graph.convolved
            or node.input[1] not in graph.weights
        ):
            continue
        if around := _rectified(graph, node):
            convolutions.append(node)
            wanted |= {node.input[0], *around}
    shared: dict[str, str] = {}
    for node in reversed(graph.nodes):
        if wanted.isdisjoint(node.output):
            continue
        if node.op_type == "MaxPool":
            wanted.add(node.input[0])
            shared[node.output[0]] = node.input[0]
        elif node.op_type == "Concat" and not wanted.isdisjoint(node.input):
            wanted.update(node.input)
            shared.update({name: node.output[0] for name in node.input if name not in shared})
    made = [name for node in graph.nodes for name in node.output]
    return Layout(convolutions, [name for name in made if name in wanted], shared)


class _Graph:
    """weights: names of float32 constants; convolved: of tensors that some convolution has gone into."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.weights = {item.name for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
        self.convolved: set[str] = set()
        self._outputs = {item.name for item in model.graph.output}
        self._takers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)
            if node.op_type == "Conv" or not self.convolved.isdisjoint(node.input):
                self.convolved.update(node.output)

    def only_taker(self, name: str, op_type: str) -> NodeProto | None:
        """The one thing that takes this tensor, where it is a node of that type."""
        takers = self._takers.get(name, [])
        only = len(takers) == 1 and takers[0].op_type == op_type and name not in self._outputs
        return takers[0] if only else None


def _rectified(graph: _Graph, convolution: NodeProto) -> set[str]:
    """What must be integers behind a convolution so that a runtime can compute it in them: the output of its
    ReLU, or both terms of a residual sum and the output of that one's. Nothing where there is no ReLU."""
    output = convolution.output[0]
    if relu := graph.only_taker(output, "Relu"):
        return {relu.output[0]}
    add = graph.only_taker(output, "Add")
    relu = graph.only_taker(add.output[0], "Relu") if add else None
    if add is None or relu is None or not graph.weights.isdisjoint(add.input):
        return set()
    return {*add.input, relu.output[0]}
