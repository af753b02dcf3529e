"""What a training begins with: how a step is divided, the network, its optimizer and average.

Not here: reading the configuration (`config.py`) or the images (`dataset.py`).

    state = build_state(config, processes); model = build_model(state, config, processes)
"""

import inspect
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.checkpoint import CheckpointError, load_backbone, load_weights
from models.config import ConfigError
from models.files import file_sha256
from models.network import build_network
from training.config import TrainingConfig
from training.distributed import Processes
from training.optimization import build_average, build_optimizer
from training.state import TrainingState, load_state
from training.syncbn import synchronise_batch_norm

logger = logging.getLogger(__name__)


def share_of(config: TrainingConfig, processes: Processes) -> int:
    """Images of one part of a step in one process; ConfigError where the batch cannot be divided so."""
    parts = processes.count * config.accumulate
    if config.batch % parts:
        raise ConfigError(
            f"batch={config.batch} for {processes.count} processes with accumulate={config.accumulate} "
            f"must be a multiple of {parts}: batch={math.ceil(config.batch / parts) * parts} would do"
        )
    if config.batch == config.accumulate and config.model.context in ("global", "ppm"):
        raise ConfigError(
            f"context {config.model.context} gives batch norm one value an image, so it takes 2 images or "
            f"more in each part of a step: batch={max(config.batch, 2)} with "
            f"accumulate={max(config.batch // 2, 1)} would do"
        )
    if config.accumulate > 1 and processes.first:
        logger.warning(
            "accumulate=%d: gradients are those of %d images, batch norm's statistics those of %d",
            config.accumulate,
            config.batch,
            config.batch // config.accumulate,
        )
    return config.batch // parts


def warn_of_long_average(config: TrainingConfig, total: int) -> None:
    """Where a moving average would be, for a good part, of what the training began with."""
    if config.ema is not None and 1 / (1 - config.ema) > total / 10:
        window = 1 / (1 - config.ema)
        logger.warning(
            "ema=%g averages over about %.0f of %d steps, and %.1f%% of it is what the training began with: "
            "at most 1 - 10 / steps is advised",
            *(config.ema, window, total, 100 * config.ema**total),
        )


def make_folder(config: TrainingConfig) -> None:
    """Makes `out`, or hours of work could not be saved. Raises ConfigError."""
    try:
        Path(config.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"out={config.out} cannot be made ({error.strerror}): name another folder"
        ) from error


def build_state(config: TrainingConfig, processes: Processes) -> TrainingState:
    """The state to begin with or to go on from. Raises CheckpointError."""
    torch.manual_seed(config.seed)
    network = build_network(config.model)
    if config.init:
        load_backbone(network.backbone, Path(config.init))
    if config.start:
        load_weights(network, config.start)
    if processes.count > 1:
        synchronise_batch_norm(network, processes.device)
    network = network.to(processes.device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if processes.rank:
        torch.manual_seed(config.seed + (processes.rank << 32))  # or all would drop the same features

    average = None if config.ema is None else build_average(network, config.ema)
    train_list = file_sha256(Path(config.data.root) / config.data.train_list)
    state = TrainingState(network, build_optimizer(network, config), 0, average, train_list)
    if config.checkpoint.is_file():
        load_state(state, config.checkpoint, config, rank=processes.rank, count=processes.count)
        logger.info("going on from iteration %d of %s", state.iteration, config.checkpoint)
    return state


def build_model(state: TrainingState, config: TrainingConfig, processes: Processes) -> nn.Module:
    """The state's network as a step calls it. Every process comes here, or none does.

    Raises CheckpointError where not all go on from the same step.
    """
    if len(set(processes.gather(state.iteration))) > 1:
        raise CheckpointError(f"{config.checkpoint} must lie where every process sees it: give another `out`")
    model: nn.Module = state.network
    if processes.count > 1:
        model = _distributed(state.network, processes.device)
    if config.compile:
        model.compile(dynamic=False)  # in place: the keys of the weights stay
    return model


def _distributed(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    # Synchronised batch norm keeps the buffers alike by itself. PyTorch 2.13 has a new word for it.
    known = inspect.signature(DistributedDataParallel).parameters
    unsynchronised = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {unsynchronised: False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(network, [device] if device.type == "cuda" else None, **options)
