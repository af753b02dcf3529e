"""The Triton kernels of point-wise spatial attention, forward and backward, for NVIDIA GPUs.

Not here: the op that they serve and its plain form (`models/psa_attention.py`), nor which block of targets a
launch works on and with what tile sizes (`models/psa_launch.py`). The one importer of triton.

What all kernels share:

- A *centre* predicts, an *other* is predicted for, at an offset (down, right) from the centre; the logit of the
  pair is features[centre] . weight[offset]. Collect: centres are targets, others sources; distribute: the
  other way round. Softmax runs over the sources.
- `logits` is a workspace of one block of target rows, [image, centre, other], rows `pitch` apart. Skewing
  from offsets to others is nothing but its addresses. Whoever reads it as [target, source] strides.
- A tile of TILE_H x TILE_W centres (a square of the picture, not a run of it) needs (others' rows + TILE_H - 1)
  x (others' columns + TILE_W - 1) offsets, little more than there are pairs: that is why centres are tiled so.
  The offsets are numbered row by row, so that no part of a tile's product lies idle but at the end.
- Features, values and their like are (N, positions, channels), contiguous; sums are in float32.

    TRITON_INTERPRET=1 python -m pytest tests/models/test_psa_triton.py     # on a CPU
"""

import triton
import triton.language as tl

_SIZES = [
    *("images", "rows", "width", "positions", "targets", "first_target", "mask_h", "mask_w"),
    *("centre_top", "centre_bottom", "other_top", "other_bottom"),
]
"""Sizes that no machine code depends on: features of another size need no new compilation."""
LOG2E = tl.constexpr(1.4426950408889634)
LARGEST_HALF = tl.constexpr(65504.0)


@triton.jit
def _divided(number, by):
    """Quotient and remainder of whole numbers: number from 0 to 2^20, by of 1 or more.

    In float32 a half more than the number, over `by`, is nearer to itself than to a whole number by more than
    any rounding; integer division would cost as much as the product that it numbers.
    """
    quotient = ((number.to(tl.float32) + 0.5) * (1.0 / by.to(tl.float32))).to(tl.int32)
    return quotient, number - quotient * by


