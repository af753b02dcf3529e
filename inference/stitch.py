"""From the coarse logits of windows to probabilities of the image, block by block; on numpy and torch alike.

Not here: which windows there are (`windows.py`), which blocks fit the memory (`plan.py`), how logits are kept
(`window_logits.py`), engines, the fused kernel that takes this module's place on a GPU (`device/`).

Everything is linear but the softmax, and everything linear is a small matrix product. For a block of image
pixels and each scale, the coarse logits of the windows there are upsampled to the scaled picture (columns,
then rows), softmaxed and summed; the sums are resampled to the image's columns and at last, all scales in
one product, to its rows. Counts of windows, mirror images and the weights of scales ride in those matrices.

Blocks are small enough for a CPU's cache, and their buffers are used again. On numpy, products are small
enough for BLAS to run them on the calling thread: its threads wait for one another, and wait long on a busy
machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.arrays import Array, Workspace
from inference.plan import Plan, intervals
from inference.resample import AxisResampler, Span
from inference.window_logits import WindowLogits
from inference.windows import Interval


@dataclass(frozen=True)
class _Columns:
    """The columns of a block at one scale; tiles: (interval of the block, of the support, matrix) each,
    None where the scaled picture is as wide as the image."""

    span: Span
    up: tuple[Array, ...]
    share: Array
    tiles: tuple[tuple[Interval, Interval, Array], ...] | None


@dataclass(frozen=True)
class _Rows:
    """The rows of blocks at all scales; down: (rows, sum of the supports), or None for one scale of equal
    height."""

    spans: tuple[Span, ...]
    up: tuple[tuple[Array, ...], ...]
    down: Array | None
    factor: Array


class Stitcher:
    """Makes blocks of the image's probabilities of the logits of windows.

    logits: kept by the caller, all that a block needs. like: of the kind of arrays, and where they are.
    Several threads may make blocks at once, each in a workspace of its own.
    """

    def __init__(self, plan: Plan, logits: WindowLogits, like: Workspace, *, align_corners: bool) -> None:
        request = plan.request
        self._plan, self._logits, self._asarray, self._xp = plan, logits, like.asarray, like.xp
        self._row_axes, column_axes = (
            [AxisResampler(axis, coarse, align_corners=align_corners) for axis in axes]
            for coarse, axes in (
                (request.coarse_hw[0], [layout.rows for layout in request.layouts]),
                (request.coarse_hw[1], [layout.columns for layout in request.layouts]),
            )
        )
        self._columns = [
            (columns, [self._columns_of(axis.span(*columns)) for axis in column_axes])
            for columns in intervals(0, request.image_hw[1], plan.block_hw[1])
        ]

    @property
    def columns(self) -> Sequence[Interval]:
        """The columns of every block in a row of blocks."""
        return [columns for columns, _ in self._columns]

    def rows(self, rows: Interval) -> _Rows:
        """What the blocks of the image's rows [start, stop) share."""
        request = self._plan.request
        spans = tuple(axis.span(*rows) for axis in self._row_axes)
        weights = [layout.weight / (1 + request.mirrored) for layout in request.layouts]
        one = len(spans) == 1 and spans[0].taps is None
        down = None
        if not one:
            matrices = [span.matrix() * weight for span, weight in zip(spans, weights, strict=True)]
            down = self._asarray(np.concatenate(matrices, axis=1, dtype=np.float32))
        up = tuple(tuple(self._asarray(part.matrix) for part in span.parts) for span in spans)
        return _Rows(spans, up, down, self._asarray(spans[0].share[:, None] * np.float32(weights[0])))

    def block(self, rows: _Rows, index: int, work: Workspace) -> Array:
        """Probabilities (C, rows, columns) float32 of the block at `rows` and `columns[index]`; logits where
        the plan is `alone`.

        Averaged over windows, mirror images and scales. Lies in `work`, valid until it is used again.
        """
        classes, take = self._plan.request.classes, work.take
        (left, right), by_scale = self._columns[index]
        if self._plan.alone:
            slot, row, column = self._logits.slots[0, 0, 0, False], rows.spans[0].parts[0], by_scale[0]
            part = column.span.parts[0]
            coarse = self._logits.values[slot, :, slice(*row.coarse), slice(*part.coarse)]
            return _upsample(coarse, rows.up[0][0], column.up[0], work)
        width, depth = right - left, sum(span.length for span in rows.spans)
        gathered, at = take("gathered", (classes, depth, width)), 0
        for scale, columns in enumerate(by_scale):
            height = rows.spans[scale].length
            part = gathered[:, at : at + height]
            at += height
            if columns.tiles is None:
                self._sum(scale, rows, columns, part, work)
                part *= columns.share
                continue
            total = take("total", (classes, height, columns.span.length))
            self._sum(scale, rows, columns, total, work)
            for outputs, inputs, matrix in columns.tiles:
                work.product(total[:, :, slice(*inputs)], matrix, part[:, :, slice(*outputs)])
        if rows.down is None:
            gathered *= rows.factor
            return gathered
        result = take("block", (classes, rows.down.shape[0], width))
        work.product(rows.down, gathered, result)
        return result

    def _sum(self, scale: int, rows: _Rows, columns: _Columns, total: Array, work: Workspace) -> None:
        """Sums the softmax of all views of `scale` into `total`, (C, support rows, support columns)."""
        mirrors = (False, True) if self._plan.request.mirrored else (False,)
        row_span, row_up = rows.spans[scale], rows.up[scale]
        alone = len(row_span.parts) == len(columns.span.parts) == len(mirrors) == 1
        if not alone:
            total[...] = 0
        for row, down in zip(row_span.parts, row_up, strict=True):
            for column, across in zip(columns.span.parts, columns.up, strict=True):
                target = total[:, slice(*row.at), slice(*column.at)]
                for mirrored in mirrors:
                    view = (scale, row.window, column.window, mirrored)
                    slot = self._logits.slots[view]
                    coarse = self._logits.values[slot, :, slice(*row.coarse), slice(*column.coarse)]
                    values = _upsample(coarse, down, across, work)
                    scores, sums = self._exponentials(values, safe=self._logits.safe(view))
                    if alone:
                        self._xp.multiply(scores, 1 / sums, out=target)
                    else:
                        scores *= 1 / sums
                        target += scores

    def _exponentials(self, values: Array, *, safe: bool) -> tuple[Array, Array]:
        """`exp` in place, and its sums over classes, (1, rows, columns)."""
        if not safe:
            values -= self._xp.max(values, axis=0, keepdims=True)
        self._xp.exp(values, out=values)
        return values, self._xp.sum(values, axis=0, keepdims=True)

    def _columns_of(self, span: Span) -> _Columns:
        tiles = None
        if span.taps is not None:
            pieces = span.tiles(self._plan.request.tile)
            tiles = tuple((o, i, self._asarray(matrix.T)) for o, i, matrix in pieces)
        up = tuple(self._asarray(part.matrix.T) for part in span.parts)
        return _Columns(span, up, self._asarray(span.share), tiles)


def _upsample(coarse: Array, down: Array, across: Array, work: Workspace) -> Array:
    """(C, h', w') to (C, rows, columns): few coarse rows are widened, then there are as many as wanted."""
    classes, coarse_h, _ = coarse.shape
    width = across.shape[1]
    wide = work.product(coarse, across, work.take("across", (classes, coarse_h, width)))
    return work.product(down, wide, work.take("up", (classes, down.shape[0], width)))
