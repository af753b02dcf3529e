"""Metrics and log lines: what an operator sees."""

import json
import logging
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.logs import JsonFormatter, TextFormatter, request_id
from tests.service.fakes import encoded, metric, three_colors, tiny_app

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
        "psanet_workers_busy",
        "psanet_buffered_bytes",
    ):
        assert metric(client, gauge) == 0


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
