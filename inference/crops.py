"""Pixels of windows: the image scaled, padded with the mean colour, and cut. On the host, with OpenCV.

Not here: where windows lie (`windows.py`). Scaled rows are made as windows need them, never a whole scaled
image, so that the memory does not grow with the image's height.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.planned_memory import scaling_step
from inference.windows import Axis, Interval, ScaleLayout


class WindowCutter:
    """Cuts windows out of one image at its scales. Fastest when asked row by row of windows.

    image: (H, W, 3) uint8 RGB; mean_rgb: of the padding, in [0, 255].
    """

    def __init__(
        self, image: NDArray[np.uint8], layouts: tuple[ScaleLayout, ...], mean_rgb: tuple[float, float, float]
    ) -> None:
        self._image, self._layouts = image, layouts
        self._mean = np.array(mean_rgb, np.float32)[:, None, None]
        self._key: tuple[int, int] | None = None
        self._strip: NDArray[np.uint8] | NDArray[np.float32] = image[:0]

    def cut(self, scale: int, row: int, column: int, out: NDArray[np.float32]) -> None:
        """Writes the window at `row`, `column` of `scale` into `out`, (3, h, w) float32 RGB in [0, 255]."""
        layout = self._layouts[scale]
        (top, bottom), at_rows = _inside(layout.rows, row)
        (left, right), at_columns = _inside(layout.columns, column)
        if (scale, row) != self._key:
            self._strip = self._image[:0]  # lets the old strip go before the new one is made
            self._strip, self._key = scaled_rows(self._image, layout.hw, top, bottom), (scale, row)
        if bottom - top < out.shape[1] or right - left < out.shape[2]:
            out[...] = self._mean
        out[:, slice(*at_rows), slice(*at_columns)] = self._strip[:, left:right].transpose(2, 0, 1)


def scaled_rows(
    image: NDArray[np.uint8], hw: tuple[int, int], start: int, stop: int
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Rows [start, stop) of `image`, (H, W, 3), scaled to `hw` in float32 by OpenCV's INTER_LINEAR.

    OpenCV resamples columns, then rows; it does the columns here, of just the rows that are needed, and the
    rows follow with its own coordinates, in float32. The image itself (a view, uint8) where the size is the
    same.
    """
    height, width = image.shape[:2]
    if (height, width) == hw:
        return image[start:stop]
    at = (np.arange(start, stop) + 0.5) * (height / hw[0]) - 0.5
    below = np.floor(at)
    fraction = (at - below).astype(np.float32)[:, None, None]
    first = np.clip(below.astype(np.int64), 0, height - 1)
    second = np.clip(below.astype(np.int64) + 1, 0, height - 1)
    result = np.empty((stop - start, hw[1], 3), np.float32)
    step = scaling_step(width, hw[1])
    for low in range(0, stop - start, step):
        part = slice(low, low + step)
        rows, index = np.unique(np.concatenate((first[part], second[part])), return_inverse=True)
        wide = cv2.resize(image[rows].astype(np.float32), (hw[1], len(rows)), interpolation=cv2.INTER_LINEAR)
        upper, lower = np.split(wide[index], 2)
        np.multiply(upper, 1 - fraction[part], out=result[part])
        lower *= fraction[part]
        result[part] += lower
    return result


def _inside(axis: Axis, index: int) -> tuple[Interval, Interval]:
    """Of window `index`: the scaled pixels that it shows, and where in the window they lie."""
    start = axis.starts[index] - axis.before
    low, high = max(start, 0), min(start + axis.crop, axis.scaled)
    return (low, high), (low - start, high - start)
