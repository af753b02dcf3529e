"""Whether Triton's kernels run on a device: found out once, by running one.

Not here: the kernels (`kernels.py`). Triton compiles on the machine that it runs on, which takes a C compiler
and a driver; where anything is missing the log says what, and torch's own operations do the same work.

    kernels = find_kernels(torch.device("cuda"))
"""

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

log = logging.getLogger(__name__)

_found: dict[str, Any] = {}
_lock = threading.Lock()


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes it the GPU that kernels are launched on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def find_kernels(device: torch.device) -> Any | None:
    """The module `kernels`; None where Triton is missing, or does not run on the device."""
    with _lock:
        if str(device) not in _found:
            _found[str(device)] = _tried(device)
        return _found[str(device)]


def give_up(device: torch.device, error: Exception) -> None:
    """Kernels failed on the device: from now on `find_kernels` finds none there."""
    with _lock:
        if _found.get(str(device)) is not None:
            _warn(device, error)
        _found[str(device)] = None


def _tried(device: torch.device) -> Any | None:
    if device.type != "cuda":
        return None
    try:
        from inference.device import kernels

        with current(device):
            kernels.try_out(torch.ones(1, 1, 3, dtype=torch.uint8, device=device))
    except Exception as error:  # Triton, a compiler, a driver: each has its own
        _warn(device, error)
        return None
    return kernels


def _warn(device: torch.device, error: Exception) -> None:
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    log.warning("stitching on %s without Triton's kernels, which is slower: %s", device, said)
