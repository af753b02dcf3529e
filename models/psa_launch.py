"""Point-wise spatial attention by the Triton kernels: workspaces and launches.

Not here: the kernels (`models/psa_triton.py`), their tile sizes (`models/psa_tiles.py`), the op and when it
comes here (`models/psa_attention.py`). Needs triton: on a CPU its interpreter (TRITON_INTERPRET=1), for
tests.

Why it is done in this way. The plain form computes the over-completed map, (2H-1)(2W-1) values for each
position, of which HW are used: with the product with the values, five units of 2 N (HW)^2 C operations.
Here the logits cost about 1.3 units (a square tile of centres needs little more offsets than there are
pairs) and the values one; the backward pass 6 in place of 10. Keeping logits in registers to the end, as
attention kernels do, was weighed and left: a program could then hold no more than 64 targets of 512
channels, would read every weight once for these 64, and would have to add the weights' gradient by atomics.
So a block's logits pass through a workspace of bounded size, made to stay in the L2 cache; each step is a
product of large tiles, and sums have one fixed order, so that the same input gives the same bits.

Shape suffixes: n images, p positions (H * W, row-major), c channels of the features, d of the values, m =
mask_h * mask_w. Features, weight and values are of one type: float16, bfloat16 or float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models import psa_triton, psa_triton_grads
from models.psa_blocks import Geometry
from models.psa_tiles import FLOAT, HALF, TUNER, Tiles
from models.psa_workspace import Part, plan_parts

WORKSPACE_BYTES = 2**25
"""Of a block's logits, and as much again of their gradients: the L2 cache of an H100 has 50 MB."""


