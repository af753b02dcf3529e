"""Point-wise spatial attention in PyTorch's own operations: what CPUs run, and GPUs without Triton.

Not here: the op (`models/psa_attention.py`), the kernels of NVIDIA GPUs (`models/psa_launch.py`).

A few rows of centres need, for a block of others, one run of the mask's rows, so that half of the
over-completed map is never computed; the rest of it exists for these few rows at a time, and a strided view
skews it into the logits of a block of targets. Backward computes the logits again: nothing as large as the
attention is kept.

Shape suffixes: p positions (H * W, row-major), c channels of the features, d of the values, m = mask_h *
mask_w; of a block, t targets, s sources, k rows of centres, o rows of others, w columns; u, r rows and
columns of the mask; co centres and others, positions of both.

    psa_rows.forward(features_npc, weight_mc, values_npd, Geometry(30, 30, 59, 59, distribute=False))
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.psa_blocks import Block, Geometry, plan_blocks

BLOCK_BYTES = 2**23
"""Of a block's logits: what a processor's cache holds, and enough for products at full speed."""


def forward(
    features_npc: Tensor, weight_mc: Tensor, values_npd: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """What each target gathers, (N, P, D), and its log-sum of exponentials, (N, P), float32 at least."""
    gathered_npd = torch.empty_like(values_npd)
    log_sums_np = values_npd.new_empty(values_npd.shape[:2], dtype=_exact(values_npd))
    room, sources = _Room(), 0 if geometry.distribute else 1
    mask = _Mask(weight_mc, geometry, room)
    for block in _blocks(geometry, values_npd):
        image, targets = block.first_image, block.targets(geometry)
        logits_co = mask.logits(features_npc[image], block)
        weights_co = room.make("weights", logits_co.shape, logits_co)
        torch.softmax(logits_co, sources, out=weights_co)
        # The largest weight is one over the sum of exponentials, relative to the largest logit.
        log_sums_np[image, targets] = logits_co.amax(sources) - weights_co.amax(sources).log()
        weights_ts = (weights_co.mT if geometry.distribute else weights_co).to(values_npd.dtype)
        torch.mm(weights_ts, values_npd[image], out=gathered_npd[image, targets])
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
    room, targets_axis = _Room(), 1 if geometry.distribute else 0
    mask = _Mask(weight_mc, geometry, room)
    exact, dtype = _exact(values_npd), values_npd.dtype
    feature_grads, value_grads = (torch.zeros_like(x, dtype=exact) for x in (features_npc, values_npd))
    mask_grads = torch.zeros_like(mask.weight_urc, dtype=exact)
    for block in _blocks(geometry, values_npd):
        image, targets = block.first_image, block.targets(geometry)
        values_sd, grad_td = values_npd[image], grad_npd[image, targets]
        products_t = (grad_td.to(exact) * gathered_npd[image, targets]).sum(1)
        products_t -= grad_log_sums_np[image, targets]
        weights_co = mask.logits(features_npc[image], block)
        weights_co.sub_(log_sums_np[image, targets].unsqueeze(1 - targets_axis)).exp_()
        weights_st = (weights_co if geometry.distribute else weights_co.mT).to(dtype)
        _add_product(value_grads[image], weights_st, grad_td)
        centres_d, others_d = (values_sd, grad_td) if geometry.distribute else (grad_td, values_sd)
        grads_co = room.make("grads", weights_co.shape, values_sd)
        torch.mm(centres_d, others_d.mT, out=grads_co)
        weights_co.mul_(grads_co.to(exact).sub_(products_t.unsqueeze(1 - targets_axis)))
        mask.add_grads(weights_co, features_npc[image], block, feature_grads[image], mask_grads)
    return feature_grads.to(dtype), mask.whole(mask_grads).to(dtype), value_grads.to(dtype)


class _Rows(NamedTuple):
    """A few rows of centres, and the mask's rows that speak of them and a block's others.

    of_block: among the block's rows of centres. above, below: rows of zeros that the mask lacks.
    """

    of_block: slice
    positions: slice
    mask: slice
    above: int
    below: int


class _Room:
    """Memory by name, used again and again: the system is not asked for each block's anew."""

    def __init__(self) -> None:
        self._parts: dict[str, Tensor] = {}

    def make(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Of that shape, contiguous, of the type and on the device of `like`; holds anything."""
        size = math.prod(shape)
        part = self._parts.get(name)
        if part is None or part.numel() < size:
            part = self._parts[name] = like.new_empty(size)
        return part[:size].view(*shape)


class _Mask:
    """The part of the weight that speaks of any pair there is, (rows, columns, C), and its uses."""

    def __init__(self, weight_mc: Tensor, geometry: Geometry, room: _Room) -> None:
        self.geometry, self._room = geometry, room
        (up, left), (h, w) = geometry.middle, (geometry.h, geometry.w)
        self._rows = slice(max(up - h + 1, 0), min(up + h, geometry.mask_h))
        self._columns = slice(max(left - w + 1, 0), min(left + w, geometry.mask_w))
        self._first_down = self._rows.start - up
        whole_urc = weight_mc.unflatten(0, (geometry.mask_h, geometry.mask_w))
        self.weight_urc = whole_urc[self._rows, self._columns].contiguous()
        before = w - 1 - left + self._columns.start
        self._margins = before, 2 * w - 1 - before - self.weight_urc.shape[1]

    def logits(self, features_pc: Tensor, block: Block) -> Tensor:
        """Of the block's pairs, (centres, others), 0 beyond the mask; the next block's take its place."""
        w, exact = self.geometry.w, features_pc.new_empty(0, dtype=_exact(features_pc))
        centres, others = _count(block.centre_rows(self.geometry)), _count(block.other_rows(self.geometry))
        logits_kwow = self._room.make("logits", (centres, w, others, w), exact)
        for rows in self._steps(block):
            weight_urc = self.weight_urc[rows.mask]
            centres_pc = features_pc[rows.positions]
            shape = (len(centres_pc), *weight_urc.shape[:2])
            map_pur = self._room.make("map", shape, features_pc)
            torch.mm(centres_pc, weight_urc.flatten(0, 1).mT, out=map_pur.flatten(1))
            margins = (*self._margins, rows.above, rows.below)
            map_kwur = (F.pad(map_pur, margins) if any(margins) else map_pur).unflatten(0, (-1, w))
            logits_kwow[rows.of_block] = _skewed(map_kwur, others)
        return logits_kwow.flatten(2).flatten(0, 1)

    def add_grads(
        self, pairs_co: Tensor, features_pc: Tensor, block: Block, feature_grads: Tensor, mask_grads: Tensor
    ) -> None:
        """Adds what the pairs' gradients give to `feature_grads`, (P, C), and `mask_grads`, (U, R, C)."""
        w, others = self.geometry.w, _count(block.other_rows(self.geometry))
        pairs_kwow = pairs_co.view(-1, w, others, w)
        before, after = self._margins
        for rows in self._steps(block):
            part_kwow = pairs_kwow[rows.of_block]
            shape = (len(part_kwow), w, others + len(part_kwow) - 1, 2 * w - 1)
            map_kwur = self._room.make("map", shape, features_pc).zero_()
            _skewed(map_kwur, others).copy_(part_kwow)
            down, right = shape[2] - rows.below, shape[3] - after
            map_pm = map_kwur[:, :, rows.above : down, before:right].flatten(0, 1).flatten(1)
            _add_product(feature_grads[rows.positions], map_pm, self.weight_urc[rows.mask].flatten(0, 1))
            _add_product(mask_grads[rows.mask].flatten(0, 1), map_pm.mT, features_pc[rows.positions])

    def whole(self, mask_grads: Tensor) -> Tensor:
        """(M, C): with 0 for what speaks of no pair."""
        geometry = self.geometry
        if mask_grads.shape[:2] == (geometry.mask_h, geometry.mask_w):
            return mask_grads.flatten(0, 1)
        grads = mask_grads.new_zeros(geometry.mask_h, geometry.mask_w, mask_grads.shape[2])
        grads[self._rows, self._columns] = mask_grads
        return grads.flatten(0, 1)

    def _steps(self, block: Block) -> Iterator[_Rows]:
        """All rows of the block's centres, a few at a time: more would need many more of the mask's rows."""
        (top, bottom), (first, last) = block.centre_rows(self.geometry), block.other_rows(self.geometry)
        w = self.geometry.w
        reach = self._first_down, self._first_down + len(self.weight_urc)
        step = max(1, (last - first) // 4)
        for start in range(top, bottom, step):
            stop = min(start + step, bottom)
            low, high = first - stop + 1, last - start
            down = min(max(low, reach[0]), high)
            below = max(min(high, reach[1]), down)
            mask = slice(down - reach[0], below - reach[0])
            positions = slice(start * w, stop * w)
            yield _Rows(slice(start - top, stop - top), positions, mask, down - low, high - below)


def _skewed(map_kwur: Tensor, others: int) -> Tensor:
    """(K, W, O, W) view of contiguous maps (K, W, O + K - 1, 2 W - 1): each other's place by its offset."""
    k, w, rows, columns = map_kwur.shape
    strides = (w * rows * columns - columns, rows * columns - 1, columns, 1)
    return map_kwur.as_strided(
        (k, w, others, w), strides, map_kwur.storage_offset() + (k - 1) * columns + w - 1
    )


def _add_product(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right, which may be of lower precision than what it is added to."""
    if sums.dtype == left.dtype:
        sums.addmm_(left, right)
    else:
        sums += left @ right


def _blocks(geometry: Geometry, values_npd: Tensor) -> Iterator[Block]:
    size = _exact(values_npd).itemsize
    return plan_blocks(geometry, len(values_npd), bytes_a_pair=size, limit=BLOCK_BYTES, most_images=1)


def _count(rows: tuple[int, int]) -> int:
    return rows[1] - rows[0]


def _exact(tensor: Tensor) -> torch.dtype:
    """Sums over thousands of sources are lost in half precision."""
    return torch.promote_types(tensor.dtype, torch.float32)
