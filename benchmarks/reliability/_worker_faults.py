"""Faults of the engine and of the process that it runs in."""

import os
import resource
import signal
import time
from pathlib import Path

import _paths  # noqa: F401
from _fault import Checks, Outcome, bright, moody, panorama, target

from tests.service.bundles import FAILS, HANGS, STARVES


def engine_raises(folder: Path) -> Outcome:
    """An engine call that raises, between calls that do not."""
    checks = Checks()
    with target(moody(folder)) as service:
        worker = service.worker
        answer = service.ask(bright(FAILS))
        recovery_s = service.recovers(time.perf_counter())
        checks.that((answer.status, answer.code) == (500, "internal_error"), "not 500 internal_error")
        checks.that(service.worker == worker, "the worker was replaced for one failure")
    return checks.outcome("the engine raises", str(answer), recovery_s)


def engine_always_raises(folder: Path) -> Outcome:
    """Call after call: the worker is given up as broken."""
    checks = Checks()
    with target(moody(folder)) as service:
        worker = service.worker
        answers = [service.ask(bright(FAILS)) for _ in range(3)]
        broken = time.perf_counter()
        service.until(lambda: service.get("/readyz") != 200, 5)
        recovery_s = service.recovers(broken)
        checks.that({answer.status for answer in answers} == {500}, f"{[str(each) for each in answers]}")
        checks.that(service.worker != worker, "the broken worker was kept")
    return checks.outcome("the engine raises, three times in a row", str(answers[-1]), recovery_s)


def engine_hangs(folder: Path) -> Outcome:
    """A call that never ends, PSANET_CALL_TIMEOUT_S=2; others wait behind it."""
    checks = Checks()
    with target(moody(folder), PSANET_CALL_TIMEOUT_S="2", PSANET_WORKERS="1") as service:
        began = time.perf_counter()
        hanging = service.asking(bright(HANGS))
        service.at_work()
        waiting = [service.asking() for _ in range(8)]
        checks.that(service.get("/healthz") == 200, "/healthz did not answer meanwhile")
        answer = hanging.result(60)
        lost = time.perf_counter()
        others = [each.result(60) for each in waiting]
        recovery_s = service.recovers(lost)
        checks.that((answer.status, answer.code) == (503, "worker_lost"), "not 503 worker_lost")
        checks.that(answer.retry_after is not None, "no Retry-After")
        checks.that(lost - began < 6, "it took more than 2 s, a beat and their detection")
        checks.that({each.status for each in others} == {200}, "one that only waited was lost")
        checks.that(service.metric("psanet_worker_restarts_total", reason="hung") == 1, "not counted as hung")
    return checks.outcome("the engine hangs (limit 2 s)", f"{answer}; the 8 in the queue: 200", recovery_s)


def worker_killed(folder: Path) -> Outcome:
    """SIGKILL in the middle of a call, with others in the queue."""
    checks = Checks()
    with target(moody(folder), PSANET_WORKERS="1") as service:
        hanging = service.asking(bright(HANGS))
        service.at_work()
        waiting = [service.asking() for _ in range(8)]
        service.until(lambda: service.metric("psanet_queue_depth") == 8)
        killed = time.perf_counter()
        os.kill(service.worker, signal.SIGKILL)
        answer = hanging.result(60)
        lost_s = time.perf_counter() - killed
        recovery_s = service.recovers(killed)
        others = [each.result(60) for each in waiting]
        checks.that((answer.status, answer.code) == (503, "worker_lost"), "not 503 worker_lost")
        checks.that(lost_s < 1, "told after more than a second")
        checks.that({each.status for each in others} == {200}, "one that only waited was lost")
    seen = f"503 {answer.code} {1000 * lost_s:.0f} ms after the kill; the 8 in the queue: 200"
    return checks.outcome("the worker gets SIGKILL", seen, recovery_s)


def worker_stopped(folder: Path) -> Outcome:
    """SIGSTOP: it lives, and says nothing more."""
    checks = Checks()
    with target(moody(folder)) as service:
        stopped = time.perf_counter()
        os.kill(service.worker, signal.SIGSTOP)
        answer = service.ask()
        recovery_s = service.recovers(stopped)
        checks.that((answer.status, answer.code) == (503, "worker_lost"), "not 503 worker_lost")
        checks.that(
            service.metric("psanet_worker_restarts_total", reason="silent") == 1, "not counted as silent"
        )
    return checks.outcome("the worker gets SIGSTOP (limit 15 s)", str(answer), recovery_s)


def engine_out_of_memory(folder: Path) -> Outcome:
    """An engine that asks for more memory than there is."""
    checks = Checks()
    with target(moody(folder)) as service:
        worker = service.worker
        answer = service.ask(bright(STARVES))
        recovery_s = service.recovers(time.perf_counter())
        checks.that((answer.status, answer.code) == (503, "out_of_memory"), "not 503 out_of_memory")
        checks.that(answer.retry_after is not None, "no Retry-After")
        checks.that(service.worker == worker, "the worker was replaced")
    return checks.outcome("the engine wants more memory than there is", str(answer), recovery_s)


def worker_out_of_memory(_: Path) -> Outcome:
    """A worker that gets no more memory at all: decoding or the engine may be what fails, or the start of a
    thread, for which CPython waits for ever: then the deadline ends the request, and the worker."""
    checks, seen = Checks(), set()
    picture = panorama()
    with target("psanet18_camvid", PSANET_DEADLINE_S="5", PSANET_CALL_TIMEOUT_S="5") as service:
        worker = service.worker
        service.ask(picture)
        held = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
        for more_mb in (0, 4, 16, 64):
            limit = held + more_mb * 2**20
            resource.prlimit(worker, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            answers = [service.ask(picture, "?scales=1,2,3&flip=true") for _ in range(2)]
            seen |= {f"{answer.status} {answer.code}".strip() for answer in answers}
            checks.that(service.get("/healthz") == 200, "the service itself was gone")
            if service.worker_or_none != worker:
                break
        if service.worker_or_none == worker:
            resource.prlimit(worker, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        freed = time.perf_counter()
        recovery_s = service.recovers(freed)
        allowed = {"503 out_of_memory", "503 worker_lost", "503 no_worker", "504 deadline", "200"}
        checks.that(seen <= allowed, f"{sorted(seen - allowed)}")
    return checks.outcome("the worker gets no more memory", ", ".join(sorted(seen)), recovery_s)


ALL = (
    engine_raises,
    engine_always_raises,
    engine_hangs,
    worker_killed,
    worker_stopped,
    engine_out_of_memory,
    worker_out_of_memory,
)
