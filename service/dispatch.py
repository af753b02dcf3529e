"""A bounded queue in front of a few threads, with a deadline and a way to give work up.

Not a batcher and not a model: it runs whatever it is given. A request is either refused at once, or gets
exactly one outcome: the work's result, its error, a deadline, or the news that its client has gone.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from inference.errors import PredictionCancelled
from service.errors import ClientGoneError, Problem

T = TypeVar("T")
Reason = Literal["client", "deadline", "draining"]

_FIRST_GUESS_S = 1.0
_LONGEST_RETRY_S = 60.0


class Ticket:
    """One request's right to go on working. `check` may be called from any thread, as often as one likes."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._arrived = time.monotonic()
        self._expires = self._arrived + deadline_s
        self._reason: Reason | None = None
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue_s = 0.0

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, never below 0."""
        return max(0.0, self._expires - time.monotonic())

    def start(self) -> None:
        """Note that waiting is over."""
        self.queue_s = time.monotonic() - self._arrived

    def give_up(self, reason: Reason) -> None:
        """Let the next `check` fail. Called in the event loop; the first reason stands."""
        self._reason = self._reason or reason
        if not self.given_up.done():
            self.given_up.set_result(None)

    def check(self) -> None:
        """Raise PredictionCancelled once the work was given up or its deadline has passed."""
        if self._reason is None and time.monotonic() >= self._expires:
            self._reason = "deadline"
        if self._reason is not None:
            raise PredictionCancelled(self._reason)

    def outcome(self) -> Exception:
        """What the request gets instead of a result."""
        match self._reason:
            case "client":
                return ClientGoneError()
            case "draining":
                return draining_problem()
        detail = (
            f"The request was not done after {self._deadline_s:g} s of waiting and work (PSANET_DEADLINE_S): "
            "ask for fewer scales, no flip or a smaller image, or try again when the service is less busy."
        )
        return Problem(504, "deadline", detail, title="Deadline passed")


def draining_problem() -> Problem:
    """The answer to whoever asks for work while the service is shutting down."""
    detail = "The service is shutting down: ask again in a moment, another instance will answer."
    return Problem(503, "draining", detail, title="Shutting down", retry_after_s=5)


class WorkerPool:
    """At most `workers` pieces of work at a time, at most `queue_size` waiting, first come first served.

    Lives in one event loop; only the work itself runs elsewhere. finished: pieces of work that have ended.
    """

    def __init__(self, workers: int, queue_size: int, deadline_s: float) -> None:
        self._workers = workers
        self._queue_size = queue_size
        self._deadline_s = deadline_s
        self._queue: deque[asyncio.Future[None]] = deque()
        self._running = 0
        self.finished = 0
        self._tickets: set[Ticket] = set()
        self._mean_s = _FIRST_GUESS_S
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="psanet-worker")

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Workers that are busy, with given-up work too until it notices."""
        return self._running

    def refuse_when_full(self) -> None:
        """Raise the 503 problem if a request that came now would find no room."""
        if self._running >= self._workers and self.waiting >= self._queue_size:
            wait_s = min(_LONGEST_RETRY_S, self._mean_s * (self.waiting + 1) / self._workers)
            detail = f"{self.waiting} requests are waiting already: try again after the time in Retry-After."
            raise Problem(503, "queue_full", detail, title="Too busy", retry_after_s=wait_s)

    async def run(self, work: Callable[[Ticket], T], gone: Coroutine[Any, Any, None]) -> T:
        """Wait for a worker, run `work` on it, return what it returns or raise what it raises.

        work: gets the request's ticket and is expected to call `ticket.check` between its steps.
        gone: ends when the client has closed the connection.
        Raises Problem 503 (queue full, draining) or 504 (deadline), ClientGoneError.
        """
        try:
            self.refuse_when_full()
        except Problem:
            gone.close()
            raise
        ticket = Ticket(self._deadline_s)
        turn = self._line_up()
        watch = asyncio.ensure_future(gone)
        self._tickets.add(ticket)
        submitted = False
        try:
            await self._first_of(turn, watch, ticket)
            result = self._submit(work, ticket)
            submitted = True
            return await self._first_of(result, watch, ticket)
        finally:
            ticket.give_up(
                "client"
            )  # for the case that this task itself was cancelled; else too late to matter
            self._tickets.discard(ticket)
            watch.cancel()
            if not submitted:
                self._leave(turn)

    def give_up_all(self) -> None:
        """Let everything that waits or runs end with the 503 of a service that is shutting down."""
        for ticket in list(self._tickets):
            ticket.give_up("draining")

    def close(self) -> None:
        """Take no more work; do not wait for what is running."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _first_of(self, target: asyncio.Future[T], watch: asyncio.Future[None], ticket: Ticket) -> T:
        events: set[asyncio.Future[Any]] = {target, watch, ticket.given_up}
        await asyncio.wait(events, timeout=ticket.remaining_s, return_when=asyncio.FIRST_COMPLETED)
        if target.done():
            try:
                return target.result()
            except PredictionCancelled:
                raise ticket.outcome() from None
        ticket.give_up("client" if watch.done() else "deadline")
        raise ticket.outcome()

    def _line_up(self) -> asyncio.Future[None]:
        turn = asyncio.get_running_loop().create_future()
        if self._running < self._workers:
            self._running += 1
            turn.set_result(None)
        else:
            self._queue.append(turn)
        return turn

    def _leave(self, turn: asyncio.Future[None]) -> None:
        if turn.done():  # it was this request's turn in the very moment that it gave up
            self._next()
        else:
            self._queue.remove(turn)

    def _next(self) -> None:
        if self._queue:
            self._queue.popleft().set_result(None)  # the worker goes from hand to hand
        else:
            self._running -= 1

    def _submit(self, work: Callable[[Ticket], T], ticket: Ticket) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        ticket.start()
        started = time.monotonic()

        def finished() -> None:
            self.finished += 1
            self._mean_s += 0.2 * (time.monotonic() - started - self._mean_s)
            self._next()

        def done(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(finished)

        future = self._executor.submit(contextvars.copy_context().run, work, ticket)
        future.add_done_callback(done)
        result = asyncio.wrap_future(future)
        result.add_done_callback(
            lambda given_up: given_up.cancelled() or given_up.exception()
        )  # seen, if by nobody
        return result
