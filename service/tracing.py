"""Traces by OpenTelemetry, off until the standard variables ask for them: pip install '.[otel]'

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 python -m service

A span for each request, which goes on from the caller's `traceparent`, and one for each of its parts: queue,
decode, infer, encode. Health checks make none. The SDK reads the rest by itself: OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS … The one module that imports it.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from service.logs import trace_id
from service.tasks import Answer

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Tracing:
    """Spans of requests; without a provider none are made, and every method returns at once."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("psanet.service")

    def begin(self, scope: Scope) -> None:
        """A request has come. Its span lies in the scope's state until `end`."""
        if self._tracer is None:
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, format_trace_id

        span = self._tracer.start_span(
            scope["method"], context=extract(dict(Headers(scope=scope))), kind=SpanKind.SERVER
        )
        span.set_attribute("http.request.method", scope["method"])
        span.set_attribute("url.path", scope["path"])
        scope["state"]["span"] = span
        trace_id.set(format_trace_id(span.get_span_context().trace_id))

    def answered(self, scope: Scope, model: str, answer: Answer) -> None:
        """A worker has answered: spans of the parts, in the order in which they came before this moment."""
        span = scope["state"].get("span")
        if self._tracer is None or span is None:
            return
        from opentelemetry.trace import set_span_in_context

        span.set_attribute("psanet.model", model)
        span.set_attribute("psanet.windows", answer.windows)
        parts = {name: getattr(answer.timings, name) for name in ("queue", "decode", "infer", "encode")}
        at = time.time() - sum(parts.values())
        context = set_span_in_context(span)
        for name, seconds in parts.items():
            part = self._tracer.start_span(name, context=context, start_time=int(at * 1e9))
            at += seconds
            part.end(int(at * 1e9))

    def end(self, scope: Scope, route: str, status: int) -> None:
        """A request has been answered, or its client has left."""
        span = scope["state"].get("span")
        if self._tracer is None or span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def close(self) -> None:
        """Send what is left. Takes up to seconds; not for the event loop."""
        if self._provider is not None:
            self._provider.shutdown()


def asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the environment wants traces."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporter != "none" and (bool(exporter) or any(environ.get(name) for name in _ENDPOINTS))


def open_tracing(environ: Mapping[str, str]) -> Tracing:
    """As the environment wants it; what cannot be had is said in the log, and the service goes on without."""
    if not asked_for(environ):
        return Tracing()
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(environ)
    except ImportError:
        logger.warning("no traces: OpenTelemetry's SDK is not installed (pip install '.[otel]')")
        return Tracing()
    except ValueError as error:
        logger.warning("no traces: %s", error)
        return Tracing()
    name = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "psanet"}
    provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def _exporter(environ: Mapping[str, str]) -> Any:
    kind = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if kind == "console":
        import sys

        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    if kind != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER={kind}: otlp, console and none are known here")
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise ValueError(f"OTLP by {protocol}: only http/protobuf is known here (port 4318 of a collector)")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
