"""One prediction by MMSegmentation's test protocol, planned: blocks, batches, memory. Pure arithmetic.

Not here: sizes and windows (`mmseg_layout.py`), pixels and engine calls (`mmsegmentation.py`), what is done
in a block (`mmseg_stitch.py`), the published protocol (`plan.py`).

Coarse logits of all pictures are kept until the end: they are small beside what a network needs that sees a
whole image, the square of the pixels for PSA's attention, which is planned too.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inference.errors import MemoryBudgetError
from inference.mmseg_layout import Picture, WindowAxis
from inference.plan import over_budget
from models.config import ModelConfig

PAIR_MAPS = 6
"""Arrays of all pairs of positions that an engine holds at once: 5.7 in ONNX Runtime, 3.4 in PyTorch, by the
peak of processes on images of 512x1024 and 1024x2048 pixels."""

View = tuple[int, int, int, bool]
"""One image for the network: index of the picture, of the window's row, of its column; whether it is of the
mirrored picture."""


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """What is to be planned for. mirrored: each picture also runs as its mirror image; architecture: of a
    network that takes any size and whose memory is planned, else None; batch: images in one engine call at
    most; block_hw: of image pixels at most; block_values: float32 values of a block's largest array."""

    image_hw: tuple[int, int]
    pictures: tuple[Picture, ...]
    classes: int
    mirrored: bool
    confidence: bool
    probabilities: bool
    architecture: ModelConfig | None
    batch: int
    block_hw: tuple[int, int]
    block_values: int


@dataclass(frozen=True)
class PicturePlan:
    """A request with the decisions that make it fit: image pixels computed at once, images in one engine
    call; memory: bytes by what they are for."""

    request: PictureRequest
    block_hw: tuple[int, int]
    batch: int
    memory: Mapping[str, int]

    @property
    def peak_bytes(self) -> int:
        """What the prediction holds at most."""
        return sum(self.memory.values())

    @property
    def single(self) -> bool:
        """Whether there is one picture, and nothing to average over."""
        return len(self.request.pictures) == 1 and not self.request.mirrored

    def batches(self) -> Iterator[list[View]]:
        """What the network must see, images of one size in each batch."""
        mirrors = (False, True) if self.request.mirrored else (False,)
        for index, picture in enumerate(self.request.pictures):
            views = [
                (index, row, column, mirrored)
                for row in range(len(picture.rows.starts))
                for column in range(len(picture.columns.starts))
                for mirrored in mirrors
            ]
            for start in range(0, len(views), self.batch):
                yield views[start : start + self.batch]


def plan_pictures(request: PictureRequest, budget_bytes: int) -> PicturePlan:
    """The plan with the largest batch that fits the budget.

    Raises MemoryBudgetError, which names the budget, the least that would do and what to change.
    """
    block_hw = _block_hw(request)
    batch = max(request.batch, 1)
    while True:
        plan = PicturePlan(request, block_hw, batch, _memory(request, block_hw, batch))
        if plan.peak_bytes <= budget_bytes:
            return plan
        if batch == 1:
            mends = _mends(request)
            raise MemoryBudgetError(
                over_budget(request.image_hw, request.classes, plan.memory, budget_bytes, mends)
            )
        batch //= 2


def attention_bytes(architecture: ModelConfig, window_hw: tuple[int, int]) -> int:
    """Of the attention maps that the network holds at once for one image of `window_hw`, about.

    They grow with the square of the pixels. Its other maps grow with the pixels and count, like those of a
    model of windows, as the engine's own memory.
    """
    shrink = architecture.shrink_factor if architecture.context == "psa" else 1
    positions = math.prod(math.ceil(side / (architecture.output_stride * shrink)) for side in window_hw)
    if architecture.context == "psa":
        # Of one branch: the map as predicted; spread out to pairs, and the softmax of them beside it.
        return 4 * positions * (math.prod(architecture.psa_mask_hw) + PAIR_MAPS * positions)
    return 4 * PAIR_MAPS * positions**2 if architecture.context == "nonlocal" else 0


