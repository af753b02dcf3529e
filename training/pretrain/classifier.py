"""What is pre-trained: a backbone with a classifier of whole images on top.

logits = Classifier(18, classes=202, stride=8)(images)
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn

from models.resnet import ResNet, initialise

DILATIONS: Final[Mapping[int, tuple[int, int]]] = MappingProxyType({8: (2, 4), 16: (1, 2), 32: (1, 1)})
"""Of stages 4 and 5, by the pixels that a feature of the last stage stands for."""


class Classifier(nn.Module):
    """A ResNet with a linear layer on the mean of its last features."""

    def __init__(self, depth: int, classes: int, stride: int) -> None:
        super().__init__()
        self.backbone = ResNet(depth, dilations=DILATIONS[stride])
        initialise(self.backbone)
        self.fc = nn.Linear(self.backbone.stage5_channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised to (N, classes)."""
        logits: Tensor = self.fc(self.backbone(images)[1].mean((2, 3)))
        return logits
