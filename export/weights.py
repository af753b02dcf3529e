"""Weights stored as float16 and computed in float32: half the file, the same speed and memory once loaded.

Each weight becomes `Cast(half) * scale`, with one float32 scale per output channel, which runtimes fold at
load. Exported weights have batch norm folded in. Rounding those would add an error to weights that are
float16 already, as in this project's safetensors; so the file holds the checkpoint's own values, and batch
norm's factor is the scale: a float16 checkpoint keeps all its bits, any other loses what float16 cannot hold.

    store_as_half(model, network.state_dict(), prefix="network.")
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

Floats = NDArray[np.float32]

_LEAST_VALUES = 1024
"""Smaller tensors stay in float32: they weigh nothing."""


def store_as_half(model: onnx.ModelProto, weights: Mapping[str, Tensor], *, prefix: str) -> None:
    """Replaces every float32 initializer of at least two axes and 1,024 values, in place.

    weights: the network's state, whose keys are the initializers' names without `prefix`.
    """
    kept, nodes = [], []
    for initializer in model.graph.initializer:
        name = initializer.name
        if not _is_large(initializer):
            kept.append(initializer)
            continue
        own = weights.get(name.removeprefix(prefix))
        half, scale = split(numpy_helper.to_array(initializer), None if own is None else own.numpy())
        kept.append(numpy_helper.from_array(half, f"{name}_half"))
        kept.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("Cast", [f"{name}_half"], [f"{name}_unscaled"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}_unscaled", f"{name}_scale"], [name]))
    nodes += model.graph.node
    _replace(model.graph.initializer, kept)
    _replace(model.graph.node, nodes)


def split(weight: Floats, own: NDArray[Any] | None) -> tuple[NDArray[np.float16], Floats]:
    """(half, scale) whose product is `weight` as closely as float16 allows; scale: one value per first index.

    own: the values that `weight` is a multiple of, per first index, where they are known.
    """
    base, scale = weight, np.ones((len(weight), *(1,) * (weight.ndim - 1)), np.float32)
    if own is not None and own.shape == weight.shape:
        ratio = _ratio(weight, own)
        if np.allclose(own * ratio, weight, rtol=1e-5, atol=1e-7 * abs(weight).max()):
            base, scale = own, ratio
    step = _step(base)
    return (base / step).astype(np.float16), scale * step


def _step(base: NDArray[Any]) -> Floats:
    """The power of two that brings the largest value of each first index to 0.5 … 1, where no bits are lost.

    Making values smaller could: they are left alone unless they are too large for float16.
    """
    peak = abs(base).max(axis=tuple(range(1, base.ndim)), keepdims=True)
    step = np.exp2(np.ceil(np.log2(np.where(peak > 0, peak, 1))))
    return np.where((step > 1) & (step <= 2**15), 1, step).astype(np.float32)


def _ratio(weight: Floats, own: NDArray[Any]) -> Floats:
    """The factor of each first index by least squares, in float64."""
    axes = tuple(range(1, weight.ndim))
    exact = own.astype(np.float64)
    square = (exact * exact).sum(axes, keepdims=True)
    ratio: Floats = ((exact * weight).sum(axes, keepdims=True) / np.where(square > 0, square, 1)).astype("f4")
    return ratio


def _is_large(initializer: onnx.TensorProto) -> bool:
    dims, kind = list(initializer.dims), initializer.data_type
    return kind == TensorProto.FLOAT and len(dims) >= 2 and math.prod(dims) >= _LEAST_VALUES


def _replace(field: Any, values: list[Any]) -> None:
    kept = list(values)
    del field[:]
    field.extend(kept)
