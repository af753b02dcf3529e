"""The Triton kernels of the gradients of point-wise spatial attention.

Not here: the forward kernels, where it is said what all share (`models/psa_triton.py`), and the launches
(`models/psa_launch.py`). `logits` are those of the forward kernels, computed again; their gradients,
`pair_grads`, lie in a workspace like theirs but [image, centre, other], for both directions.
"""

import triton
import triton.language as tl

from models.psa_triton import LOG2E, SIZES, centres_of, divided, offsets_of, products_of, skewed


@triton.jit(do_not_specialize=SIZES)
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


@triton.jit(do_not_specialize=SIZES)
def logit_grads(
    logits,
    pair_grads,
    log_sums,
    products,
    gathered_grads,
    values,
    targets,
    first_target,
    positions,
    pitch,
    image_stride,
    grad_pitch,
    grad_image_stride,
    CHANNELS: tl.constexpr,
    DISTRIBUTE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """pair_grads = attention (gathered_grads[target] . values[source] - products[target]).

    Grid: (tiles of targets, of sources, images). The ends of the workspaces' rows are not looked at.
    """
    image = tl.program_id(2)
    target = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    source = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_target, is_source = target < targets, source < positions
    place = image * positions + first_target + target
    grad_at = gathered_grads + place * CHANNELS
    value_at = values + (image * positions + source) * CHANNELS
    sums = products_of(
        grad_at, is_target, value_at, is_source, CHANNELS, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
    )
    log_sum = tl.load(log_sums + place, mask=is_target, other=0.0)
    product = tl.load(products + place, mask=is_target, other=0.0)
    logit_at = logits + image * image_stride + target[:, None] * pitch + source[None, :]
    logit = tl.load(logit_at, mask=is_target[:, None], other=0.0).to(tl.float32)
    attention = tl.exp2((logit - log_sum[:, None]) * LOG2E)
    result = (attention * (sums - product[:, None])).to(pair_grads.dtype.element_ty)
    pair_grads += image * grad_image_stride
    if DISTRIBUTE:
        tl.store(pair_grads + source[None, :] * grad_pitch + target[:, None], result, mask=is_source[None, :])
    else:
        tl.store(pair_grads + target[:, None] * grad_pitch + source[None, :], result, mask=is_target[:, None])


@triton.jit(do_not_specialize=SIZES)
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
        logit_at = logits + target[None, :] * pitch + source[:, None]
        logit = tl.load(logit_at, mask=is_target[None, :], other=0.0)
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
    quotient, remainder = divided(number, rights)
    down, right = first_down + quotient, first_right + remainder
    at, inside = skewed(
        row[:, None], column[:, None], is_centre[:, None],
        down[None, :], right[None, :], (number < count)[None, :],
        width, centre_top, other_top, other_bottom, pitch, False,
    )  # fmt: skip
    # As in `predict`: neighbouring threads load neighbours.
    place = tl.max_contiguous(grads + at, (1, BLOCK_K))
    return tl.load(place, mask=inside, other=0.0)


@triton.jit(do_not_specialize=SIZES)
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
    row, column, is_centre = centres_of(top, left, width, centre_bottom, TILE_H, TILE_W)
    first_down, downs, first_right, rights = offsets_of(
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
        quotient, remainder = divided(number, rights)
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
    width, centre_top, other_top, other_bottom, pitch, image_stride,
    BLOCK_K: tl.constexpr, OFFSETS: tl.constexpr,
):  # fmt: skip
    """(BLOCK_K, offsets) of the workspace, by the numbers of the centres; 0 where there is no pair."""
    number = first + tl.arange(0, BLOCK_K)
    image, local = divided(number, count)
    quotient, remainder = divided(local, columns)
    row, column = first_row + quotient, first_column + remainder
    at, inside = skewed(
        row[:, None], column[:, None], (number < total)[:, None],
        down[None, :], right[None, :], is_offset[None, :],
        width, centre_top, other_top, other_bottom, pitch, False,
    )  # fmt: skip
    place = tl.max_contiguous(grads + (image * image_stride)[:, None] + at, (1, OFFSETS))
    return tl.load(place, mask=inside, other=0.0)


@triton.jit(do_not_specialize=SIZES)
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
    """grads[offset] = (its own if ADD +) sum over images and centres of pair_grads features[centre].

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
    # Channels first, so that the pairs lie in shared memory as they lie in the workspace.
    sums = tl.zeros((BLOCK_N, TILE_H * TILE_W), tl.float32)
    pair = _numbered_centres(
        pair_grads, 0, total, count, first_row, first_column, columns, down, right, is_offset,
        width, centre_top, other_top, other_bottom, pitch, image_stride,
            BLOCK_K, TILE_H * TILE_W,
    )  # fmt: skip
    for first in range(0, total, BLOCK_K):
        number = first + tl.arange(0, BLOCK_K)
        image, centre = divided(number, count)
        quotient, remainder = divided(centre, columns)
        place = image * positions + (first_row + quotient) * width + first_column + remainder
        feature_at = features + place[:, None] * CHANNELS + channel[None, :]
        feature = tl.load(feature_at, mask=(number < total)[:, None] & is_channel[None, :], other=0.0)
        next_pair = _numbered_centres(
            pair_grads, first + BLOCK_K, total, count, first_row, first_column, columns, down, right,
            is_offset, width, centre_top, other_top, other_bottom, pitch, image_stride,
            BLOCK_K, TILE_H * TILE_W,
        )  # fmt: skip
        sums = tl.dot(tl.trans(feature), pair, sums, input_precision=PRECISION)
        pair = next_pair
    at = grads + (mask_row * mask_w + mask_column)[None, :] * CHANNELS + channel[:, None]
    wanted = is_offset[None, :] & is_channel[:, None]
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
