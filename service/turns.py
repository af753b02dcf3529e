"""Whose images go into the next engine call: requests take turns by the pixels that they have had.

Start-time fair queueing (P. Goyal, H. Vin, H. Cheng 1996): of those who wait, the one that has been served
least is next; whoever comes new, or comes back, begins where the least served one is. So a panorama of a
thousand windows and a thumbnail of one take turns from the thumbnail's first window on, and nobody saves up
turns while he does something else. Not here: threads and calls (`batching.py`).
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.arrays import Array
from inference.engines import Engine


@dataclass(eq=False)
class Turn:
    """One request's standing. served: pixels that went into calls, from where it began."""

    served: float = 0.0


@dataclass(eq=False)
class Demand:
    """What one request asks of an engine. call: what it asks; limit: images in a call at most; alone: all of
    it at once, and nothing of others with it; taken, left: images that are in calls, and that have no answer
    yet; settled: set once there is nothing more to wait for."""

    model: str
    engine: Engine
    call: Callable[[Array], Any]
    images: Array
    limit: int
    turn: Turn
    left: int
    alone: bool = False
    since: float = field(default_factory=time.monotonic)
    taken: int = 0
    pieces: list[Any] = field(default_factory=list)
    error: Exception | None = None
    settled: threading.Event = field(default_factory=threading.Event)

    @property
    def kind(self) -> tuple[object, ...]:
        """Images of one kind may share a call."""
        return (self,) if self.alone else (self.engine, *self.images.shape[1:])

    def settle(self, error: Exception | None = None) -> None:
        """Wake who waits for it."""
        self.error = self.error or error
        self.settled.set()


Part = tuple[Demand, int, int]
"""Images [start, stop) of a demand."""


class Line:
    """Those who wait. Not for several threads at once."""

    def __init__(self) -> None:
        self._demands: list[Demand] = []
        self.clock = 0.0
        """How much the least served one has had."""

    def __len__(self) -> int:
        return len(self._demands)

    def join(self, demand: Demand) -> None:
        """Wait from now on. Time that was spent elsewhere earns no credit."""
        demand.turn.served = max(demand.turn.served, self.clock)
        self._demands.append(demand)

    def leave(self, demand: Demand) -> bool:
        """Wait no more; whether it did."""
        if demand not in self._demands:
            return False
        self._demands.remove(demand)
        return True

    def clear(self) -> list[Demand]:
        """Send everybody away; who that was."""
        demands, self._demands = self._demands, []
        return demands

    def full(self) -> bool:
        """Whether those who wait fill the next call."""
        lead = _least(self._demands)
        alike = (demand for demand in self._demands if demand.kind == lead.kind)
        return sum(len(demand.images) - demand.taken for demand in alike) >= lead.limit

    @property
    def requests(self) -> int:
        """Requests that wait."""
        return len({id(demand.turn) for demand in self._demands})

    @property
    def waiting_s(self) -> float:
        """For how long the next one has waited."""
        return time.monotonic() - _least(self._demands).since

    def choose(self) -> list[Part]:
        """Take the images of the next call out of the line: of one kind, one by one in turn."""
        lead = _least(self._demands)
        self.clock = max(self.clock, lead.turn.served)
        alike = [demand for demand in self._demands if demand.kind == lead.kind]
        starts = [demand.taken for demand in alike]
        pixels = math.prod(lead.images.shape[2:])
        for _ in range(lead.limit):
            open_ones = [demand for demand in alike if demand.taken < len(demand.images)]
            if not open_ones:
                break
            chosen = _least(open_ones)
            chosen.taken += 1
            chosen.turn.served += pixels
        self._demands = [demand for demand in self._demands if demand.taken < len(demand.images)]
        parts = zip(alike, starts, strict=True)
        return [(demand, start, demand.taken) for demand, start in parts if demand.taken > start]


def _least(demands: Sequence[Demand]) -> Demand:
    """Of the request that has been served least; of several, the one that came first."""
    return min(demands, key=lambda demand: demand.turn.served)
