"""What a training minimises and how: the published loss, optimizer and schedule, and the weights' average.

Not here: the loop that uses them (`train.py`).

    loss = segmentation_loss(network(images), labels, aux_weight=0.4, pixels=valid_pixels(labels))
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.labels import IGNORE
from models.network import SceneParser, TrainingLogits
from training.config import TrainingConfig


class Loss(NamedTuple):
    """The loss and its two parts before weighting, scalars; `main` and `aux` carry no gradient."""

    total: Tensor
    main: Tensor
    aux: Tensor


def segmentation_loss(
    logits: TrainingLogits,
    labels: Tensor,
    *,
    aux_weight: float,
    pixels: Tensor | float,
    class_weights: Tensor | None = None,
) -> Loss:
    """Cross entropy of the main logits plus `aux_weight` times the auxiliary one's (paper 3.5).

    logits: (N, C, H, W) each; labels: (N, H, W) int64 class ids; IGNORE counts in neither. In float32.
    pixels: what the sum over pixels is divided by: those of the whole step that are not IGNORE, in whatever
    parts and processes it is taken, so that each weighs the same and the parts' losses add up to the step's.
    class_weights: (C,) float32, of each pixel by its class (not published); None: 1 each.
    """
    main = _sum_of_pixels(logits.main, labels, class_weights) / pixels
    if logits.aux is None:
        return Loss(main, main.detach(), torch.zeros_like(main))
    aux = _sum_of_pixels(logits.aux, labels, class_weights) / pixels
    return Loss(main + aux_weight * aux, main.detach(), aux.detach())


def _sum_of_pixels(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    # Summed apart: on a GPU the reduction inside cross entropy has no deterministic form.
    each = F.cross_entropy(
        logits.float(), labels, weight=class_weights, ignore_index=IGNORE, reduction="none"
    )
    return each.sum()


def valid_pixels(labels: Tensor) -> Tensor:
    """How many of (N, H, W) labels count, a scalar."""
    return (labels != IGNORE).sum()


def build_optimizer(network: SceneParser, config: TrainingConfig) -> torch.optim.SGD:
    """SGD with momentum, as published: weight decay on batch norm and biases too, a faster head."""
    backbone = list(network.backbone.parameters())
    head = [parameter for name, parameter in network.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": backbone, "factor": 1.0},
        {"params": head, "factor": config.head_lr_factor},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, progress: float) -> float:
    """The poly policy: lr * (1 - progress) ** power, progress in [0, 1). Returns the backbone's rate."""
    rate: float = config.lr * (1 - progress) ** config.poly_power
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def build_average(network: SceneParser, decay: float) -> AveragedModel:
    """The moving average of the network's weights and of batch norm's running statistics.

    These must be averaged alike: with the last weights' statistics, average weights were seen to lose 15
    points of mIoU, which statistics computed anew for them gave back (training/README.md).
    """
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
