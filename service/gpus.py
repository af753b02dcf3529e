"""How busy and how full the GPUs are, by NVIDIA's management library, where it is installed (nvidia-ml-py).

The one module that imports it. Without it, or without a driver, there are simply no such numbers.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuState:
    """One GPU. index: its number in the machine; busy: share of the last moment that kernels ran in;
    by_process: bytes of its memory by process id, as far as the driver tells."""

    index: int
    name: str
    busy: float | None
    used_bytes: int
    total_bytes: int
    by_process: dict[int, int]


class Gpus:
    """All GPUs of the machine. Made by `find_gpus`."""

    def __init__(self, library: Any, handles: list[Any]) -> None:
        self._library, self._handles = library, handles

    def states(self) -> Iterator[GpuState]:
        """How they are now; one that does not answer is left out."""
        library = self._library
        for index, handle in enumerate(self._handles):
            try:
                memory = library.nvmlDeviceGetMemoryInfo(handle)
                yield GpuState(
                    index=index,
                    name=_text(library.nvmlDeviceGetName(handle)),
                    busy=self._busy(handle),
                    used_bytes=int(memory.used),
                    total_bytes=int(memory.total),
                    by_process=self._by_process(handle),
                )
            except library.NVMLError as error:
                logger.debug("GPU %d does not answer: %s", index, error)

    def _busy(self, handle: Any) -> float | None:
        try:
            return float(self._library.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except self._library.NVMLError:  # a part of a GPU (MIG) has no such number
            return None

    def _by_process(self, handle: Any) -> dict[int, int]:
        try:
            processes = self._library.nvmlDeviceGetComputeRunningProcesses(handle)
        except self._library.NVMLError:
            return {}
        return {int(each.pid): int(each.usedGpuMemory or 0) for each in processes}


def find_gpus() -> Gpus | None:
    """The GPUs, None where the library or the driver is missing. Takes a moment; not for the event loop."""
    try:
        import pynvml
    except ImportError:
        logger.info("no metrics of GPUs: nvidia-ml-py is not installed (pip install '.[gpu]')")
        return None
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return Gpus(pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)])
    except pynvml.NVMLError as error:
        logger.warning("no metrics of GPUs: %s", error)
        return None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
