"""Checkpoints of a training: written whole or not at all, and read back to go on exactly.

A checkpoint holds plain values and tensors: `format`, `config` (the network's), `labels`, `state_dict`, and
beside them what resuming needs: `optimizer`, `iteration`, `rng`, `cuda_rng` (dropout draws from the device's
generator), `training` (the resolved configuration).
`models/checkpoint.py` reads the first four wherever a model is asked for.

    from training.state import TrainingState, load_state, save_state
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import FORMAT, CheckpointError, read_file
from models.labels import get_label_set
from models.network import SceneParser
from training.config import TrainingConfig


@dataclass
class TrainingState:
    """What a training changes as it goes: `iteration` counts the optimizer steps taken."""

    network: SceneParser
    optimizer: torch.optim.Optimizer
    iteration: int


def save_state(state: TrainingState, path: Path, config: TrainingConfig) -> None:
    """Writes the checkpoint atomically."""
    content = {
        "format": FORMAT,
        "config": state.network.config.to_dict(),
        "labels": get_label_set(config.data.dataset).to_dict(),
        "state_dict": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "iteration": state.iteration,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "training": config.to_dict(),
    }
    save_atomically(content, path)


def load_state(state: TrainingState, path: Path, config: TrainingConfig) -> None:
    """Puts a checkpoint's values into `state`; CheckpointError where it belongs to another training."""
    content = read_file(path)
    needed = ("config", "state_dict", "optimizer", "iteration", "rng", "training")
    missing = [key for key in needed if key not in content]
    if missing:
        raise CheckpointError(f"{path} cannot be resumed: it lacks {missing}; give another `out`")
    if content["config"] != state.network.config.to_dict():
        raise CheckpointError(
            f"{path} is of another network than the configuration's; give another `out`, or its own values"
        )
    changed = _schedule_changes(content["training"], config.to_dict())
    if changed:
        raise CheckpointError(f"{path} was begun with other {changed}; give another `out`, or its own values")
    state.network.load_state_dict(content["state_dict"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.iteration = content["iteration"]
    torch.set_rng_state(content["rng"])
    if len(content.get("cuda_rng", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(content["cuda_rng"])


def _schedule_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings that a training cannot change half-way without becoming another one."""
    schedule = ("iterations", "epochs", "batch", "lr", "head_lr_factor", "poly_power", "seed", "augment")
    rest = ("momentum", "weight_decay", "aux_weight")  # the optimizer's state would bring the old ones back
    return [key for key in (*schedule, *rest) if before.get(key) != now[key]]


def save_atomically(content: Any, path: Path) -> None:
    """`torch.save` to `path`, whose folder is made: readers see the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