@triton.jit
def _centres(top, left, width, centre_bottom, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Rows and columns of a tile's centres, and which of them there are."""
    local = tl.arange(0, TILE_H * TILE_W)
    row, column = top + local // TILE_W, left + local % TILE_W
    return row, column, (row < centre_bottom) & (column < width)


@triton.jit
def _offsets(
    top, left, width, other_top, other_bottom, mask_h, mask_w, TILE_H: tl.constexpr, TILE_W: tl.constexpr
):
    """The offsets that some centre of a tile needs: the first and how many, down and right."""
    above, before = (mask_h - 1) // 2, (mask_w - 1) // 2
    first_down = tl.maximum(other_top - top - (TILE_H - 1), -above)
    last_down = tl.minimum(other_bottom - 1 - top, mask_h - 1 - above)
    first_right = tl.maximum(-left - (TILE_W - 1), -before)
    last_right = tl.minimum(width - 1 - left, mask_w - 1 - before)
    return first_down, tl.maximum(last_down - first_down + 1, 0), first_right, last_right - first_right + 1


@triton.jit
def _skewed(
    row, column, is_centre, down, right, is_offset, width, centre_top, other_top, other_bottom, pitch
):
    """Where the pairs of centres and offsets lie in an image's workspace, and which of them there are.

    One side runs along the first axis, the other along the second; per pair there is little to do.
    """
    row_at = ((row - centre_top) * width + column) * pitch + (row - other_top) * width + column
    at = row_at + (down * width + right)
    # What is far away is outside whatever the other side is; below 0 is outside as a large unsigned number.
    far = -(1 << 20)
    other_row = tl.where(is_centre, row - other_top, far) + tl.where(is_offset, down, far)
    inside = other_row.to(tl.uint32) < (other_bottom - other_top).to(tl.uint32)
    inside &= (column + right).to(tl.uint32) < width.to(tl.uint32)
    return at, inside


@triton.jit(do_not_specialize=_SIZES)
def predict(
    features,
    weight,
    logits,
    width,
    positions,
    centre_top,
    centre_bottom,
    other_top,
    other_bottom,
    mask_h,
    mask_w,
    pitch,
    image_stride,
    CHANNELS: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """logits[image, centre, other] = features[centre] . weight[other - centre], where the mask reaches.

    Grid: (tiles across x images, tiles of offsets, tiles down).
    """
    across = tl.cdiv(width, TILE_W)
    image = tl.program_id(0) // across
    left = (tl.program_id(0) % across) * TILE_W
    top = centre_top + tl.program_id(2) * TILE_H
    first_down, downs, first_right, rights = _offsets(
        top, left, width, other_top, other_bottom, mask_h, mask_w, TILE_H, TILE_W
    )
    count = downs * rights
    first = tl.program_id(1) * BLOCK_N
    if first < count:
        row, column, is_centre = _centres(top, left, width, centre_bottom, TILE_H, TILE_W)
        number = first + tl.arange(0, BLOCK_N)
        is_offset = number < count
        quotient, remainder = _divided(number, rights)
        down, right = first_down + quotient, first_right + remainder
        channel = (down + (mask_h - 1) // 2) * mask_w + right + (mask_w - 1) // 2
        k = tl.arange(0, BLOCK_K)
        feature_at = features + (image * positions + row * width + column)[:, None] * CHANNELS + k[None, :]
        weight_at = weight + channel[None, :] * CHANNELS + k[:, None]
        sums = tl.zeros((TILE_H * TILE_W, BLOCK_N), tl.float32)
        for start in range(0, CHANNELS, BLOCK_K):
            if CHANNELS % BLOCK_K == 0:
                feature = tl.load(feature_at, mask=is_centre[:, None], other=0.0)
                key = tl.load(weight_at, mask=is_offset[None, :], other=0.0)
            else:
                more = start + k < CHANNELS
                feature = tl.load(feature_at, mask=is_centre[:, None] & more[None, :], other=0.0)
                key = tl.load(weight_at, mask=is_offset[None, :] & more[:, None], other=0.0)
            sums = tl.dot(feature, key, sums, input_precision=PRECISION)
            feature_at += BLOCK_K
            weight_at += BLOCK_K
        if logits.dtype.element_ty == tl.float16:
            sums = tl.clamp(sums, -LARGEST_HALF, LARGEST_HALF)
        at, inside = _skewed(
            row[:, None], column[:, None], is_centre[:, None], down[None, :], right[None, :], is_offset[None, :],
            width, centre_top, other_top, other_bottom, pitch,
        )  # fmt: skip
        tl.store(logits + image * image_stride + at, sums.to(logits.dtype.element_ty), mask=inside)


@triton.jit
def _pairs(target, source, targets, positions, pitch, DISTRIBUTE: tl.constexpr):
    """Where pairs lie in an image's workspace, and whether their row is there.

    The end of a row is not looked at, for accesses of 16 bytes: `pitch` leaves room for a whole tile, and what
    lies there is anything, NaN too.
    """
    if DISTRIBUTE:
        at = source * pitch + target
        is_row = source < positions
    else:
        at = target * pitch + source
        is_row = target < targets
    return at, is_row


@triton.jit(do_not_specialize=_SIZES)
def gather(
    logits,
    values,
    gathered,
    log_sums,
    targets,
    first_target,
    positions,
    pitch,
    image_stride,
    CHANNELS: tl.constexpr,
    DISTRIBUTE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gathered[target] = sum over sources of softmax(logits)[target, source] values[source], by online softmax.

    log_sums[target]: the logarithm of its sum of exponentials. Grid: (tiles of targets, of channels, images).
    """
    image = tl.program_id(2)
    target = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    source = tl.arange(0, BLOCK_K)
    is_target, is_channel = target < targets, channel < CHANNELS
    logits += image * image_stride
    values += image * positions * CHANNELS
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, positions, BLOCK_K):
        is_source = start + source < positions
        at, wanted = _pairs(target[:, None], (start + source)[None, :], targets, positions, pitch, DISTRIBUTE)
        logit = tl.load(logits + at, mask=wanted, other=0.0)
        value_at = values + (start + source)[:, None] * CHANNELS + channel[None, :]
        value = tl.load(value_at, mask=is_source[:, None] & is_channel[None, :], other=0.0)
        scaled = tl.where(is_source[None, :], logit.to(tl.float32) * LOG2E, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scaled, 1))
        shrink = tl.exp2(largest - new_largest)
        weight = tl.exp2(scaled - new_largest[:, None])
        total = total * shrink + tl.sum(weight, 1)
        sums = tl.dot(weight.to(value.dtype), value, sums * shrink[:, None], input_precision=PRECISION)
        largest = new_largest
    place = image * positions + first_target + target
    result = (sums / total[:, None]).to(gathered.dtype.element_ty)
    wanted = is_target[:, None] & is_channel[None, :]
    tl.store(gathered + place[:, None] * CHANNELS + channel[None, :], result, mask=wanted)
    if tl.program_id(1) == 0:
        tl.store(log_sums + place, (largest + tl.log2(total)) / LOG2E, mask=is_target)


@triton.jit(do_not_specialize=_SIZES)
def row_products(
    left,
    right,
    extra,
    products,
    rows,
    CHANNELS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """products[row] = left[row] . right[row] - extra[row], in float32. Grid: (tiles of rows,)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_row = row < rows
    k = tl.arange(0, BLOCK_K)
    sums = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for start in range(0, CHANNELS, BLOCK_K):
        at = row[:, None] * CHANNELS + start + k[None, :]
        wanted = is_row[:, None] & (start + k < CHANNELS)[None, :]
        sums += tl.load(left + at, mask=wanted, other=0.0).to(tl.float32) * tl.load(
            right + at, mask=wanted, other=0.0
        ).to(tl.float32)
    total = tl.sum(sums, 1) - tl.load(extra + row, mask=is_row, other=0.0)
    tl.store(products + row, total, mask=is_row)


@triton.jit(do_not_specialize=_SIZES)
def logit_grads(
    logits,
    grads,
    log_sums,
    products,
    gathered_grads,
    values,
    targets,
    first_target,
    positions,
    pitch,
    image_stride,
    CHANNELS: tl.constexpr,
    DISTRIBUTE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """grads = attention (gathered_grads[target] . values[source] - products[target]), laid out as `logits`.

    Grid: (tiles of targets, of sources, images).
    """
    image = tl.program_id(2)
    target = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    source = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_target, is_source = target < targets, source < positions
    place = image * positions + first_target + target
    k = tl.arange(0, BLOCK_K)
    grad_at = gathered_grads + place[:, None] * CHANNELS + k[None, :]
    value_at = values + (image * positions + source)[None, :] * CHANNELS + k[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, CHANNELS, BLOCK_K):
        if CHANNELS % BLOCK_K == 0:
            grad = tl.load(grad_at, mask=is_target[:, None], other=0.0)
            value = tl.load(value_at, mask=is_source[None, :], other=0.0)
        else:
            more = start + k < CHANNELS
            grad = tl.load(grad_at, mask=is_target[:, None] & more[None, :], other=0.0)
            value = tl.load(value_at, mask=is_source[None, :] & more[:, None], other=0.0)
        sums = tl.dot(grad, value, sums, input_precision=PRECISION)
        grad_at += BLOCK_K
        value_at += BLOCK_K
    log_sum = tl.load(log_sums + place, mask=is_target, other=0.0)
    product = tl.load(products + place, mask=is_target, other=0.0)
    at, wanted = _pairs(target[:, None], source[None, :], targets, positions, pitch, DISTRIBUTE)
    at += image * image_stride
    logit = tl.load(logits + at, mask=wanted, other=0.0).to(tl.float32)
    attention = tl.exp2((logit - log_sum[:, None]) * LOG2E)
    result = attention * (sums - product[:, None])
    tl.store(grads + at, result.to(grads.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=_SIZES)
def value_grads(
    logits,
    log_sums,
    gathered_grads,
    grads,
    targets,
    first_target,
    positions,
    pitch,
    image_stride,
    CHANNELS: tl.constexpr,
    DISTRIBUTE: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """grads[source] = (its own if ADD +) sum over the block's targets of attention x gathered_grads[target].

    Grid: (tiles of sources, of channels, images).
    """
    image = tl.program_id(2)
    source = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_source, is_channel = source < positions, channel < CHANNELS
    logits += image * image_stride
    first_place = image * positions + first_target
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, targets, BLOCK_K):
        target = start + tl.arange(0, BLOCK_K)
        is_target = target < targets
        at, wanted = _pairs(target[None, :], source[:, None], targets, positions, pitch, DISTRIBUTE)
        logit = tl.load(logits + at, mask=wanted, other=0.0)
        grad_at = gathered_grads + (first_place + target)[:, None] * CHANNELS + channel[None, :]
        grad = tl.load(grad_at, mask=is_target[:, None] & is_channel[None, :], other=0.0)
        log_sum = tl.load(log_sums + first_place + target, mask=is_target, other=0.0)
        attention = tl.exp2((logit.to(tl.float32) - log_sum[None, :]) * LOG2E)
        attention = tl.where(is_target[None, :] & is_source[:, None], attention, 0.0)
        sums = tl.dot(attention.to(grad.dtype), grad, sums, input_precision=PRECISION)
    at = grads + (image * positions + source)[:, None] * CHANNELS + channel[None, :]
    wanted = is_source[:, None] & is_channel[None, :]
    if ADD:
        sums += tl.load(at, mask=wanted, other=0.0).to(tl.float32)
    tl.store(at, sums.to(grads.dtype.element_ty), mask=wanted)


@triton.jit
def _numbered_pairs(
    grads, first, count, row, column, is_centre, first_down, first_right, rights,
    width, centre_top, other_top, other_bottom, pitch, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(centres, BLOCK_K) of the workspace, by the numbers of a tile's offsets; 0 where there is no pair."""
    number = first + tl.arange(0, BLOCK_K)
    quotient, remainder = _divided(number, rights)
    down, right = first_down + quotient, first_right + remainder
    at, inside = _skewed(
        row[:, None], column[:, None], is_centre[:, None],
        down[None, :], right[None, :], (number < count)[None, :],
        width, centre_top, other_top, other_bottom, pitch,
    )  # fmt: skip
    return tl.load(grads + at, mask=inside, other=0.0)


@triton.jit(do_not_specialize=_SIZES)
def feature_grads(
    pair_grads,
    weight,
    grads,
    width,
    positions,
    centre_top,
    centre_bottom,
    other_top,
    other_bottom,
    mask_h,
    mask_w,
    pitch,
    image_stride,
    CHANNELS: tl.constexpr,
    ADD: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """grads[centre] = (its own if ADD +) sum over others of pair_grads[centre, other] weight[other - centre].

    Grid: (tiles across x images, tiles of channels, tiles down). The next pairs are loaded before the product
    of the present ones: two bytes at odd addresses cannot be copied asynchronously.
    """
    across = tl.cdiv(width, TILE_W)
    image = tl.program_id(0) // across
    left = (tl.program_id(0) % across) * TILE_W
    top = centre_top + tl.program_id(2) * TILE_H
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_channel = channel < CHANNELS
    row, column, is_centre = _centres(top, left, width, centre_bottom, TILE_H, TILE_W)
    first_down, downs, first_right, rights = _offsets(
        top, left, width, other_top, other_bottom, mask_h, mask_w, TILE_H, TILE_W
    )
    count = downs * rights
    pair_grads += image * image_stride
    sums = tl.zeros((TILE_H * TILE_W, BLOCK_N), tl.float32)
    pair = _numbered_pairs(
        pair_grads, 0, count, row, column, is_centre, first_down, first_right, rights,
        width, centre_top, other_top, other_bottom, pitch, BLOCK_K,
    )  # fmt: skip
    for first in range(0, count, BLOCK_K):
        number = first + tl.arange(0, BLOCK_K)
        quotient, remainder = _divided(number, rights)
        down, right = first_down + quotient, first_right + remainder
        place = (down + (mask_h - 1) // 2) * mask_w + right + (mask_w - 1) // 2
        key_at = weight + place[:, None] * CHANNELS + channel[None, :]
        key = tl.load(key_at, mask=(number < count)[:, None] & is_channel[None, :], other=0.0)
        next_pair = _numbered_pairs(
            pair_grads, first + BLOCK_K, count, row, column, is_centre, first_down, first_right, rights,
            width, centre_top, other_top, other_bottom, pitch, BLOCK_K,
        )  # fmt: skip
        sums = tl.dot(pair, key, sums, input_precision=PRECISION)
        pair = next_pair
    at = grads + (image * positions + row * width + column)[:, None] * CHANNELS + channel[None, :]
    wanted = is_centre[:, None] & is_channel[None, :]
    if ADD:
        sums += tl.load(at, mask=wanted, other=0.0).to(tl.float32)
    tl.store(at, sums.to(grads.dtype.element_ty), mask=wanted)


@triton.jit
def _numbered_centres(
    grads, first, total, count, first_row, first_column, columns, down, right, is_offset,
    width, centre_top, other_top, other_bottom, pitch, image_stride, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(offsets, BLOCK_K) of the workspace, by the numbers of the centres; 0 where there is no pair."""
    number = first + tl.arange(0, BLOCK_K)
    image, local = _divided(number, count)
    quotient, remainder = _divided(local, columns)
    row, column = first_row + quotient, first_column + remainder
    at, inside = _skewed(
        row[None, :], column[None, :], (number < total)[None, :],
        down[:, None], right[:, None], is_offset[:, None],
        width, centre_top, other_top, other_bottom, pitch,
    )  # fmt: skip
    return tl.load(grads + (image * image_stride)[None, :] + at, mask=inside, other=0.0)


@triton.jit(do_not_specialize=_SIZES)
def weight_grads(
    pair_grads,
    features,
    grads,
    images,
    width,
    positions,
    centre_top,
    centre_bottom,
    other_top,
    other_bottom,
    mask_h,
    mask_w,
    pitch,
    image_stride,
    CHANNELS: tl.constexpr,
    ADD: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """grads[offset] = (its own if ADD +) sum over images and centres of pair_grads[centre, other] features[centre].

    Grid: (tiles of channels, mask's tiles across, down). Each program sums for its tile of TILE_H x TILE_W
    offsets over the centres for which one of them leads to another position: no atomics, one fixed order.
    """
    tile_row, tile_column = (
        _middle_first(tl.program_id(2), mask_h, TILE_H),
        _middle_first(tl.program_id(1), mask_w, TILE_W),
    )
    local = tl.arange(0, TILE_H * TILE_W)
    mask_row, mask_column = tile_row * TILE_H + local // TILE_W, tile_column * TILE_W + local % TILE_W
    is_offset = (mask_row < mask_h) & (mask_column < mask_w)
    down, right = mask_row - (mask_h - 1) // 2, mask_column - (mask_w - 1) // 2
    first_down, first_right = tile_row * TILE_H - (mask_h - 1) // 2, tile_column * TILE_W - (mask_w - 1) // 2
    first_row = tl.maximum(centre_top, other_top - first_down - (TILE_H - 1))
    rows = tl.maximum(tl.minimum(centre_bottom, other_bottom - first_down) - first_row, 0)
    first_column = tl.maximum(0, -first_right - (TILE_W - 1))
    columns = tl.maximum(tl.minimum(width, width - first_right) - first_column, 0)
    count = rows * columns
    total = images * count
    # Nothing is divided by zero where there is no centre.
    count, columns = tl.maximum(count, 1), tl.maximum(columns, 1)
    channel = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_channel = channel < CHANNELS
    sums = tl.zeros((TILE_H * TILE_W, BLOCK_N), tl.float32)
    pair = _numbered_centres(
        pair_grads, 0, total, count, first_row, first_column, columns, down, right, is_offset,
        width, centre_top, other_top, other_bottom, pitch, image_stride, BLOCK_K,
    )  # fmt: skip
    for first in range(0, total, BLOCK_K):
        number = first + tl.arange(0, BLOCK_K)
        image, centre = _divided(number, count)
        quotient, remainder = _divided(centre, columns)
        place = image * positions + (first_row + quotient) * width + first_column + remainder
        feature_at = features + place[:, None] * CHANNELS + channel[None, :]
        feature = tl.load(feature_at, mask=(number < total)[:, None] & is_channel[None, :], other=0.0)
        next_pair = _numbered_centres(
            pair_grads, first + BLOCK_K, total, count, first_row, first_column, columns, down, right, is_offset,
            width, centre_top, other_top, other_bottom, pitch, image_stride, BLOCK_K,
        )  # fmt: skip
        sums = tl.dot(pair, feature, sums, input_precision=PRECISION)
        pair = next_pair
    at = grads + (mask_row * mask_w + mask_column)[:, None] * CHANNELS + channel[None, :]
    wanted = is_offset[:, None] & is_channel[None, :]
    if ADD:
        sums += tl.load(at, mask=wanted, other=0.0).to(tl.float32)
    tl.store(at, sums.to(grads.dtype.element_ty), mask=wanted)


@triton.jit
def _middle_first(number, size, TILE: tl.constexpr):
    """Numbers tiles from the middle outwards, for the middle of the mask has the most to sum."""
    tiles = tl.cdiv(size, TILE)
    middle = tiles // 2
    step = (number + 1) // 2
    return tl.where(number % 2 == 1, middle - step, middle + step)
