"""Seconds that a device spends between two points of its stream; the host's clock sees only the asking.

clock = DeviceClock(device)
with clock: logits = engine.infer(images)
clock.seconds()
"""

from types import TracebackType

import torch


class DeviceClock:
    """Sums the time of `with` blocks on the current stream of a GPU.

    ahead: blocks that may be unfinished when another begins, so that a caller who gives up is heard.
    """

    def __init__(self, device: torch.device, *, ahead: int = 2) -> None:
        self._device, self._ahead = device, ahead
        self._open: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def __enter__(self) -> "DeviceClock":
        while len(self._open) >= self._ahead:
            self._settle()
        start, end = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))
        start.record(torch.cuda.current_stream(self._device))
        self._open.append((start, end))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open[-1][1].record(torch.cuda.current_stream(self._device))

    def seconds(self) -> float:
        """Of all blocks so far; waits for the last."""
        while self._open:
            self._settle()
        return self._seconds

    def _settle(self) -> None:
        start, end = self._open.pop(0)
        end.synchronize()
        self._seconds += start.elapsed_time(end) / 1000
