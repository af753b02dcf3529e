"""Bilinear resampling along one axis as small matrices, for either corner rule. numpy alone.

Not here: the products themselves (`stitch.py`), scaling the image (`crops.py`).

    python -c "from inference.resample import Taps; print(Taps.of(3, 5, align_corners=True).first)"
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.windows import Axis, Interval

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Taps:
    """Linear interpolation: output i = (1 - fraction[i]) * input[first[i]] + fraction[i] *
    input[second[i]]."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    fraction: NDArray[np.float64]

    @classmethod
    def of(cls, inputs: int, outputs: int, *, align_corners: bool) -> "Taps":
        """From `inputs` to `outputs` samples: ends on ends, or half-pixel centres (as OpenCV has it)."""
        index = np.arange(outputs)
        if align_corners:
            source = index * ((inputs - 1) / (outputs - 1) if outputs > 1 else 0.0)
        else:
            source = np.maximum((index + 0.5) * (inputs / outputs) - 0.5, 0.0)
        first = np.minimum(np.floor(source).astype(np.int64), inputs - 1)
        return cls(first, np.minimum(first + 1, inputs - 1), source - first)

    def inputs(self, start: int, stop: int) -> Interval:
        """The inputs that outputs [start, stop) need."""
        return int(self.first[start]), int(self.second[stop - 1]) + 1

    def matrix(self, outputs: Interval, inputs: Interval) -> Floats:
        """(outputs, inputs) float32: the weights of an interval of inputs that covers what the outputs
        need."""
        wanted, low = slice(*outputs), inputs[0]
        first, second, fraction = self.first[wanted] - low, self.second[wanted] - low, self.fraction[wanted]
        row = np.arange(len(first))
        result = np.zeros((len(first), inputs[1] - low), np.float32)
        result[row, first] = 1 - fraction
        result[row, second] += fraction.astype(np.float32)
        return result


@dataclass(frozen=True)
class Part:
    """Where one window meets a span.

    window: index of the window along the axis; at: the interval of the span's support that it covers;
    coarse: the interval of its coarse logits that these pixels need; matrix: (pixels, coarse), upsampling.
    """

    window: int
    at: Interval
    coarse: Interval
    matrix: Floats


@dataclass(frozen=True)
class Span:
    """An interval of image pixels along one axis at one scale.

    image: the interval; support: the scaled pixels that it is interpolated from; parts: of the windows
    there; share: (support,) 1 / number of windows over each pixel; taps: of the resampling, None where
    sizes are equal.
    """

    image: Interval
    support: Interval
    parts: tuple[Part, ...]
    share: Floats
    taps: Taps | None

    @property
    def length(self) -> int:
        """Scaled pixels in the support."""
        return self.support[1] - self.support[0]

    def matrix(self) -> Floats:
        """(image, support): resampling of sums over windows, with the counts of windows divided out."""
        if self.taps is None:
            return np.diag(self.share)
        return self.taps.matrix(self.image, self.support) * self.share

    def tiles(self, width: int) -> tuple[tuple[Interval, Interval, Floats], ...]:
        """`matrix` in tiles of `width` image pixels: (interval of the span, interval of its support,
        matrix) each."""
        assert self.taps is not None, "equal sizes are not resampled"
        result, (start, stop), low = [], self.image, self.support[0]
        for at in range(start, stop, width):
            outputs = (at, min(at + width, stop))
            inputs = self.taps.inputs(*outputs)
            local = (inputs[0] - low, inputs[1] - low)
            matrix = self.taps.matrix(outputs, inputs) * self.share[slice(*local)]
            result.append(((outputs[0] - start, outputs[1] - start), local, matrix))
        return tuple(result)


class AxisResampler:
    """Makes the spans of one axis at one scale; `coarse`: size of a window's coarse logits along it."""

    def __init__(self, axis: Axis, coarse: int, *, align_corners: bool) -> None:
        self._axis = axis
        self._up = Taps.of(coarse, axis.crop, align_corners=align_corners)
        self._up_matrix = self._up.matrix((0, axis.crop), (0, coarse))
        self._taps = None if axis.same else Taps.of(axis.scaled, axis.image, align_corners=False)
        covered = np.zeros(axis.padded, np.float32)
        for start in axis.starts:
            covered[start : start + axis.crop] += 1
        self._share: Floats = np.reciprocal(covered[axis.before : axis.before + axis.scaled])

    def span(self, start: int, stop: int) -> Span:
        """The span of image pixels [start, stop)."""
        axis = self._axis
        support = axis.support(start, stop)
        parts = []
        for window in range(*axis.touched(*support)):
            origin = axis.starts[window] - axis.before
            low, high = max(support[0], origin), min(support[1], origin + axis.crop)
            coarse = self._up.inputs(low - origin, high - origin)
            matrix = self._up_matrix[low - origin : high - origin, slice(*coarse)]
            parts.append(Part(window, (low - support[0], high - support[0]), coarse, matrix))
        return Span((start, stop), support, tuple(parts), self._share[slice(*support)], self._taps)
