"""Two Triton kernels: windows out of an image, and labels out of the logits of all windows. Nothing else.

Not here: the tables that they read (`tables.py`), when they run (`windows.py`, `run.py`), and the forms that
need no Triton, which give the same values and which the tests hold these against (`windows.py`, `stitch.py`).

The only importer of Triton in `inference`. `TRITON_INTERPRET=1` in the environment runs them on a CPU.
"""

import os
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether kernels run on the CPU; Triton itself reads this when it is imported."""

MAX_ROWS = 1 << 15
"""Rows in one launch; CUDA allows twice as many."""


@dataclass(frozen=True)
class Tile:
    """How much one program does: pixels beside one another, and the warps that it runs on."""

    pixels: int
    warps: int

    @classmethod
    def of(cls, classes: int) -> "Tile":
        """Up to 32 classes a lane has a pixel and sums over its classes by itself; beyond, lanes share pixels
        and hold 16 values each. More would not fit their registers (ptxas for compute capability 9.0)."""
        if INTERPRETED:
            return cls(256, 1)
        padded = triton.next_power_of_2(classes)
        if padded <= 32:
            return cls(32, 1)
        pixels = 16 if padded <= 256 else 8
        return cls(pixels, padded * pixels // (32 * 16))


# Sizes are plain numbers: a kernel of its own for each that is 1 or a multiple of 16 would be compiled in the
# middle of a service's work.
@triton.jit(do_not_specialize=["width", "crop_h", "crop_w", "row_tables", "column_tables"])
def _cut(  # type: ignore[no-untyped-def]
    image, out, row_taps, row_fractions, column_taps, column_fractions, views,
    width, crop_h, crop_w, mean_r, mean_g, mean_b, row_tables, column_tables, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: part of a row of one window, all colours. Taps of -1 lie outside the picture."""
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.program_id(1)
    n = tl.program_id(2)
    within = x < crop_w
    row = tl.load(views + 2 * n) * crop_h + y
    column = tl.load(views + 2 * n + 1) * crop_w + x
    top = tl.load(row_taps + row)
    bottom = tl.load(row_taps + row_tables * crop_h + row)
    down = tl.load(row_fractions + row)
    left = tl.load(column_taps + column, mask=within, other=-1)
    right = tl.load(column_taps + column_tables * crop_w + column, mask=within, other=-1)
    across = tl.load(column_fractions + column, mask=within, other=0.0)
    inside = (left >= 0) & (top >= 0)
    upper = top.to(tl.int64) * width
    lower = bottom.to(tl.int64) * width
    for channel in tl.static_range(3):
        a = tl.load(image + (upper + left) * 3 + channel, mask=inside, other=0).to(tl.float32)
        b = tl.load(image + (upper + right) * 3 + channel, mask=inside, other=0).to(tl.float32)
        c = tl.load(image + (lower + left) * 3 + channel, mask=inside, other=0).to(tl.float32)
        d = tl.load(image + (lower + right) * 3 + channel, mask=inside, other=0).to(tl.float32)
        first = a * (1.0 - across) + b * across
        second = c * (1.0 - across) + d * across
        value = first * (1.0 - down) + second * down
        mean = mean_r
        if channel == 1:
            mean = mean_g
        if channel == 2:
            mean = mean_b
        value = tl.where(inside, value, mean)
        place = ((n * 3 + channel).to(tl.int64) * crop_h + y) * crop_w + x
        tl.store(out + place, value, mask=within)


