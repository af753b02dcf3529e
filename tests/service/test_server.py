"""Over real connections: clients that leave, stand still, refuse to read, or do not speak HTTP."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI

from service.__main__ import _listen
from service.settings import Settings
from tests.service.fakes import FakeEngine, decoded, encoded, live, three_colors, tiny_app

FILE = encoded(three_colors())
RAW = {"content-type": "application/octet-stream"}
HEAD = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=15)
    connection.settimeout(15)
    return connection


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def gone(app: FastAPI) -> float:
    return float(app.state.service.metrics.problems.labels("client_gone")._value.get())


def test_an_image_is_segmented_over_a_real_connection() -> None:
    with live(tiny_app()) as url:
        response = httpx2.post(f"{url}/segment", files={"image": ("a.png", FILE)})
        assert decoded(response.content).shape == (60, 90)
        assert "server" not in response.headers


def test_answers_leave_at_once() -> None:
    """Both halves of an answer, without Nagle's wait for an acknowledgement that the client delays."""
    with contextlib.closing(_listen(Settings(port=0))) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()

            async def serve() -> None:
                _, writer = await asyncio.open_connection(sock=accepted)
                assert writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                writer.close()

            asyncio.run(serve())


def test_a_client_that_leaves_during_the_work_frees_the_worker_and_is_counted() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    app = tiny_app(engine, workers=1, queue_size=0)
    with live(app) as url:
        with connect(url) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(FILE) + FILE)
            assert engine.entered.wait(10)
        until(lambda: app.state.service.in_progress == 0)
        assert gone(app) == 1
        engine.gate.set()
        until(lambda: app.state.service.dispatcher.running == 0)
        calls = engine.calls
        assert httpx2.post(f"{url}/segment?scales=1", content=FILE, headers=RAW).status_code == 200
        assert engine.calls > calls


def test_work_for_a_client_that_left_stops_before_its_next_engine_call() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    app = tiny_app(engine)
    with live(app) as url:
        with connect(url) as connection:
            head = HEAD.replace(b"/segment", b"/segment?scales=1,1.5,2,3&flip=true")
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(FILE) + FILE)
            assert engine.entered.wait(10)
        until(lambda: gone(app) == 1)
        engine.gate.set()
        until(lambda: app.state.service.dispatcher.running == 0)
        assert engine.calls == 1


def test_a_client_that_leaves_the_queue_makes_room() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    app = tiny_app(engine, workers=1, queue_size=1)
    service = app.state.service
    body = HEAD + b"Content-Length: %d\r\n\r\n" % len(FILE) + FILE
    with live(app) as url, connect(url) as first:
        first.sendall(body)
        assert engine.entered.wait(10)
        with connect(url) as second:
            second.sendall(body)
            until(lambda: service.dispatcher.waiting == 1)
            refused = httpx2.post(f"{url}/segment", content=FILE, headers=RAW)
            assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
        until(lambda: service.dispatcher.waiting == 0)
        engine.gate.set()
        assert b"200 OK" in first.recv(65536)


def test_a_client_that_leaves_while_it_uploads_leaves_nothing_behind() -> None:
    app = tiny_app()
    with live(app) as url:
        with connect(url) as connection:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 100)
            until(lambda: app.state.service.buffers.held == 100)
        until(lambda: app.state.service.in_progress == 0)
        assert app.state.service.buffers.held == 0
        assert gone(app) == 1


def test_the_deadline_is_504_also_when_the_engine_does_not_stop() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with live(tiny_app(engine, deadline_s=0.2)) as url:
        started = time.monotonic()
        response = httpx2.post(f"{url}/segment", content=FILE, headers=RAW)
        assert (response.status_code, response.json()["code"]) == (504, "deadline")
        assert time.monotonic() - started < 3
        engine.gate.set()


def test_a_full_queue_refuses_before_the_body_is_sent() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    with (
        live(tiny_app(engine, workers=1, queue_size=0)) as url,
        connect(url) as first,
        connect(url) as second,
    ):
        first.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(FILE) + FILE)
        assert engine.entered.wait(10)
        second.sendall(HEAD + b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
        answer = second.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in answer.lower()
        engine.gate.set()


def test_a_refused_upload_still_gets_to_read_its_answer() -> None:
    with live(tiny_app(max_bytes=1000)) as url:
        response = httpx2.post(f"{url}/segment", content=bytes(8_000_000), headers=RAW)
        assert (response.status_code, response.json()["code"]) == (413, "too_many_bytes")


def test_an_endless_upload_is_ended() -> None:
    app = tiny_app(max_bytes=1000, connection_timeout_s=0.5)
    with live(app) as url, connect(url) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        answer = b""
        end = time.monotonic() + 10
        try:
            while time.monotonic() < end:
                connection.sendall(b"200\r\n" + bytes(512) + b"\r\n")
                time.sleep(0.01)
        except OSError:
            pass
        assert time.monotonic() < end, "the connection was never closed"
        assert answer == b""


@pytest.mark.parametrize("start", [b"", b"POST /segment HTTP/1.1\r\nHost: x\r\n", HEAD[:30]])
def test_a_connection_that_sends_no_whole_request_is_closed(start: bytes) -> None:
    with live(tiny_app(connection_timeout_s=0.3)) as url, connect(url) as connection:
        connection.sendall(start)
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert read_all(connection) == b""
        assert time.monotonic() - started < 5


def test_a_connection_that_drips_headers_is_closed() -> None:
    with live(tiny_app(connection_timeout_s=0.4)) as url, connect(url) as connection:
        connection.sendall(HEAD)
        end = time.monotonic() + 8
        with pytest.raises(OSError, match="."):  # noqa: PT012 - which of the sends fails is up to the kernel
            while time.monotonic() < end:
                connection.sendall(b"X-Drip: 1\r\n")
                time.sleep(0.02)


def test_a_client_that_does_not_read_its_answer_is_let_go() -> None:
    app = tiny_app(connection_timeout_s=0.4)

    @app.get("/large")
    async def large() -> object:
        from starlette.responses import Response

        return Response(bytes(30_000_000))

    with live(app) as url, connect(url) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: app.state.service.in_progress == 0)
        time.sleep(1.5)
        with pytest.raises(ConnectionResetError):
            read_all(connection)


def test_a_slow_reader_gets_all_of_its_answer() -> None:
    app = tiny_app(connection_timeout_s=0.5)

    @app.get("/large")
    async def large() -> object:
        from starlette.responses import Response

        return Response(bytes(8_000_000))

    with live(app) as url, connect(url) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = 0
        while piece := connection.recv(100_000):
            received += len(piece)
            time.sleep(0.015)
        assert received > 8_000_000


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS greeting\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 20_000,
    ],
)
def test_what_is_no_http_is_400_in_the_shape_of_every_error(text: bytes) -> None:
    with live(tiny_app()) as url, connect(url) as connection:
        connection.sendall(text)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"content-type: application/problem+json" in head
        assert json.loads(body)["code"] == "malformed_request"
        assert httpx2.get(f"{url}/healthz").status_code == 200


def test_a_body_whose_chunks_make_no_sense_ends_its_connection_only() -> None:
    app = tiny_app()
    with live(app) as url:
        with connect(url) as connection:
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n")
            assert b"malformed_request" in read_all(connection)
        until(lambda: app.state.service.in_progress == 0)
        assert httpx2.post(f"{url}/segment", content=FILE, headers=RAW).status_code == 200
