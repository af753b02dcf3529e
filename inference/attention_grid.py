"""Where the positions of attention lie in an image: the chain of resamplings from them back to its pixels.

The network shrinks features of a window to positions, and what it finds there goes the same way back: to the
features, by the network's own rule of shrinking; to the window, by the model's corner rule; to the image, by
half-pixel centres. Along one axis each step is linear, so the whole chain is one small matrix. Pure
arithmetic; not here: attention itself (`attention.py`).

    grid = lay_out_grid(info, layout); grid.rows.matrix(grid.window_at(200, 300)[0])
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.bundle import ModelInfo
from inference.mmseg_layout import Picture, WindowAxis
from inference.resample import Taps
from inference.windows import Axis, Interval, ScaleLayout

Floats = NDArray[np.float32]
Window = tuple[int, int]
"""Index of a window's row, and of its column."""


@dataclass(frozen=True)
class Frame:
    """One axis of an image at one scale, and its windows, by either test protocol.

    image, scaled: sizes of the image and of the scaled picture; before: padding before that; window: size of
    a window; starts: of the windows, counted with the padding.
    """

    image: int
    scaled: int
    before: int
    window: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class GridAxis:
    """One axis of the positions of attention in each window.

    features, positions: of a window, and once shrunk; shrunk_aligned, aligned: whether shrinking, and
    upsampling to the window, have corners on corners.
    """

    frame: Frame
    features: int
    positions: int
    shrunk_aligned: bool
    aligned: bool

    def central(self, pixel: int) -> int:
        """Index of the window in which that pixel of the image is nearest to the middle; the first of
        equals."""
        frame = self.frame
        at = (pixel + 0.5) * frame.scaled / frame.image - 0.5 + frame.before
        offsets = [abs(at - start - (frame.window - 1) / 2) for start in frame.starts]
        return offsets.index(min(offsets))

    def matrix(self, window: int) -> Floats:
        """(image, positions): how much of each position's value every pixel shows; 0 outside the window."""
        frame = self.frame
        up = _interpolation(self.features, frame.window, aligned=self.aligned)
        in_window = up @ _interpolation(self.positions, self.features, aligned=self.shrunk_aligned)
        scaled = np.zeros((frame.scaled, self.positions), np.float32)
        start, (low, high) = frame.starts[window] - frame.before, self._shown(window)
        scaled[low:high] = in_window[low - start : high - start]
        if frame.scaled == frame.image:
            return scaled
        taps = Taps.of(frame.scaled, frame.image, align_corners=False)
        fraction = taps.fraction.astype(np.float32)[:, None]
        result: Floats = (1 - fraction) * scaled[taps.first] + fraction * scaled[taps.second]
        return result

    def cells(self, window: int) -> tuple[float, float]:
        """(start, length) in pixels of the image: of the positions' cells, each around its position and as
        long as the next one is far. They may reach beyond the image, as padding does."""
        edges = []
        for position in (-0.5, self.positions - 0.5):
            feature = _place(position, self.positions, self.features, aligned=self.shrunk_aligned)
            pixel = _place(feature, self.features, self.frame.window, aligned=self.aligned)
            edges.append(self._on_image(pixel + 0.5 + self.frame.starts[window] - self.frame.before))
        return edges[0], edges[1] - edges[0]

    def extent(self, window: int) -> tuple[float, float]:
        """(start, length) in pixels of the image: what the window shows of it."""
        low, high = (self._on_image(edge) for edge in self._shown(window))
        return low, high - low

    def _shown(self, window: int) -> Interval:
        """The scaled pixels that the window shows."""
        start = self.frame.starts[window] - self.frame.before
        return max(start, 0), min(start + self.frame.window, self.frame.scaled)

    def _on_image(self, edge: float) -> float:
        """From distances along the scaled picture to those along the image."""
        return edge * self.frame.image / self.frame.scaled


@dataclass(frozen=True)
class Grid:
    """The positions of attention in all windows of one image at one scale."""

    rows: GridAxis
    columns: GridAxis

    @property
    def hw(self) -> tuple[int, int]:
        """Rows and columns of positions in a window."""
        return self.rows.positions, self.columns.positions

    @property
    def positions(self) -> int:
        """Their number."""
        return self.rows.positions * self.columns.positions

    @property
    def window_hw(self) -> tuple[int, int]:
        """Size of a window in pixels."""
        return self.rows.frame.window, self.columns.frame.window

    def window_at(self, x: int, y: int) -> Window:
        """The window in which that pixel of the image is most central."""
        return self.rows.central(y), self.columns.central(x)


def lay_out_grid(info: ModelInfo, layout: ScaleLayout | Picture) -> Grid:
    """The grid of an image at one scale, by either test protocol. Raises ConfigError for windows that the
    network does not take."""
    network, axes = info.architecture, [_frame(axis) for axis in (layout.rows, layout.columns)]
    window_hw = axes[0].window, axes[1].window
    feature_hw, position_hw = network.feature_hw_of(window_hw), network.attention_hw_of(window_hw)
    rows, columns = (
        GridAxis(axis, features, positions, network.shrinks_aligned(feature_hw), info.align_corners)
        for axis, features, positions in zip(axes, feature_hw, position_hw, strict=True)
    )
    return Grid(rows, columns)


def _frame(axis: Axis | WindowAxis) -> Frame:
    if isinstance(axis, Axis):
        return Frame(axis.image, axis.scaled, axis.before, axis.crop, axis.starts)
    return Frame(axis.image, axis.resized, 0, axis.window, axis.starts)


def _interpolation(inputs: int, outputs: int, *, aligned: bool) -> Floats:
    return Taps.of(inputs, outputs, align_corners=aligned).matrix((0, outputs), (0, inputs))


def _place(at: float, inputs: int, outputs: int, *, aligned: bool) -> float:
    """Where among `outputs` samples the place `at` among `inputs` lies; one sample alone lies in the
    middle."""
    if aligned and inputs > 1:
        return at * (outputs - 1) / (inputs - 1)
    return (at + 0.5) * outputs / inputs - 0.5
