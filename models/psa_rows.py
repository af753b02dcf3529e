"""Point-wise spatial attention row by row, in PyTorch's own operations: what CPUs run, and GPUs without Triton.

Not here: the op (`models/psa_attention.py`), the kernels of NVIDIA GPUs (`models/psa_launch.py`).

For a block of others, a row of centres needs one run of the mask's rows and no more, so that half of the
over-completed map is never computed; the rest exists for one row of centres at a time, and a strided view skews
it into the logits of a block of targets. Backward computes the logits again: nothing as large as the attention
is kept.

Shape suffixes: p positions (H * W, row-major), c channels of the features, d of the values, m = mask_h * mask_w,
t targets of a block, s sources, k rows of centres, w columns, o rows of others, r columns of the mask.

    rows.forward(features_npc, weight_mc, values_npd, Geometry(30, 30, 59, 59, distribute=False))
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.psa_blocks import Block, Geometry, plan_blocks

BLOCK_BYTES = 2**22
"""Of a block's logits: what processors' caches hold, and enough for products at full speed."""


def forward(
    features_npc: Tensor, weight_mc: Tensor, values_npd: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """What each target gathers, (N, P, D), and its log-sum of exponentials, (N, P), float32 at least."""
    gathered_npd = torch.empty_like(values_npd)
    log_sums_np = values_npd.new_empty(values_npd.shape[:2], dtype=_exact(values_npd))
    mask = _Mask(weight_mc, geometry)
    for block in _blocks(geometry, values_npd):
        image, targets = block.first_image, block.targets(geometry)
        logits_ts = _by_target(mask.logits(features_npc[image], block), geometry)
        largest_t = logits_ts.amax(1)
        weights_ts = logits_ts.sub_(largest_t.unsqueeze(1)).exp_()
        sums_t = weights_ts.sum(1)
        weights_ts.div_(sums_t.unsqueeze(1))
        gathered_npd[image, targets] = weights_ts.to(values_npd.dtype) @ values_npd[image]
        log_sums_np[image, targets] = largest_t + sums_t.log()
    return gathered_npd, log_sums_np


def backward(
    grad_npd: Tensor,
    grad_log_sums_np: Tensor,
    features_npc: Tensor,
    weight_mc: Tensor,
    values_npd: Tensor,
    gathered_npd: Tensor,
    log_sums_np: Tensor,
    geometry: Geometry,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of features, weight and values from those of both results of `forward`, given with them."""
    mask = _Mask(weight_mc, geometry)
    exact, dtype = _exact(values_npd), values_npd.dtype
    feature_grads, value_grads = (torch.zeros_like(x, dtype=exact) for x in (features_npc, values_npd))
    mask_grads = torch.zeros_like(mask.weight_rrc, dtype=exact)
    for block in _blocks(geometry, values_npd):
        image, targets = block.first_image, block.targets(geometry)
        values_sd, grad_td = values_npd[image], grad_npd[image, targets]
        products_t = (grad_td.to(exact) * gathered_npd[image, targets]).sum(1) - grad_log_sums_np[
            image, targets
        ]
        weights_ts = _by_target(mask.logits(features_npc[image], block), geometry)
        weights_ts.sub_(log_sums_np[image, targets].unsqueeze(1)).exp_()
        value_grads[image] += weights_ts.mT.to(dtype) @ grad_td
        # Laid out as the weights are, which decides what lies side by side.
        grads_ts = (values_sd @ grad_td.mT).mT if geometry.distribute else grad_td @ values_sd.mT
        weights_ts.mul_(grads_ts.sub_(products_t.unsqueeze(1)))
        del grads_ts
        mask.add_grads(
            _by_row(weights_ts, block, geometry), features_npc[image], block, feature_grads[image], mask_grads
        )
    return feature_grads.to(dtype), mask.whole(mask_grads).to(dtype), value_grads.to(dtype)


class _Run(NamedTuple):
    """A row of centres, and for a block of others the rows of the mask that speak of them and theirs."""

    centre: int
    mask: slice
    others: slice


