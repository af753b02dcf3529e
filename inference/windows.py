"""The plan of one prediction: scaled sizes, padding, windows, bands of rows, memory. Pure arithmetic.

Not here: pixels (`crops.py`), probabilities (`stitch.py`), or the budget's way into bands (`plan.py`).

Coordinates: `image` is the picture as given, `scaled` the picture at one scale, `padded` the scaled picture
with its padding. Intervals are half open, sizes are (height, width).

    python -c "from inference.windows import lay_out; print(lay_out((1024, 2048), (1,), 2048, (465, 465)))"
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from inference.errors import ParameterError

STRIDE_RATE = 2 / 3
"""Of a window; the published tool's, in its own floating point."""

MAX_SCALE = 10.0
MAX_SIDE = 1 << 16
"""Longest side in pixels that an image may be scaled to."""

Interval = tuple[int, int]


def validate_scales(scales: Iterable[float]) -> tuple[float, ...]:
    """`scales` as floats; ParameterError where there is none, or one is not a number in (0, 10]."""
    try:
        values = tuple(float(scale) for scale in scales)
    except (TypeError, ValueError):
        raise ParameterError(f"scales takes numbers such as 0.5, 1 and 1.5, not {scales!r}") from None
    if not values:
        raise ParameterError("scales is empty: give at least one, 1.0 for the published single scale")
    for scale in values:
        if not (math.isfinite(scale) and 0 < scale <= MAX_SCALE):
            raise ParameterError(
                f"a scale of {scale:g} cannot be used: give numbers above 0, up to {MAX_SCALE:g}"
            )
    return values


def validate_base_size(base_size: int) -> int:
    """`base_size`, the long side in pixels at scale 1; ParameterError unless it is a whole number in
    1..65536."""
    if isinstance(base_size, bool) or not isinstance(base_size, int) or not 1 <= base_size <= MAX_SIDE:
        raise ParameterError(
            f"base_size takes a whole number of pixels from 1 to {MAX_SIDE}, not {base_size!r}"
        )
    return base_size


def scaled_hw(image_hw: tuple[int, int], scale: float, base_size: int) -> tuple[int, int]:
    """Size that an image of `image_hw` has at `scale`: its long side is `round(scale * base_size)`, halves
    to even.

    The other side keeps the ratio; the published tool would make it 0 where it is very short, here it is at
    least 1.
    Raises ParameterError where the long side would be below 1 or above 65536.
    """
    height, width = image_hw
    long_side = round(scale * base_size)
    if not 1 <= long_side <= MAX_SIDE:
        raise ParameterError(
            f"scale {scale:g} of base size {base_size} makes a long side of {long_side} pixels: "
            f"choose them for 1 to {MAX_SIDE}"
        )
    if height > width:
        return long_side, max(round(long_side / float(height) * width), 1)
    return max(round(long_side / float(width) * height), 1), long_side


@dataclass(frozen=True)
class Axis:
    """One axis of the picture at one scale, and the windows along it.

    image, scaled, padded: sizes in pixels; before: padding before the scaled picture; crop: of a window;
    starts: where the windows start, in padded coordinates, ascending, the last flush with the end.
    """

    image: int
    scaled: int
    crop: int
    before: int
    padded: int
    starts: tuple[int, ...]

    @classmethod
    def lay_out(cls, image: int, scaled: int, crop: int) -> "Axis":
        """Padding to at least `crop` (half, floor first), windows at stride ceil(2/3 crop) (published
        protocol)."""
        padding = max(crop - scaled, 0)
        padded = scaled + padding
        stride = math.ceil(crop * STRIDE_RATE)
        count = math.ceil((padded - crop) / stride) + 1
        starts = tuple(min(index * stride, padded - crop) for index in range(count))
        return cls(image, scaled, crop, padding // 2, padded, starts)

    def support(self, start: int, stop: int) -> Interval:
        """Scaled pixels that image pixels [start, stop) are interpolated from, by half-pixel bilinear
        resampling."""
        if self.same:
            return start, stop
        ratio = self.scaled / self.image
        first = max(math.floor((start + 0.5) * ratio - 0.5), 0)
        last = min(math.floor(max((stop - 0.5) * ratio - 0.5, 0.0)) + 1, self.scaled - 1)
        return min(first, last), last + 1

    def touched(self, start: int, stop: int) -> Interval:
        """Indices of the windows that cover some of the scaled pixels [start, stop)."""
        start, stop = start + self.before, stop + self.before
        return bisect_right(self.starts, start - self.crop), bisect_left(self.starts, stop)

    @property
    def most_windows(self) -> int:
        """Windows over any one pixel, at most: two, and a third where the last is pushed back inside."""
        return max(
            sum(start < at + self.crop for at in self.starts[: i + 1]) for i, start in enumerate(self.starts)
        )

    def widest_support(self, length: int) -> int:
        """Upper bound of the support's length, over all image intervals of `length`; at most 1 too many."""
        if self.same:
            return min(length, self.scaled)
        return min((length - 1) * self.scaled // self.image + 3, self.scaled)

    @property
    def same(self) -> bool:
        """Whether the scaled picture is as long as the image, so that nothing is resampled."""
        return self.scaled == self.image


@dataclass(frozen=True)
class ScaleLayout:
    """The picture at one scale; `weight`: its share of the average over scales."""

    rows: Axis
    columns: Axis
    weight: float

    @property
    def hw(self) -> tuple[int, int]:
        """Size of the scaled picture."""
        return self.rows.scaled, self.columns.scaled

    @property
    def same(self) -> bool:
        """Whether the scaled picture has the image's size."""
        return self.rows.same and self.columns.same


def lay_out(
    image_hw: tuple[int, int], scales: Iterable[float], base_size: int, crop_hw: tuple[int, int]
) -> tuple[ScaleLayout, ...]:
    """The windows of an image at every scale, in the order given.

    Scales that give one size are computed once, with their weights summed. Raises ParameterError for scales
    or a base size that cannot be used.
    """
    values, base_size = validate_scales(scales), validate_base_size(base_size)
    weights: dict[tuple[int, int], float] = {}
    for scale in values:
        size = scaled_hw(image_hw, scale, base_size)
        weights[size] = weights.get(size, 0.0) + 1 / len(values)
    return tuple(
        ScaleLayout(
            Axis.lay_out(image_hw[0], height, crop_hw[0]),
            Axis.lay_out(image_hw[1], width, crop_hw[1]),
            weight,
        )
        for (height, width), weight in weights.items()
    )
