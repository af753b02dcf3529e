"""Functions of images on a GPU as CUDA graphs: one launch in place of some hundred.

A graph holds for one shape, and for the memory that it was captured with. Not here: which functions, and when
(`gpu_network.py`); TensorRT's plans (`graphs.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WARM_UPS, TIMINGS = 3, 5

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Captured:
    """A function as a graph, which reads `images` and writes `logits`."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    logits: Tensor

    def run(self) -> Tensor:
        """What it makes of `images`, until any graph of the same `CudaGraphs` runs."""
        self.graph.replay()
        return self.logits


class CudaGraphs:
    """Graphs of one GPU that take turns, and so share the memory that they work in. Not for several threads
    at once."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, None
        self._done = torch.cuda.Event()

    def capture(self, forward: Forward, images: Tensor) -> Captured:
        """Runs it until it is warm, with cuDNN choosing its algorithms by time, and captures it."""
        kept = images.clone()
        current, side = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        by_time = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    forward(kept)
            current.wait_stream(side)
            graph: Any = torch.cuda.CUDAGraph()
            # Other threads may use the GPU in the meantime.
            with torch.cuda.graph(graph, self._pool, side, capture_error_mode="thread_local"):
                logits = forward(kept)
        finally:
            torch.backends.cudnn.benchmark = by_time
        self._pool = graph.pool()
        return Captured(graph, kept, logits)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """For the use of a graph and of what it has written, on the caller's stream: after the one before,
        whichever stream that was on."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._done)
        try:
            yield
        finally:
            self._done.record(stream)

    def seconds(self, run: Callable[[], object]) -> float:
        """The least that the GPU takes for it."""
        times: list[float] = []
        for _ in range(TIMINGS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(torch.cuda.current_stream(self._device))
            run()
            end.record(torch.cuda.current_stream(self._device))
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
        return min(times)

    def settle(self) -> None:
        """Waits until the GPU has nothing left to do, and throws what went wrong on it."""
        torch.cuda.synchronize(self._device)
