"""A worker in the service's own process, for predictors that a program has made itself: tests, notebooks.

What hangs or crashes in it takes the service along; `python -m service` has processes (`processes.py`).
"""

import asyncio
import contextvars
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from service.dispatch import Done
from service.tasks import Answer, Job, Uses
from service.tickets import Ticket
from service.workbench import Workbench


class LocalWorker:
    """A `Worker` (`dispatch.py`) of threads around a workbench. workers: threads, None for what it needs."""

    name = "local"

    def __init__(self, bench: Workbench, workers: int | None = None) -> None:
        self._bench = bench
        self.models, self.workers = bench.models, workers or bench.at_once
        self._tickets: dict[int, Ticket] = {}
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="psanet-job")

    def start(self, job: Job, done: Done) -> None:
        """See `Worker.start`."""
        loop = asyncio.get_running_loop()
        ticket = self._tickets[job.number] = Ticket(job.remaining_s)

        def finish(work: Future[Answer]) -> None:
            del self._tickets[job.number]
            error = work.exception()
            done(error if isinstance(error, Exception) else work.result())

        def ended(work: Future[Answer]) -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(finish, work)

        work = self._pool.submit(contextvars.copy_context().run, self._bench.do, job, ticket)
        work.add_done_callback(ended)

    def cancel(self, number: int) -> None:
        """See `Worker.cancel`."""
        if (ticket := self._tickets.get(number)) is not None:
            ticket.give_up()

    def take_uses(self) -> Uses:
        """What the engines did since this was asked last."""
        return self._bench.take_uses()

    def close(self) -> None:
        """Give up what runs, and let the engines go."""
        for ticket in self._tickets.values():
            ticket.give_up()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._bench.close()
