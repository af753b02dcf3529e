"""Faults of what is around the service: signals, disk, clock, descriptors."""

import os
import resource
import signal
import tempfile
import time
from pathlib import Path

import _paths  # noqa: F401
from _fault import LONG_QUERY, Checks, Outcome, Target, bright, moody, panorama, target
from _wall_clock import WallClock

from tests.service.bundles import HANGS
from tests.service.running import children


def one_sigterm(_: Path) -> Outcome:
    """While requests are worked on and wait."""
    checks = Checks()
    with target("psanet18_camvid", PSANET_WORKERS="1") as service:
        first = service.asking(panorama(), LONG_QUERY)
        service.at_work()
        waiting = [service.asking() for _ in range(3)]
        service.until(lambda: service.metric("psanet_queue_depth") == 3)
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda: service.get("/readyz") == 503)
        refused, alive = service.ask(), service.get("/healthz")
        accepted = [each.result(60).status for each in (first, *waiting)]
        code = service.process.wait(30)
        checks.that(accepted == [200] * 4, f"accepted ones got {accepted}")
        checks.that(
            (refused.status, refused.code) == (503, "draining"), "a new one was not told of the draining"
        )
        checks.that(alive == 200, "/healthz did not answer meanwhile")
        checks.that(code == 0, f"exit code {code}")
    return checks.outcome(
        "SIGTERM with 4 accepted requests", f"the 4: 200; a new one: {refused}; exit code {code}", None
    )


def two_sigterms(folder: Path) -> Outcome:
    """The second one while a request hangs in the engine."""
    checks = Checks()
    with target(moody(folder)) as service:
        worker = service.worker
        hanging = service.asking(bright(HANGS))
        service.at_work()
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda: service.get("/readyz") == 503)
        second = time.perf_counter()
        service.process.send_signal(signal.SIGTERM)
        answer = hanging.result(60)
        told_s = time.perf_counter() - second
        code = service.process.wait(30)
        ended_s = time.perf_counter() - second
        checks.that((answer.status, answer.code) == (503, "draining"), "not 503 draining")
        checks.that(code == 0, f"exit code {code}")
        checks.that(ended_s < 10, f"it ended after {ended_s:.1f} s")
        checks.that(not Path(f"/proc/{worker}").exists(), "its worker lives on")
    seen = f"503 {answer.code} {told_s:.2f} s after the second; exit code {code} after {ended_s:.1f} s"
    return checks.outcome("two SIGTERMs, the engine hangs", seen, None)


def service_killed(folder: Path) -> Outcome:
    """SIGKILL of the service itself: nothing may stay behind; starting it again is the supervisor's."""
    checks = Checks()
    with target(moody(folder)) as service:
        worker = service.worker
        hanging = service.asking(bright(HANGS))
        service.at_work()
        service.process.kill()
        service.process.wait()
        answer = hanging.result(60)
        gone_s = service.until(lambda: not Path(f"/proc/{worker}/maps").exists() or not _maps(worker))
        checks.that(gone_s < 5, "its worker lives on")
    seen = f"{answer}; its worker was gone {1000 * gone_s:.0f} ms later"
    return checks.outcome("the service gets SIGKILL", seen, None)


def _maps(pid: int) -> str:
    """Empty for a zombie."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def disk_full(folder: Path) -> Outcome:
    """No byte can be written: stdout and stderr are /dev/full, no file may grow (RLIMIT_FSIZE 0)."""
    checks = Checks()

    def no_file_grows() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    with open("/dev/full", "w") as full:
        popen = {"stdout": full, "stderr": full, "preexec_fn": no_file_grows}
        with target(moody(folder), popen=popen, PSANET_LOG_LEVEL="info") as service:
            answers = [service.ask() for _ in range(20)]
            os.kill(service.worker, signal.SIGKILL)
            killed = time.perf_counter()
            recovery_s = service.recovers(killed)
            service.process.send_signal(signal.SIGTERM)
            code = service.process.wait(30)
        checks.that({answer.status for answer in answers} == {200}, "not all were served")
        checks.that(code == 0, f"exit code {code}")
    seen = f"200 for all 20, and for others after a killed worker; exit code {code}"
    return checks.outcome("disk full, log included", seen, recovery_s)


def clock_jumps(folder: Path) -> Outcome:
    """The wall clock goes an hour back, then a day forward, under load."""
    checks = Checks()
    with WallClock(folder) as clock:
        variables = clock.variables | {"PSANET_DEADLINE_S": "5", "PSANET_RATE_PER_MINUTE": "100000"}
        with target(moody(folder), **variables) as service:
            seen = {service.ask().status for _ in range(20)}
            jumped = time.perf_counter()
            for hours in (-1, 24):
                waiting = [service.asking() for _ in range(8)]
                clock.jump(3600 * hours)
                jump_s = service.until(lambda: abs(_clock_of(service) - clock.now_s()) < 60, 5)
                checks.that(jump_s < 5, "its clock did not jump")
                seen |= {each.result(60).status for each in waiting}
                seen |= {service.ask().status for _ in range(20)}
            recovery_s = service.recovers(jumped) - (time.perf_counter() - jumped)
            restarts = service.metric("psanet_worker_restarts_total")
            checks.that(seen == {200}, f"statuses {sorted(seen)}")
            checks.that(restarts == 0, "a worker was replaced")
    return checks.outcome(
        "the wall clock jumps (-1 h, +24 h)", "200 for all", None if recovery_s <= 0.05 else recovery_s
    )


def _clock_of(service: Target) -> float:
    """What the service takes for the time: of its Date header."""
    import email.utils
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/healthz")
    date = connection.getresponse().headers["Date"]
    connection.close()
    return email.utils.parsedate_to_datetime(date).timestamp()


def machine_sleeps(folder: Path) -> Outcome:
    """Service and worker stand still, as on a suspended machine, for longer than a worker may be silent."""
    checks = Checks()
    with target(moody(folder)) as service:
        worker = service.worker
        pids = (worker, service.process.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        asked = service.asking()
        time.sleep(20)
        woke = time.perf_counter()
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        answer = asked.result(60)
        recovery_s = service.recovers(woke)
        time.sleep(3)
        checks.that(answer.status == 200, f"one that was asked meanwhile got {answer}")
        checks.that(children(service.process.pid) == [worker], "the worker was replaced")
    return checks.outcome("the machine sleeps for 20 s", f"{answer}, asked while it slept", recovery_s)


def no_descriptors(folder: Path) -> Outcome:
    """More connections than the service may have files open; then they go."""
    checks = Checks()
    with tempfile.TemporaryFile() as log, target(moody(folder), popen={"stderr": log}) as service:
        held = len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (held + 20, held + 20))
        connections = [service.send(b"", declared=10) for _ in range(60)]
        time.sleep(2)
        alive = service.process.poll() is None
        left = time.perf_counter()
        for connection in connections:
            connection.close()
        recovery_s = service.recovers(left)
        checks.that(alive, "the service ended")
        checks.that(recovery_s < 10, "it did not recover")
    return checks.outcome("no file descriptors left", "connections wait to be accepted", recovery_s)


ALL = (
    one_sigterm,
    two_sigterms,
    service_killed,
    disk_full,
    clock_jumps,
    machine_sleeps,
    no_descriptors,
)
