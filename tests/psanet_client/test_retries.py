"""Asking again: after the time that the service names, so often and no oftener, and never in vain."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import httpx2
import pytest

from psanet_client import (
    AnswerError,
    AsyncClient,
    BusyError,
    Client,
    FaultError,
    NoAnswerError,
    Retries,
    UnreadableAnswerError,
)
from psanet_client.retries import retry_after_s

READY = (200, {}, b"{}")
BUSY = (503, {"Retry-After": "7", "Content-Type": "application/problem+json"}, b'{"code": "queue_full"}')
QUICK = Retries(times=2, backoff_s=0.01)
Turn = tuple[int, dict[str, str], bytes]


@contextmanager
def scripted(*turns: Turn | None) -> Iterator[tuple[str, list[str]]]:
    """A server that answers so, one after another; None closes the connection. Gives address and paths."""
    left, asked = list(turns), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            turn = left.pop(0)
            if turn is None:
                self.close_connection = True
                return
            status, headers, content = turn
            self.send_response(status)
            for name, text in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sync_check(url: str, retries: Retries) -> None:
    with Client(url, retries=retries, timeout_s=5) as client:
        client.check_ready()


def async_check(url: str, retries: Retries) -> None:
    async def check() -> None:
        async with AsyncClient(url, retries=retries, timeout_s=5) as client:
            await client.check_ready()

    anyio.run(check)


@pytest.fixture(params=[sync_check, async_check], ids=["sync", "async"])
def check(request: pytest.FixtureRequest) -> Callable[[str, Retries], None]:
    return request.param


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the clients would have slept."""
    waits: list[float] = []
    sleep = anyio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(anyio, "sleep", note)
    return waits


def test_a_busy_service_is_asked_again_after_the_time_that_it_names(check: Any, waits: list[float]) -> None:
    with scripted(BUSY, (429, {"Retry-After": "3"}, b""), READY) as (url, asked):
        check(url, Retries())
    assert waits == [7, 3]
    assert asked == ["/readyz"] * 3


def test_in_the_end_the_problem_is_told(check: Any, waits: list[float]) -> None:
    with scripted(*[BUSY] * 3) as (url, asked), pytest.raises(BusyError) as caught:
        check(url, QUICK)
    assert (len(asked), waits) == (3, [7, 7])
    assert (caught.value.code, caught.value.retry_after_s) == ("queue_full", 7)


def test_who_is_told_to_wait_for_long_is_told_at_once(check: Any, waits: list[float]) -> None:
    with scripted(BUSY) as (url, _), pytest.raises(BusyError):
        check(url, Retries(longest_wait_s=6))
    assert waits == []


@pytest.mark.parametrize("broken", [None, (502, {}, b"<html>bad gateway</html>"), (503, {}, b"")])
def test_without_a_time_the_waits_double(check: Any, waits: list[float], broken: Turn | None) -> None:
    with scripted(broken, broken, broken, READY) as (url, _):
        check(url, Retries(backoff_s=1))
    assert len(waits) == 3
    for wait, expected in zip(waits, (1, 2, 4), strict=True):
        assert 0.75 * expected <= wait <= 1.25 * expected


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 504])
def test_other_answers_are_final(check: Any, waits: list[float], status: int) -> None:
    with scripted((status, {}, b"")) as (url, asked), pytest.raises(AnswerError) as caught:
        check(url, QUICK)
    assert (len(asked), caught.value.status, waits) == (1, status, [])
    assert isinstance(caught.value, FaultError) == (status >= 500)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"detail": 3}', b'{"errors": {"a": ["b"]}}', b'{"errors": [3]}', b"\xff"]
)
def test_problems_of_other_programs_are_told_as_they_are(content: bytes) -> None:
    headers = {"Content-Type": "application/problem+json"}
    with scripted((422, headers, content)) as (url, _), pytest.raises(AnswerError) as caught:
        sync_check(url, QUICK)
    assert (caught.value.status, caught.value.code, caught.value.errors) == (422, "unknown", {})
    assert f"{url}/readyz answers 422" in caught.value.detail


def test_nobody_there_is_told_after_the_retries(check: Any, waits: list[float]) -> None:
    with pytest.raises(NoAnswerError):
        check("http://127.0.0.1:1", QUICK)
    assert len(waits) == 2


def test_no_retries_means_none(check: Any, waits: list[float]) -> None:
    with scripted(BUSY) as (url, _), pytest.raises(BusyError):
        check(url, Retries(times=0))
    assert waits == []


def test_an_answer_that_takes_too_long_is_not_asked_for_again() -> None:
    assert Retries().wait_s(httpx2.ReadTimeout("slow"), 1) is None
    assert Retries().wait_s(httpx2.ConnectTimeout("slow"), 1) is not None


def test_a_date_is_a_time_too() -> None:
    response = httpx2.Response(503, headers={"Retry-After": formatdate(time.time() + 20, usegmt=True)})
    assert retry_after_s(response) == pytest.approx(20, abs=2)
    assert retry_after_s(httpx2.Response(503, headers={"Retry-After": formatdate(0, usegmt=True)})) == 0
    for text in ("soon", "-1", "1.5", "", "Wed, 21 Oct 2026 07:28:" + "9" * 20 + " GMT"):
        assert retry_after_s(httpx2.Response(503, headers={"Retry-After": text})) is None


def test_a_date_without_a_zone_is_greenwichs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        text = time.asctime(time.gmtime(time.time() + 20))
        assert retry_after_s(httpx2.Response(503, headers={"Retry-After": text})) == pytest.approx(20, abs=2)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_waits_that_nobody_names_grow_no_longer_than_the_longest() -> None:
    retries = Retries(times=2000, backoff_s=1, longest_wait_s=5)
    assert [retries.wait_s(httpx2.ReadError("broken"), tries) for tries in (5, 20, 2000)] == [5, 5, 5]
    assert retries.wait_s(httpx2.ReadError("broken"), 2001) is None


def test_a_page_elsewhere_is_no_answer(check: Any, waits: list[float]) -> None:
    moved = (302, {"Location": "https://login.example.org/"}, b"")
    with scripted(moved) as (url, _), pytest.raises(UnreadableAnswerError, match=r"302.*login\.example"):
        check(url, QUICK)
    assert waits == []


def test_an_answer_that_cannot_be_unpacked_is_told(check: Any, waits: list[float]) -> None:
    torn = (200, {"Content-Encoding": "gzip"}, b"no gzip")
    with scripted(torn) as (url, _), pytest.raises(UnreadableAnswerError, match="/readyz gives a broken"):
        check(url, QUICK)
    assert waits == []


@pytest.mark.parametrize("bad", [{"times": -1}, {"longest_wait_s": -1}, {"backoff_s": 0}])
def test_retries_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="times and longest_wait_s"):
        Retries(**bad)


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'[{"name": "x"}]', b"3", b"null"])
def test_other_programs_are_told_from_a_service(content: bytes) -> None:
    with scripted((200, {"Content-Type": "text/html"}, content)) as (url, _), Client(url) as client:
        if content == b"[]":
            assert client.models() == ()
            return
        with pytest.raises(UnreadableAnswerError, match="no PSANet service"):
            client.models()
