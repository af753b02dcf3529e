"""How a device computes: bfloat16 where it pays, determinism where asked for, and back as it was afterwards.

with numerics(torch.device("cuda"), deterministic=True): ...
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from training.config import TrainingConfig


def bf16_pays(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; a CPU without such instructions is slower in it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def decided(config: TrainingConfig, device: torch.device) -> TrainingConfig:
    """With `bf16` true or false, as it pays where it was left open."""
    return config if config.bf16 is not None else replace(config, bf16=bf16_pays(device))


@contextmanager
def numerics(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Sets cuDNN and PyTorch for a training whose crops have one size; before the first use of the GPU.

    deterministic: only operations that give the same bits each time; PyTorch names one that has no such form
    on a GPU in a RuntimeError. Else cuDNN tries what is fastest.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Random states and TF32 are afterwards as before: an evaluation in between must leave no trace."""
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
