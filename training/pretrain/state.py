"""A pre-training's state: written whole or not at all, and read back to go on exactly.

The file that a training starts from (`init=`) and the one that is gone on with are one: `depth`, `top1`,
`state_dict` (the backbone), `settings`, `result` (None until it is finished), and until then `fc`,
`optimizer`, `taken`, `elapsed`. The order of the images and their augmentation follow from `taken`.

    run = Pretraining(classifier, optimizer, schedule, Path("resnet18.pth"), {"depth": 18, ...})
    if run.go_on() is None: ...; run.save()
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import CheckpointError, read_file
from training.pretrain.classifier import Classifier
from training.pretrain.schedule import Schedule
from training.state import require_finite, save_atomically

logger = logging.getLogger(__name__)


@dataclass
class Pretraining:
    """What changes as it goes, where it is kept, and the settings that it cannot change half-way."""

    classifier: Classifier
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    out: Path
    settings: Mapping[str, Any]
    losses: list[Tensor] = field(default_factory=list)

    def save(self, top1: float | None = None, result: Mapping[str, Any] | None = None) -> None:
        """Writes the backbone's weights, and while there is no `result` what going on needs.

        Raises FloatingPointError, and writes nothing, when a loss of the epoch or a weight is not finite.
        """
        if not math.isfinite(mean := self.mean_loss):
            raise FloatingPointError(
                f"the loss is {mean} by step {self.schedule.taken}; give a lower --lr and another --out"
            )
        require_finite(self.classifier)
        content: dict[str, Any] = {
            "depth": self.settings["depth"],
            "top1": top1,
            "state_dict": {key: value.cpu() for key, value in self.classifier.backbone.state_dict().items()},
            "settings": dict(self.settings),
        }
        if result is None:
            content |= {
                "fc": self.classifier.fc.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "taken": self.schedule.taken,
                "elapsed": self.schedule.elapsed,
            }
        save_atomically(content | {"result": None if result is None else dict(result)}, self.out)

    @property
    def mean_loss(self) -> float:
        """Of the epoch's steps so far, those of this process."""
        return float(torch.stack(self.losses).mean()) if self.losses else 0.0

    def go_on(self) -> dict[str, Any] | None:
        """Puts back what `out` holds, if it is there; returns the result of a training that is finished.

        Raises CheckpointError where the file belongs to another training.
        """
        if not self.out.exists():
            return None
        content = read_file(self.out)
        if "settings" not in content:
            raise CheckpointError(f"{self.out} is of another command or version: give another --out")
        if content["settings"].get("data") != self.settings["data"]:
            raise CheckpointError(
                f"{self.out} was begun with other archives than --data holds: give another --out, or those"
            )
        if changed := _changes(content["settings"], self.settings):
            raise CheckpointError(
                f"{self.out} was begun with {' '.join(changed)}: give another --out, or these values again"
            )
        if content["result"] is not None:
            return dict(content["result"])
        self.classifier.backbone.load_state_dict(content["state_dict"])
        self.classifier.fc.load_state_dict(content["fc"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.go_on(content["taken"], content["elapsed"])
        logger.info("goes on from step %d", self.schedule.taken)
        return None


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What was otherwise, as one would give it: `--lr 0.1`."""
    return [
        f"--{key.replace('_', '-')} {before.get(key)}" for key, item in now.items() if before.get(key) != item
    ]
