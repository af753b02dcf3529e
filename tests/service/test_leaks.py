"""Some hundred requests of every kind leave nothing behind; twenty thousand: benchmarks/reliability."""

import contextlib
import random
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.service.bundles import write_tiny_bundle
from tests.service.fakes import encoded, three_colors
from tests.service.running import Process, children, metric_of, started, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")

FILE = encoded(three_colors())
HEAD = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


def held(service: Process) -> tuple[int, int]:
    """Descriptors and threads of the service and its worker."""
    pids = (service.process.pid, *children(service.process.pid))
    names = ("fd", "task")
    descriptors, threads = (
        sum(len(list(Path(f"/proc/{pid}/{name}").iterdir())) for pid in pids) for name in names
    )
    return descriptors, threads


def ask_in_every_way(url: str, count: int) -> None:
    """Valid, broken, too large, nonsense; clients that leave while they send, or before they are answered."""
    rng, parts = random.Random(0), urlsplit(url)
    place = (parts.hostname or "", parts.port or 0)
    with httpx2.Client(timeout=30) as client:
        for _ in range(count):
            broken = FILE[: rng.randrange(len(FILE))]
            for content in (FILE, broken, bytes(30_000)):
                status = client.post(f"{url}/segment?flip=true", content=content).status_code
                assert status in (200, 400, 413, 415, 422), status
            assert client.post(f"{url}/segment?what=1", content=FILE).status_code == 422
            for sent in (FILE[:50], FILE):
                with contextlib.closing(socket.create_connection(place)) as connection:
                    connection.sendall(HEAD % len(FILE) + sent)


def test_requests_of_every_kind_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with started(bundle, PSANET_LOG_LEVEL="error", PSANET_MAX_BYTES="20000") as service:

        def at_rest() -> bool:
            text = httpx2.get(f"{service.url}/metrics").text
            busy = ("psanet_workers_busy", "psanet_buffered_bytes", "psanet_requests_in_progress")
            return not any(metric_of(text, name) for name in busy)

        ask_in_every_way(service.url, 10)
        until(at_rest)
        warm = held(service)
        ask_in_every_way(service.url, 60)
        until(at_rest)
        until(lambda: held(service) == warm)
        text = httpx2.get(f"{service.url}/metrics").text
        assert metric_of(text, "psanet_worker_restarts_total") == 0
        assert metric_of(text, "psanet_problems_total", code="internal_error") == 0
