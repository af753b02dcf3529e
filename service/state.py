"""What the parts of one app share, and the life of the service: loading, ready, draining, done."""

import asyncio
import logging
from contextlib import suppress
from threading import Thread

from service import memory
from service.errors import Problem
from service.hosting import HostingError, Models, open_predictors
from service.metrics import Metrics
from service.settings import Settings
from service.uploads import Buffers
from service.workers import WorkerPool, draining_problem

_TIDY_EVERY_S = 5.0
_TIDY_AT_LEAST_EVERY_S = 60.0

logger = logging.getLogger(__name__)


class Service:
    """One app's state. Belongs to one event loop."""

    def __init__(self, settings: Settings, models: Models | None = None) -> None:
        self.settings = settings
        self.models = models or Models()
        self.pool = WorkerPool(settings.workers, settings.queue_size, settings.deadline_s)
        self.buffers = Buffers(settings.max_buffered_bytes)
        self.metrics = Metrics()
        self.in_progress = 0
        self.draining = False
        self.loading = False
        self.failure: str | None = None
        watch = self.metrics.watch
        watch(
            "psanet_requests_in_progress",
            "Requests being received, worked on or answered.",
            self._in_progress,
        )
        watch("psanet_queue_depth", "Requests waiting for a worker.", lambda: self.pool.waiting)
        watch("psanet_workers_busy", "Workers at work.", lambda: self.pool.running)
        watch("psanet_buffered_bytes", "Bytes of bodies held.", lambda: self.buffers.held)
        watch("psanet_ready", "1 when work is taken.", lambda: self.ready)
        self._announce()

    @property
    def ready(self) -> bool:
        """Whether requests for work are taken."""
        return len(self.models) > 0 and not self.draining

    def start_loading(self) -> None:
        """Open the configured models in a thread. A failure is kept in `failure`, which ends the server.

        The thread is a daemon: building an engine can take minutes, and a signal must not wait for it.
        """
        self.loading = True
        loop = asyncio.get_running_loop()
        Thread(target=self._load, args=(loop,), name="psanet-loading", daemon=True).start()

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        loaded, failure = Models(), None
        try:
            loaded = Models(open_predictors(self.settings))
        except Exception as error:
            if not isinstance(error, HostingError):
                logger.exception("loading the models failed")
            failure = str(error) or type(error).__name__
        with suppress(
            RuntimeError
        ):  # the loop has been closed meanwhile: nobody waits for the models any more
            loop.call_soon_threadsafe(self._loaded, loaded, failure)

    def _loaded(self, models: Models, failure: str | None) -> None:
        self.loading, self.models, self.failure = False, models, failure
        self._announce()

    def refuse_unless_open(self) -> None:
        """Raise the 503 problem while models are being loaded and once the service drains."""
        if self.draining:
            raise draining_problem()
        if not len(self.models):
            detail = "The models are still being loaded: try again in a moment; /readyz says when."
            raise Problem(503, "not_ready", detail, title="Not ready", retry_after_s=2)

    def refuse_unless_ready(self) -> None:
        """Raise the problem that keeps a request out before its body is read: not open, or no room."""
        self.refuse_unless_open()
        self.pool.refuse_when_full()

    def begin_drain(self) -> None:
        """Take no new work; what was accepted goes on."""
        self.draining = True

    async def tidy(self) -> None:
        """For ever: give back memory that requests have left free, soon after the last or once in a while."""
        seen, since = self.pool.finished, 0.0
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            since += _TIDY_EVERY_S
            if self.pool.finished > seen and (self.pool.running == 0 or since >= _TIDY_AT_LEAST_EVERY_S):
                seen, since = self.pool.finished, 0.0
                await asyncio.to_thread(memory.give_back)

    def close(self) -> None:
        """Release threads and engines; what still runs is told to stop."""
        self.pool.give_up_all()
        self.pool.close()
        if self.pool.running == 0:  # an engine must not be pulled from under a thread that is inside it
            self.models.close()

    def _in_progress(self) -> float:
        return self.in_progress

    def _announce(self) -> None:
        for predictor in self.models:
            self.metrics.serves(predictor.info, predictor.engine.name, predictor.engine.device)
