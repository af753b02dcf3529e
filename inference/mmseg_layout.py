"""Sizes and windows of one prediction by MMSegmentation's test protocol. Pure arithmetic.

Not here: memory (`mmseg_plan.py`), pixels (`mmsegmentation.py`), the published protocol (`windows.py`).

The image is resized to fit a box of a long and a short side (`keep_ratio`), not padded, and given to the
network at once or in windows. Such a resized image is called a picture.

    python -c "from inference.mmseg_layout import fitted_hw; print(fitted_hw((600, 800), (2048, 512)))"
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from inference.bundle import ModelInfo
from inference.errors import ParameterError
from inference.windows import MAX_SIDE, STRIDE_RATE, validate_base_size, validate_scales

Box = tuple[int, int | None]
"""Long and short side in pixels that a picture must fit into, whichever way it lies; None limits nothing."""


def box_of(info: ModelInfo, base_size: int | None) -> Box:
    """The box at scale 1, the model's own, or the model's own
    with its long side made `base_size` and the short one in proportion. Raises ParameterError."""
    if base_size is None or base_size == info.base_size:
        return info.base_size, info.base_short
    long_side = validate_base_size(base_size)
    if info.base_short is None:
        return long_side, None
    return long_side, max(int(info.base_short * (long_side / info.base_size) + 0.5), 1)


def fitted_hw(image_hw: tuple[int, int], box: Box) -> tuple[int, int]:
    """Size of the image once it is as large as fits the box, its ratio kept; sides are rounded half up.

    MMSegmentation would make a very short side 0 and fail; here it is at least 1.
    """
    height, width = image_hw
    factor = box[0] / max(image_hw)
    if box[1] is not None:
        factor = min(factor, box[1] / min(image_hw))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


@dataclass(frozen=True)
class WindowAxis:
    """One axis of a resized picture, and the windows along it.

    image, resized: sizes in pixels; window: what the network is given; content: its first pixels that hold
    picture, all of them unless the network takes one size only; starts: of the windows, ascending, the last
    flush with the end.
    """

    image: int
    resized: int
    window: int
    content: int
    starts: tuple[int, ...]

    @classmethod
    def lay_out(cls, image: int, resized: int, crop: int | None, *, padded: bool) -> "WindowAxis":
        """Windows of `crop` at stride ceil(2/3 crop); None is one window of everything. A picture smaller
        than a window is one window as it is, or `padded` at its end."""
        if crop is None or resized <= crop:
            return cls(image, resized, crop if crop is not None and padded else resized, resized, (0,))
        stride = math.ceil(crop * STRIDE_RATE)
        count = math.ceil((resized - crop) / stride) + 1
        starts = tuple(min(index * stride, resized - crop) for index in range(count))
        return cls(image, resized, crop, crop, starts)


@dataclass(frozen=True)
class Picture:
    """The image at one size; weight: its share of the average; coarse_hw: size of a window's logits, as far
    as it is known before the network has run."""

    rows: WindowAxis
    columns: WindowAxis
    weight: float
    coarse_hw: tuple[int, int]

    @property
    def hw(self) -> tuple[int, int]:
        """Size of the resized picture."""
        return self.rows.resized, self.columns.resized

    @property
    def window_hw(self) -> tuple[int, int]:
        """Size of the images that the network is given."""
        return self.rows.window, self.columns.window

    @property
    def windows(self) -> int:
        """How many there are."""
        return len(self.rows.starts) * len(self.columns.starts)


def lay_out_pictures(
    image_hw: tuple[int, int],
    scales: Iterable[float],
    box: Box,
    *,
    crop_hw: tuple[int, int] | None,
    padded: bool,
    coarse_of: Callable[[tuple[int, int]], tuple[int, int]],
) -> tuple[Picture, ...]:
    """The image at every scale of the box, in the order given; scales that give one size are one picture.

    crop_hw: of windows, None for the whole picture at once; coarse_of: coarse size of a window size.
    Raises ParameterError for scales that cannot be used.
    """
    values = validate_scales(scales)
    weights: dict[tuple[int, int], float] = {}
    for scale in values:
        # MMSegmentation 0.x, whose published multi-scale figures these are, cuts off; 1.x rounds twice.
        scaled: Box = (int(box[0] * scale), None if box[1] is None else int(box[1] * scale))
        if not 1 <= scaled[0] <= MAX_SIDE or scaled[1] == 0:
            raise ParameterError(
                f"scale {scale:g} of base size {box[0]} makes sides of {scaled[0]} and {scaled[1]} pixels: "
                f"choose them for 1 to {MAX_SIDE}"
            )
        size = fitted_hw(image_hw, scaled)
        weights[size] = weights.get(size, 0.0) + 1 / len(values)
    result = []
    for size, weight in weights.items():
        rows, columns = (
            WindowAxis.lay_out(image, side, crop, padded=padded)
            for image, side, crop in zip(image_hw, size, crop_hw or (None, None), strict=True)
        )
        result.append(Picture(rows, columns, weight, coarse_of((rows.window, columns.window))))
    return tuple(result)
