"""What the service tells Prometheus. One registry an app, seconds everywhere, every label bounded."""

from collections.abc import Callable
from dataclasses import asdict

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from inference.bundle import ModelInfo
from service.images import Timings

_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The service's own numbers, beside those of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
            "psanet_windows", "Windows that went through the engine.", ["model"], registry=self.registry
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

    def serves(self, info: ModelInfo, engine: str, device: str) -> None:
        """Count a model as served."""
        self.models.labels(info.name, info.dataset, info.precision, engine, device).set(1)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
