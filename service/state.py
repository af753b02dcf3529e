"""What the parts of one app share, and the life of the service: loading, ready, draining, done."""

import asyncio
import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from service import memory
from service.catalog import Catalog
from service.dispatch import Dispatcher, draining_problem, no_worker_problem
from service.errors import Problem
from service.fleet import Fleet
from service.gpus import Gpus, find_gpus
from service.hosted import HostedModel
from service.keys import Keys
from service.metrics import Metrics
from service.processes import StartError
from service.ratelimit import RateLimit
from service.settings import Settings
from service.tracing import Tracing, open_tracing
from service.uploads import Buffers

if TYPE_CHECKING:
    from inference.predictor import Predictor
    from service.local import LocalWorker

_TIDY_EVERY_S = 5.0

logger = logging.getLogger(__name__)


class Service:
    """One app's state. Belongs to one event loop.

    predictors: by model name, to be used in this process; without them the models of `settings` are opened in
    worker processes by `start`. Raises KeysError for a file of keys that cannot be used.
    """

    def __init__(self, settings: Settings, predictors: Mapping[str, "Predictor"] | None = None) -> None:
        self.settings = settings
        self.models = Catalog()
        self.dispatcher = Dispatcher(
            queue_size=settings.queue_size,
            queue_windows=settings.queue_windows,
            deadline_s=settings.deadline_s,
        )
        self.keys = None if settings.api_keys_file is None else Keys(settings.api_keys_file)
        self.rate_limit = None
        if settings.rate_per_minute is not None:
            self.rate_limit = RateLimit(settings.rate_per_minute, settings.rate_burst)
        self.buffers = Buffers(settings.max_buffered_bytes)
        self.metrics = Metrics()
        self.fleet = Fleet(settings, self.dispatcher, self.metrics, self._serves)
        self.tracing = Tracing()
        self.in_progress = 0
        self.draining = False
        self.failure: str | None = None
        self._local: LocalWorker | None = None
        if predictors:
            self._work_here(predictors)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gpus: Gpus | None = None
        self._watch()

    @property
    def ready(self) -> bool:
        """Whether work is taken and done at once."""
        return self.dispatcher.workers > 0 and not self.draining

    def start(self) -> None:
        """Begin what goes on in the background. A failure is kept in `failure`, which ends the server."""
        self.tracing = open_tracing(os.environ)
        self._spawn(self._tidy())
        if self._local is None:
            self._spawn(self._load())

    def reload(self) -> None:
        """Read the API keys again, and exchange the models for what lies in their folders now, if that is
        something else."""
        if self.keys is not None:
            self.keys.reload()
        if self._local is None and len(self.models) and not self.draining:
            self._spawn(self.fleet.reload())

    def refuse_unless_open(self) -> None:
        """Raise the 503 problem while no work is taken: models are loaded, no worker starts, it drains."""
        if self.draining:
            raise draining_problem()
        if not len(self.models):
            detail = "The models are still being loaded: try again in a moment; /readyz says when."
            raise Problem(503, "not_ready", detail, title="Not ready", retry_after_s=2)
        if not self.dispatcher.workers and self.fleet.failing is not None:
            raise no_worker_problem()

    def refuse_unless_ready(self) -> None:
        """Raise the 503 problem unless work that is taken is begun: for /readyz."""
        self.refuse_unless_open()
        if not self.dispatcher.workers:
            detail = "A worker has ended and another one is being started: try again in a moment."
            raise Problem(503, "not_ready", detail, title="Not ready", retry_after_s=2)

    def refuse_work(self) -> None:
        """Raise the problem that keeps a request out before its body is read: not open, or no room."""
        self.refuse_unless_open()
        self.dispatcher.refuse_when_full()

    def begin_drain(self) -> None:
        """Take no new work; what was accepted goes on."""
        self.draining = True

    async def close(self) -> None:
        """Release threads, processes and engines; what still runs is told to stop."""
        self.dispatcher.give_up_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.fleet.close()
        if self._local is not None:
            self._local.close()
        await asyncio.to_thread(self.tracing.close)

    def _work_here(self, predictors: Mapping[str, "Predictor"]) -> None:
        # Pixels are touched in this process for the sake of such a caller alone.
        from service.local import LocalWorker
        from service.workbench import Workbench

        settings = self.settings
        bench = Workbench(predictors, max_batch=settings.max_batch, max_wait_s=settings.max_wait_ms / 1000)
        self._local = LocalWorker(bench, settings.workers)
        self._serves(self._local.models)
        self.dispatcher.attach(self._local)

    async def _load(self) -> None:
        try:
            await self.fleet.open()
        except StartError as error:
            self.failure = str(error)
        except Exception as error:
            logger.exception("the workers could not be started")
            self.failure = str(error) or type(error).__name__
        if self.settings.device != "cpu":
            self._gpus = await asyncio.to_thread(find_gpus)

    async def _tidy(self) -> None:
        """For ever: count what engines do, and give back memory that requests have left free."""
        tidier = memory.Tidier()
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            if self._local is not None:
                self.metrics.used(self._local.take_uses())
            if tidier.due(self.dispatcher.finished, busy=self.dispatcher.running > 0):
                await asyncio.to_thread(memory.give_back)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _serves(self, models: Sequence[HostedModel]) -> None:
        if self._local is None:  # each worker has its own of several devices
            models = [replace(model, device=self.settings.device) for model in models]
        self.models = Catalog(models)
        self.metrics.serves(models)

    def _watch(self) -> None:
        watch, dispatcher = self.metrics.watch, self.dispatcher
        watch(
            "psanet_requests_in_progress",
            "Requests being received, worked on or answered.",
            lambda: self.in_progress,
        )
        watch("psanet_queue_depth", "Requests waiting for a worker.", lambda: dispatcher.waiting)
        watch("psanet_queue_windows", "Windows of the requests waiting.", lambda: dispatcher.waiting_windows)
        watch("psanet_queue_wait_seconds", "What a new request would wait.", lambda: dispatcher.wait_s)
        watch("psanet_workers_busy", "Requests that workers are at.", lambda: dispatcher.running)
        watch("psanet_workers", "Workers that take requests.", lambda: dispatcher.workers)
        watch("psanet_buffered_bytes", "Bytes of bodies held.", lambda: self.buffers.held)
        watch("psanet_ready", "1 when work is taken and begun.", lambda: self.ready)
        self.metrics.watch_workers(lambda: self.fleet.workers, lambda: self._gpus)
