"""What a point of an image collects from the others, and what it distributes to them (paper 3.1, Fig. 6).

The page, the service, figures and reports share it. Not here: where positions of attention lie
(`attention_grid.py`), drawing (`heatmap.py`), labels (`predictor.py`).

    from inference.attention import Point, attention_at
    (seen,) = attention_at(predictor, image, [Point(200, 120)]).points
    seen.over_image("collect")

A point is looked at in the one window in which it is most central, and speaks for the position of attention
nearest to it. Weights are in units of even attention, that is, times the number of positions: 1 is what each
would get if all got the same, and collecting adds up to 1 on average. Of networks without softmax they are
the network's own numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.arrays import Array, to_host
from inference.attention_choice import choose_directions
from inference.attention_grid import Floats, Grid, Window, lay_out_grid
from inference.bundle import ModelInfo
from inference.clock import engine_clock
from inference.crops import WindowCutter
from inference.engines import AttentionEngine, arrays_of
from inference.errors import EngineError, MemoryBudgetError, ParameterError
from inference.mmseg_layout import Picture
from inference.mmseg_plan import PicturePlan
from inference.mmsegmentation import cut_window, resized
from inference.plan import Plan, over_budget
from inference.prediction import Check
from inference.predictor import Predictor
from inference.windows import Interval, ScaleLayout
from models.config import Direction


class Point(NamedTuple):
    """A pixel: x from the left, y from the top, from 0."""

    x: int
    y: int


class Box(NamedTuple):
    """A part of an image in pixels, fractions too; edges count from the image's own."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class PointAttention:
    """What one point attends to.

    position: (row, column) among the positions of its window, the nearest to the point.
    weights: by direction, (rows, columns) float32: "collect": what that position takes from each of them;
        "distribute": what each of them takes from that position. Units: above.
    window: what the network saw of the image. cells: where the positions lie, each in the middle of its cell
        of this grid; it may reach beyond the window and the image.
    to_rows, to_columns: (height, rows), (width, columns), how pixels of the image show positions.
    """

    point: Point
    position: tuple[int, int]
    weights: Mapping[Direction, Floats]
    window: Box
    cells: Box
    to_rows: Floats
    to_columns: Floats

    def over_image(self, direction: Direction, rows: Interval | None = None) -> Floats:
        """(H, W) float32: the weights resampled bilinearly to the image's pixels; 0 outside the window.

        rows: [start, stop) of the image, None for all.
        """
        to_rows = self.to_rows if rows is None else self.to_rows[slice(*rows)]
        return np.asarray(to_rows @ self.weights[direction] @ self.to_columns.T, np.float32)


@dataclass(frozen=True)
class Attention:
    """Of all points, in their order. engine_s: seconds inside the engine; windows: that the engine saw."""

    points: tuple[PointAttention, ...]
    engine_s: float
    windows: int


def directions_of(predictor: Predictor) -> tuple[Direction, ...]:
    """What `attention_at` can tell of with this predictor; perhaps nothing."""
    engine = predictor.engine
    return engine.directions if isinstance(engine, AttentionEngine) else ()


def require_attention(
    predictor: Predictor, directions: Sequence[Direction] | None
) -> tuple[AttentionEngine, Sequence[Direction]]:
    """The engine that tells of attention, and the directions to ask it for; NoAttentionError, with the mend,
    where it cannot be asked."""
    info, engine = predictor.info, predictor.engine
    if not isinstance(engine, AttentionEngine):
        choose_directions(info, engine.name, None, directions)
        raise AssertionError("an engine that cannot tell is refused")
    return engine, choose_directions(info, engine.name, engine.directions, directions)


