"""Bilinear resampling inside the network, with corners aligned or by a rule that the sizes decide.

Not here: resampling of logits and probabilities to images (`inference/resample.py`).

    resize(torch.rand(1, 8, 5, 6), (9, 12), aligned=0)
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_aligned(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Corners aligned: what all resampling inside the published networks is."""
    if tuple(x.shape[2:]) == size_hw:
        return x
    return F.interpolate(x, size_hw, mode="bilinear", align_corners=True)


def resize(x: Tensor, size_hw: tuple[int, int], *, aligned: int) -> Tensor:
    """(N, C, h, w) to (N, C, *size_hw), corners aligned (1) or half-pixel centres (0).

    Two small matrix products, exact for either rule: an operator for resizing has its rule fixed when a
    network is exported, and where sizes are only known later, so is `aligned`.
    """
    rows = _weights(x, x.shape[2], size_hw[0], aligned)
    columns = _weights(x, x.shape[3], size_hw[1], aligned)
    return rows @ (x @ columns.mT)


def _weights(like: Tensor, inputs: int, outputs: int, aligned: int) -> Tensor:
    """(outputs, inputs): what each place takes from each of the old ones, of the type of `like`.

    Place i lies at i (inputs - 1) / (outputs - 1) of the old ones with corners aligned, otherwise at
    (i + 1/2) inputs / outputs - 1/2: both doubled, as one fraction of whole numbers.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    places = torch.arange(outputs, device=like.device)
    above = (2 * places + (1 - aligned)) * (inputs - aligned) - (1 - aligned) * outputs
    below = 2 * (outputs - aligned) + aligned * (1 // outputs)  # one place lies at 0, not at 0 / 0
    old = torch.arange(inputs, device=like.device).to(dtype)
    at = torch.minimum((above.to(dtype) / below).clamp(min=0), old[-1])
    return (1 - (at.unsqueeze(1) - old).abs()).clamp(min=0).to(like.dtype)
