"""Networks small enough to export in a second or two, with weights in which everything matters."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoint import FORMAT
from models.config import ModelConfig
from models.labels import get_label_set
from models.network import SceneParser, build_network


def tiny_config(**changes: Any) -> ModelConfig:
    """ResNet-18, CamVid's 11 classes, 65x65 pixels: features of 9x9, attention on 5x5."""
    return ModelConfig(depth=18, classes=11, crop_hw=(65, 65), head_width=16, aux=False).replace(**changes)


def tiny_network(config: ModelConfig, *, seed: int = 0) -> SceneParser:
    """Batch norm's weights and statistics are random: fresh ones would hide a wrong fold or a dead branch."""
    torch.manual_seed(seed)
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return network.eval()


def save_own(network: SceneParser, path: Path) -> Path:
    """In this project's own format, with CamVid's labels."""
    labels = get_label_set("camvid").to_dict()
    content = {"format": FORMAT, "config": network.config.to_dict(), "labels": labels}
    torch.save({**content, "state_dict": network.state_dict()}, path)
    return path


def save_official(network: SceneParser, path: Path) -> Path:
    """As hszhao/semseg writes it: `module.` before every name, the backbone's layers and `psa` at the top."""
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        key = key.removeprefix("backbone.")
        state["module." + (f"psa.{key.removeprefix('context.')}" if key.startswith("context.") else key)] = (
            value
        )
    torch.save({"epoch": 100, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path