@triton.jit(do_not_specialize=["start", "height", "width"])
def _finish(  # type: ignore[no-untyped-def]
    logits, slots, row_places, row_shares, column_places, column_shares, labels, confidence, probabilities,
    start, height, width,
    REAL: tl.constexpr, COARSE_H: tl.constexpr, COARSE_W: tl.constexpr, MIRRORS: tl.constexpr,
    ROW_ENTRIES: tl.constexpr, COLUMN_ENTRIES: tl.constexpr,
    WITH_CONFIDENCE: tl.constexpr, WITH_PROBABILITIES: tl.constexpr,
    CLASSES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """One program: PIXELS of a row of the image, all their classes, from every window of every scale.

    Loops of constant length that skip what weighs nothing: unrolled, they would be compiled for minutes.
    """
    y = start + tl.program_id(1)
    x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    within = x < width
    ids = tl.arange(0, CLASSES)[:, None]
    real = ids < REAL
    total = tl.zeros([CLASSES, PIXELS], tl.float32)
    for row_entry in range(ROW_ENTRIES):
        at_row = y * ROW_ENTRIES + row_entry
        row_share = tl.load(row_shares + 2 * at_row)
        if row_share > 0:
            down = tl.load(row_shares + 2 * at_row + 1)
            scale = tl.load(row_places + 3 * at_row)
            row_view = tl.load(row_places + 3 * at_row + 1)
            top = tl.load(row_places + 3 * at_row + 2)
            bottom = tl.minimum(top + 1, COARSE_H - 1)
            for column_entry in range(COLUMN_ENTRIES):
                at = 2 * (scale * COLUMN_ENTRIES + column_entry) * width + x
                share = row_share * tl.load(column_shares + at, mask=within, other=0.0)
                if tl.max(share, axis=0) > 0:
                    along = tl.load(column_shares + at + width, mask=within, other=0.0)[None, :]
                    view = row_view + tl.load(column_places + at, mask=within, other=0)
                    left = tl.load(column_places + at + width, mask=within, other=0)
                    right = tl.minimum(left + 1, COARSE_W - 1)
                    for mirror in range(MIRRORS):
                        slot = tl.load(slots + view + mirror).to(tl.int64)
                        plane = logits + slot * (REAL * COARSE_H * COARSE_W)
                        upper = plane + top * COARSE_W
                        lower = plane + bottom * COARSE_W
                        each = ids * (COARSE_H * COARSE_W)
                        a = tl.load((upper + left)[None, :] + each, mask=real, other=0.0)
                        b = tl.load((upper + right)[None, :] + each, mask=real, other=0.0)
                        first = a * (1.0 - along) + b * along
                        c = tl.load((lower + left)[None, :] + each, mask=real, other=0.0)
                        d = tl.load((lower + right)[None, :] + each, mask=real, other=0.0)
                        second = c * (1.0 - along) + d * along
                        value = first * (1.0 - down) + second * down
                        value = tl.where(real, value, float("-inf"))
                        value = tl.exp(value - tl.max(value, axis=0)[None, :])
                        total += value * (share / tl.sum(value, axis=0))[None, :]
    total = tl.where(real, total, -1.0)
    place = y.to(tl.int64) * width + x
    best = tl.argmax(total, axis=0, tie_break_left=True)
    tl.store(labels + place, best.to(labels.dtype.element_ty), mask=within)
    if WITH_CONFIDENCE:
        tl.store(confidence + place, tl.max(total, axis=0), mask=within)
    if WITH_PROBABILITIES:
        every = ids.to(tl.int64) * (height.to(tl.int64) * width) + place[None, :]
        tl.store(probabilities + every, total, mask=real & within[None, :])


@triton.jit
def _add_one(image, out):  # type: ignore[no-untyped-def]
    tl.store(out, tl.load(image).to(tl.float32) + 1.0)


def cut(image: Any, views: Any, rows: Any, columns: Any, mean: tuple[float, float, float], out: Any) -> None:
    """Windows of `image`, (H, W, 3) uint8, into `out`, (N, 3, h, w) float32.

    views: (N, 2) int32, which of the tables of rows and of columns each window is; rows, columns:
    `tables.Cutting` of either axis; mean: of what lies outside the picture.
    """
    count, _, crop_h, crop_w = out.shape
    block = min(triton.next_power_of_2(crop_w), 256)
    _cut[(triton.cdiv(crop_w, block), crop_h, count)](
        image, out, rows.taps, rows.fractions, columns.taps, columns.fractions, views,
        image.shape[1], crop_h, crop_w, *mean, rows.taps.shape[1], columns.taps.shape[1], BLOCK=block,
    )  # fmt: skip


def finish(
    logits: Any, slots: Any, tables: Any, rows: tuple[int, int],
    labels: Any, confidence: Any | None, probabilities: Any | None, tile: Tile,
) -> None:  # fmt: skip
    """Labels, and what else is given, of the image's rows [start, stop).

    logits: `WindowLogits.values`; slots: int32, by view, in the order of `tables.Stitching`; labels:
    (H, W); confidence: (H, W) float32; probabilities: (C, H, W) float32.
    """
    _, classes, coarse_h, coarse_w = logits.shape
    height, width = labels.shape
    for start in range(*rows, MAX_ROWS):
        grid = (triton.cdiv(width, tile.pixels), min(rows[1] - start, MAX_ROWS))
        _finish[grid](
            logits, slots, tables.row_places, tables.row_shares, tables.column_places, tables.column_shares,
            labels, labels if confidence is None else confidence,
            labels if probabilities is None else probabilities,
            start, height, width,
            REAL=classes, COARSE_H=coarse_h, COARSE_W=coarse_w, MIRRORS=tables.mirrors,
            ROW_ENTRIES=tables.row_shares.shape[1], COLUMN_ENTRIES=tables.column_shares.shape[1],
            WITH_CONFIDENCE=confidence is not None, WITH_PROBABILITIES=probabilities is not None,
            CLASSES=triton.next_power_of_2(classes), PIXELS=tile.pixels, num_warps=tile.warps,
        )  # fmt: skip


def try_out(image: Any) -> None:
    """Raises where kernels do not run on the device of `image`, a (1, 1, 3) uint8 pixel."""
    out = image.new_empty((1, 1)).float()
    _add_one[(1,)](image, out)
    if float(out[0, 0]) != float(image[0, 0, 0]) + 1:
        raise RuntimeError("a kernel gave a wrong value")
