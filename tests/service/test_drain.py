"""SIGTERM: ready turns 503 at once, what was accepted is finished, and only then does the server end."""

import asyncio
import socket
import time
from typing import Any

import httpx2
import pytest
from starlette.responses import Response
from starlette.testclient import TestClient

from service import fleet
from service.app import create_app
from service.server import build_server
from service.settings import Settings
from tests.service.fakes import FakeEngine, encoded, three_colors, tiny_app

FILE = encoded(three_colors())
RAW = {"content-type": "application/octet-stream"}


def test_draining_waits_for_accepted_work_and_then_ends() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    app = tiny_app(engine)

    async def scenario() -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ready = asyncio.Event()
        server = build_server(app, app.state.service.settings, announce=ready.set)
        running = asyncio.create_task(server._serve([listener]))
        await asyncio.wait_for(ready.wait(), 10)
        async with httpx2.AsyncClient(timeout=20) as client:
            accepted = asyncio.create_task(client.post(f"{url}/segment", content=FILE, headers=RAW))
            await asyncio.to_thread(engine.entered.wait, 10)
            server.handle_exit(15, None)
            assert (await client.get(f"{url}/readyz")).status_code == 503
            assert (await client.get(f"{url}/healthz")).status_code == 200
            assert (await client.post(f"{url}/segment", content=FILE, headers=RAW)).json()[
                "code"
            ] == "draining"
            assert not running.done()
            engine.gate.set()
            assert (await accepted).status_code == 200
            await asyncio.wait_for(running, 10)

    asyncio.run(scenario())


def test_work_that_outlasts_the_drain_time_gets_503_and_the_server_ends() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    app = tiny_app(engine, drain_s=0.2)

    async def scenario() -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        ready = asyncio.Event()
        server = build_server(app, app.state.service.settings, announce=ready.set)
        running = asyncio.create_task(server._serve([listener]))
        await asyncio.wait_for(ready.wait(), 10)
        async with httpx2.AsyncClient(timeout=20) as client:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/segment"
            accepted = asyncio.create_task(client.post(url, content=FILE, headers=RAW))
            await asyncio.to_thread(engine.entered.wait, 10)
            server.handle_exit(15, None)
            response = await accepted
            assert (response.status_code, response.json()["code"]) == (503, "draining")
            await asyncio.wait_for(running, 10)
        engine.gate.set()

    asyncio.run(scenario())


def test_a_service_that_is_still_loading_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*_: Any, **__: Any) -> None:
        await asyncio.sleep(20)

    monkeypatch.setattr(fleet, "start_worker", slow)
    started = time.monotonic()
    with TestClient(create_app(Settings())) as client:
        assert client.get("/readyz").json()["code"] == "not_ready"
    assert time.monotonic() - started < 10


def test_a_slow_reader_gets_all_of_its_answer_while_the_server_ends() -> None:
    app = tiny_app(drain_s=20)

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(20_000_000))

    async def scenario() -> int:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        ready = asyncio.Event()
        server = build_server(app, app.state.service.settings, announce=ready.set)
        running = asyncio.create_task(server._serve([listener]))
        await asyncio.wait_for(ready.wait(), 10)
        reader, writer = await asyncio.open_connection(*listener.getsockname(), limit=1 << 16)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        received = len(await reader.read(1000))
        server.handle_exit(15, None)
        await asyncio.sleep(2)
        assert not running.done(), "the process would have ended with half of the answer unsent"
        while piece := await reader.read(1 << 20):
            received += len(piece)
        await asyncio.wait_for(running, 10)
        writer.close()
        return received

    assert asyncio.run(scenario()) > 20_000_000
