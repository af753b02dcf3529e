"""The whole network: pixels in [0, 255] → normalised → backbone → context → classifier → logits.

Not here: losses (`training/`), windows and scales (`inference/`), checkpoints (`models/checkpoint.py`).

    network = build_network(PRESETS["psanet50_ade20k"]).eval(); logits = network(images)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import MEAN_RGB, STD_RGB, ConfigError, Direction, ModelConfig
from models.context import PSA, build_context
from models.resnet import ResNet, initialise

_AUX_WIDTH = 256


class TrainingLogits(NamedTuple):
    """What a network gives while training: main and auxiliary logits, (N, C, H, W) each, or None."""

    main: Tensor
    aux: Tensor | None


class SceneParser(nn.Module):
    """A dilated ResNet, a context module and a classifier (paper 3.4): PSANet, PSPNet or a baseline.

    Submodules `backbone`, `context`, `cls` and, if the configuration has it, `aux`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD_RGB).view(1, 3, 1, 1), persistent=False)
        self.backbone = ResNet(
            config.depth,
            dilations=config.stage_dilations,
            stem_width=config.stem_width,
            contract_dilation=config.contract_dilation,
        )
        self.context = build_context(config, self.backbone.stage5_channels)
        self.cls = _classifier(self.context.out_channels, config.head_width, config)
        self.aux = _classifier(self.backbone.stage4_channels, _AUX_WIDTH, config) if config.aux else None

    def forward(self, images: Tensor) -> Tensor | TrainingLogits:
        """images: (N, 3, H, W) floating-point RGB in [0, 255], sides 8n + 1 (`ModelConfig.aligned_sides`).

        Returns the published network's logits, (N, C, H, W), upsampled by `ModelConfig.align_corners`; while
        training `TrainingLogits` of that size. Raises ValueError for other sides, or too small ones.
        """
        size_hw = (images.shape[2], images.shape[3])
        stage4, stage5 = self._features(images)
        main = self._upsample(self.cls(self.context(stage5)), size_hw)
        if not self.training:
            return main
        return TrainingLogits(main, None if self.aux is None else self._upsample(self.aux(stage4), size_hw))

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Logits before the last upsampling, (N, C, (H-1)//8+1, (W-1)//8+1): what stitching starts from.

        Bilinear resampling to (H, W) by `ModelConfig.align_corners` gives `forward`'s. Raises as that does.
        """
        _, stage5 = self._features(images)
        logits: Tensor = self.cls(self.context(stage5))
        return logits

    def attention(self, images: Tensor) -> dict[Direction, Tensor]:
        """What each target takes from each source, by direction: see `PSA.weights_by_direction`.

        images: as `forward` takes them. Raises ConfigError for a network without a PSA module.
        """
        return self.attention_of(self._features(images)[1])

    def attention_of(self, stage5: Tensor) -> dict[Direction, Tensor]:
        """The same of the last features, (N, C, h, w)."""
        if not isinstance(self.context, PSA):
            raise ConfigError(
                f"a network of context {self.config.context!r} has no point-wise spatial attention"
            )
        return self.context.weights_by_direction(stage5)

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of stages 4 and 5; the images' corners are the features' corners where the network relies on it."""
        height, width = images.shape[2:]
        stride = self.config.output_stride
        if self.config.aligned_sides and ((height - 1) % stride or (width - 1) % stride):
            raise ValueError(
                f"images of {(height, width)}: each side must be {stride}n + 1, "
                f"as the network's crop {self.config.crop_hw} is"
            )
        features: tuple[Tensor, Tensor] = self.backbone(self.normalize(images))
        return features

    def _upsample(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        return F.interpolate(logits, size_hw, mode="bilinear", align_corners=self.config.align_corners)

    def normalize(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 255] to zero mean and unit deviation over ImageNet."""
        return (images - self.mean) / self.std


def build_network(config: ModelConfig) -> SceneParser:
    """The network of `config` with fresh weights.

    He initialisation of the backbone, PyTorch's own elsewhere, as in the official code.
    """
    network = SceneParser(config)
    initialise(network.backbone)
    return network


def _classifier(inputs: int, width: int, config: ModelConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Dropout2d(config.dropout),
        nn.Conv2d(width, config.classes, 1),
    )