def _block_hw(request: PictureRequest) -> tuple[int, int]:
    """The largest block whose arrays hold at most `block_values`."""
    rows, columns = (min(sides) for sides in zip(request.block_hw, request.image_hw, strict=True))
    while rows * columns > 1:
        depth = max(_depth(picture.rows, picture.coarse_hw[0], rows) for picture in request.pictures)
        if request.classes * columns * max(rows, depth) <= request.block_values:
            break
        if rows > 1 and rows * 4 > columns:
            rows = (rows + 1) // 2
        else:
            columns = (columns + 1) // 2
    return rows, columns


def _depth(axis: WindowAxis, coarse: int, length: int) -> int:
    """Upper bound of the coarse pixels, of all windows along the axis, that `length` image pixels need."""
    resized = min(math.ceil(length * axis.resized / axis.image) + 2, axis.resized)
    each = min(math.ceil(min(resized, axis.window) * coarse / axis.window) + 2, coarse)
    stride = axis.starts[1] if len(axis.starts) > 1 else axis.window
    # Up to two windows lie over any pixel, and a third where the last one is pushed back inside.
    return min(math.ceil(resized / stride) + 2, len(axis.starts)) * each


def _memory(request: PictureRequest, block_hw: tuple[int, int], batch: int) -> dict[str, int]:
    pixels, classes, pictures = math.prod(request.image_hw), request.classes, request.pictures
    memory = {
        "labels": pixels * (1 if classes <= 256 else 2),
        "confidence": 4 * pixels * request.confidence,
        "probabilities": 4 * classes * pixels * request.probabilities,
        "resized picture": max(3 * math.prod(each.hw) * (each.hw != request.image_hw) for each in pictures),
        "coarse logits": 0,
        "engine batch": 0,
        "attention maps": 0,
        "block": _block_bytes(request, block_hw),
        "matrices": _matrix_bytes(request, block_hw),
    }
    for picture in pictures:
        views = picture.windows * (1 + request.mirrored)
        coarse, count = 4 * classes * math.prod(picture.coarse_hw), min(batch, views)
        given = count * (12 * math.prod(picture.window_hw) + coarse)
        memory["coarse logits"] += views * coarse
        memory["engine batch"] = max(memory["engine batch"], given)
        if request.architecture is not None:
            attention = count * attention_bytes(request.architecture, picture.window_hw)
            memory["attention maps"] = max(memory["attention maps"], attention)
    return memory


def _block_bytes(request: PictureRequest, block_hw: tuple[int, int]) -> int:
    """Of the buffers that a block takes: wide, added, logits, total, equal and ranks."""
    rows, columns = block_hw
    depth = max(_depth(picture.rows, picture.coarse_hw[0], rows) for picture in request.pictures)
    added = max(
        picture.coarse_hw[0] if len(picture.columns.starts) > 1 else 0 for picture in request.pictures
    )
    blocks = 1 if len(request.pictures) == 1 and not request.mirrored else 2
    values = (depth + min(added, depth)) * columns + blocks * rows * columns
    return request.classes * (4 * values + (2 if request.classes <= 256 else 3) * rows * columns)


def _matrix_bytes(request: PictureRequest, block_hw: tuple[int, int]) -> int:
    """Of what is made once: the matrices of all blocks of columns, and the taps of both axes."""
    width, total = request.image_hw[1], 0
    for picture in request.pictures:
        depth = _depth(picture.columns, picture.coarse_hw[1], block_hw[1])
        taps = 24 * (sum(request.image_hw) + sum(picture.hw))
        total += (1 + request.mirrored) * 4 * width * depth + taps
    return total


def _mends(request: PictureRequest) -> str:
    mends = "a smaller base_size or smaller and fewer scales, no flip, or a larger memory budget"
    if request.probabilities or request.confidence:
        mends = f"labels alone, without probabilities or confidence, {mends}"
    return mends
