"""The forward Triton kernels of point-wise spatial attention, and what its gradients' kernels share.

Not here: the gradients' kernels (`models/psa_triton_grads.py`), launches and the block of targets that they
work on (`models/psa_launch.py`), tile sizes (`models/psa_tiles.py`).

What all kernels share:

- A *centre* predicts, an *other* is predicted for, `down` rows and `right` columns away; the pair's logit is
  features[centre] . weight[offset]. Collect: centres are targets, others sources; distribute: the other way
  round. Softmax runs over sources.
- `logits` is a workspace for a block of target rows: [image, target, source], rows `pitch` apart. From
  offsets to others nothing is moved: that is in the addresses.
- A tile of TILE_H x TILE_W centres, a piece of the picture and not of a row, needs (rows of others + TILE_H
  - 1) x (columns + TILE_W - 1) offsets, little more than each of them needs. They are numbered row by row, so
  that only the last tile of a product is partly idle.
- Features, values and their like are (N, positions, channels), contiguous; sums are in float32.

    TRITON_INTERPRET=1 python -m pytest tests/models/test_psa_kernels.py     # on a CPU
"""

import triton
import triton.language as tl

SIZES = [
    *("images", "rows", "width", "positions", "targets", "first_target", "mask_h", "mask_w"),
    *("centre_top", "centre_bottom", "other_top", "other_bottom"),
]
"""Sizes that no machine code depends on: features of another size need no new compilation."""
LOG2E = tl.constexpr(1.4426950408889634)
LARGEST_HALF = tl.constexpr(65504.0)


@triton.jit
def divided(number, by):
    """Quotient and remainder of whole numbers: number from 0 to 2^20, by of 1 or more.

    (number + 1/2) / by is farther from every whole number than float32 rounds; the division of integers would
    cost as much as the product whose places it numbers.
    """
    quotient = ((number.to(tl.float32) + 0.5) * (1.0 / by.to(tl.float32))).to(tl.int32)
    return quotient, number - quotient * by


@triton.jit
def centres_of(top, left, width, centre_bottom, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Rows and columns of a tile's centres, and which of them there are."""
    local = tl.arange(0, TILE_H * TILE_W)
    row, column = top + local // TILE_W, left + local % TILE_W
    return row, column, (row < centre_bottom) & (column < width)


@triton.jit
def offsets_of(
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
def skewed(
    row, column, is_centre, down, right, is_offset,
    width, centre_top, other_top, other_bottom, pitch, BY_OTHER: tl.constexpr,
):  # fmt: skip
    """Where the pairs of centres and offsets lie in an image's workspace, and which of them there are.

    Its rows belong to centres, BY_OTHER to others. One side of the pairs runs along the first axis, the other
    along the second, so that there is little to do for each pair.
    """
    centre = (row - centre_top) * width + column
    other = (row - other_top) * width + column
    step = down * width + right
    at = (other * pitch + centre) + step * pitch if BY_OTHER else (centre * pitch + other) + step
    # What is far away is outside whatever the other side is; below 0 is outside as a large unsigned number.
    far = -(1 << 20)
    other_row = tl.where(is_centre, row - other_top, far) + tl.where(is_offset, down, far)
    inside = other_row.to(tl.uint32) < (other_bottom - other_top).to(tl.uint32)
    inside &= (column + right).to(tl.uint32) < width.to(tl.uint32)
    return at, inside


@triton.jit
def products_of(
    left, is_left, right, is_right, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(ROWS, COLUMNS): vectors of CHANNELS that lie at `left` by those at `right`."""
    k = tl.arange(0, BLOCK_K)
    left_at, right_at = left[:, None] + k[None, :], right[None, :] + k[:, None]
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, CHANNELS, BLOCK_K):
        if CHANNELS % BLOCK_K == 0:
            row = tl.load(left_at, mask=is_left[:, None], other=0.0)
            column = tl.load(right_at, mask=is_right[None, :], other=0.0)
        else:
            more = start + k < CHANNELS
            row = tl.load(left_at, mask=is_left[:, None] & more[None, :], other=0.0)
            column = tl.load(right_at, mask=is_right[None, :] & more[:, None], other=0.0)
        sums = tl.dot(row, column, sums, input_precision=PRECISION)
        left_at += BLOCK_K
        right_at += BLOCK_K
    return sums


@triton.jit(do_not_specialize=SIZES)
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
    DISTRIBUTE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """logits[image, target, source] = features[centre] . weight[other - centre], where the mask reaches.

    Grid: (tiles across x images, tiles of offsets, tiles down).
    """
    across = tl.cdiv(width, TILE_W)
    image = tl.program_id(0) // across
    left = (tl.program_id(0) % across) * TILE_W
    top = centre_top + tl.program_id(2) * TILE_H
    first_down, downs, first_right, rights = offsets_of(
        top, left, width, other_top, other_bottom, mask_h, mask_w, TILE_H, TILE_W
    )
    count = downs * rights
    first = tl.program_id(1) * BLOCK_N
    if first < count:
        row, column, is_centre = centres_of(top, left, width, centre_bottom, TILE_H, TILE_W)
        number = first + tl.arange(0, BLOCK_N)
        is_offset = number < count
        quotient, remainder = divided(number, rights)
        down, right = first_down + quotient, first_right + remainder
        channel = (down + (mask_h - 1) // 2) * mask_w + right + (mask_w - 1) // 2
        centre_at = features + (image * positions + row * width + column) * CHANNELS
        key_at = weight + channel * CHANNELS
        # What lies side by side in the workspace, sources, runs along the second axis of the product.
        if DISTRIBUTE:
            sums = products_of(
                key_at,
                is_offset,
                centre_at,
                is_centre,
                CHANNELS,
                BLOCK_N,
                TILE_H * TILE_W,
                BLOCK_K,
                PRECISION,
            )
            at, inside = skewed(
                row[None, :], column[None, :], is_centre[None, :], down[:, None], right[:, None],
                is_offset[:, None], width, centre_top, other_top, other_bottom, pitch, True,
            )  # fmt: skip
            place = tl.max_contiguous(logits + image * image_stride + at, (1, TILE_H * TILE_W))
        else:
            sums = products_of(
                centre_at,
                is_centre,
                key_at,
                is_offset,
                CHANNELS,
                TILE_H * TILE_W,
                BLOCK_N,
                BLOCK_K,
                PRECISION,
            )
            at, inside = skewed(
                row[:, None], column[:, None], is_centre[:, None], down[None, :], right[None, :],
                is_offset[None, :], width, centre_top, other_top, other_bottom, pitch, False,
            )  # fmt: skip
            place = tl.max_contiguous(logits + image * image_stride + at, (1, BLOCK_N))
        # They follow one another but for the ends of rows: told so, the compiler has neighbouring threads
        # store neighbours. Their addresses are odd, so that nothing is stored wider than it is.
        if logits.dtype.element_ty == tl.float16:
            sums = tl.clamp(sums, -LARGEST_HALF, LARGEST_HALF)
        tl.store(place, sums.to(logits.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """gathered[target] = sum over sources of softmax(logits)[target, source] values[source], online.

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
        # The end of a row is not looked at, for loads of 16 bytes: `pitch` leaves room for a whole tile, and
        # what lies there is anything, NaN too.
        logit_at = logits + target[:, None] * pitch + (start + source)[None, :]
        logit = tl.load(logit_at, mask=is_target[:, None], other=0.0)
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