def forward(
    features_npc: Tensor, weight_mc: Tensor, values_npd: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """What each target gathers, (N, P, D), and its log-sum of exponentials, (N, P) float32."""
    head = _Head(features_npc, weight_mc, values_npd, geometry)
    gathered_npd = torch.empty_like(head.values)
    log_sums_np = torch.empty(values_npd.shape[:2], dtype=torch.float32, device=values_npd.device)
    logits = head.workspace()
    with torch.cuda.device_of(logits):
        for block in head.blocks:
            head.predict(block, logits)
            head.gather(block, logits, gathered_npd, log_sums_np)
    return _as(values_npd, gathered_npd), log_sums_np


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
    head = _Head(features_npc, weight_mc, values_npd, geometry)
    grad_npd, grad_log_sums_np, log_sums_np = (
        tensor.contiguous() for tensor in (grad_npd, grad_log_sums_np, log_sums_np)
    )
    logits, pair_grads = head.workspace(), head.grad_workspace()
    # What is added to by several blocks is held in float32 until the last has been.
    rows_apart = any(block.top > 0 for block in head.blocks)
    feature_grads = head.sums_like(head.features, added_to=rows_apart and geometry.distribute)
    value_grads = head.sums_like(head.values, added_to=rows_apart)
    weight_grads = head.sums_like(head.weight, added_to=len(head.blocks) > 1)
    with torch.cuda.device_of(logits):
        products_np = head.row_products(grad_npd, gathered_npd.contiguous(), grad_log_sums_np)
        for number, block in enumerate(head.blocks):
            head.predict(block, logits)
            head.logit_grads(block, logits, pair_grads, log_sums_np, products_np, grad_npd)
            head.value_grads(block, logits, log_sums_np, grad_npd, value_grads)
            head.feature_grads(block, pair_grads, feature_grads)
            head.weight_grads(block, pair_grads, weight_grads, add=number > 0)
    return _as(features_npc, feature_grads), _as(weight_mc, weight_grads), _as(values_npd, value_grads)


def _as(given: Tensor, result: Tensor) -> Tensor:
    """The result of the given tensor's type, and laid out in memory as it is."""
    like = torch.empty_like(given)
    if (result.dtype, result.stride()) == (like.dtype, like.stride()):
        return result
    return like.copy_(result)


_KERNELS: dict[str, Any] = {
    "predict": psa_triton.predict,
    "gather": psa_triton.gather,
    "logit_grads": psa_triton_grads.logit_grads,
    "value_grads": psa_triton_grads.value_grads,
    "feature_grads": psa_triton_grads.feature_grads,
    "weight_grads": psa_triton_grads.weight_grads,
}


class _Head:
    """The tensors of one call, its blocks, and a method for each kernel."""

    def __init__(
        self, features_npc: Tensor, weight_mc: Tensor, values_npd: Tensor, geometry: Geometry
    ) -> None:
        self.features, self.weight = features_npc.contiguous(), weight_mc.contiguous()
        self.values, self.geometry = values_npd.contiguous(), geometry
        self.channels, self.width = features_npc.shape[2], values_npd.shape[2]
        half = features_npc.dtype != torch.float32
        # 11 bits where bfloat16 has 8; clamped, where float16 would overflow.
        self.logits_dtype = torch.float16 if half else torch.float32
        self.candidates = HALF if half else FLOAT
        self.precision = _precision(features_npc)
        size, most_channels = features_npc.element_size(), max(self.channels, self.width)
        self.blocks = plan_parts(geometry, len(features_npc), size, most_channels, WORKSPACE_BYTES)

    def workspace(self) -> Tensor:
        """Room for the logits of any of the blocks."""
        pairs = max(block.image_count * block.image_stride for block in self.blocks)
        return torch.empty(pairs, dtype=self.logits_dtype, device=self.features.device)

    def grad_workspace(self) -> Tensor:
        """… and for their gradients."""
        pairs = max(block.image_count * block.grad_image_stride for block in self.blocks)
        return torch.empty(pairs, dtype=self.features.dtype, device=self.features.device)

    def sums_like(self, tensor: Tensor, *, added_to: bool) -> Tensor:
        """For results like `tensor`, in float32 if several blocks add to them."""
        return torch.empty_like(tensor, dtype=torch.float32 if added_to else tensor.dtype)

    def predict(self, block: Part, logits: Tensor) -> None:
        """Logits of the block's pairs into the workspace, 0 for those beyond the mask."""
        geometry = self.geometry
        if not geometry.covers_all_pairs:
            logits.zero_()
        centre_rows, other_rows = block.centre_bottom - block.centre_top, block.other_bottom - block.other_top

        def grid(meta: dict[str, Any]) -> tuple[int, ...]:
            high, wide = meta["TILE_H"], meta["TILE_W"]
            downs = min(other_rows + high - 1, geometry.mask_h)
            rights = min(geometry.w + wide - 1, geometry.mask_w)
            across = _ceil(geometry.w, wide) * block.image_count
            return across, _ceil(downs * rights, meta["BLOCK_N"]), _ceil(centre_rows, high)

        skew = self._skew(block, block.pitch, block.image_stride)
        arguments = (self.features[block.images], self.weight, logits, *skew)
        self._launch("predict", grid, arguments, self.channels, DISTRIBUTE=geometry.distribute)

    def gather(self, block: Part, logits: Tensor, gathered: Tensor, log_sums: Tensor) -> None:
        """The block's results from its logits."""

        def grid(meta: dict[str, Any]) -> tuple[int, ...]:
            tiles = _ceil(block.targets, meta["BLOCK_M"]), _ceil(self.width, meta["BLOCK_N"])
            return *tiles, block.image_count

        images = block.images
        arguments = (logits, self.values[images], gathered[images], log_sums[images], *self._pairs(block))
        self._launch("gather", grid, arguments, self.width, n_is_channels=True)

    def row_products(self, left: Tensor, right: Tensor, extra: Tensor) -> Tensor:
        """left . right - extra for each position of each image, (N, P) float32."""
        products = torch.empty_like(extra)
        rows, block = products.numel(), 32
        psa_triton_grads.row_products[(_ceil(rows, block),)](
            left, right, extra, products, rows, CHANNELS=self.width, BLOCK_M=block, BLOCK_K=128
        )
        return products

    def logit_grads(
        self,
        block: Part,
        logits: Tensor,
        grads: Tensor,
        log_sums: Tensor,
        products: Tensor,
        gathered_grads: Tensor,
    ) -> None:
        """Gradients of the block's logits, by centre and other."""
        positions, images = self.geometry.positions, block.images

        def grid(meta: dict[str, Any]) -> tuple[int, ...]:
            return _ceil(block.targets, meta["BLOCK_M"]), _ceil(positions, meta["BLOCK_N"]), block.image_count

        tensors = (log_sums[images], products[images], gathered_grads[images], self.values[images])
        arguments = (logits, grads, *tensors, *self._pairs(block), block.grad_pitch, block.grad_image_stride)
        self._launch("logit_grads", grid, arguments, self.width, DISTRIBUTE=self.geometry.distribute)

    def value_grads(
        self, block: Part, logits: Tensor, log_sums: Tensor, gathered_grads: Tensor, grads: Tensor
    ) -> None:
        """What the block's targets give the gradient of the values."""
        positions, images = self.geometry.positions, block.images

        def grid(meta: dict[str, Any]) -> tuple[int, ...]:
            return _ceil(positions, meta["BLOCK_M"]), _ceil(self.width, meta["BLOCK_N"]), block.image_count

        tensors = (logits, log_sums[images], gathered_grads[images], grads[images])
        arguments = (*tensors, *self._pairs(block))
        self._launch("value_grads", grid, arguments, self.width, n_is_channels=True, ADD=block.top > 0)

    def feature_grads(self, block: Part, pair_grads: Tensor, grads: Tensor) -> None:
        """The gradient of the features, or what the block's targets give it where they are no centres."""
        geometry, images = self.geometry, block.images

        def grid(meta: dict[str, Any]) -> tuple[int, ...]:
            across = _ceil(geometry.w, meta["TILE_W"]) * block.image_count
            down = _ceil(block.centre_bottom - block.centre_top, meta["TILE_H"])
            return across, _ceil(self.channels, meta["BLOCK_N"]), down

        skew = self._skew(block, block.grad_pitch, block.grad_image_stride)
        arguments = (pair_grads, self.weight, grads[images], *skew)
        add = geometry.distribute and block.top > 0
        self._launch("feature_grads", grid, arguments, self.channels, n_is_channels=True, ADD=add)

    def weight_grads(self, block: Part, pair_grads: Tensor, grads: Tensor, *, add: bool) -> None:
        """What the block's pairs give the gradient of the weight."""
        geometry = self.geometry

        def grid(meta: dict[str, Any]) -> tuple[int, ...]:
            across, down = _ceil(geometry.mask_w, meta["TILE_W"]), _ceil(geometry.mask_h, meta["TILE_H"])
            return _ceil(self.channels, meta["BLOCK_N"]), across, down

        skew = self._skew(block, block.grad_pitch, block.grad_image_stride)
        arguments = (pair_grads, self.features[block.images], grads, block.image_count, *skew)
        self._launch("weight_grads", grid, arguments, self.channels, n_is_channels=True, ADD=add)

    def _skew(self, block: Part, pitch: int, image_stride: int) -> tuple[int, ...]:
        """As the kernels that know of offsets take them."""
        geometry = self.geometry
        rows = (block.centre_top, block.centre_bottom, block.other_top, block.other_bottom)
        return geometry.w, geometry.positions, *rows, geometry.mask_h, geometry.mask_w, pitch, image_stride

    def _pairs(self, block: Part) -> tuple[int, ...]:
        """As the kernels that know of targets and sources take them."""
        return block.targets, block.first_target, self.geometry.positions, block.pitch, block.image_stride

    def _launch(
        self,
        name: str,
        grid: Callable[[dict[str, Any]], tuple[int, ...]],
        arguments: tuple[Any, ...],
        channels: int,
        *,
        n_is_channels: bool = False,
        **constants: bool,
    ) -> None:
        kernel = _KERNELS[name]

        def run(tiles: Tiles) -> None:
            meta = tiles.arguments(channels if n_is_channels else None)
            kernel[grid(meta)](*arguments, **constants, **meta, CHANNELS=channels, PRECISION=self.precision)

        features, geometry = self.features, self.geometry
        size = (geometry.positions.bit_length(), len(features).bit_length(), channels)
        key = (name, features.dtype, self.precision, geometry.distribute, *size, features.device)
        run(TUNER.best(key, self.candidates[name], run, features.device))


def _precision(like: Tensor) -> str:
    """How products of float32 are made: as PyTorch's own are set, or else exactly enough on tensor cores."""
    if like.device.type != "cuda":
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
