"""The PSA mask, the registered op `psanet::psa_mask`: from over-completed maps to attention of all pairs.

Not here: the convolutions that predict the map (`models/context.py`), nor softmax.

The op rearranges; it computes nothing. For each position c (the centre, row k, column l) the map holds a
picture of Mh x Mw values whose middle is c itself. What it says of another position, row s, column t, is at

    channel (s - k + hh) * Mw + (t - l + hw),    hh = (Mh - 1) // 2, hw = (Mw - 1) // 2

and 0 where that falls outside the picture. *Collect* reads the centre as the target of the information flow
and the other position as its source (paper equation 9); *distribute* reads it the other way round, the
transpose.

Shape suffixes: n images, m = Mh * Mw map channels, h, w feature size, s sources (h * w).

    python -c "import torch, models.psa_mask; print(torch.ops.psanet.psa_mask)"
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("psanet::psa_mask", mutates_args=())
def psa_mask(map_nmhw: Tensor, mask_h: int, mask_w: int, distribute: bool) -> Tensor:
    """Attention logits between all pairs of positions.

    map_nmhw: (N, mask_h * mask_w, H, W) floating point: for each position its over-completed map, row-major.
    distribute: False for collect.
    Returns (N, H * W, H, W) of the same type: [n, s, k, l] is what target (k, l) takes from source s; pairs
    that lie farther apart than the mask reaches are 0.
    Raises ValueError when the channels are not mask_h * mask_w.
    """
    _check(map_nmhw, mask_h, mask_w)
    n, _, h, w = map_nmhw.shape
    pairs = _pairs(_centred(map_nmhw, mask_h, mask_w), mask_h, mask_w)
    logits = map_nmhw.new_empty(n, h, w, h, w)
    logits.copy_(pairs if distribute else pairs.permute(0, 3, 4, 1, 2))
    return logits.view(n, h * w, h, w)


@psa_mask.register_fake
def _(map_nmhw: Tensor, mask_h: int, mask_w: int, distribute: bool) -> Tensor:
    _check(map_nmhw, mask_h, mask_w)
    n, _, h, w = map_nmhw.shape
    return map_nmhw.new_empty(n, h * w, h, w)


@torch.library.custom_op("psanet::psa_mask_backward", mutates_args=())
def psa_mask_backward(grad_nshw: Tensor, mask_h: int, mask_w: int, distribute: bool) -> Tensor:
    """The transpose of `psa_mask` as a linear map: each pair's value back to its place, 0 elsewhere.

    grad_nshw: (N, H * W, H, W). Returns (N, mask_h * mask_w, H, W).
    """
    n, _, h, w = grad_nshw.shape
    grad = grad_nshw.reshape(n, h, w, h, w)
    (top, bottom), (left, right) = _margins(h, mask_h), _margins(w, mask_w)
    padded = grad_nshw.new_zeros(n, h, w, top + mask_h + bottom, left + mask_w + right)
    _pairs(padded, mask_h, mask_w).copy_(grad if distribute else grad.permute(0, 3, 4, 1, 2))
    centred = padded[:, :, :, top : top + mask_h, left : left + mask_w]
    return centred.permute(0, 3, 4, 1, 2).contiguous().view(n, mask_h * mask_w, h, w)


@psa_mask_backward.register_fake
def _(grad_nshw: Tensor, mask_h: int, mask_w: int, distribute: bool) -> Tensor:
    n, _, h, w = grad_nshw.shape
    return grad_nshw.new_empty(n, mask_h * mask_w, h, w)


def _check(map_nmhw: Tensor, mask_h: int, mask_w: int) -> None:
    if min(mask_h, mask_w) < 1:
        raise ValueError(f"psa_mask takes a mask of 1 x 1 or more, not {mask_h} x {mask_w}")
    if map_nmhw.dim() != 4 or map_nmhw.shape[1] != mask_h * mask_w:
        raise ValueError(
            f"psa_mask takes (N, {mask_h} * {mask_w} = {mask_h * mask_w}, H, W), not {tuple(map_nmhw.shape)}"
        )


def _margins(features: int, mask: int) -> tuple[int, int]:
    """Rows of zeros before and after a mask of that side so that every pair of `features` rows is covered."""
    before = (mask - 1) // 2
    return max(0, features - 1 - before), max(0, features - mask + before)


def _centred(map_nmhw: Tensor, mask_h: int, mask_w: int) -> Tensor:
    """(N, H, W, rows, columns), contiguous: each position's map, widened by zeros to cover every pair."""
    n, _, h, w = map_nmhw.shape
    centred = map_nmhw.permute(0, 2, 3, 1).reshape(n, h, w, mask_h, mask_w)
    margins = (*_margins(w, mask_w), *_margins(h, mask_h))
    return (F.pad(centred, margins) if any(margins) else centred).contiguous()


def _pairs(centred: Tensor, mask_h: int, mask_w: int) -> Tensor:
    """(N, H, W, H, W) view of `_centred`'s result: [n, k, l, s, t], centre (k, l), other (s, t).

    A step of the centre moves its window one step back in the map, so all windows are one strided view, and
    no two pairs share an element.
    """
    n, h, w, rows, columns = centred.shape
    middle_row, middle_column = max(h - 1, (mask_h - 1) // 2), max(w - 1, (mask_w - 1) // 2)
    return centred.as_strided(
        (n, h, w, h, w),
        (h * w * rows * columns, w * rows * columns - columns, rows * columns - 1, columns, 1),
        centred.storage_offset() + middle_row * columns + middle_column,
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, int, int, bool], output: Tensor) -> None:
    ctx.arguments = inputs[1:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return torch.ops.psanet.psa_mask_backward(grad, *ctx.arguments), None, None, None


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return torch.ops.psanet.psa_mask(grad, *ctx.arguments), None, None, None


psa_mask.register_autograd(_backward, setup_context=_setup_context)
psa_mask_backward.register_autograd(_double_backward, setup_context=_setup_context)