class _Mask:
    """The part of the weight that speaks of any pair there is, (rows, columns, C), and what is done with it."""

    def __init__(self, weight_mc: Tensor, geometry: Geometry) -> None:
        self.geometry = geometry
        (up, left), (h, w) = geometry.middle, (geometry.h, geometry.w)
        self._rows = slice(max(up - h + 1, 0), min(up + h, geometry.mask_h))
        self._columns = slice(max(left - w + 1, 0), min(left + w, geometry.mask_w))
        self.first_down, first_right = self._rows.start - up, self._columns.start - left
        whole = weight_mc.unflatten(0, (geometry.mask_h, geometry.mask_w))
        self.weight_rrc = whole[self._rows, self._columns].contiguous()
        self.margins = w - 1 + first_right, w - first_right - self.weight_rrc.shape[1]

    def logits(self, features_pc: Tensor, block: Block) -> Tensor:
        """Of the block's pairs, (K, W, O, W): centre's row and column, other's row and column; 0 beyond the mask."""
        w = self.geometry.w
        (top, bottom), others = block.centre_rows(self.geometry), block.other_rows(self.geometry)
        shape = (bottom - top, w, others[1] - others[0], w)
        make = features_pc.new_empty if self.geometry.covers_all_pairs else features_pc.new_zeros
        logits_kwow = make(shape, dtype=_exact(features_pc))
        for run in self._runs(block):
            weight_rrc = self.weight_rrc[run.mask]
            centres_wc = features_pc[run.centre * w : (run.centre + 1) * w]
            map_wor = (centres_wc @ weight_rrc.flatten(0, 1).mT).unflatten(1, weight_rrc.shape[:2])
            map_wor = F.pad(map_wor, self.margins) if any(self.margins) else map_wor
            logits_kwow[run.centre - top, :, run.others] = _skewed(map_wor.unsqueeze(0))[0]
        return logits_kwow

    def add_grads(
        self, pairs_kwow: Tensor, features_pc: Tensor, block: Block, feature_grads: Tensor, mask_grads: Tensor
    ) -> None:
        """Adds to `feature_grads` (P, C) and `mask_grads`, like `weight_rrc`, what the pairs' gradients give."""
        w = self.geometry.w
        k, _, o, _ = pairs_kwow.shape
        map_kwor = features_pc.new_zeros(k, w, o, 2 * w - 1)
        _skewed(map_kwor).copy_(pairs_kwow)
        map_kwor = map_kwor[..., self.margins[0] : 2 * w - 1 - self.margins[1]]
        top = block.centre_rows(self.geometry)[0]
        for run in self._runs(block):
            map_wm = map_kwor[run.centre - top, :, run.others].flatten(1)
            centres = slice(run.centre * w, (run.centre + 1) * w)
            feature_grads[centres] += map_wm @ self.weight_rrc[run.mask].flatten(0, 1)
        # A row of the mask speaks of pairs that are a fixed number of rows apart: a diagonal.
        for row in range(len(mask_grads)):
            offset = row + self.first_down + top - block.other_rows(self.geometry)[0]
            first, last = max(0, -offset), min(k, o - offset)
            if first < last:
                map_wrk = map_kwor.diagonal(offset, 0, 2)
                centres_pc = features_pc[(top + first) * w : (top + last) * w]
                mask_grads[row] += map_wrk.permute(2, 0, 1).flatten(0, 1).mT @ centres_pc

    def whole(self, mask_grads: Tensor) -> Tensor:
        """(M, C): with 0 for what speaks of no pair."""
        geometry = self.geometry
        grads = mask_grads.new_zeros(geometry.mask_h, geometry.mask_w, mask_grads.shape[2])
        grads[self._rows, self._columns] = mask_grads
        return grads.flatten(0, 1)

    def _runs(self, block: Block) -> Iterator[_Run]:
        (top, bottom), (first, last) = block.centre_rows(self.geometry), block.other_rows(self.geometry)
        for centre in range(top, bottom):
            start = max(first - centre - self.first_down, 0)
            stop = min(last - centre - self.first_down, len(self.weight_rrc))
            if start < stop:
                shift = centre + self.first_down - first
                yield _Run(centre, slice(start, stop), slice(start + shift, stop + shift))


def _skewed(map_kwor: Tensor) -> Tensor:
    """(K, W, O, W) view of maps (K, W, O, 2 W - 1), contiguous: [k, l, o, d] is [k, l, o, d - l + W - 1]."""
    k, w, o, columns = map_kwor.shape
    strides = (w * o * columns, o * columns - 1, columns, 1)
    return map_kwor.as_strided((k, w, o, w), strides, map_kwor.storage_offset() + w - 1)


def _by_target(pairs_kwow: Tensor, geometry: Geometry) -> Tensor:
    """(T, S) view of a block's pairs."""
    pairs = pairs_kwow.flatten(2).flatten(0, 1)
    return pairs.mT if geometry.distribute else pairs


def _by_row(pairs_ts: Tensor, block: Block, geometry: Geometry) -> Tensor:
    """`_by_target` undone."""
    (top, bottom), (first, last) = block.centre_rows(geometry), block.other_rows(geometry)
    pairs = pairs_ts.mT if geometry.distribute else pairs_ts
    return pairs.view(bottom - top, geometry.w, last - first, geometry.w)


def _blocks(geometry: Geometry, values_npd: Tensor) -> Iterator[Block]:
    return plan_blocks(
        geometry,
        len(values_npd),
        bytes_a_pair=_exact(values_npd).itemsize,
        limit=BLOCK_BYTES,
        most_images=1,
    )


def _exact(tensor: Tensor) -> torch.dtype:
    """Sums over thousands of sources are lost in half precision."""
    return torch.promote_types(tensor.dtype, torch.float32)
