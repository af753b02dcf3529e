"""Clients that ask again as soon as they have their answer, and what came back to them.

Not here: what they ask (`batching.py`, `reliability/load.py`).
"""

import http.client
import select
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

REFUSED_S = 0.3
"""After which a client that was refused asks again: sooner than it was told to."""


@dataclass(frozen=True)
class Client:
    """kind: what its answers count as."""

    kind: str
    body: bytes
    query: str = ""
    path: str = "/segment"
    media_type: str = "image/jpeg"

    def ask(
        self, connection: http.client.HTTPConnection, request_id: str = ""
    ) -> tuple[int, Mapping[str, str]]:
        """Sends its picture and takes the whole answer; status and headers."""
        headers = {"Content-Type": self.media_type} | ({"X-Request-ID": request_id} if request_id else {})
        connection.request("POST", f"{self.path}{self.query}", self.body, headers)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers


@dataclass
class Load:
    """What came back. seconds, refused: of each answer with 200, and of any other; statuses: how many of
    each; busy_s: measured for; unanswered, twice, strange: requests without an answer, connections with more
    than the answers that were due, answers to another request; no_retry_after: refusals that do not say when
    to come back."""

    seconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    busy_s: float = 0.0
    unanswered: int = 0
    twice: int = 0
    strange: int = 0
    no_retry_after: int = 0

    @property
    def asked(self) -> int:
        """Requests that were sent."""
        return self.statuses.total() + self.unanswered

    @property
    def per_s(self) -> float:
        """Answers with 200 in a second."""
        return len(self.seconds) / self.busy_s

    def add(self, other: "Load") -> None:
        """Count what came back in another round too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def summary(self) -> dict[str, object]:
        """Answers a second, percentiles in milliseconds."""
        return {
            "per_s": round(self.per_s, 2),
            "p50_ms": percentile_ms(self.seconds, 0.5),
            "p95_ms": percentile_ms(self.seconds, 0.95),
            "p99_ms": percentile_ms(self.seconds, 0.99),
            "refused_p95_ms": percentile_ms(self.refused, 0.95),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


def percentile_ms(seconds: list[float], share: float) -> float | None:
    """None where there are none."""
    values = sorted(seconds)
    return round(1000 * values[min(len(values) - 1, int(share * len(values)))], 1) if values else None


def run(port: int, clients: Sequence[Client], seconds: float, loads: dict[str, Load]) -> None:
    """All clients at once, each asking again and again until the time is over; adds to `loads`."""
    end, lock = time.perf_counter() + seconds, threading.Lock()

    def ask(client: Client, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        load, count = loads[client.kind], 0
        while (started := time.perf_counter()) < end:
            count += 1
            request_id = f"client-{number}-{count}"
            try:
                status, headers = client.ask(connection, request_id)
            except (OSError, http.client.HTTPException):
                connection.close()
                with lock:
                    load.unanswered += 1
                continue
            took = time.perf_counter() - started
            with lock:
                load.statuses[status] += 1
                (load.seconds if status == 200 else load.refused).append(took)
                load.strange += headers.get("X-Request-ID", request_id) != request_id
                load.no_retry_after += status in (429, 503) and "Retry-After" not in headers
            if status != 200:
                time.sleep(REFUSED_S)
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            load.twice += bool(connection.sock.recv(1))  # b"": it was closed, as may be
        connection.close()

    began = time.perf_counter()
    threads = [
        threading.Thread(target=ask, args=each) for each in zip(clients, range(len(clients)), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for kind in {client.kind for client in clients}:
        loads[kind].busy_s += time.perf_counter() - began
