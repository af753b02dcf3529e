"""What a step minimises: the published loss, classes weighed by rarity, and a teacher's predictions.

Not here: the published loss itself (`optimization.py`), gradients (`step.py`).

    objective = build_objective(config, pairs, device); loss = objective(logits, images, labels, pixels)
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.checkpoint import build_from_checkpoint, load_checkpoint
from models.config import ConfigError
from models.labels import IGNORE, get_label_set
from models.network import SceneParser, TrainingLogits
from training.balance import class_weights, pixels_of_classes
from training.config import TrainingConfig
from training.optimization import Loss, segmentation_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objective:
    """aux_weight: of the auxiliary loss; class_weights: (C,) float32, None for 1 each; teacher: a network in
    eval mode whose predictions are learned with `distill_weight`."""

    aux_weight: float
    class_weights: Tensor | None = None
    teacher: SceneParser | None = None
    distill_weight: float = 0.0

    def __call__(
        self, logits: TrainingLogits, images: Tensor, labels: Tensor, pixels: Tensor | float
    ) -> Loss:
        """logits: of `images`, (N, 3, H, W) RGB in [0, 255]; labels: (N, H, W) int64; pixels: that the step
        divides by. With a teacher, `total` has the mean over valid pixels of KL(teacher || network) too
        (Hinton et al. 2015, at temperature 1)."""
        weights = self.class_weights
        loss = segmentation_loss(
            logits, labels, aux_weight=self.aux_weight, pixels=pixels, class_weights=weights
        )
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self.teacher(images)
        distance = divergence(logits.main, taught, labels) / pixels
        return loss._replace(total=loss.total + self.distill_weight * distance)


def divergence(logits: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
    """The sum over pixels that are not IGNORE of KL(softmax(taught) || softmax(logits)), in float32.

    logits, taught: (N, C, H, W); labels: (N, H, W).
    """
    said, known = (F.log_softmax(each.float(), 1) for each in (logits, taught))
    by_pixel = F.kl_div(said, known, reduction="none", log_target=True).sum(1)
    return (by_pixel * (labels != IGNORE)).sum()


def build_objective(
    config: TrainingConfig, pairs: Sequence[tuple[Path, Path]], device: torch.device
) -> Objective:
    """Counts the training's labels where classes are balanced, opens the teacher where there is one.

    Raises DatasetError, CheckpointError, ConfigError.
    """
    weights = None
    if config.class_balance:
        by_class = class_weights(pixels_of_classes(pairs, config.model.classes), config.class_balance)
        names = get_label_set(config.data.dataset).class_names
        said = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, by_class, strict=True))
        logger.info("weights in the loss: %s", said)
        weights = torch.from_numpy(by_class).to(device)
    teacher = None if config.teacher is None else _open_teacher(Path(config.teacher), config, device)
    return Objective(config.aux_weight, weights, teacher, config.distill_weight)


def _open_teacher(path: Path, config: TrainingConfig, device: torch.device) -> SceneParser:
    teacher = build_from_checkpoint(load_checkpoint(path)).to(device).eval().requires_grad_(False)
    if teacher.config.classes != config.model.classes:
        raise ConfigError(
            f"teacher: {path} knows {teacher.config.classes} classes, the network {config.model.classes}"
        )
    teacher.config.feature_hw_of(config.model.crop_hw)  # or it would fail at the first step
    if config.channels_last:
        teacher = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.compile:
        teacher.compile(dynamic=False)
    return teacher
