"""Checkpoints of a training: written whole or not at all, and read back to go on exactly.

A checkpoint holds plain values and tensors: `format`, `config` (the network's), `labels`, `state_dict` (the
weights to serve: their moving average where there is one), and beside them what resuming needs: `optimizer`,
`iteration`, `rng_states` (of each process: dropout draws from them), `training` (the resolved configuration),
`train_list` (the list's sha256), and with an average `raw_state_dict` (the weights that the optimizer moves)
and `averaged` (how many went in). The place in the data follows from `iteration`. `models/checkpoint.py`
reads the first four wherever a model is asked for.

    from training.state import TrainingState, load_state, save_state
"""

import dataclasses
import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.checkpoint import FORMAT, CheckpointError, read_file
from models.config import ConfigError, ModelConfig
from models.labels import get_label_set
from models.network import SceneParser
from training.config import AugmentConfig, TrainingConfig

logger = logging.getLogger(__name__)

_STALE_S: Final = 3600.0


@dataclass
class TrainingState:
    """What a training changes as it goes: `iteration` counts the optimizer steps taken.

    train_list: sha256 of the list that the images are taken from, None where that does not matter.
    """

    network: SceneParser
    optimizer: torch.optim.Optimizer
    iteration: int
    average: AveragedModel | None = None
    train_list: str | None = None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """This process's random states: `cpu`, and `cuda` where it computes on a GPU."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def save_state(
    state: TrainingState,
    path: Path,
    config: TrainingConfig,
    rng_states: Sequence[Mapping[str, Tensor]] | None = None,
) -> None:
    """Writes the checkpoint atomically. rng_states: of every process; None: of this one alone.

    Raises FloatingPointError, and leaves the file as it was, where the last step has ruined the weights.
    """
    require_finite(state.network)
    device = next(state.network.parameters()).device
    content = {
        "format": FORMAT,
        "config": state.network.config.to_dict(),
        "labels": get_label_set(config.data.dataset).to_dict(),
        "state_dict": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "iteration": state.iteration,
        "rng_states": [random_state(device)] if rng_states is None else [dict(each) for each in rng_states],
        "training": config.to_dict(),
        "train_list": state.train_list,
    }
    if state.average is not None:
        content["raw_state_dict"] = content["state_dict"]
        content["state_dict"] = state.average.module.state_dict()
        content["averaged"] = int(state.average.n_averaged)
    save_atomically(content, path)


def load_state(
    state: TrainingState, path: Path, config: TrainingConfig, *, rank: int = 0, count: int = 1
) -> None:
    """Puts a checkpoint's values into `state`, and this process's random states back.

    rank, count: this process among those that train. Raises CheckpointError where the checkpoint belongs to
    another training; logs what begins anew because the checkpoint has none of it.
    """
    content = read_file(path)
    needed = ("config", "state_dict", "optimizer", "iteration", "training")
    missing = [key for key in needed if key not in content]
    if missing:
        raise CheckpointError(f"{path} cannot be resumed: it lacks {missing}; give another `out`")
    changed = [
        *_network_changes(content["config"], state.network.config),
        *_schedule_changes(content["training"], config.to_dict()),
    ]
    if changed:
        raise CheckpointError(
            f"{path} was begun with {' '.join(changed)}: give another `out`, or these values again"
        )
    if content.get("train_list") not in (None, state.train_list):  # older versions did not write it
        raise CheckpointError(
            f"{path} was begun with another list than {config.data.train_list} is now; give another "
            "`out`, or the list as it was"
        )
    state.network.load_state_dict(content.get("raw_state_dict", content["state_dict"]))
    state.optimizer.load_state_dict(content["optimizer"])
    state.iteration = content["iteration"]
    _warn_of_precision(content["training"], config)
    _load_average(state, content)
    _load_random_state(content, next(state.network.parameters()).device, rank, count)


def _warn_of_precision(recorded: Mapping[str, Any], config: TrainingConfig) -> None:
    before = recorded.get("bf16")  # older versions did not decide it before they wrote it
    if before is not None and before != config.bf16:
        names = {True: "bfloat16", False: "float32"}
        logger.warning(
            "the training was in %s and goes on in %s: bf16=%s keeps it as it was",
            *(names[before], names[bool(config.bf16)], str(before).lower()),
        )


def _load_average(state: TrainingState, content: Mapping[str, Any]) -> None:
    if state.average is not None:
        state.average.module.load_state_dict(content["state_dict"])
        state.average.n_averaged.fill_(content.get("averaged", 0))
        if "averaged" not in content:
            logger.warning("the checkpoint has no average of weights: it begins with the next step")
    elif "averaged" in content:
        logger.warning("ema is not set: the training goes on without the checkpoint's average of weights")


def _load_random_state(content: Mapping[str, Any], device: torch.device, rank: int, count: int) -> None:
    """Checkpoints of older versions hold `rng` and `cuda_rng`, of one process and all its GPUs."""
    states = content.get("rng_states")
    if states is None and "rng" in content:
        cuda = content.get("cuda_rng") or ()
        index = device.index or 0
        states = [{"cpu": content["rng"], **({"cuda": cuda[index]} if index < len(cuda) else {})}]
    if not states or len(states) != count or ("cuda" in states[0]) != (device.type == "cuda"):
        logger.warning(
            "the checkpoint was written by %d processes, on another kind of device or without random states: "
            "from here on dropout differs from that of an uninterrupted training",
            len(states or ()),
        )
        return
    torch.set_rng_state(states[rank]["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[rank]["cuda"], device)


def _network_changes(recorded: Mapping[str, Any], now: ModelConfig) -> list[str]:
    """Keys that an older version did not write have their defaults."""
    try:
        before = ModelConfig.from_dict(recorded).to_dict()
    except ConfigError:
        return ["a network that this version does not know"]
    return _changes(before, now.to_dict(), "model.")


def _schedule_changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings that a training cannot change half-way without becoming another one.

    Keys that an older version did not write have their defaults.
    """
    schedule = ("iterations", "epochs", "batch", "lr", "head_lr_factor", "poly_power", "seed")
    loss = ("aux_weight", "class_balance", "teacher", "distill_weight")
    rest = ("momentum", "weight_decay")  # the optimizer's state would bring the old ones back
    defaults = {field.name: field.default for field in dataclasses.fields(TrainingConfig)}
    before = {**defaults, **recorded}
    augment = {**dataclasses.asdict(AugmentConfig()), **(recorded.get("augment") or {})}
    return [
        *_changes(before, {key: now[key] for key in (*schedule, *loss, *rest)}, ""),
        *_changes(augment, now["augment"], "augment."),
    ]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> list[str]:
    """What was otherwise, as one would give it: `lr=0.01`."""
    values = {key: list(item) if isinstance(item, tuple) else item for key, item in before.items()}
    return [f"{prefix}{key}={json.dumps(values[key])}" for key, item in now.items() if values[key] != item]


def require_finite(network: nn.Module) -> None:
    """Raises FloatingPointError where a weight is not: a finite loss may have gradients that are not."""
    if not bool(torch.stack([weight.detach().isfinite().all() for weight in network.parameters()]).all()):
        raise FloatingPointError(
            "the last step made weights that are not finite, so they are not saved; what was saved before, "
            "if anything, stands: begin anew elsewhere at a lower learning rate"
        )


def save_atomically(content: Any, path: Path) -> None:
    """`torch.save` to `path`, whose folder is made: readers see the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leavings(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            _save(content, file, path)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _save(content: Any, file: IO[bytes], path: Path) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # PyTorch's word for a disk that is full
        raise OSError(f"{path} cannot be written, is the disk full? ({error})") from error


def _remove_leavings(path: Path) -> None:
    """Of saves that were killed, each as large as a checkpoint; young ones may be another process's."""
    for found in path.parent.iterdir():
        if found.name.startswith(f".{path.name}."):
            with suppress(OSError):
                if time.time() - found.stat().st_mtime > _STALE_S:
                    found.unlink()
