"""Metrics and log lines: what an operator sees."""

import json
import logging
import math
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service import state
from service.gpus import find_gpus
from service.logs import JsonFormatter, TextFormatter, request_id
from service.metrics import Metrics
from tests.service.fakes import encoded, metric, three_colors, tiny_app
from tests.service.running import metric_of, until

FILE = encoded(three_colors())
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture
def client() -> TestClient:
    return TestClient(tiny_app())


def test_metrics_count_requests_by_route_and_code(client: TestClient) -> None:
    client.post("/segment", content=FILE, headers=RAW)
    client.post("/segment", content=b"text", headers=RAW)
    for number in range(5):
        client.get(f"/nowhere/{number}")
    assert metric(client, "psanet_requests_total", route="/segment", code="200") == 1
    assert metric(client, "psanet_requests_total", route="/segment", code="415") == 1
    assert metric(client, "psanet_requests_total", route="unmatched", code="404") == 5
    assert metric(client, "psanet_problems_total", code="unsupported_image") == 1
    for stage in ("decode", "queue", "infer", "encode"):
        assert metric(client, "psanet_stage_seconds_count", stage=stage) == 1
    assert metric(client, "psanet_windows_total", model="tiny") > 0
    assert metric(client, "psanet_model_info", model="tiny", engine="fake") == 1
    for gauge in (
        "psanet_requests_in_progress",
        "psanet_queue_depth",
        "psanet_queue_windows",
        "psanet_queue_wait_seconds",
        "psanet_workers_busy",
        "psanet_buffered_bytes",
    ):
        assert metric(client, gauge) == 0


def test_engine_calls_are_counted_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_TIDY_EVERY_S", 0.01)
    with TestClient(tiny_app(max_batch=3)) as client:
        answer = client.post("/segment?scales=2&flip=true", content=FILE, headers=RAW)
        assert answer.status_code == 200
        windows = metric(client, "psanet_windows_total", model="tiny")
        until(lambda: metric(client, "psanet_batch_size_sum", model="tiny") == windows)
        assert metric(client, "psanet_batch_size_count", model="tiny") == math.ceil(windows / 3)
        assert metric(client, "psanet_engine_seconds_total", model="tiny") > 0


class FakeNvml:
    """NVIDIA's library as far as it is used: two GPUs, the second a part of one that tells less."""

    class NVMLError(Exception):
        pass

    def __getattr__(self, name: str) -> Any:
        return {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda index: (b"First", "Second")[index],
            "nvmlDeviceGetMemoryInfo": lambda index: SimpleNamespace(used=100 + index, total=1000),
            "nvmlDeviceGetUtilizationRates": self._rates,
            "nvmlDeviceGetComputeRunningProcesses": self._processes,
        }[name]

    def _rates(self, index: int) -> Any:
        if index == 1:
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=40)

    def _processes(self, index: int) -> Any:
        if index == 1:
            raise self.NVMLError("not supported")
        return [
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=60),
            SimpleNamespace(pid=1, usedGpuMemory=None),
        ]


def test_gpus_and_worker_processes_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    metrics = Metrics()
    process = SimpleNamespace(name="cuda:0", pid=os.getpid())
    gone = SimpleNamespace(name="cuda:1", pid=2**22 + 1)
    gpus = find_gpus()
    metrics.watch_workers(lambda: [process, gone], lambda: gpus)
    text = metrics.exposition().decode()
    assert metric_of(text, "psanet_worker_resident_bytes", worker="0", device="cuda:0") > 10e6
    assert metric_of(text, "psanet_worker_gpu_bytes", worker="0") == 60
    assert 'psanet_worker_resident_bytes{device="cuda:1"' not in text
    assert metric_of(text, "psanet_gpu_utilization_ratio", gpu="0") == 0.4
    assert 'psanet_gpu_utilization_ratio{gpu="1"' not in text
    assert metric_of(text, "psanet_gpu_memory_used_bytes", gpu="1") == 101
    assert metric_of(text, "psanet_gpu_memory_total_bytes", gpu="0") == 1000


def test_without_nvidias_library_there_are_no_numbers_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_gpus() is None


def test_a_driver_that_does_not_answer_is_said_and_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = FakeNvml()

    def fails() -> None:
        raise FakeNvml.NVMLError("Driver Not Loaded")

    library.nvmlInit = fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert find_gpus() is None
    assert "Driver Not Loaded" in caplog.text


def test_labels_of_metrics_stay_few_whatever_is_asked_for(client: TestClient) -> None:
    for number in range(30):
        client.get(f"/page/{number}")
        client.post(f"/segment?model=m{number}", content=FILE, headers=RAW)
        client.request(f"VERB{number}", f"/{number}")
    families = text_string_to_metric_families(client.get("/metrics").text)
    routes = {
        sample.labels["route"] for family in families for sample in family.samples if "route" in sample.labels
    }
    assert routes <= {"/segment", "/metrics", "unmatched", "/page"}


def test_health_checks_are_not_logged_and_requests_are(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="service.access"):
        for path in ("/healthz", "/readyz", "/metrics"):
            client.get(path)
        assert not caplog.records
        client.get("/models")
    (record,) = caplog.records
    assert (record.__dict__["route"], record.__dict__["status"]) == ("/models", 200)


def test_two_apps_keep_their_numbers_apart() -> None:
    first, second = TestClient(tiny_app()), TestClient(tiny_app())
    first.get("/models")
    assert metric(first, "psanet_requests_total", route="/models") == 1
    assert metric(second, "psanet_requests_total", route="/models") == 0


def test_log_lines_are_json_with_the_id_of_the_request(client: TestClient) -> None:
    record: Any = logging.LogRecord("a.b", logging.INFO, "", 0, "line\n%d", (2,), None)
    record.status = 200
    token = request_id.set("id-1")
    try:
        document = json.loads(JsonFormatter().format(record))
        text = TextFormatter().format(record)
    finally:
        request_id.reset(token)
    assert document["message"] == "line\n2"
    assert (document["level"], document["request_id"], document["status"]) == ("info", "id-1", 200)
    assert text.endswith("[id-1]")
