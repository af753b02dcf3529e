"""Point-wise spatial attention in one piece: the registered op `psanet::psa_attention`.

The paper's attention (3.2) is attention by relative position whose keys are learned weights: those of the
1x1 convolution that predicts the over-completed map. With w[d] its weight for the offset d, f the features
that it is applied to, and x the values,

    collect     A[s, t] = softmax over s of w[s - t] . f[t]
    distribute  A[s, t] = softmax over s of w[t - s] . f[s]
    out[t] = sum over s of A[s, t] x[s]

where pairs farther apart than the mask reaches have logit 0, and take part. The op never holds the whole map
nor the attention of all pairs: it works on a block of targets at a time. NVIDIA GPUs run Triton kernels,
all else PyTorch's own operations (`models/psa_choice.py` chooses); the backward pass computes the logits
again. The plain form, which exporters write, is `psanet::psa_mask` (`models/psa_mask.py`), a softmax and a
product: `PSA` in `models/context.py` has it.

    attend(features, conv.weight, values, (59, 59), distribute=False)
"""

from typing import Any

import torch
from torch import Tensor

from models.psa_blocks import Geometry
from models.psa_choice import form_for


def attend(
    features: Tensor, weight: Tensor, values: Tensor, mask_hw: tuple[int, int], *, distribute: bool
) -> Tensor:
    """What attention gathers for each position, (N, D, H, W), laid out in memory as `values` are.

    features: (N, C, H, W), of which each position's map is predicted. weight: (mask_h * mask_w, C, 1, 1), of
    the 1x1 convolution that does so. values: (N, D, H, W). distribute: False for collect. All are floating
    point of one type; where autocast is on, they are brought to its type.
    Differentiable once. Raises ValueError for shapes that do not fit each other.
    """
    h, w = features.shape[2:]
    inputs = (features.flatten(2).mT, weight.flatten(1), values.flatten(2).mT)
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        lower = torch.get_autocast_dtype(device)
        inputs = (inputs[0].to(lower), inputs[1].to(lower), inputs[2].to(lower))
    gathered_npd, _ = psa_attention(*inputs, h, w, *mask_hw, distribute)
    gathered: Tensor = gathered_npd.mT.unflatten(2, (h, w))
    return gathered


@torch.library.custom_op("psanet::psa_attention", mutates_args=())
def psa_attention(
    features: Tensor,
    weight: Tensor,
    values: Tensor,
    h: int,
    w: int,
    mask_h: int,
    mask_w: int,
    distribute: bool,
) -> tuple[Tensor, Tensor]:
    """See `attend`, with positions before channels: (N, H * W, C), (mask_h * mask_w, C) and (N, H * W, D).

    Returns what is gathered, (N, H * W, D), laid out in memory as `values` are, and each target's log-sum of
    exponentials over its sources, (N, H * W) in float32 at least.
    """
    geometry = Geometry(h, w, mask_h, mask_w, distribute)
    _check(features, weight, values, geometry)
    with torch.autocast(features.device.type, enabled=False):
        gathered, log_sums = form_for(features).forward(features, weight, values, geometry)
    return gathered, log_sums


@psa_attention.register_fake
def _(
    features: Tensor,
    weight: Tensor,
    values: Tensor,
    h: int,
    w: int,
    mask_h: int,
    mask_w: int,
    distribute: bool,
) -> tuple[Tensor, Tensor]:
    _check(features, weight, values, Geometry(h, w, mask_h, mask_w, distribute))
    exact = torch.promote_types(values.dtype, torch.float32)
    return torch.empty_like(values), values.new_empty(values.shape[:2], dtype=exact)


@torch.library.custom_op("psanet::psa_attention_backward", mutates_args=())
def psa_attention_backward(
    grad: Tensor,
    grad_log_sums: Tensor,
    features: Tensor,
    weight: Tensor,
    values: Tensor,
    gathered: Tensor,
    log_sums: Tensor,
    h: int,
    w: int,
    mask_h: int,
    mask_w: int,
    distribute: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `psa_attention`'s features, weight and values, laid out as these are."""
    tensors = (grad, grad_log_sums, features, weight, values, gathered, log_sums)
    geometry = Geometry(h, w, mask_h, mask_w, distribute)
    with torch.autocast(features.device.type, enabled=False):
        grads: tuple[Tensor, Tensor, Tensor] = form_for(features).backward(*tensors, geometry)
    return grads


@psa_attention_backward.register_fake
def _(
    grad: Tensor,
    grad_log_sums: Tensor,
    features: Tensor,
    weight: Tensor,
    values: Tensor,
    gathered: Tensor,
    log_sums: Tensor,
    h: int,
    w: int,
    mask_h: int,
    mask_w: int,
    distribute: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(features), torch.empty_like(weight), torch.empty_like(values)


def _check(features: Tensor, weight: Tensor, values: Tensor, geometry: Geometry) -> None:
    positions, places = geometry.positions, geometry.mask_h * geometry.mask_w
    if features.dim() != 3 or features.shape[1] != positions or min(geometry.mask_h, geometry.mask_w) < 1:
        raise ValueError(
            f"psa_attention takes features (N, {geometry.h} * {geometry.w}, C) and a mask of 1 x 1 or more, "
            f"not {tuple(features.shape)} and {geometry.mask_h} x {geometry.mask_w}"
        )
    if tuple(weight.shape) != (places, features.shape[2]):
        raise ValueError(
            f"psa_attention takes a weight ({geometry.mask_h} * {geometry.mask_w}, {features.shape[2]}), "
            f"not {tuple(weight.shape)}"
        )
    if values.dim() != 3 or tuple(values.shape[:2]) != tuple(features.shape[:2]):
        raise ValueError(
            f"psa_attention takes values {(*features.shape[:2], 'D')}, not {tuple(values.shape)}"
        )
    if not features.dtype == weight.dtype == values.dtype:
        raise ValueError(
            f"psa_attention takes tensors of one type, not {features.dtype}, {weight.dtype}, {values.dtype}"
        )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.geometry = inputs[3:]


def _backward(ctx: Any, grad: Tensor, grad_log_sums: Tensor) -> tuple[Tensor | None, ...]:
    grads = psa_attention_backward(grad, grad_log_sums, *ctx.saved_tensors, *ctx.geometry)
    return (*grads, None, None, None, None, None)


psa_attention.register_autograd(_backward, setup_context=_setup_context)
