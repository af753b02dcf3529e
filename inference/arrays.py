"""What numpy and torch arrays need beside the common names: buffers to use again, products of a good size,
the first of the greatest.

torch is never imported here: an array brings its namespace along (array-api-compat).
"""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, to_device
from numpy.typing import NDArray

Array = Any
"""A numpy array or a torch tensor."""

PRODUCT_LIMIT = 1 << 18
"""Multiplications in one product up to which OpenBLAS stays on the calling thread. Beyond, its threads wait
for one another, and on a machine that is busy with a network that wait was seen to cost a hundred times the
product."""


def to_host(values: Array) -> NDArray[Any]:
    """As a numpy array, itself where it is one."""
    return values if is_numpy_array(values) else np.asarray(to_device(values, "cpu"))


class Workspace:
    """Arrays of the kind of `like`, on its device: buffers by name, and products into them. For one thread.

    xp: the namespace. Fresh pages cost more than what is computed in them, so buffers are kept for the next
    block.
    """

    def __init__(self, like: Array) -> None:
        self.xp, self.device = array_namespace(like), device(like)
        self.on_numpy: bool = is_numpy_array(like)
        self._buffers: dict[str, Array] = {}

    def asarray(self, values: Any) -> Array:
        """A numpy array as one of this kind, on the device."""
        return self.xp.asarray(values, device=self.device)

    def empty(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        """A new array with anything in it."""
        return self.xp.empty(shape, dtype=getattr(self.xp, dtype), device=self.device)

    def take(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        """A buffer with anything in it; the one that `name` was before is gone."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[0] < size:
            self._buffers.pop(name, None)
            self._buffers[name] = buffer = self.empty((size,), dtype)
        return buffer[:size].reshape(shape)

    def product(self, left: Array, right: Array, out: Array) -> Array:
        """`left @ right` into `out`, which it returns; (…, m, k) and (…, k, n), either side with leading
        axes."""
        rows, depth, columns = left.shape[-2], left.shape[-1], right.shape[-1]
        if not self.on_numpy:
            out[...] = self.xp.matmul(left, right)  # torch refuses an `out` that is part of a larger array
            return out
        if rows * depth * columns <= PRODUCT_LIMIT:
            return self.xp.matmul(left, right, out=out)
        step = max(PRODUCT_LIMIT // (rows * depth), 16)
        for start in range(0, columns, step):
            piece = (..., slice(start, start + step))
            self.xp.matmul(left, right[piece], out=out[piece])
        return out

    def first_maximum(self, block: Array) -> tuple[Array, Array]:
        """Class ids and values, (rows, columns) each, of the greatest class; the lowest id wins ties.

        block: (C, rows, columns). Ids are uint8 up to 256 classes, int16 above.
        """
        xp, take = self.xp, self.take
        classes = block.shape[0]
        kind = "uint8" if classes <= 256 else "int16"
        best = xp.max(block, axis=0)
        equal = xp.equal(block, best, out=take("equal", tuple(block.shape), "bool"))
        backwards = self.asarray(np.arange(classes - 1, -1, -1, dtype=kind)[:, None, None])
        ranks = xp.multiply(equal, backwards, out=take("ranks", tuple(block.shape), kind))
        return classes - 1 - xp.max(ranks, axis=0), best
