"""Who may come in: API keys and the rate limit, before anything is read of a body. Both off until configured.

What is not listed as open is closed: a new route needs a key by itself. Not here: security headers and the
request's id (`middleware.py`), the queue (`dispatch.py`).
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.addresses import address_of, bucket_of
from service.errors import Problem, problem_response
from service.keys import Keys, presented_key
from service.ratelimit import RateLimit
from service.settings import Settings
from service.state import Service

OPEN = frozenset(
    {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"}
)
"""What shows nothing but that there is a service, and how to use it."""
OPEN_FOLDERS = ("/page/", "/swagger/")
UNLIMITED = frozenset({"/metrics"})
"""What monitoring asks for, from the address of a proxy perhaps that others share."""


class Gate:
    """ASGI middleware around the app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._settings: Settings = service.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it with 401 or 429."""
        if scope["type"] == "http":
            scope["state"]["client"] = client = address_of(scope, self._settings.trusted_proxies)
            if not is_open(scope["path"]):
                try:
                    self._check(scope, client)
                except Problem as problem:
                    self._service.metrics.problems.labels(problem.code).inc()
                    await problem_response(problem, scope)(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, address: str) -> None:
        keys, limit = self._service.keys, self._service.rate_limit
        client = bucket_of(address)
        if keys is not None:
            name = _name(keys, Headers(scope=scope))
            if name is None:
                # Guessing is limited too, by address.
                _refuse_over(limit, client)
                raise _no_key()
            scope["state"]["client"] = client = f"key:{name}"
        if scope["path"] not in UNLIMITED:
            _refuse_over(limit, client)


def is_open(path: str) -> bool:
    """Whether anybody may ask for it."""
    return path in OPEN or path.startswith(OPEN_FOLDERS)


def _name(keys: Keys, headers: Headers) -> str | None:
    key = presented_key(headers)
    return None if key is None else keys.name_of(key)


def _refuse_over(limit: RateLimit | None, client: str) -> None:
    wait_s = 0.0 if limit is None else limit.take(client)
    if wait_s > 0:
        detail = "You have asked too often: wait for the time in Retry-After, then go on more slowly."
        raise Problem(429, "rate_limited", detail, title="Too many requests", retry_after_s=wait_s)


def _no_key() -> Problem:
    detail = "This service asks for an API key: send it as Authorization: Bearer KEY, or as X-API-Key: KEY."
    headers = {"WWW-Authenticate": 'Bearer realm="psanet"'}
    return Problem(401, "bad_key", detail, title="No valid API key", headers=headers)
