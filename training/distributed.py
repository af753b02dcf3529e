"""The processes that share one training, started by torchrun; a single one is the ordinary case.

Not here: how batch norm sees the images of all (`syncbn.py`), which images a process takes (`dataset.py`).

    torchrun --nproc-per-node 8 -m training.train --config training/configs/ade20k_psanet50.yaml
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from models.config import ConfigError
from training.signals import InterruptedTraining

# Waiting for the first process to evaluate may take hours; one that died is noticed at once all the same.
_PATIENCE: Final = timedelta(days=2)


Item = TypeVar("Item")


class ElsewhereError(Exception):
    """What ended the training was told by another process: exit with `exit_code`, without a word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` of `count`, and its device."""

    device: torch.device
    rank: int = 0
    count: int = 1
    _patient: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks, saves and evaluates."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of the processes' tensors of one shape, in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def agree(self, values: Tensor, signum: int) -> tuple[list[float], int]:
        """Sums of the processes' (n,) float values, and the largest signal number: the same for all."""
        if self.count == 1:
            return values.tolist(), signum
        own = torch.cat([values, torch.tensor([signum], dtype=values.dtype)]).to(self.device)
        everyones = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(everyones, own)
        *columns, signals = zip(*torch.stack(everyones).tolist(), strict=True)
        return [sum(column) for column in columns], int(max(signals))

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks. Waits for all, however long one works."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        dist.all_gather_object(values, value, group=self._patient)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails inside in one process fails in all: there ElsewhereError, so that one speaks."""
        failure: BaseException | None = None
        try:
            yield
        except (Exception, InterruptedTraining) as error:
            failure = error
        codes = self.gather(0 if failure is None else getattr(failure, "exit_code", 2))
        failed = [rank for rank, code in enumerate(codes) if code]
        if failure is not None and failed[0] == self.rank:
            raise failure
        if failed:
            raise ElsewhereError(codes[failed[0]])

    def each(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items, of which no process gets one more where another fails to make its own."""
        while True:
            with self.together():
                item = next(items, None)
            if item is None:
                return
            yield item


@contextmanager
def open_processes(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started, or none; gives each its GPU, `device` being auto or cuda.

    Raises ConfigError for a device that is not there.
    """
    rank, count, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if count <= 1:
        yield Processes(choose_device(device))
        return
    if ":" in device:
        raise ConfigError(f"device={device} is one GPU for all processes: device=cuda gives each its own")
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        rank=rank,
        world_size=count,
        device_id=chosen if chosen.type == "cuda" else None,
    )
    # After an exception the group is left as it is: the others may never come to take leave.
    yield Processes(chosen, rank, count, dist.new_group(backend="gloo", timeout=_PATIENCE))
    dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """The device of that name, for auto the GPU if there is one; ConfigError for a GPU that is not there."""
    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        raise ConfigError(f"device is auto, cpu, cuda or cuda:N, not {name!r}") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"PyTorch finds {count} GPUs here, so device {name} cannot be used: device=cpu can")
    return device


def who() -> str:
    """This process for the head of a message: nothing where there is one alone."""
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return "" if count == "1" else f"process {rank} of {count}: "


def speaks() -> bool:
    """Whether this process, of those that torchrun started, is the one that logs and prints."""
    return os.environ.get("RANK", "0") == "0"
