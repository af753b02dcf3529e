"""What a training begins with: how a step is divided, the network, its optimizer and average.

Not here: reading the configuration (`config.py`) or the images (`dataset.py`).

    state = build_state(config, processes); model = build_model(state, config, processes)
"""

import logging
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.checkpoint import CheckpointError, load_backbone, load_weights
from models.config import ConfigError
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
    if config.accumulate > 1 and processes.first:
        logger.warning(
            "accumulate=%d: gradients are those of %d images, batch norm's statistics those of %d",
            config.accumulate,
            config.batch,
            config.batch // config.accumulate,
        )
    return config.batch // parts


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
    state = TrainingState(network, build_optimizer(network, config), iteration=0, average=average)
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
        devices = [processes.device] if processes.device.type == "cuda" else None
        # Synchronised batch norm keeps the buffers alike by itself.
        model = DistributedDataParallel(
            state.network, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
    if config.compile:
        model.compile(dynamic=False)  # in place: the keys of the weights stay
    return model
