"""What the service tells Prometheus. One registry an app, seconds everywhere, every label bounded."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.gpus import Gpus
from service.hosted import HostedModel
from service.oip.metrics import TritonMetrics
from service.tasks import Timings, Uses

_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIZE_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Metrics:
    """The service's own numbers, beside those of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.triton = TritonMetrics()
        self.registry.register(self.triton)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "psanet_requests",
            "Requests answered; 499: the client left.",
            ["route", "code"],
            registry=self.registry,
        )
        self.problems = Counter(
            "psanet_problems",
            "Errors answered, by the code of the problem.",
            ["code"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "psanet_request_seconds",
            "From the request's head to the end of its answer.",
            ["route"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "psanet_stage_seconds",
            "Parts of an answered request: decode, queue, infer, encode.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self.windows = Counter(
            "psanet_windows",
            "Windows of answered requests that went through the engine.",
            ["model"],
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "psanet_batch_size",
            "Images in one engine call.",
            ["model"],
            buckets=_SIZE_BUCKETS,
            registry=self.registry,
        )
        self.engine_seconds = Counter(
            "psanet_engine_seconds", "Spent in engine calls.", ["model"], registry=self.registry
        )
        self.restarts = Counter(
            "psanet_worker_restarts",
            "Workers that ended and had to be replaced, by what happened: crashed, hung, silent.",
            ["reason"],
            registry=self.registry,
        )
        self.reloads = Counter(
            "psanet_reloads",
            "Exchanges of models after SIGHUP: done, failed (what was there goes on).",
            ["outcome"],
            registry=self.registry,
        )
        self.models = Gauge(
            "psanet_model_info",
            "1 for each model that is served.",
            ["model", "dataset", "precision", "engine", "device"],
            registry=self.registry,
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def answered(self, timings: Timings, windows: int, model: str) -> None:
        """Count a request that was segmented."""
        for stage, seconds in asdict(timings).items():
            self.stage_seconds.labels(stage).observe(seconds)
        self.windows.labels(model).inc(windows)

    def used(self, uses: Uses) -> None:
        """Count what engines did."""
        for model, use in uses.items():
            self.engine_seconds.labels(model).inc(use.engine_s)
            histogram = self.batch_size.labels(model)
            for size, count in use.sizes.items():
                for _ in range(count):
                    histogram.observe(size)

    def serves(self, models: Iterable[HostedModel]) -> None:
        """Say which models are served, and no other."""
        self.models.clear()
        for model in models:
            info = model.info
            self.models.labels(info.name, info.dataset, info.precision, model.engine, model.device).set(1)
            self.triton.serves([info.name])

    def watch_workers(
        self, processes: Callable[[], Iterable["Process"]], gpus: Callable[[], Gpus | None]
    ) -> None:
        """Add what the workers and the GPUs weigh, read when it is asked for."""
        self.registry.register(_Weights(processes, gpus))

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Process(Protocol):
    """A worker process. name: the device that it runs on."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int: ...


class _Weights(Collector):
    """Memory of the workers, on the host and on GPUs; load and memory of GPUs."""

    def __init__(self, processes: Callable[[], Iterable[Process]], gpus: Callable[[], Gpus | None]) -> None:
        self._processes, self._gpus = processes, gpus

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As Prometheus asks for it."""
        gpus = self._gpus()
        states = [] if gpus is None else list(gpus.states())
        labels = ["worker", "device"]
        resident = GaugeMetricFamily(
            "psanet_worker_resident_bytes", "Host memory of a worker process.", labels=labels
        )
        on_gpu = GaugeMetricFamily(
            "psanet_worker_gpu_bytes", "GPU memory of a worker process.", labels=labels
        )
        for index, process in enumerate(self._processes()):
            values = [str(index), process.name]
            if (size := _resident_bytes(process.pid)) is not None:
                resident.add_metric(values, size)
            if states:
                on_gpu.add_metric(values, sum(state.by_process.get(process.pid, 0) for state in states))
        yield resident
        yield on_gpu
        labels = ["gpu", "name"]
        busy = GaugeMetricFamily("psanet_gpu_utilization_ratio", "How busy a GPU is, 0 to 1.", labels=labels)
        used = GaugeMetricFamily("psanet_gpu_memory_used_bytes", "Memory in use, by anybody.", labels=labels)
        total = GaugeMetricFamily("psanet_gpu_memory_total_bytes", "Memory that it has.", labels=labels)
        for state in states:
            values = [str(state.index), state.name]
            if state.busy is not None:
                busy.add_metric(values, state.busy)
            used.add_metric(values, state.used_bytes)
            total.add_metric(values, state.total_bytes)
        yield from (busy, used, total)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing is read while this is registered."""
        return iter(())


def _resident_bytes(pid: int) -> int | None:
    """Resident memory of a process, where the system tells (Linux)."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None
