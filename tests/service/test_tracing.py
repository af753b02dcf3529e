"""Traces: off until the standard variables ask for them; then a span for each request and for its parts."""

import builtins
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.logs import JsonFormatter
from service.tracing import Tracing, asked_for, open_tracing
from tests.service.fakes import encoded, three_colors, tiny_app

FILE = encoded(three_colors())
RAW = {"content-type": "application/octet-stream"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_made_when_the_standard_variables_ask_for_them(
    environ: dict[str, str], wanted: bool
) -> None:
    assert asked_for(environ) is wanted


def test_without_the_sdk_the_service_goes_on_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.WARNING):
        tracing = open_tracing(ENDPOINT)
    assert "[otel]" in caplog.text
    tracing.begin({"type": "http", "method": "GET", "path": "/", "state": {}})
    tracing.close()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An exporter in memory, behind the app's tracing."""
    pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("service.state.open_tracing", lambda _: Tracing(provider))
    yield exporter
    provider.shutdown()


def test_a_request_is_a_span_of_the_callers_trace_and_its_parts_lie_inside(spans: Any) -> None:
    with TestClient(tiny_app()) as client:
        client.get("/readyz")
        assert client.post("/segment", content=FILE, headers=RAW | {"traceparent": PARENT}).status_code == 200
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"POST /segment", "queue", "decode", "infer", "encode"}
    whole = found.pop("POST /segment")
    assert f"{whole.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{whole.parent.span_id:016x}" == PARENT.split("-")[2]
    assert whole.attributes["http.response.status_code"] == 200
    assert whole.attributes["http.route"] == "/segment"
    assert whole.attributes["psanet.model"] == "tiny"
    assert whole.attributes["psanet.windows"] > 0
    for part in found.values():
        assert part.parent.span_id == whole.context.span_id
        assert part.start_time <= part.end_time <= whole.end_time
    ends = [found[name].end_time for name in ("queue", "decode", "infer", "encode")]
    assert ends == sorted(ends)


def test_a_refusal_is_a_span_and_a_fault_of_ours_an_error(spans: Any) -> None:
    app = tiny_app(queue_size=0)
    with TestClient(app) as client:
        client.post("/segment?scales=none", content=FILE, headers=RAW)
        app.state.service.begin_drain()
        client.post("/segment", content=FILE, headers=RAW)
    client_fault, draining = spans.get_finished_spans()
    assert client_fault.attributes["http.response.status_code"] == 422
    assert client_fault.status.is_unset
    assert draining.attributes["http.response.status_code"] == 503
    assert not draining.status.is_ok


def test_log_lines_name_the_trace(spans: Any, caplog: pytest.LogCaptureFixture) -> None:
    lines: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    access, kept = logging.getLogger("service.access"), Kept()
    access.addHandler(kept)
    try:
        with caplog.at_level(logging.INFO, logger="service.access"), TestClient(tiny_app()) as client:
            client.get("/models", headers={"traceparent": PARENT})
    finally:
        access.removeHandler(kept)
    assert [line["trace_id"] for line in lines] == [PARENT.split("-")[1]]


@pytest.mark.parametrize(
    ("variables", "words"),
    [({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"), ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc")],
)
def test_an_exporter_that_is_not_known_is_said_and_traces_stay_off(
    variables: dict[str, str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")
    with caplog.at_level(logging.WARNING):
        open_tracing(ENDPOINT | variables).close()
    assert words in caplog.text


def test_a_collector_gets_the_spans_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real exporter, against a server that only listens."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with TestClient(tiny_app()) as client:
            client.get("/models")
        thread.join(10)
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"GET /models" in body
    assert b"psanet" in body
