"""Bodies: counted while they arrive, never read past the limit, and malformed ones told what is wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.testclient import TestClient

from service.errors import Problem
from service.settings import Settings
from service.uploads import Buffers, receive_image
from tests.service.fakes import decoded, encoded, three_colors, tiny_app

FILE = encoded(three_colors())
RAW = {"content-type": "application/octet-stream"}
FORM = {"content-type": "multipart/form-data; boundary=xx"}


def part(name: str, content: bytes, *extra: str) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="a.png"'
    return "\r\n".join(["--xx", head, *extra, "", ""]).encode() + content + b"\r\n"


def form(*parts: bytes, end: bytes = b"--xx--\r\n") -> bytes:
    return b"".join(parts) + end


def streamed(app: FastAPI, pieces: Callable[[], AsyncIterator[bytes]], **headers: str) -> httpx2.Response:
    """Posts a body piece by piece, without Content-Length unless it is given."""

    async def run() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post("/segment", content=pieces(), headers=RAW | headers)

    return asyncio.run(run())


def received(settings: Settings, content_type: str, chunks: list[bytes]) -> bytes:
    """What `receive_image` makes of a body that arrives in these chunks."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0) if left else b"", "more_body": bool(left)}

    scope = {"type": "http", "headers": [(b"content-type", content_type.encode())]}
    with Buffers(settings.max_buffered_bytes).lease() as book:
        return asyncio.run(receive_image(Request(scope, receive), settings, book))


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


@given(content=st.binary(min_size=1, max_size=300), cuts=st.lists(st.integers(0, 500), max_size=6))
def test_a_form_is_read_alike_however_it_is_cut_into_chunks(content: bytes, cuts: list[int]) -> None:
    body = form(part("image", content, "Content-Type: image/png"))
    edges = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    chunks = [body[start:stop] for start, stop in zip(edges, edges[1:], strict=False)]
    if b"\r\n--xx" not in content:
        assert received(Settings(), FORM["content-type"], chunks) == content


@given(body=st.binary(max_size=400))
def test_no_body_breaks_the_form_reader(body: bytes) -> None:
    with pytest.raises(Problem) as problem:
        received(Settings(), FORM["content-type"], [body[:100], body[100:]])
    assert problem.value.status == 400


def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_413() -> None:
    client = TestClient(tiny_app(max_bytes=len(FILE)))
    assert client.post("/segment", content=FILE, headers=RAW).status_code == 200
    too_long = client.post("/segment", content=FILE + b"\0", headers=RAW)
    assert code(too_long) == (413, "too_many_bytes")
    assert str(len(FILE)) in too_long.json()["detail"]


def test_a_declared_length_past_the_limit_is_413_before_anything_is_read() -> None:
    pulled = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal pulled
        pulled += 1
        yield bytes(10)

    app = tiny_app(max_bytes=1000)
    for length in ("1001", "9" * 60):
        assert code(streamed(app, pieces, **{"content-length": length})) == (413, "too_many_bytes")
    assert pulled == 0


@pytest.mark.parametrize("kind", [RAW["content-type"], FORM["content-type"]])
def test_an_undeclared_body_is_cut_off_at_the_limit(kind: str) -> None:
    taken: list[int] = []

    async def receive() -> dict[str, Any]:
        taken.append(100)
        start = part("image", b"") if len(taken) == 1 and "form" in kind else b""
        return {"type": "http.request", "body": start.ljust(100, b"x"), "more_body": True}

    scope = {"type": "http", "headers": [(b"content-type", kind.encode())]}
    buffers = Buffers(10_000)
    with pytest.raises(Problem, match="1000 bytes") as problem, buffers.lease() as book:
        asyncio.run(receive_image(Request(scope, receive), Settings(max_bytes=1000), book))
    assert problem.value.status == 413
    assert sum(taken) == 1100
    assert buffers.held == 0


def test_the_memory_of_all_bodies_together_is_limited() -> None:
    app = tiny_app(max_bytes=3000, max_buffered_bytes=3000)
    service = app.state.service
    client = TestClient(app)
    with service.buffers.lease() as book:
        book(2900)
        refused = client.post("/segment", content=FILE, headers=RAW)
    assert code(refused) == (503, "too_many_uploads")
    assert int(refused.headers["retry-after"]) >= 1
    assert service.buffers.held == 0
    assert client.post("/segment", content=FILE, headers=RAW).status_code == 200


def test_a_body_that_stops_arriving_is_408() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield FILE[:10]
        await asyncio.sleep(30)

    response = streamed(tiny_app(receive_timeout_s=0.1), pieces)
    assert code(response) == (408, "upload_timeout")
    assert response.headers["connection"] == "close"


def test_a_body_that_drips_is_408() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.01)

    assert code(streamed(tiny_app(receive_timeout_s=0.2), pieces)) == (408, "upload_timeout")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (form(), "no_image"),
        (form(part("picture", FILE)), "unexpected_field"),
        (form(part("image", FILE), part("output", b"json")), "unexpected_field"),
        (form(part("image", FILE), part("image", FILE)), "several_images"),
        (form(part("image", b"")), "empty_body"),
        (form(part("image", FILE), end=b""), "malformed_form"),
        (form(part("image", FILE))[: len(FILE) // 2], "malformed_form"),
        (form(b"--xx\r\nContent-Type: image/png\r\n\r\n" + FILE + b"\r\n"), "unexpected_field"),
        (form(part("image", FILE, *(f"X-{n}: y" for n in range(100)))), "malformed_form"),
        (form(part("image", FILE, "X-Long: " + "y" * 100_000)), "malformed_form"),
        (b"no form at all", "malformed_form"),
    ],
)
def test_a_malformed_form_is_400(content: bytes, expected: str) -> None:
    response = TestClient(tiny_app()).post("/segment", content=content, headers=FORM)
    assert code(response) == (400, expected)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=" + "b" * 5000])
def test_a_form_without_a_usable_boundary_is_400(kind: str) -> None:
    response = TestClient(tiny_app()).post("/segment", content=FILE, headers={"content-type": kind})
    assert code(response) == (400, "malformed_form")


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "application/json", "multipart/mixed"]
)
def test_a_body_that_cannot_hold_an_image_is_415_and_told_what_can(kind: str) -> None:
    response = TestClient(tiny_app()).post("/segment", content=FILE, headers={"content-type": kind})
    assert code(response) == (415, "unsupported_media_type")
    assert "multipart/form-data" in response.headers["accept-post"]


def test_a_compressed_body_is_refused_not_unpacked() -> None:
    response = TestClient(tiny_app()).post(
        "/segment", content=FILE, headers=RAW | {"content-encoding": "gzip"}
    )
    assert code(response) == (415, "unsupported_encoding")


def test_a_form_field_without_a_file_name_is_taken() -> None:
    body = b'--xx\r\ncontent-disposition: form-data; name="image"\r\n\r\n' + FILE + b"\r\n--xx--"
    response = TestClient(tiny_app()).post("/segment", content=body, headers=FORM)
    assert decoded(response.content).shape == (60, 90)
