"""What the benchmarks of GPUs share: the ceiling, what a network costs, memory."""

from typing import Any

import torch
from _common import Timer

from models.network import SceneParser


def describe_gpu() -> dict[str, Any]:
    """Of the first GPU, for the JSON line."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def matmul_tflops(dtype: torch.dtype, size: int = 8192, repeats: int = 20) -> float:
    """What the GPU reaches in one large product of random numbers: a ceiling that no engine is above."""
    left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    timer = Timer()
    for _ in range(repeats):
        torch.cuda.synchronize()
        with timer:
            left @ right
            torch.cuda.synchronize()
    return 2 * size**3 / min(timer.seconds) / 1e12


def count_flops(network: SceneParser) -> float:
    """Of one image of the crop's size, two a multiplication; nothing is computed."""
    import copy

    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        weightless = copy.deepcopy(network).to("meta").eval()
        weightless.coarse_logits(torch.zeros(1, 3, *network.config.crop_hw, device="meta"))
    return float(counter.get_total_flops())


def used_bytes() -> int:
    """Of the GPU's memory, by all that use it: engines allocate beside PyTorch."""
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return total - free
