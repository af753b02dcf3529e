"""Tiny networks, their weights, and checkpoint files in the official format, for the tests of models/.

Weights depend on each tensor's name and shape alone: no refactoring that keeps the names can change them.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.files import FORMAT
from models.labels import LabelSet
from models.network import SceneParser, build_network


def tiny_config(**changes: Any) -> ModelConfig:
    """The smallest configuration: 5 x 5 positions of attention on 9 x 9 features."""
    values: dict[str, Any] = {"depth": 18, "classes": 5, "crop_hw": (65, 65), "head_width": 8, **changes}
    return ModelConfig(**values)


def tiny_network(**changes: Any) -> SceneParser:
    """A network with `fill`'s weights, in eval mode."""
    network = build_network(tiny_config(**changes))
    fill(network)
    return network.eval()


def fill(module: nn.Module) -> None:
    """He-like weights, lively batch-norm statistics."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            if value.dim() > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("weight"):  # below 1, or residual sums grow with every block
                value.uniform_(0.2, 0.8, generator=generator)
            elif value.is_floating_point():
                value.normal_(0, 0.2, generator=generator)


def some_images(count: int = 1, size_hw: tuple[int, int] = (65, 65), seed: int = 0) -> Tensor:
    """(count, 3, height, width) float32 in [0, 255]: blobs, so that deep features differ by place."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 255
    return nn.functional.interpolate(coarse, size_hw, mode="bicubic").clamp(0, 255)


def shapes_of(config: ModelConfig) -> dict[str, Tensor]:
    """The network's state dict with one stored zero in each tensor: right shapes and types, no memory."""
    with torch.device("meta"):
        state = build_network(config).state_dict()
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}


def official_keys(config: ModelConfig, state: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """The names that hszhao/semseg's files have for this project's."""
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.")
        if name.startswith("context."):
            name = f"{'ppm' if config.context == 'ppm' else 'psa'}.{name.removeprefix('context.')}"
        renamed[prefix + name] = value
    return renamed


def write_official(
    path: Path, config: ModelConfig, state: Mapping[str, Tensor], *, prefix: str = "module."
) -> Path:
    """A file as tool/train.py of hszhao/semseg writes it; by default under DistributedDataParallel."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.01, momentum=0.9)
    torch.save(
        {
            "epoch": 100,
            "state_dict": official_keys(config, state, prefix=prefix),
            "optimizer": optimizer.state_dict(),
        },
        path,
    )
    return path


def write_own(path: Path, config: ModelConfig, labels: LabelSet, state: Mapping[str, Tensor]) -> Path:
    """A file as this project's training writes it."""
    content = {
        "format": FORMAT,
        "config": config.to_dict(),
        "labels": labels.to_dict(),
        "state_dict": dict(state),
    }
    torch.save({**content, "iteration": 7}, path)
    return path
