"""Requests of the Open Inference Protocol by the names that Triton's dashboards ask for (`nv_inference_…`).

Counted are requests to /v2/models/…/infer alone; `psanet_…` counts them among all others. An execution is a
prediction of one image, so there are as many as images: engine calls hold windows, and are shared with other
requests (`psanet_batch_size`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Metric
from prometheus_client.registry import Collector

from service.errors import ClientGoneError, problem_of
from service.tasks import MODEL_VERSION, Timings

_TIMES: Final = {
    "request": "Of inference requests, from when they came.",
    "queue": "That they have waited.",
    "compute_input": "Making an image of the input tensor.",
    "compute_infer": "Labelling it.",
    "compute_output": "Making the output tensors.",
}
REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
"""Of failures, as Triton names them: no room or no time; the client left; a fault of ours; a bad request."""


@dataclass
class _Counts:
    answered: int = 0
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_TIMES, 0.0))


class TritonMetrics(Collector):
    """Counts by model."""

    def __init__(self) -> None:
        self._models: dict[str, _Counts] = {}

    def serves(self, models: Iterable[str]) -> None:
        """Begin at zero for models that were never seen."""
        for model in models:
            self._models.setdefault(model, _Counts())

    def answered(self, model: str, timings: Timings, seconds: float) -> None:
        """Count a request that was answered. seconds: from when it came."""
        counts = self._models.setdefault(model, _Counts())
        counts.answered += 1
        parts = (seconds, timings.queue, timings.decode, timings.infer, timings.encode)
        for name, part in zip(_TIMES, parts, strict=True):
            counts.seconds[name] += part

    def failed(self, model: str, error: Exception) -> None:
        """Count a request that was not."""
        self._models.setdefault(model, _Counts()).failed[_reason(error)] += 1

    def collect(self) -> Iterator[Metric]:
        """As Prometheus asks for it. Triton's counters do not end in `_total`, so they are called none."""
        rows = [({"model": name, "version": MODEL_VERSION}, counts) for name, counts in self._models.items()]
        success = Metric("nv_inference_request_success", "Inference requests answered.", "unknown")
        count = Metric("nv_inference_count", "Images labelled by inference requests.", "unknown")
        runs = Metric("nv_inference_exec_count", "Predictions, one for each image.", "unknown")
        failure = Metric("nv_inference_request_failure", "Inference requests not answered.", "unknown")
        for labels, counts in rows:
            success.add_sample(success.name, labels, counts.answered)
            count.add_sample(count.name, labels, counts.answered)
            runs.add_sample(runs.name, labels, counts.answered)
            for reason, number in counts.failed.items():
                failure.add_sample(failure.name, labels | {"reason": reason}, number)
        yield from (success, failure, count, runs)
        for name, text in _TIMES.items():
            time = Metric(f"nv_inference_{name}_duration_us", f"Microseconds. {text}", "unknown")
            for labels, counts in rows:
                time.add_sample(time.name, labels, round(counts.seconds[name] * 1e6))
            yield time

    def describe(self) -> Iterator[Metric]:
        """Nothing is read while this is registered."""
        return iter(())


def _reason(error: Exception) -> str:
    if isinstance(error, ClientGoneError):
        return "CANCELED"
    status = problem_of(error).status
    if status in (408, 429, 503, 504):
        return "REJECTED"
    return "BACKEND" if status >= 500 else "OTHER"
