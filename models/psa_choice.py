"""Which form of attention a device gets: Triton kernels where they are right, else PyTorch's operations.

Not here: either form (`models/psa_launch.py`, `models/psa_rows.py`). Both have `forward` and `backward`.
Kernels are compiled for the GPU at hand, by the compiler that is installed there: before the first use of a
type they are held against PyTorch's operations on a small case, and left, with a warning, where they fail.
"""

import importlib.util
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from models import psa_rows
from models.psa_blocks import Geometry

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float16: 0.01, torch.bfloat16: 0.06, torch.float32: 0.004}
"""Of a result's largest value: what roundings of the type come to on the small case, and some room."""


def form_for(like: Tensor) -> Any:
    """The module with `forward` and `backward` for tensors of that device and type."""
    if like.device.type != "cuda" or like.dtype not in _TOLERANCE or not _has_triton(like.device):
        return psa_rows
    from models import psa_launch

    # Nothing else may be launched while a graph is captured: whoever captures has run once before.
    if torch.cuda.is_current_stream_capturing() or agrees(psa_launch, like.device, like.dtype):
        return psa_launch
    return psa_rows


@cache
def agrees(kernels: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether results and gradients of a small case are those of `psa_rows`. A failure is logged, once."""
    try:
        wrong = _differences(kernels, device, dtype)
    except Exception as error:  # whatever a compiler or a driver has to say
        logger.warning(
            "attention kernels do not run on %s in %s, PyTorch's operations take their place: %s",
            device,
            dtype,
            error,
        )
        return False
    if wrong > _TOLERANCE[dtype]:
        logger.warning(
            "attention kernels are off by %.2g on %s in %s, PyTorch's operations take their place: "
            "please report it",
            wrong,
            device,
            dtype,
        )
        return False
    return True


@cache
def _has_triton(device: torch.device) -> bool:
    """Ampere and later: what came before has neither bfloat16 nor tensor cores for float32."""
    known = importlib.util.find_spec("triton") is not None and torch.version.hip is None
    return known and torch.cuda.get_device_capability(device) >= (8, 0)


def _differences(kernels: Any, device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference of any result, as a share of that result's largest value."""
    generator = torch.Generator().manual_seed(0)
    h, w, channels = 9, 12, 64
    worst = 0.0
    for distribute in (False, True):
        geometry = Geometry(h, w, 2 * h - 1, 2 * w - 1, distribute)
        shapes = ((2, h * w, channels), (geometry.mask_h * geometry.mask_w, channels), (2, h * w, channels))
        features, weight, values = (
            torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes
        )
        inputs = (features, weight / 4, values, geometry)
        plain = psa_rows.forward(*inputs)
        grads = (torch.randn(shapes[2], generator=generator).to(device, dtype), torch.ones_like(plain[1]))
        pairs: list[tuple[Sequence[Tensor], Sequence[Tensor]]] = [(kernels.forward(*inputs), plain)]
        given = (*grads, *inputs[:3], *plain, geometry)
        pairs.append((kernels.backward(*given), psa_rows.backward(*given)))
        for ours, theirs in pairs:
            for one, other in zip(ours, theirs, strict=True):
                difference = (one.float() - other.float()).abs().max() / other.float().abs().max()
                worst = max(worst, difference.nan_to_num(torch.inf).item())
    return worst
