"""Failures by the reasons that Triton names."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from inference.errors import EngineError, ParameterError, UndecodableImageError
from service.errors import ClientGoneError, Problem
from service.oip.metrics import REASONS, TritonMetrics


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Problem(503, "queue_full", "wait"), "REJECTED"),
        (Problem(504, "deadline", "late"), "REJECTED"),
        (MemoryError(), "REJECTED"),
        (ClientGoneError(), "CANCELED"),
        (EngineError("it broke"), "BACKEND"),
        (ParameterError("scales: none"), "OTHER"),
        (UndecodableImageError("torn"), "OTHER"),
    ],
)
def test_a_failure_has_one_of_tritons_reasons(error: Exception, reason: str) -> None:
    metrics, registry = TritonMetrics(), CollectorRegistry()
    registry.register(metrics)
    metrics.failed("m", error)
    text = generate_latest(registry).decode()
    for each in REASONS:
        sample = f'nv_inference_request_failure{{model="m",reason="{each}",version="1"}}'
        assert f"{sample} {float(each == reason)}" in text


def test_models_begin_at_zero() -> None:
    metrics, registry = TritonMetrics(), CollectorRegistry()
    registry.register(metrics)
    metrics.serves(["m"])
    assert 'nv_inference_request_success{model="m",version="1"} 0.0' in generate_latest(registry).decode()
