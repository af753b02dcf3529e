"""Point-wise spatial attention plainly: the whole map, the op psa_mask (held against loops in its own tests),
a softmax and a product, in float64, differentiated by autograd."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.psa_blocks import Geometry
from models.psa_mask import psa_mask

# Square, not square, smaller, even, larger than needed, larger one way and smaller the other, a single row.
GEOMETRIES = [
    ((5, 5), (9, 9)),
    ((3, 7), (5, 13)),
    ((6, 4), (3, 3)),
    ((5, 6), (4, 8)),
    ((4, 3), (11, 12)),
    ((3, 8), (9, 5)),
    ((1, 9), (1, 17)),
    ((1, 1), (1, 1)),
]


def plain(features: Tensor, weight: Tensor, values: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Of (N, P, C), (M, C), (N, P, D): what is gathered, (N, P, D), and the log-sums, (N, P)."""
    map_nmhw = (features @ weight.mT).mT.unflatten(2, (geometry.h, geometry.w))
    logits = psa_mask(map_nmhw, geometry.mask_h, geometry.mask_w, geometry.distribute).flatten(2)
    return (values.mT @ logits.softmax(1)).mT, logits.logsumexp(1)


def some_inputs(
    geometry: Geometry,
    *,
    images: int = 2,
    channels: int = 20,
    width: int = 12,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> list[Tensor]:
    """Features, weight, values, and gradients of both results; logits have a deviation of about 2."""
    generator = torch.Generator().manual_seed(5)
    p, places = geometry.positions, geometry.mask_h * geometry.mask_w
    shapes = ((images, p, channels), (places, channels), (images, p, width), (images, p, width), (images, p))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors[1] *= 2 / channels**0.5
    types = [dtype] * 4 + [torch.promote_types(dtype, torch.float32)]
    return [tensor.to(kind).to(device) for tensor, kind in zip(tensors, types, strict=True)]


def expected(inputs: Sequence[Tensor], geometry: Geometry) -> list[Tensor]:
    """Both results in float64, and the gradients of features, weight and values."""
    features, weight, values, grad, grad_log_sums = (tensor.double() for tensor in inputs)
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (features, weight, values)]
    results = plain(*leaves, geometry)
    grads = torch.autograd.grad(results, leaves, (grad, grad_log_sums))
    return [tensor.detach() for tensor in (*results, *grads)]


def errors(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[float]:
    """Of each: the length of the difference over the length of what is wanted; NaN counts as infinite."""
    return [
        float(((a.detach().double() - b).norm() / b.norm().clamp(min=1e-12)).nan_to_num(nan=float("inf")))
        for a, b in zip(found, wanted, strict=True)
    ]
