"""Seconds inside an engine, by the clock of what it runs on.

clock = engine_clock(like)  # an array of the kind that the engine takes
with clock: logits = engine.infer(images)
"""

import time
from types import TracebackType
from typing import Protocol

from array_api_compat import is_numpy_array

from inference.arrays import Array


class EngineClock(Protocol):
    """Sums the seconds of `with` blocks."""

    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def seconds(self) -> float:
        """Of all blocks so far."""


class HostClock:
    """For calls that have done their work when they return."""

    def __init__(self) -> None:
        self._seconds = self._started = 0.0

    def __enter__(self) -> "HostClock":
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seconds += time.perf_counter() - self._started

    def seconds(self) -> float:
        """See `EngineClock`."""
        return self._seconds


def engine_clock(like: Array) -> EngineClock:
    """The clock for an engine that takes arrays like that one."""
    if is_numpy_array(like) or like.device.type == "cpu":
        return HostClock()
    from inference.device.clock import DeviceClock

    return DeviceClock(like.device)
