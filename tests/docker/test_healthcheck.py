"""The health check of the images, against a server that answers what it is told."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from healthcheck import check


class Answers(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"status": "as told"}')

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Answers,), {}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "127.0.0.1"])
def test_a_service_that_takes_work_is_healthy(server: ThreadingHTTPServer, host: str) -> None:
    assert check({"PSANET_HOST": host, "PSANET_PORT": str(server.server_port)}) is None


def test_one_that_loads_or_drains_is_not_and_its_answer_is_kept(server: ThreadingHTTPServer) -> None:
    server.RequestHandlerClass.status = 503  # type: ignore[attr-defined]
    assert check({"PSANET_PORT": str(server.server_port)}) == '503 {"status": "as told"}'


def test_no_answer_is_a_reason_not_a_traceback(server: ThreadingHTTPServer) -> None:
    port = str(server.server_port)
    assert "no answer" in (check({"PSANET_PORT": "none"}) or "")
    server.shutdown()
    server.server_close()
    assert "no answer" in (check({"PSANET_PORT": port}) or "")
