"""Which request is worked on next, and where: a bounded queue in front of the workers.

A request is refused at once, or gets exactly one outcome: the answer, its error, a deadline, or the news that
its client has gone or its worker has ended.

- The queue is bounded in requests, in windows, and in time: who could not be served before the deadline, by
  the pace of the last minutes, is told so at once, and when to come back.
- Next is whose arrival plus own work comes first: short requests pass long ones, and nobody is passed by
  what came later than as long as his own work takes.
- Long requests hold at most half of a worker's places, so that a short one always finds one soon. Once at
  work, their windows take turns (`batching.py`).
- Of several workers, the one with the least work gets it.

Not here: how a worker does it (`local.py`, `processes.py`). Lives in one event loop.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from inference.errors import PredictionCancelled
from service.errors import ClientGoneError, Problem
from service.hosted import HostedModel
from service.pace import Pace
from service.tasks import Answer, Job, Order

LONG_S = 1.0
"""Of engine time: a request of more is a long one."""
_LONGEST_RETRY_S = 60.0
_CAREFUL = 0.8
"""Of the deadline, how much a request may be expected to take: by then the machine may be slower."""

Done = Callable[[Answer | Exception], None]
"""Told once how a job ended, in the event loop."""


class Worker(Protocol):
    """Who does jobs. name: the device, for people; workers: jobs that it takes at the same time, 0 once it
    has ended."""

    @property
    def name(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def models(self) -> tuple[HostedModel, ...]: ...

    def start(self, job: Job, done: Done) -> None:
        """Begin, without waiting. `done` is called in any case, also where the worker ends before the job."""

    def cancel(self, number: int) -> None:
        """Give a job up; it still ends by its `done`."""


@dataclass(eq=False)
class _Place:
    """A worker that takes jobs, and what it is doing."""

    worker: Worker
    running: set["_Entry"] = field(default_factory=set)

    @property
    def load_s(self) -> float:
        return sum(entry.cost_s for entry in self.running)

    def takes(self, cost_s: float) -> bool:
        """Whether a request of that much work may start here now."""
        if len(self.running) >= self.worker.workers:
            return False
        long = sum(entry.cost_s > LONG_S for entry in self.running)
        return cost_s <= LONG_S or long < max(1, self.worker.workers // 2)


@dataclass(eq=False)
class _Entry:
    """A request that was accepted. cost_s: engine time that it will take, about."""

    number: int
    order: Order
    cost_s: float
    deadline_s: float
    outcome: asyncio.Future[Answer]
    arrived: float = field(default_factory=time.monotonic)
    place: _Place | None = None
    given_up: bool = False

    @property
    def remaining_s(self) -> float:
        return max(0.0, self.arrived + self.deadline_s - time.monotonic())

    def end(self, outcome: Answer | Exception) -> None:
        """Settle it; the first outcome stands."""
        if self.outcome.done():
            return
        if isinstance(outcome, Answer):
            self.outcome.set_result(outcome)
        else:
            self.outcome.set_exception(outcome)
            self.outcome.exception()  # seen, if by nobody


class Dispatcher:
    """queue_size, queue_windows: requests and windows that may wait; deadline_s: of waiting and work.

    finished: jobs that have ended.
    """

    def __init__(self, *, queue_size: int, queue_windows: int, deadline_s: float) -> None:
        self._queue_size, self._queue_windows, self._deadline_s = queue_size, queue_windows, deadline_s
        self._numbers = itertools.count(1)
        self._places: list[_Place] = []
        self._waiting: set[_Entry] = set()
        self._running: set[_Entry] = set()
        self._window_s: dict[str, float] = {}
        self._pace = Pace()
        self.finished = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def waiting_windows(self) -> int:
        """Windows of the requests in the queue."""
        return sum(entry.order.windows for entry in self._waiting)

    @property
    def running(self) -> int:
        """Requests that workers are busy with, given-up ones too until that is noticed."""
        return len(self._running)

    @property
    def workers(self) -> int:
        """Workers that take jobs."""
        return len(self._places)

    def attach(self, worker: Worker) -> None:
        """Let a worker take jobs."""
        self._window_s |= {model.info.name: model.window_s for model in worker.models}
        self._places.append(_Place(worker))
        self._start_what_can()

    def detach(self, worker: Worker) -> None:
        """Give it no more; what it is doing goes on."""
        self._places = [place for place in self._places if place.worker is not worker]

    def refuse_when_full(self, model: str = "", windows: int = 0) -> None:
        """Raise the 503 problem if a request that came now would find no room, or no time."""
        cost_s = self._cost_s(model, windows)
        if any(place.takes(cost_s) for place in self._places) and not self._waiting:
            return
        wait_s, work_s = self.wait_s, self._pace.seconds(cost_s)
        if self.waiting >= self._queue_size:
            detail = f"{self.waiting} requests are waiting already"
        elif self._waiting and self.waiting_windows + windows > self._queue_windows:
            detail = f"{self.waiting_windows} windows are waiting already, and this would be {windows} more"
        elif wait_s + work_s > _CAREFUL * self._deadline_s:
            detail = (
                f"it would take about {wait_s + work_s:.1f} of the {self._deadline_s:g} s that are allowed"
            )
        else:
            return
        raise Problem(
            503,
            "queue_full",
            f"{detail[0].upper()}{detail[1:]}: try again after the time in Retry-After.",
            title="Too busy",
            retry_after_s=min(_LONGEST_RETRY_S, wait_s),
        )

    @property
    def wait_s(self) -> float:
        """How long a request that came now would wait, about."""
        backlog = itertools.chain(self._waiting, self._running)
        return self._pace.seconds(sum(entry.cost_s for entry in backlog))

    async def run(self, order: Order, gone: Coroutine[Any, Any, None]) -> Answer:
        """Have it done; returns the answer or raises the job's error.

        gone: ends when the client has closed the connection. Raises Problem 503 (queue full, draining, the
        worker ended) or 504 (deadline), ClientGoneError.
        """
        try:
            self.refuse_when_full(order.model, order.windows)
        except Problem:
            gone.close()
            raise
        entry = self._line_up(order)
        watch = asyncio.ensure_future(gone)
        try:
            events: set[asyncio.Future[Any]] = {entry.outcome, watch}
            timeout = entry.remaining_s
            await asyncio.wait(events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if entry.outcome.done():
                return entry.outcome.result()
            raise ClientGoneError if watch.done() else deadline_problem(self._deadline_s)
        except PredictionCancelled:  # the worker's clock was a little faster
            raise deadline_problem(self._deadline_s) from None
        finally:
            watch.cancel()
            self._give_up(entry, ClientGoneError())

    def give_up_all(self) -> None:
        """Let everything that waits or runs end with the 503 of a service that is shutting down."""
        for entry in [*self._waiting, *self._running]:
            self._give_up(entry, draining_problem())

    def give_up_waiting(self) -> None:
        """Let everything that waits end with the 503 of a service that cannot start a worker."""
        for entry in list(self._waiting):
            self._give_up(entry, no_worker_problem())

    def _cost_s(self, model: str, windows: int) -> float:
        return self._window_s.get(model, 0.0) * windows

    def _line_up(self, order: Order) -> _Entry:
        if not self._waiting and not self._running:
            self._pace.begin()
        outcome: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        cost_s = self._cost_s(order.model, order.windows)
        entry = _Entry(next(self._numbers), order, cost_s, self._deadline_s, outcome)
        self._waiting.add(entry)
        self._start_what_can()
        return entry

    def _give_up(self, entry: _Entry, outcome: Exception) -> None:
        """Settle a request, if nothing has yet, and let go of what is still to be done for it."""
        entry.end(outcome)
        self._waiting.discard(entry)
        if entry in self._running and entry.place is not None and not entry.given_up:
            entry.given_up = True
            entry.place.worker.cancel(entry.number)

    def _start_what_can(self) -> None:
        for entry in sorted(self._waiting, key=lambda entry: entry.arrived + entry.cost_s):
            places = [place for place in self._places if place.takes(entry.cost_s)]
            if places:
                self._start(entry, min(places, key=lambda place: (place.load_s, len(place.running))))
            elif all(len(place.running) >= place.worker.workers for place in self._places):
                break

    def _start(self, entry: _Entry, place: _Place) -> None:
        entry.place = place
        self._waiting.discard(entry)
        self._running.add(entry)
        place.running.add(entry)
        job = Job(
            number=entry.number,
            order=entry.order,
            remaining_s=entry.remaining_s,
            queue_s=time.monotonic() - entry.arrived,
        )
        place.worker.start(job, lambda outcome: self._ended(entry, place, outcome))

    def _ended(self, entry: _Entry, place: _Place, outcome: Answer | Exception) -> None:
        self.finished += 1
        self._running.discard(entry)
        place.running.discard(entry)
        if isinstance(outcome, Answer):
            self._pace.count(entry.cost_s)
        entry.end(outcome)
        self._start_what_can()


def draining_problem() -> Problem:
    """The answer to whoever asks for work while the service is shutting down."""
    detail = "The service is shutting down: ask again in a moment, another instance will answer."
    return Problem(503, "draining", detail, title="Shutting down", retry_after_s=5)


def no_worker_problem() -> Problem:
    """The answer to whoever asks for work while there is nobody to do it, and no one can be started."""
    detail = "No worker could be started just now: try again later; the service's log says why."
    return Problem(503, "no_worker", detail, title="Not ready", retry_after_s=10)


def deadline_problem(deadline_s: float) -> Problem:
    """The answer to a request that was not done in time."""
    detail = (
        f"The request was not done after {deadline_s:g} s of waiting and work (PSANET_DEADLINE_S): "
        "ask for fewer scales, no flip or a smaller image, or try again when the service is less busy."
    )
    return Problem(504, "deadline", detail, title="Deadline passed")
