"""How one prediction fits its memory: blocks of pixels, bands of rows, batches of windows. Pure arithmetic.

Not here: where windows lie (`windows.py`) and what is done in a block (`stitch.py`).

The image is finished band by band, from the top. A band needs the coarse logits of the windows that its
rows are made from; they are kept only while some band needs them. An ordinary image is one band; a large
one has as many as its budget wants. Whatever the bands, the result is the same.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from inference.errors import MemoryBudgetError
from inference.planned_memory import planned_memory, support_hw
from inference.windows import Interval, ScaleLayout

BLOCK_HW = (64, 256)
"""Largest block of image pixels, for a cache."""
SMALLEST_BLOCK_HW = (16, 64)
"""Smaller ones only where the block's part of a scaled picture is far larger than the block."""
MEBIBYTE = 1 << 20
View = tuple[int, int, int, bool]
"""One image for the network: index of the scale, of the window's row, of its column; whether it is
mirrored."""


@dataclass(frozen=True)
class Band:
    """Rows of the image that are finished together; `needed`, `new`: by scale, the rows of windows that
    must be there, and those of them that no band before has run."""

    rows: Interval
    needed: tuple[Interval, ...]
    new: tuple[Interval, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be planned for: sizes (height, width), classes, and which outputs are wanted.

    mirrored: every window also runs as its mirror image; block_values: float32 values in a block's arrays
    at most (what a cache or a device likes); largest_block_hw: of image pixels; tile: columns of the image
    that one product resamples; batch: images in one engine call at most; threads: that stitch; on_device:
    the image lies beside the logits on a device, where windows are cut out of it; fused: blocks are finished
    by one kernel, which needs no arrays of their size.
    """

    image_hw: tuple[int, int]
    layouts: tuple[ScaleLayout, ...]
    crop_hw: tuple[int, int]
    coarse_hw: tuple[int, int]
    classes: int
    mirrored: bool
    confidence: bool
    probabilities: bool
    batch: int
    block_values: int
    tile: int
    largest_block_hw: tuple[int, int] = BLOCK_HW
    threads: int = 1
    on_device: bool = False
    fused: bool = False


@dataclass(frozen=True)
class Plan:
    """A request with the decisions that make it fit.

    block_hw: image pixels computed at once; batch: images in one engine call; slots: coarse logits of
    windows kept at once; memory: bytes by what they are for, beside the engine's own and the image's.
    """

    request: Request
    block_hw: tuple[int, int]
    batch: int
    bands: tuple[Band, ...]
    slots: int
    memory: Mapping[str, int]

    @property
    def peak_bytes(self) -> int:
        """What the prediction holds at most."""
        return sum(self.memory.values())

    def views(self, band: Band) -> Iterator[View]:
        """What the network must see for `band` and has not, row by row of windows."""
        for scale, (layout, rows) in enumerate(zip(self.request.layouts, band.new, strict=True)):
            for row in range(*rows):
                for column in range(len(layout.columns.starts)):
                    yield scale, row, column, False
                    if self.request.mirrored:
                        yield scale, row, column, True

    @property
    def alone(self) -> bool:
        """Whether every pixel of the image has one softmax, and nobody asks for its values: the class of the
        greatest logit is the most probable, also where float32 would make two probabilities equal."""
        request = self.request
        layout = request.layouts[0]
        return (
            len(request.layouts) == len(layout.rows.starts) == len(layout.columns.starts) == 1
            and layout.same
            and not (request.mirrored or request.confidence or request.probabilities)
        )

    @property
    def threads(self) -> int:
        """That stitch: as many as there are rows of blocks for, at most."""
        return min(self.request.threads, math.ceil(self.request.image_hw[0] / self.block_hw[0]))

    def parts(self, band: Band) -> list[Interval]:
        """The rows of blocks in it."""
        return list(intervals(*band.rows, self.block_hw[0]))

    def batches(self, band: Band) -> Iterator[list[View]]:
        """`views` in batches."""
        views = self.views(band)
        while batch := list(islice(views, self.batch)):
            yield batch


def make_plan(request: Request, budget_bytes: int) -> Plan:
    """The plan with the fewest bands that fits the budget; smaller batches only where no bands help.

    Raises MemoryBudgetError, which names the budget, the least that would do and what to change.
    """
    block_hw = _block_hw(request)
    height = request.image_hw[0]
    steps = math.ceil(height / block_hw[0])
    batch = max(request.batch, 1)
    while True:
        count = 1
        while True:
            bands = _bands(request, math.ceil(steps / count) * block_hw[0])
            slots = _slots(request, bands)
            memory = planned_memory(request, block_hw, batch, slots)
            plan = Plan(request, block_hw, batch, bands, slots, memory)
            if plan.peak_bytes <= budget_bytes:
                return plan
            if count == steps:
                break
            count = min(math.ceil(count * 1.25), steps)
        if batch == 1:
            break
        batch //= 2
    mends = _mends(request)
    raise MemoryBudgetError(over_budget(request.image_hw, request.classes, plan.memory, budget_bytes, mends))


def intervals(start: int, stop: int, step: int) -> Iterator[Interval]:
    """[start, stop) in pieces of `step`; the last may be shorter."""
    for at in range(start, stop, step):
        yield at, min(at + step, stop)


def _block_hw(request: Request) -> tuple[int, int]:
    """The largest block whose arrays hold at most `block_values`."""
    image_h, image_w = request.image_hw
    rows, columns = min(request.largest_block_hw[0], image_h), min(request.largest_block_hw[1], image_w)
    while (rows, columns) != (1, 1):
        supports = [support_hw(layout, (rows, columns)) for layout in request.layouts]
        largest = max(rows * columns, *(support_h * support_w for support_h, support_w in supports))
        if request.classes * largest <= request.block_values:
            break
        small = rows <= SMALLEST_BLOCK_HW[0] and columns <= SMALLEST_BLOCK_HW[1]
        if rows > columns or (not small and rows > SMALLEST_BLOCK_HW[0]):
            rows = (rows + 1) // 2
        else:
            columns = (columns + 1) // 2
    return rows, columns


def _bands(request: Request, band_height: int) -> tuple[Band, ...]:
    result: list[Band] = []
    done = [0] * len(request.layouts)
    for rows in intervals(0, request.image_hw[0], band_height):
        axes = [layout.rows for layout in request.layouts]
        needed = tuple(axis.touched(*axis.support(*rows)) for axis in axes)
        new = tuple((max(first, seen), last) for (first, last), seen in zip(needed, done, strict=True))
        done = [last for _, last in needed]
        result.append(Band(rows, needed, new))
    return tuple(result)


def _slots(request: Request, bands: tuple[Band, ...]) -> int:
    columns = [len(layout.columns.starts) for layout in request.layouts]
    return (1 + request.mirrored) * max(
        sum((last - first) * width for (first, last), width in zip(band.needed, columns, strict=True))
        for band in bands
    )


def over_budget(
    image_hw: tuple[int, int], classes: int, memory: Mapping[str, int], budget_bytes: int, mends: str
) -> str:
    """What to say of `memory` that does not fit; `mends`: what would make it smaller."""
    largest, peak_bytes = max(memory, key=lambda key: memory[key]), sum(memory.values())
    return (
        f"{image_hw[1]}x{image_hw[0]} pixels and {classes} classes need at least "
        f"{peak_bytes / MEBIBYTE:.1f} MiB (most of it {largest}), over the memory budget of "
        f"{budget_bytes / MEBIBYTE:.1f} MiB: try {mends}"
    )


def _mends(request: Request) -> str:
    mends = "a smaller base_size, fewer scales, no flip, or a larger memory budget"
    if request.probabilities or request.confidence:
        mends = f"labels alone, without probabilities or confidence, {mends}"
    return mends
