"""Around every request: an id, security headers, the last net for exceptions, one log line, the counters.

Plain ASGI, so that the body's stream and the client's leaving reach the handlers untouched.
"""

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import CLIENT_GONE, ClientGoneError, problem_of, problem_response
from service.logs import request_id
from service.state import Service

logger = logging.getLogger("service.access")

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/health", "/v2/health/live", "/v2/health/ready"})
_COMMON = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_CLOSED = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_POLICIES = {
    "/": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    # Swagger UI sets style attributes and shows icons from data: addresses; its script is ours, from a file.
    "/docs": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
}


class Envelope:
    """ASGI middleware around the app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; never raises for an HTTP request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        identity = asked if _SANE_ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = identity
        token = request_id.set(identity)
        quiet = scope["path"] in _QUIET
        if not quiet:
            self._service.tracing.begin(scope)
        started = time.perf_counter()
        status: int | None = None

        async def send_dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = identity
                headers.update(_COMMON)
                headers["Content-Security-Policy"] = _POLICIES.get(scope["path"], _CLOSED)
            await send(message)

        self._service.in_progress += not quiet
        try:
            await self._app(scope, receive, send_dressed)
        except ClientGoneError:
            status = CLIENT_GONE
            self._service.metrics.problems.labels("client_gone").inc()
        except Exception as error:
            logger.exception("unhandled %s in %s %s", type(error).__name__, scope["method"], scope["path"])
            if status is None:
                problem = problem_of(RuntimeError())
                self._service.metrics.problems.labels(problem.code).inc()
                await problem_response(problem, scope)(scope, receive, send_dressed)
            status = 500
        finally:
            self._service.in_progress -= not quiet
            self._account(
                scope, CLIENT_GONE if status is None else status, time.perf_counter() - started, quiet
            )
            request_id.reset(token)

    def _account(self, scope: Scope, status: int, seconds: float, quiet: bool) -> None:
        route = route_of(scope)
        self._service.tracing.end(scope, route, status)
        self._service.metrics.requests.labels(route, str(status)).inc()
        self._service.metrics.request_seconds.labels(route).observe(seconds)
        if quiet:
            return
        extra: dict[str, Any] = {
            "method": scope["method"],
            "path": scope["path"],
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
            "client": scope["state"].get("client"),
        }
        text = "%s %r %d %.1f ms"  # %r: a path is the client's own text, control characters and all
        logger.info(text, scope["method"], scope["path"], status, seconds * 1000, extra=extra)


def route_of(scope: Scope) -> str:
    """The template of the route that a request met: a bounded label, whatever the path."""
    route = getattr(scope.get("route"), "path", None)
    if isinstance(route, str):
        return route
    return "unmatched"
