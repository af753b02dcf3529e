"""The gradients of one optimizer step, whole or in parts, in one process or in many.

losses = gradients(model, [(images, labels)], objective, config, Processes(torch.device("cpu")))
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.config import TrainingConfig
from training.distributed import Processes
from training.objective import Objective
from training.optimization import valid_pixels

Part = tuple[Tensor, Tensor]


def grouped(batches: Iterator[Part], size: int) -> Iterator[list[Part]]:
    """The parts of one step after another."""
    for first in batches:
        yield [(first[0], first[1]), *(next(batches) for _ in range(size - 1))]


def gradients(
    model: nn.Module,
    parts: Sequence[Part],
    objective: Objective,
    config: TrainingConfig,
    processes: Processes,
) -> Tensor:
    """Adds the gradients of a step's parts; returns this process's part of the total, the main and the
    auxiliary loss, (3,), on the CPU. config: its precision is decided (`numerics.decided`).

    The loss is the mean over the valid pixels of all parts in all processes, so that how a step is divided
    changes nothing but, with several parts, batch statistics.
    """
    device = processes.device
    labels = [truth.to(device, non_blocking=True) for _, truth in parts]
    pixels = processes.sum(torch.stack([valid_pixels(truth) for truth in labels]).sum()).clamp(min=1)
    losses = torch.zeros(3, device=device)
    known = HostCopy(losses)
    for number, ((images, _), truth) in enumerate(zip(parts, labels, strict=True), 1):
        images = images.to(device, non_blocking=True)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        waits = isinstance(model, DistributedDataParallel) and number < len(parts)
        with model.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(config.bf16)):
                logits = model(images)
                loss = objective(logits, images, truth, pixels)
            losses += torch.stack([loss.total.detach(), loss.main, loss.aux])
            if number == len(parts):
                known.begin()
            # DistributedDataParallel gives the mean of the processes' gradients; theirs is to be a sum.
            (loss.total * processes.count if processes.count > 1 else loss.total).backward()
    return known.value()


class HostCopy:
    """A tensor's value on the CPU, as of `begin`, without waiting for what the GPU was given since: while it
    computes gradients, the next commands can be prepared."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        on_gpu = tensor.device.type == "cuda"
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None

    def begin(self) -> None:
        """Notes the value that the tensor has by now."""
        self._host.copy_(self._tensor, non_blocking=True)
        if self._copied is not None:  # on the tensor's GPU, which need not be the current one
            self._copied.record(torch.cuda.current_stream(self._tensor.device))

    def value(self) -> Tensor:
        """Waits until it has come."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host
