"""Clients that are slow on purpose, or leave: while they send, wait, or are being worked for."""

import contextlib
import socket
import threading
import time
from pathlib import Path

import _paths  # noqa: F401
from _fault import LONG_QUERY, PLAIN, Checks, Outcome, Target, moody, panorama, target

SLOW = 100
LIMIT_S = 3


def slow_heads(folder: Path) -> Outcome:
    """A hundred connections that send a header a second and never an end (slow loris)."""
    return _slow(folder, "slow heads", b"POST /segment HTTP/1.1\r\nHost: x\r\n", b"X-Drip: 1\r\n")


def slow_bodies(folder: Path) -> Outcome:
    """A hundred connections that send a body of a megabyte byte by byte."""
    head = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n\r\n"
    return _slow(folder, "slow bodies", head, b"x")


def _slow(folder: Path, name: str, start: bytes, drop: bytes) -> Outcome:
    checks = Checks()
    limits = {"PSANET_CONNECTION_TIMEOUT_S": str(LIMIT_S), "PSANET_RECEIVE_TIMEOUT_S": str(LIMIT_S)}
    with target(moody(folder), **limits) as service:
        began = time.perf_counter()
        drips = [_Drip(service, start, drop) for _ in range(SLOW)]
        normal = [service.ask() for _ in range(50)]
        slowest_s = max(answer.seconds for answer in normal)
        checks.that({answer.status for answer in normal} == {200}, "others got no answer meanwhile")
        checks.that(slowest_s < 1, f"others waited {slowest_s:.2f} s")
        ends = sorted(drip.ended(began) for drip in drips)
        replies = {drip.reply for drip in drips}
        checks.that(ends[-1] < 2 * LIMIT_S + 1, f"a connection stood for {ends[-1]:.1f} s")
        checks.that(service.metric("psanet_buffered_bytes") == 0, "bytes are still held")
        recovery_s = service.recovers(time.perf_counter())
    said = ", ".join(sorted(replies))
    seen = (
        f"{said} after {ends[0]:.1f} to {ends[-1]:.1f} s; others meanwhile 200, the slowest {slowest_s:.2f} s"
    )
    return checks.outcome(f"{SLOW} {name} (limit {LIMIT_S} s)", seen, recovery_s)


class _Drip:
    """A connection that sends `drop` again and again until it is closed. reply: the status that it got."""

    def __init__(self, service: Target, start: bytes, drop: bytes) -> None:
        self._connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        self._connection.sendall(start)
        self._drop, self.reply, self._end = drop, "closed", 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self, since: float) -> float:
        """Seconds from `since` until it was closed."""
        self._thread.join(60)
        return self._end - since

    def _run(self) -> None:
        self._connection.settimeout(0.5)
        with contextlib.suppress(OSError), self._connection:
            while True:
                self._connection.sendall(self._drop)
                with contextlib.suppress(TimeoutError):
                    reply = self._connection.recv(4096)
                    if not reply:
                        break
                    if reply.startswith(b"HTTP/1.1 "):
                        self.reply = reply.split(b" ", 2)[1].decode()
        self._end = time.perf_counter()


def leaves_while_it_sends(folder: Path) -> Outcome:
    """Twenty clients that go in the middle of an upload."""
    checks = Checks()
    with target(moody(folder)) as service:
        connections = [service.send(bytes(1000), declared=10_000) for _ in range(20)]
        service.until(lambda: service.metric("psanet_buffered_bytes") == 20_000)
        left = time.perf_counter()
        for connection in connections:
            connection.close()
        freed_s = service.until(lambda: service.metric("psanet_buffered_bytes") == 0)
        checks.that(freed_s < 1, f"their bytes were held for {freed_s:.1f} s")
        checks.that(service.metric("psanet_problems_total", code="client_gone") == 20, "not all were counted")
        recovery_s = service.recovers(left)
    seen = f"nothing, it has gone; its bytes were freed in {1000 * freed_s:.0f} ms"
    return checks.outcome("20 clients leave while they send", seen, recovery_s)


def leaves_the_queue(_: Path) -> Outcome:
    """Clients that go while another one is worked for: their places are free for others."""
    checks = Checks()
    with target("psanet18_camvid", PSANET_WORKERS="1", PSANET_QUEUE_SIZE="4") as service:
        first = service.asking(panorama(), LONG_QUERY)
        service.at_work()
        waiting = [service.send(PLAIN) for _ in range(4)]
        service.until(lambda: service.metric("psanet_queue_depth") == 4)
        refused = service.ask()
        for connection in waiting:
            connection.close()
        freed_s = service.until(lambda: service.metric("psanet_queue_depth") == 0)
        taken = service.ask()
        first.result(60)
        checks.that((refused.status, refused.code) == (503, "queue_full"), "a fifth was not refused")
        checks.that(freed_s < 1, f"their places were held for {freed_s:.1f} s")
        checks.that(taken.status == 200, f"who came then got {taken}")
    seen = f"nothing, it has gone; its place was free in {1000 * freed_s:.0f} ms (before: {refused})"
    return checks.outcome("4 clients leave a full queue", seen, None)


def leaves_during_inference(_: Path) -> Outcome:
    """A client that goes while its windows are in the engine: the rest of them is not run."""
    checks, picture = Checks(), panorama()
    with target("psanet18_camvid") as service:
        whole_s = service.ask(picture, LONG_QUERY).seconds
        began = time.perf_counter()
        connection = service.send(picture, query=LONG_QUERY)
        service.until(lambda: service.metric("psanet_workers_busy") == 1)
        time.sleep(whole_s / 8)
        left = time.perf_counter()
        connection.close()
        freed_s = service.until(lambda: service.metric("psanet_workers_busy") == 0)
        checks.that(freed_s < whole_s / 2, f"the work went on for {freed_s:.2f} s")
        recovery_s = service.recovers(left)
    saved = whole_s - (left - began) - freed_s
    spared = f"{saved:.1f} of {whole_s:.1f} s of work spared"
    seen = f"nothing, it has gone; its worker was free in {1000 * freed_s:.0f} ms, {spared}"
    return checks.outcome("a client leaves during inference", seen, recovery_s)


ALL = (slow_heads, slow_bodies, leaves_while_it_sends, leaves_the_queue, leaves_during_inference)