def attention_at(
    predictor: Predictor,
    image: NDArray[np.uint8],
    points: Sequence[Point],
    *,
    scale: float = 1.0,
    base_size: int | None = None,
    directions: Sequence[Direction] | None = None,
    check: Check = lambda: None,
) -> Attention:
    """What points of `image`, (H, W, 3) uint8 RGB, attend to; points in one window share its run.

    scale, base_size, check: as in `Predictor.predict`. directions: None for all that there are.
    Raises NoAttentionError, ParameterError (a point outside the image), MemoryBudgetError, EngineError.
    """
    engine, wanted = require_attention(predictor, directions)
    _require_points(points, image.shape[:2])
    plan = predictor.plan(image.shape[:2], scales=(scale,), base_size=base_size)
    layout = plan.request.layouts[0] if isinstance(plan, Plan) else plan.request.pictures[0]
    grid = lay_out_grid(predictor.info, layout)
    batch = _batch(predictor, plan, len(wanted) * 4 * grid.positions**2)
    of_window: dict[Window, list[Point]] = {}
    for point in points:
        of_window.setdefault(grid.window_at(*point), []).append(point)
    cutter = _Cutter(predictor.info, image, layout, grid.window_hw)
    found: dict[Point, PointAttention] = {}
    clock, windows = engine_clock(arrays_of(predictor.engine)), list(of_window)
    for start in range(0, len(windows), batch):
        check()
        some = windows[start : start + batch]
        pixels = predictor.engine.to_device(cutter.cut(some))
        with clock:
            attention = engine.attend(pixels, wanted)
        _require_shape(attention, (len(some), grid.positions, grid.positions), predictor.info)
        for index, window in enumerate(some):
            weights_ts = {direction: attention[direction][index] for direction in wanted}
            for point in of_window[window]:
                found[point] = _read(point, window, grid, weights_ts, predictor.info)
    return Attention(tuple(found[point] for point in points), clock.seconds(), len(windows))


def _read(
    point: Point, window: Window, grid: Grid, weights_ts: Mapping[Direction, Array], info: ModelInfo
) -> PointAttention:
    """The point's part of what all targets of its window take from all sources."""
    to_rows, to_columns = grid.rows.matrix(window[0]), grid.columns.matrix(window[1])
    row, column = int(to_rows[point.y].argmax()), int(to_columns[point.x].argmax())
    number = row * grid.columns.positions + column
    even = grid.positions if info.architecture.psa_softmax else 1
    weights = {
        direction: even * to_host(each[number] if direction == "collect" else each[:, number])
        for direction, each in weights_ts.items()
    }
    (top, height), (left, width) = grid.rows.extent(window[0]), grid.columns.extent(window[1])
    first_row, rows = grid.rows.cells(window[0])
    first_column, columns = grid.columns.cells(window[1])
    return PointAttention(
        point=point,
        position=(row, column),
        weights={direction: each.reshape(grid.hw) for direction, each in weights.items()},
        window=Box(left, top, width, height),
        cells=Box(first_column, first_row, columns, rows),
        to_rows=to_rows,
        to_columns=to_columns,
    )


class _Cutter:
    """Cuts windows of `window_hw` out of one image at one scale."""

    def __init__(
        self,
        info: ModelInfo,
        image: NDArray[np.uint8],
        layout: ScaleLayout | Picture,
        window_hw: tuple[int, int],
    ) -> None:
        self._hw = window_hw
        if isinstance(layout, ScaleLayout):
            cutter = WindowCutter(image, (layout,), info.mean_rgb)
            self._cut = partial(cutter.cut, 0)
        else:
            mean = np.array(info.mean_rgb, np.float32)[:, None, None]
            self._cut = partial(cut_window, resized(image, layout), layout, mean)

    def cut(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """(N, 3, h, w) float32 RGB in [0, 255]."""
        pixels = np.empty((len(windows), 3, *self._hw), np.float32)
        for (row, column), out in zip(windows, pixels, strict=True):
            self._cut(row, column, out)
        return pixels


def _batch(predictor: Predictor, plan: Plan | PicturePlan, window_bytes: int) -> int:
    """Windows in one call of the engine, so that `window_bytes` of attention for each fit the budget."""
    engine, budget_bytes = predictor.engine, predictor.memory_budget_bytes
    batch = min(engine.preferred_batch, engine.max_batch or engine.preferred_batch)
    while batch > 1 and plan.peak_bytes + batch * window_bytes > budget_bytes:
        batch //= 2
    memory = {**plan.memory, "attention": batch * window_bytes}
    if sum(memory.values()) > budget_bytes:
        mends = "a smaller base_size or scale, or a larger memory budget"
        hw, classes = plan.request.image_hw, predictor.info.classes
        raise MemoryBudgetError(over_budget(hw, classes, memory, budget_bytes, mends))
    return batch


def _require_points(points: Sequence[Point], image_hw: tuple[int, int]) -> None:
    if not points:
        raise ParameterError("there is no point: give at least one")
    height, width = image_hw
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ParameterError(
                f"the point ({x}, {y}) lies outside the image of {width}x{height} pixels: "
                f"x takes 0 to {width - 1}, y 0 to {height - 1}"
            )


def _require_shape(
    attention: Mapping[Direction, Array], shape: tuple[int, int, int], info: ModelInfo
) -> None:
    for weights in attention.values():
        if tuple(weights.shape) != shape:
            raise EngineError(
                f"{info.name} gives attention of {tuple(weights.shape)} where model.json means {shape}: "
                "export the checkpoint anew"
            )
