"""Networks that train and teach in milliseconds: for tests of the trainer, not of networks."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import FORMAT
from models.config import ModelConfig
from models.labels import get_label_set
from models.network import TrainingLogits, build_network


class SmallNetwork(nn.Module):
    """In place of `build_network`'s: a backbone and two heads, with batch norm, dropout and both logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("std", torch.full((1, 3, 1, 1), 255.0), persistent=False)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.cls = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(8, config.classes, 1),
        )
        self.aux = nn.Conv2d(8, config.classes, 1)

    def forward(self, images: Tensor) -> TrainingLogits:
        """(N, 3, H, W) in [0, 255] to logits of that size."""
        features = self.backbone(images / self.std)
        size_hw = images.shape[2:]
        main, aux = (
            F.interpolate(head(features), size_hw, mode="bilinear", align_corners=True)
            for head in (self.cls, self.aux)
        )
        return TrainingLogits(main, aux)


def teacher_file(path: Path, classes: int = 11, dataset: str = "camvid") -> None:
    """Writes a checkpoint of fresh weights, for crops of 33 pixels."""
    config = ModelConfig(depth=18, classes=classes, crop_hw=(33, 33), head_width=8, aux=False)
    torch.manual_seed(3)
    content = {"config": config.to_dict(), "state_dict": build_network(config).state_dict()}
    torch.save({"format": FORMAT, "labels": get_label_set(dataset).to_dict(), **content}, path)
