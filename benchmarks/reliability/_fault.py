"""One fault and what came of it; and what the faults share: asking, waiting, a service to break.

The faults themselves: `_worker_faults.py`, `_client_faults.py`, `_machine_faults.py`, `_bundle_faults.py`.
"""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _paths  # noqa: F401
import numpy as np
from _serving import Running, jpeg_of, serving
from prometheus_client.parser import text_string_to_metric_families

from tests.service.bundles import write_moody_bundle
from tests.service.fakes import encoded, three_colors
from tests.service.running import children, metric_of

PLAIN = encoded(three_colors())
HEAD = "POST /segment{query} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {size}\r\n\r\n"
LONG_QUERY = "?scales=0.5,0.75,1,1.25,1.5,1.75&flip=true"


@dataclass(frozen=True)
class Answer:
    """status 0: the connection ended without one. code: of the problem, if it is one."""

    status: int
    code: str
    retry_after: str | None
    seconds: float

    def __str__(self) -> str:
        if not self.status:
            return self.code
        after = f", Retry-After {self.retry_after}" if self.retry_after else ""
        return f"{self.status} {self.code}".strip() + f" after {self.seconds:.2f} s{after}"


@dataclass(frozen=True)
class Outcome:
    """seen: by the client, in words; recovery_s: until a new request got its 200, None where nothing was
    lost; good: whether all of it is what is promised; why: what is not."""

    fault: str
    seen: str
    recovery_s: float | None
    good: bool
    why: str = ""


class Checks:
    """Collects what is not as it was promised."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def that(self, holds: bool, what: str) -> None:
        """Note `what` unless it holds."""
        if not holds:
            self.failed.append(what)

    def outcome(self, fault: str, seen: str, recovery_s: float | None) -> Outcome:
        """The outcome with all that was noted."""
        return Outcome(fault, seen, recovery_s, not self.failed, "; ".join(self.failed))


class Target:
    """A service to break."""

    def __init__(self, running: Running, pool: ThreadPoolExecutor | None = None) -> None:
        self.process, self.port, self._pool = running.process, running.port, pool

    @property
    def worker(self) -> int:
        """Its only worker process."""
        (pid,) = children(self.process.pid)
        return pid

    @property
    def worker_or_none(self) -> int | None:
        """The same, None where there is none or another one beside it."""
        pids = children(self.process.pid)
        return pids[0] if len(pids) == 1 else None

    def ask(self, content: bytes = PLAIN, query: str = "") -> Answer:
        """Segment an image."""
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", f"/segment{query}", content, {"Content-Type": "image/png"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, f"no answer ({type(error).__name__})", None, time.perf_counter() - started)
        finally:
            connection.close()
        is_problem = response.headers.get("Content-Type", "").startswith("application/problem+json")
        code = json.loads(body)["code"] if is_problem else ""
        return Answer(
            response.status, code, response.headers.get("Retry-After"), time.perf_counter() - started
        )

    def asking(self, content: bytes = PLAIN, query: str = "") -> "Future[Answer]":
        """The same in a thread."""
        assert self._pool is not None
        return self._pool.submit(self.ask, content, query)

    def get(self, path: str) -> int:
        """Status of a page; 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """One number of /metrics."""
        return metric_of(self._metrics(), name, **labels)

    def metric_sum(self, name: str, **labels: str) -> float:
        """The sum of all that have these labels."""
        return sum(each.value for each in self._samples(name) if labels.items() <= each.labels.items())

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Sums by the values of a label."""
        sums: dict[str, float] = {}
        for sample in self._samples(name):
            sums[sample.labels[label]] = sums.get(sample.labels[label], 0.0) + sample.value
        return sums

    def _samples(self, name: str) -> list[Any]:
        families = text_string_to_metric_families(self._metrics())
        return [sample for family in families for sample in family.samples if sample.name == name]

    def _metrics(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def recovers(self, since: float, limit_s: float = 60) -> float:
        """Seconds from `since` (perf_counter) until a plain request gets its 200."""
        while time.perf_counter() - since < limit_s:
            if self.ask().status == 200:
                return time.perf_counter() - since
            time.sleep(0.02)
        return float("inf")

    def send(self, content: bytes, *, declared: int | None = None, query: str = "") -> socket.socket:
        """A connection with a request begun: `content` of a body of `declared` bytes has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = HEAD.format(query=query, size=len(content) if declared is None else declared)
        connection.sendall(head.encode() + content)
        return connection

    def until(self, condition: Callable[[], bool], limit_s: float = 30) -> float:
        """Seconds until it holds; infinite where it does not in time."""
        started = time.perf_counter()
        while time.perf_counter() - started < limit_s:
            if condition():
                return time.perf_counter() - started
            time.sleep(0.005)
        return float("inf")

    def at_work(self, count: int = 1) -> None:
        """Return once workers are busy with `count` requests."""
        assert self.until(lambda: self.metric("psanet_workers_busy") == count) < 30
        time.sleep(0.2)


@contextmanager
def target(bundle: Path | str, *, popen: dict[str, Any] | None = None, **variables: str) -> Iterator[Target]:
    """A service that is ready, and threads to ask it from."""
    variables = {"PSANET_MODELS": str(bundle), "PSANET_LOG_LEVEL": "error"} | variables
    with ThreadPoolExecutor(64) as pool, serving(variables=variables, **(popen or {})) as running:
        yield Target(running, pool)


def moody(folder: Path) -> Path:
    """The tiny network that does not survive bright images."""
    return folder / "moody" if (folder / "moody").exists() else write_moody_bundle(folder / "moody")


def bright(value: int) -> bytes:
    """An image that the moody network does not survive."""
    return encoded(np.full((65, 65, 3), value, np.uint8))


def panorama() -> bytes:
    """A picture whose six scales are seconds of work for the bundled model."""
    return jpeg_of((1024, 2048))
