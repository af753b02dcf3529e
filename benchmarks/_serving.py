"""What the benchmarks of the service share: the process, requests to it, what it weighs."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from _common import photograph

ROOT = Path(__file__).parents[1]


def jpeg_of(size_hw: tuple[int, int], seed: int = 0) -> bytes:
    """A made-up photograph as a JPEG of quality 90."""
    pixels = cv2.cvtColor(photograph(size_hw, seed), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


@dataclass(frozen=True)
class Running:
    """A service that is ready. ready_s: since its process was started."""

    process: "subprocess.Popen[bytes]"
    port: int
    ready_s: float


@contextmanager
def serving(
    root: Path = ROOT,
    variables: Mapping[str, str] | None = None,
    *,
    command: Sequence[str] = (sys.executable, "-m", "service"),
    port: int | None = None,
    ready_path: str = "/readyz",
    **options: Any,
) -> Iterator[Running]:
    """The service of the checkout at `root`, until the block ends. command: another that serves, ready when
    `ready_path` is 200; options: of its Popen."""
    port = port or free_port()
    environment = {**os.environ, "PYTHONPATH": str(root), "PSANET_PORT": str(port), **(variables or {})}
    environment.setdefault("PSANET_LOG_LEVEL", "warning")
    started = time.perf_counter()
    options.setdefault("stdout", subprocess.DEVNULL)
    process = subprocess.Popen(command, cwd=root, env=environment, **options)
    try:
        wait_until_ready(port, process, path=ready_path)
        yield Running(process, port, time.perf_counter() - started)
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()


def segment(connection: http.client.HTTPConnection, jpeg: bytes, query: str = "") -> tuple[int, str]:
    """Sends a picture and takes the answer; status and Server-Timing."""
    connection.request("POST", f"/segment{query}", jpeg, {"Content-Type": "image/jpeg"})
    response = connection.getresponse()
    response.read()
    return response.status, response.headers.get("Server-Timing", "")


def wait_until_ready(
    port: int, process: "subprocess.Popen[bytes]", limit_s: float = 60, path: str = "/readyz"
) -> None:
    """Returns once `path` answers 200."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with code {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"the service was not ready after {limit_s} s")


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its children in MB (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(size) * 1024 / 1e6 + sum(resident_mb(int(child)) for child in children)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
