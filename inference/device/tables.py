"""The plan's geometry as small tables on the device: which pixels a window shows, which windows a pixel has.

Not here: what reads them (`windows.py`, `kernels.py`). Positions are computed on the host in float64, as
OpenCV and the slow forms have them; a device gets whole numbers and float32 fractions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.plan import Plan, View
from inference.resample import Taps
from inference.windows import Axis

Put = Callable[[NDArray[np.int32] | NDArray[np.float32]], Tensor]
"""Copies a table to the device."""


@dataclass(frozen=True)
class CuttingAxis:
    """Of one axis, a table for each place that windows have along it.

    taps: (2, tables, crop) int32, the two pixels of the image that a window's pixel lies between, -1 where it
    is padding; fractions: (tables, crop) float32, the share of the second.
    """

    taps: Tensor
    fractions: Tensor

    @classmethod
    def of(cls, axes: Sequence[Axis], put: Put, *, mirrored: bool) -> "CuttingAxis":
        """axes: of all scales; mirrored: each table is followed by that of the mirrored window."""
        taps, fractions = [], []
        for axis in axes:
            resize = Taps.of(axis.image, axis.scaled, align_corners=False)
            for start in axis.starts:
                at = np.arange(axis.crop) + (start - axis.before)
                inside = (at >= 0) & (at < axis.scaled)
                at = at.clip(0, axis.scaled - 1)
                pair = np.where(inside, np.stack((resize.first[at], resize.second[at])), -1)
                share = resize.fraction[at]
                taps += [pair, pair[:, ::-1]] if mirrored else [pair]
                fractions += [share, share[::-1]] if mirrored else [share]
        return cls(put(np.stack(taps, 1).astype(np.int32)), put(np.stack(fractions).astype(np.float32)))


class Cutting:
    """Tables of both axes, and where each view finds its own; see `kernels.cut`."""

    def __init__(self, plan: Plan, put: Put) -> None:
        layouts, self._mirrored = plan.request.layouts, plan.request.mirrored
        rows, columns = [layout.rows for layout in layouts], [layout.columns for layout in layouts]
        self.rows = CuttingAxis.of(rows, put, mirrored=False)
        self.columns = CuttingAxis.of(columns, put, mirrored=self._mirrored)
        self._rows, self._columns = (_offsets(len(axis.starts) for axis in axes) for axes in (rows, columns))

    def of(self, view: View) -> tuple[int, int]:
        """The table of rows and the one of columns."""
        scale, row, column, mirrored = view
        columns = self._columns[scale] + column
        return self._rows[scale] + row, 2 * columns + mirrored if self._mirrored else columns


class Stitching:
    """What `kernels.finish` reads: every softmax that an image's row, and one of its columns, is made from.

    A pixel of the image lies between scaled pixels, which lie in windows, between coarse pixels: along each
    axis that is a short list of entries. Their number, E of rows and F of columns, is that of the longest
    list; entries that are not needed have no share.

    row_places: (H, E, 3) int32, of an entry the scale, the first view of its row of windows, the coarse row
    above; row_shares: (H, E, 2) float32, its share of the sum, the share of the coarse row below.
    column_places: (scales, F, 2, W) int32, an offset to the view, the coarse column before; column_shares:
    (scales, F, 2, W) float32, its share, the share of the coarse column behind. mirrors: 2 where each view is
    followed by its mirror image, else 1.
    """

    def __init__(self, plan: Plan, put: Put, *, align_corners: bool) -> None:
        request = plan.request
        layouts, self.mirrors = request.layouts, 1 + request.mirrored
        self._across = [len(layout.columns.starts) for layout in layouts]
        counts = [self.mirrors * len(layout.rows.starts) * len(layout.columns.starts) for layout in layouts]
        self._views, self._count, self._put = _offsets(counts), sum(counts), put
        rows, columns = [], []
        for scale, layout in enumerate(layouts):
            row = _Entries.of(layout.rows, request.coarse_hw[0], align_corners=align_corners)
            first = self._views[scale] + row.windows * self._across[scale] * self.mirrors
            places = np.stack((np.full_like(first, scale), first, row.firsts), axis=2)
            weight = layout.weight / self.mirrors
            rows.append((places, np.stack((row.shares * weight, row.ups), axis=2)))
            column = _Entries.of(layout.columns, request.coarse_hw[1], align_corners=align_corners)
            columns.append(
                (
                    np.stack((column.windows * self.mirrors, column.firsts), axis=2),
                    np.stack((column.shares, column.ups), axis=2),
                )
            )
        self.row_places, self.row_shares = (
            put(table)
            for table in _packed(*(np.concatenate(parts, axis=1) for parts in zip(*rows, strict=True)))
        )
        most = max(shares.shape[1] for _, shares in columns)
        self.column_places, self.column_shares = (
            put(np.stack([_widened(table, most).transpose(1, 2, 0) for table in tables]))
            for tables in zip(*columns, strict=True)
        )

    def slots(self, kept: Mapping[View, int]) -> Tensor:
        """int32 by view: row by row of windows, each followed by its mirror image; 0 for what is not kept."""
        result = np.zeros(self._count, np.int32)
        for (scale, row, column, mirrored), slot in kept.items():
            window = row * self._across[scale] + column
            result[self._views[scale] + window * self.mirrors + mirrored] = slot
        return self._put(result)


def to(device: torch.device) -> Put:
    """A `Put` for that device, which does not wait for what the device has yet to do."""

    def put(table: NDArray[Any]) -> Tensor:
        contiguous = torch.from_numpy(np.ascontiguousarray(table))
        if device.type != "cuda":
            return contiguous.to(device)
        # A GPU reads by itself, and later, only from memory that stays where it is.
        return contiguous.pin_memory().to(device, non_blocking=True)

    return put


def _offsets(counts: Iterable[int]) -> list[int]:
    result: list[int] = [0, *np.cumsum(list(counts)).tolist()]
    return result[:-1]


@dataclass(frozen=True)
class _Entries:
    """Of each image pixel along one axis, (image, entries) each: the window, the coarse pixel before, the
    share of the next coarse pixel, the entry's share of the image pixel. Entries with a share come first."""

    windows: NDArray[np.int32]
    firsts: NDArray[np.int32]
    ups: NDArray[np.float32]
    shares: NDArray[np.float32]

    @classmethod
    def of(cls, axis: Axis, coarse: int, *, align_corners: bool) -> "_Entries":
        up = Taps.of(coarse, axis.crop, align_corners=align_corners)
        shape = axis.scaled, axis.most_windows
        windows, firsts, ups = (
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.float32),
        )
        count = np.zeros(axis.scaled, np.int64)
        for window, start in enumerate(axis.starts):
            origin = start - axis.before
            at = np.arange(max(origin, 0), min(origin + axis.crop, axis.scaled))
            local, place = at - origin, count[at]
            windows[at, place], firsts[at, place], ups[at, place] = (
                window,
                up.first[local],
                up.fraction[local],
            )
            count[at] += 1
        shares = np.where(np.arange(shape[1]) < count[:, None], 1 / count[:, None], 0)
        resize = Taps.of(axis.scaled, axis.image, align_corners=False)
        taps = (resize.first, 1 - resize.fraction), (resize.second, resize.fraction)
        both = [np.concatenate([table[at] for at, _ in taps], axis=1) for table in (windows, firsts, ups)]
        share = np.concatenate([shares[at] * weight[:, None] for at, weight in taps], axis=1)
        places, floats = _packed(np.stack(both[:2], axis=2), np.stack((share, both[2]), axis=2))
        return cls(places[..., 0], places[..., 1], floats[..., 1], floats[..., 0])


def _packed(
    places: NDArray[np.int32], shares: NDArray[np.floating]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(pixels, entries, …) of both, entries that have a share first and those that no pixel needs dropped."""
    used = shares[..., 0] > 0
    order = np.argsort(~used, axis=1, kind="stable")[:, : max(int(used.sum(1).max()), 1), None]
    return (
        np.take_along_axis(places, order, axis=1),
        np.take_along_axis(shares, order, axis=1).astype(np.float32),
    )


def _widened(table: NDArray[Any], entries: int) -> NDArray[Any]:
    """(pixels, entries, …): zeros follow."""
    return np.pad(table, ((0, 0), (0, entries - table.shape[1]), (0, 0)))
