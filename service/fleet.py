"""The worker processes of the service, one for each device: kept there, replaced when they end, exchanged for
others when models have changed.

Not here: one process (`processes.py`), which request goes where (`dispatch.py`).
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from inference.bundle import BUNDLED_ROOT
from service.devices import devices_of
from service.dispatch import Dispatcher
from service.hosted import HostedModel
from service.metrics import Metrics
from service.processes import StartError, WorkerProcess, start_worker
from service.settings import Settings
from service.tasks import WorkerSpec

logger = logging.getLogger(__name__)

_SOON_S = 30.0
"""A worker that lived no longer is started again with a delay that doubles."""
_DELAYS_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

Served = Callable[[Sequence[HostedModel]], None]
"""Told what models there are, whenever a worker has started."""


class Station:
    """Keeps one worker process at work. failing: why it could not be started again, None where it could."""

    def __init__(
        self,
        spec: WorkerSpec,
        dispatcher: Dispatcher,
        metrics: Metrics,
        served: Served,
        call_timeout_s: float,
    ) -> None:
        self._spec, self._dispatcher, self._metrics, self._served = spec, dispatcher, metrics, served
        self._call_timeout_s = call_timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._processes: set[WorkerProcess] = set()
        self._starting = asyncio.Lock()
        self._quick = -1
        self.worker: WorkerProcess | None = None
        self.failing: str | None = None

    async def open(self) -> None:
        """Start the first process. Raises StartError."""
        self._put(await self._start())

    async def renew(self) -> None:
        """Put a new process in place of the one that is there, which finishes what it works on.

        Raises StartError; then nothing has changed.
        """
        async with self._starting:
            old, new = self.worker, await self._start()
            self._put(new)
        if old is not None:
            self._dispatcher.detach(old)
            self._spawn(old.retire())

    async def close(self) -> None:
        """End all processes, whatever they are doing, and start no other."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._processes:
            self._dispatcher.detach(worker)
        await asyncio.gather(*(worker.close() for worker in self._processes))

    async def _start(self) -> WorkerProcess:
        tell_uses = self._metrics.used
        return await start_worker(self._spec, call_timeout_s=self._call_timeout_s, tell_uses=tell_uses)

    def _put(self, worker: WorkerProcess) -> None:
        self.worker, self.failing = worker, None
        self._processes.add(worker)
        self._spawn(self._keep(worker))
        self._served(worker.models)
        self._dispatcher.attach(worker)
        logger.info("worker %d on %s is ready after %.2f s", worker.pid, worker.name, worker.started_s)

    async def _keep(self, worker: WorkerProcess) -> None:
        """Start another process when this one has ended, unless it was exchanged."""
        began = time.monotonic()
        end = await worker.ended()
        self._processes.discard(worker)
        self._dispatcher.detach(worker)
        if end != "retired":
            self._metrics.restarts.labels(end).inc()
        async with self._starting:
            if worker is self.worker:
                self.worker = None
                self._put(await self._start_at_last(time.monotonic() - began))

    async def _start_at_last(self, lived_s: float) -> WorkerProcess:
        """Try until it works: at once if the last one lived for a while, then less and less often."""
        self._quick = 0 if lived_s > _SOON_S else self._quick + 1
        while True:
            await asyncio.sleep(_DELAYS_S[min(self._quick, len(_DELAYS_S) - 1)])
            try:
                return await self._start()
            except StartError as error:
                self.failing = str(error)
                logger.error("no worker could be started on %s: %s", self._spec.device, error)
                self._quick += 1
                if not self._dispatcher.workers:
                    self._dispatcher.give_up_waiting()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Fleet:
    """All stations of the service. served: see `Served`."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher, metrics: Metrics, served: Served) -> None:
        self._settings, self._dispatcher, self._metrics, self._served = settings, dispatcher, metrics, served
        self._stations: list[Station] = []
        self._seen: object = None
        self._reloading = asyncio.Lock()

    @property
    def workers(self) -> list[WorkerProcess]:
        """The processes that are there."""
        return [station.worker for station in self._stations if station.worker is not None]

    @property
    def failing(self) -> str | None:
        """Why there is no worker at all, where the last attempts to start one have failed."""
        reasons = [station.failing for station in self._stations]
        return reasons[0] if reasons and all(reasons) else None

    async def open(self) -> None:
        """Start a worker on every device. Raises StartError."""
        self._seen = fingerprint(self._settings.models)
        for device in await asyncio.to_thread(devices_of, self._settings.device):
            for _ in range(self._settings.processes):
                spec = worker_spec(self._settings, device)
                timeout_s = self._settings.call_timeout_s
                station = Station(spec, self._dispatcher, self._metrics, self._served, timeout_s)
                self._stations.append(station)
        started = await asyncio.gather(
            *(station.open() for station in self._stations), return_exceptions=True
        )
        for outcome in started:
            if outcome is not None:
                raise outcome

    async def reload(self) -> None:
        """Exchange the workers, one after the other, if the models' files have changed.

        Where they cannot be served, what was there goes on; the log says why.
        """
        async with self._reloading:
            found = fingerprint(self._settings.models)
            if found == self._seen:
                logger.info("no model has changed")
                return
            try:
                for station in self._stations:
                    await station.renew()
            except StartError as error:
                self._metrics.reloads.labels("failed").inc()
                logger.error("the models that were there go on being served: %s", error)
                return
            self._seen = found
            self._metrics.reloads.labels("done").inc()
            logger.info("the models have been exchanged")

    async def close(self) -> None:
        """End all workers."""
        await asyncio.gather(*(station.close() for station in self._stations))


def worker_spec(settings: Settings, device: str) -> WorkerSpec:
    """What a worker on that device is to be."""
    threads = settings.threads
    if threads is None and device == "cpu" and settings.processes > 1:
        threads = max(1, _cores() // settings.processes)
    return WorkerSpec(
        models=settings.models,
        engine=settings.engine,
        device=device,
        threads=threads,
        checkpoint_options=settings.checkpoint_options,
        memory_budget=settings.memory_budget,
        max_batch=settings.max_batch,
        max_wait_s=settings.max_wait_ms / 1000,
        workers=settings.workers,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )


def fingerprint(models: Sequence[str]) -> tuple[object, ...]:
    """What tells whether the files of models have changed: their names, sizes and times."""
    found: list[object] = []
    for model in models:
        path = Path(os.path.expanduser(model))  # pathlib's raises where there is no such home
        path = path if path.exists() else BUNDLED_ROOT / model
        files = [path]
        with suppress(OSError):  # a folder that is closed to us: a worker will say so
            files = sorted(path.iterdir()) if path.is_dir() else files
        for file in files:
            with suppress(OSError):
                facts = file.stat()
                found.append((str(file), facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return tuple(found)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
