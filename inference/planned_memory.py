"""What a prediction by the published protocol holds, in bytes, before it begins. Pure arithmetic.

Not here: the decisions that make it fit (`plan.py`).
"""

import math
from typing import TYPE_CHECKING

from inference.windows import Axis, ScaleLayout

if TYPE_CHECKING:
    from inference.plan import Request

CUTTING_BYTES = 84
"""Of one pixel of a window while it is cut with torch's own operations."""
SCALING_VALUES = 1 << 18
"""float32 values of the image that are scaled at once, about."""


def scaling_step(image_width: int, scaled_width: int) -> int:
    """Rows of a scaled picture that are made at once."""
    return max(SCALING_VALUES // (3 * max(image_width, scaled_width)), 1)


def support_hw(layout: ScaleLayout, block_hw: tuple[int, int]) -> tuple[int, int]:
    """Largest part of the scaled picture that a block of the image is made from."""
    return layout.rows.widest_support(block_hw[0]), layout.columns.widest_support(block_hw[1])


def planned_memory(request: "Request", block_hw: tuple[int, int], batch: int, slots: int) -> dict[str, int]:
    """Bytes by what they are for, of a prediction in blocks and batches of that size with so many slots."""
    pixels, classes = math.prod(request.image_hw), request.classes
    coarse, crop = classes * math.prod(request.coarse_hw), math.prod(request.crop_hw)
    memory = {
        "labels": pixels * (1 if classes <= 256 else 2),
        "confidence": 4 * pixels * request.confidence,
        "probabilities": 4 * classes * pixels * request.probabilities,
        "window logits": 4 * coarse * slots,
        "engine batch": 4 * batch * (3 * crop + 2 * coarse),
    }
    if request.on_device:
        memory["image"] = 3 * pixels
        memory["tables"] = _table_bytes(request)
    else:
        memory["scaled rows"] = max((_strip_bytes(request, layout) for layout in request.layouts), default=0)
    if not request.fused:
        if request.on_device:
            memory["cutting"] = CUTTING_BYTES * crop
        threads = min(request.threads, math.ceil(request.image_hw[0] / block_hw[0]))
        memory["block"] = threads * _block_bytes(request, block_hw)
        memory["matrices"] = _matrix_bytes(request)
    return memory


def _table_bytes(request: "Request") -> int:
    """Of the taps by which windows are cut and, fused, of the entries by which they are stitched."""
    image_h, image_w = request.image_hw
    cutting = rows = columns = 0
    for layout in request.layouts:
        cutting += 12 * len(layout.rows.starts) * layout.rows.crop
        cutting += 12 * (1 + request.mirrored) * len(layout.columns.starts) * layout.columns.crop
        rows += _most_entries(layout.rows)
        columns = max(columns, _most_entries(layout.columns))
    stitching = 20 * image_h * rows + 16 * image_w * columns * len(request.layouts)
    return cutting + stitching * request.fused


def _most_entries(axis: Axis) -> int:
    """Windows of the scaled pixels that an image pixel lies between."""
    return axis.most_windows * (1 if axis.same else 2)


def _strip_bytes(request: "Request", layout: ScaleLayout) -> int:
    """Of one row of windows of the scaled picture, and of what `crops.scaled_rows` needs to make it."""
    if layout.same:
        return 0
    image_h, image_w = request.image_hw
    width, strip = layout.hw[1], min(request.crop_hw[0], layout.hw[0])
    step = min(scaling_step(image_w, width), strip)
    sources = min(2 * step, image_h)
    scratch = sources * 12 * width + max(sources * 15 * image_w, 2 * step * 12 * width)
    return 12 * strip * width + scratch


def _block_bytes(request: "Request", block_hw: tuple[int, int]) -> int:
    """Of the buffers that `Stitcher` takes: across, up, total, gathered, block, equal and ranks; where torch
    makes a product, also of that before it is copied to its place."""
    crop_h, crop_w = request.crop_hw
    rows, columns = block_hw
    across = up = total = gathered = 0
    for layout in request.layouts:
        support_h, support_w = support_hw(layout, block_hw)
        part_h, part_w = min(support_h, crop_h), min(support_w, crop_w)
        coarse_h = min(math.ceil(part_h * request.coarse_hw[0] / crop_h) + 2, request.coarse_hw[0])
        across, up = max(across, coarse_h * part_w), max(up, part_h * part_w)
        total = max(total, 0 if layout.columns.same else support_h * support_w)
        gathered += support_h * columns
    resampled = len(request.layouts) > 1 or not request.layouts[0].rows.same
    values = across + up + total + gathered + resampled * rows * columns
    values += max(across, up, rows * columns) * request.on_device
    rank_bytes = 1 if request.classes <= 256 else 2
    return request.classes * (4 * values + (1 + rank_bytes) * rows * columns)


def _matrix_bytes(request: "Request") -> int:
    """Of the matrices that are made once, upsampling of both axes, resampling of the columns; and of taps."""
    up = sum(crop * coarse for crop, coarse in zip(request.crop_hw, request.coarse_hw, strict=True))
    width = request.image_hw[1]
    tiles = sum(
        width * layout.columns.widest_support(request.tile)
        for layout in request.layouts
        if not layout.columns.same
    )
    taps = 24 * len(request.layouts) * sum(request.image_hw)
    return 4 * (len(request.layouts) * up + tiles) + taps
