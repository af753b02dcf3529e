"""From the coarse logits of pictures to blocks of the image, MMSegmentation's way; on numpy and torch alike.

Not here: which windows there are (`mmseg_layout.py`), which blocks (`mmseg_plan.py`), engines, the published
protocol (`stitch.py`).

Upsampling to the window, the mean over windows and resizing to the image are linear, so that per axis and
window they are one small matrix (`Composite`), and a block of the image's logits is the sum over windows of
rows @ coarse @ columns^T. Softmax follows only where a block is averaged or its probabilities are wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.arrays import Array, Workspace
from inference.errors import EngineError
from inference.mmseg_layout import WindowAxis
from inference.mmseg_plan import PicturePlan, View
from inference.plan import intervals
from inference.resample import Floats, Taps
from inference.windows import Interval


@dataclass(frozen=True)
class WindowPart:
    """What one window gives to an interval of the image: matrix (image pixels, `coarse` of its logits)."""

    window: int
    coarse: Interval
    matrix: Floats


class Composite:
    """Both resamplings of one axis, and the mean over its windows between them, as matrices.

    coarse: size of a window's logits along the axis; align_corners: of both resamplings.
    """

    def __init__(self, axis: WindowAxis, coarse: int, *, align_corners: bool) -> None:
        self._axis = axis
        self._up = Taps.of(coarse, axis.window, align_corners=align_corners)
        self._resize = Taps.of(axis.resized, axis.image, align_corners=align_corners)
        covered = np.zeros(axis.resized, np.float32)
        for start in axis.starts:
            covered[start : start + axis.content] += 1
        self._share: Floats = np.reciprocal(covered)

    def parts(self, start: int, stop: int) -> tuple[WindowPart, ...]:
        """Of the image pixels [start, stop), one for each window that has a share in them."""
        first, last = self._resize.inputs(start, stop)
        resize: Floats = self._resize.matrix((start, stop), (first, last)) * self._share[first:last]
        result = []
        for window, origin in enumerate(self._axis.starts):
            low, high = max(first, origin), min(last, origin + self._axis.content)
            if low >= high:
                continue
            coarse = self._up.inputs(low - origin, high - origin)
            up = self._up.matrix((low - origin, high - origin), coarse)
            matrix: Floats = np.matmul(resize[:, low - first : high - first], up, dtype=np.float32)
            result.append(WindowPart(window, coarse, matrix))
        return tuple(result)

    def mirrored_parts(self, start: int, stop: int) -> tuple[WindowPart, ...]:
        """`parts` of the mirrored picture, for pixels of the image as it is: windows lie from its other
        end."""
        size = self._axis.image
        parts = self.parts(size - stop, size - start)
        return tuple(
            WindowPart(part.window, part.coarse, np.ascontiguousarray(part.matrix[::-1])) for part in parts
        )


@dataclass(frozen=True)
class _Part:
    """A WindowPart whose matrix is where the logits are; transposed for columns."""

    window: int
    coarse: Interval
    matrix: Array


class CoarseLogits:
    """The coarse logits of every window of every picture, (C, h', w') of any h', w', where the engine's are.

    work: of the engine's kind of arrays.
    """

    def __init__(self, classes: int, work: Workspace) -> None:
        self._classes, self._work = classes, work
        self._by_view: dict[View, Array] = {}

    def __getitem__(self, view: View) -> Array:
        return self._by_view[view]

    def keep(self, views: Sequence[View], logits: Array) -> None:
        """Keeps a copy of the engine's logits of `views`, (N, C, h', w') float32.

        Raises EngineError for another shape and for values that are not finite.
        """
        shape, classes = tuple(logits.shape), self._classes
        if len(shape) != 4 or shape[:2] != (len(views), classes) or 0 in shape:
            raise EngineError(
                f"the engine gave logits of {shape} where its model has ({len(views)}, {classes}, h', w')"
            )
        xp = self._work.xp
        if not bool(xp.all(xp.isfinite(logits))):
            raise EngineError("the engine gave logits that are not finite: try another precision, or fp32")
        for view, values in zip(views, logits, strict=True):
            self._by_view[view] = self._work.empty(shape[1:])
            self._by_view[view][...] = values


class PictureStitcher:
    """Makes blocks of the image's logits or probabilities; all of the plan's views lie in `logits`."""

    def __init__(
        self, plan: PicturePlan, logits: CoarseLogits, work: Workspace, *, align_corners: bool
    ) -> None:
        self._request, self._logits, self._work = plan.request, logits, work
        self._axes: list[tuple[Composite, Composite]] = []
        for index, picture in enumerate(self._request.pictures):
            coarse_hw = logits[index, 0, 0, False].shape[1:]
            rows, columns = (
                Composite(axis, size, align_corners=align_corners)
                for axis, size in zip((picture.rows, picture.columns), coarse_hw, strict=True)
            )
            self._axes.append((rows, columns))
        self._columns = [
            (columns, self._column_parts(columns))
            for columns in intervals(0, self._request.image_hw[1], plan.block_hw[1])
        ]

    @property
    def columns(self) -> Sequence[Interval]:
        """The columns of every block in a row of blocks."""
        return [columns for columns, _ in self._columns]

    def row_parts(self, rows: Interval) -> list[list[_Part]]:
        """What the blocks of the image's rows [start, stop) share: parts of each picture."""
        return [
            [_Part(part.window, part.coarse, self._work.asarray(part.matrix)) for part in axis.parts(*rows)]
            for axis, _ in self._axes
        ]

    def block(self, row_parts: list[list[_Part]], index: int, *, mean: bool) -> Array:
        """(C, rows, columns) float32 of the block at those rows and `columns[index]`: the probabilities,
        averaged over pictures, with `mean`; else the logits of the one picture. Valid until the next call."""
        (left, right), by_view = self._columns[index]
        classes, take = self._request.classes, self._work.take
        total: Array = None
        for (picture, mirrored), columns in by_view.items():
            rows = row_parts[picture]
            depth = sum(part.coarse[1] - part.coarse[0] for part in rows)
            wide = take("wide", (classes, depth, right - left))
            self._widen(picture, mirrored, rows, columns, wide)
            down = (
                rows[0].matrix if len(rows) == 1 else self._work.xp.concat([p.matrix for p in rows], axis=1)
            )
            shape = (classes, down.shape[0], right - left)
            logits = self._work.product(down, wide, take("logits", shape))
            if not mean:
                return logits
            probabilities = self.softmax(
                logits, self._request.pictures[picture].weight / (1 + self._request.mirrored)
            )
            if len(by_view) == 1:
                return probabilities
            if total is None:
                total = take("total", shape)
                total[...] = probabilities
            else:
                total += probabilities
        return total

    def softmax(self, logits: Array, weight: float = 1.0) -> Array:
        """`weight` times the softmax over classes, in place."""
        xp = self._work.xp
        logits -= xp.max(logits, axis=0, keepdims=True)
        xp.exp(logits, out=logits)
        logits *= weight / xp.sum(logits, axis=0, keepdims=True)
        return logits

    def _widen(
        self, picture: int, mirrored: bool, rows: list[_Part], columns: list[_Part], wide: Array
    ) -> None:
        """Coarse rows of all rows of windows, one below the other, resampled to the block's columns."""
        at = 0
        for row in rows:
            height = row.coarse[1] - row.coarse[0]
            target = wide[:, at : at + height]
            at += height
            for number, column in enumerate(columns):
                coarse = self._logits[picture, row.window, column.window, mirrored]
                part = coarse[:, slice(*row.coarse), slice(*column.coarse)]
                if number == 0:
                    self._work.product(part, column.matrix, target)
                else:
                    target += self._work.product(
                        part, column.matrix, self._work.take("added", tuple(target.shape))
                    )

    def _column_parts(self, columns: Interval) -> dict[tuple[int, bool], list[_Part]]:
        """Of each picture and of each mirrored one."""
        result = {}
        for index, (_, axis) in enumerate(self._axes):
            result[index, False] = self._transposed(axis.parts(*columns))
            if self._request.mirrored:
                result[index, True] = self._transposed(axis.mirrored_parts(*columns))
        return result

    def _transposed(self, parts: Sequence[WindowPart]) -> list[_Part]:
        return [_Part(part.window, part.coarse, self._work.asarray(part.matrix.T)) for part in parts]
