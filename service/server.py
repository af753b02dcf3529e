"""uvicorn with what it leaves open: connections that stand still are closed, and SIGTERM drains.

uvicorn alone stops listening at once on SIGTERM, ends by the signal instead of with 0, and waits for ever
for a client that sends half a request or does not read its answer.
"""

import asyncio
import logging
import signal
import socket
import struct
import time
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import Problem, problem_response
from service.settings import Settings
from service.state import Service

logger = logging.getLogger(__name__)

_CHECKS = 4
"""How often in one timeout a connection is looked at."""
_LAST_WORDS_S = 2.0
"""How long answers may take to leave once the drain time is over."""


class GuardedProtocol(H11Protocol):
    """Closes a connection that stands still for `timeout_s` while the app is not at work on it.

    Standing still: no request has arrived completely enough to be handled, the rest of a refused body keeps
    coming, or the client does not take what was written. Bodies and work are timed inside the app.
    """

    timeout_s = 30.0
    _timer: TimerHandle | None = None
    _still_since = 0.0
    _unsent = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start to watch."""
        super().connection_made(transport)
        self._still_since = self.loop.time()
        self._timer = self.loop.call_later(self.timeout_s / _CHECKS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next request, or the rest of this one, has its own time."""
        self._still_since = self.loop.time()
        super().on_response_complete()

    def _look(self) -> None:
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        at_work = self.cycle is not None and not self.cycle.response_complete
        if (unsent == 0 and at_work) or 0 < unsent != self._unsent:
            self._still_since = now
        self._unsent = unsent
        if now - self._still_since >= self.timeout_s:
            logger.info("closing a connection that stood still for %g s", self.timeout_s)
            self._reset()
            return
        self._timer = self.loop.call_later(self.timeout_s / _CHECKS, self._look)

    def _reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        if raw is not None:  # without this the kernel keeps what was written, for minutes
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the one shape of errors; what was answered already is only closed."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            detail = f"{msg} Check the request line, the headers and the length of the body."
            response = problem_response(Problem(400, "malformed_request", detail, close=True))
            head = h11.Response(status_code=400, headers=response.raw_headers, reason=b"Bad Request")
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """Ends when the service failed to load, or has drained after SIGTERM or SIGINT; a second signal hurries.

    announce: called once, when the service has become ready.
    """

    def __init__(self, config: uvicorn.Config, service: Service, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._announce: Callable[[], None] | None = announce
        self._drain_until: float | None = None
        self._hurried = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, also to SIGHUP, which exchanges models."""
        await super().startup(sockets)
        with suppress(ValueError, RuntimeError):  # signals are for the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._service.reload)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. uvicorn would raise it again at the end; a drained service exits with 0."""
        if self._drain_until is None:
            self._service.begin_drain()
            self._drain_until = time.monotonic() + self._service.settings.drain_s
        else:
            self._drain_until = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; true ends the service."""
        service = self._service
        if service.failure is not None:
            self.should_exit = True
        if service.ready and self._announce is not None:
            self._announce()
            self._announce = None
        if self._drain_until is not None:
            self._drain(self._drain_until)
        return await super().on_tick(counter)

    def _drain(self, until: float) -> None:
        now = time.monotonic()
        # Answers that are written but not yet read may leave in what remains of the time.
        self.config.timeout_graceful_shutdown = max(1, round(until - now))
        if self._service.in_progress == 0:
            self.should_exit = True
        elif now >= until and not self._hurried:
            logger.warning("%d requests were not done in the drain time", self._service.in_progress)
            self._hurried = True
            self._service.dispatcher.give_up_all()
        elif now >= until + _LAST_WORDS_S:
            self.should_exit = True


def build_server(app: Any, settings: Settings, announce: Callable[[], None]) -> Server:
    """A server for an app from `create_app`; run it with the listening socket."""
    guarded = type("Guarded", (GuardedProtocol,), {"timeout_s": settings.connection_timeout_s})
    config = uvicorn.Config(
        app,
        http=guarded,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # addresses.py reads them, from proxies that were named
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    return Server(config, app.state.service, announce)
