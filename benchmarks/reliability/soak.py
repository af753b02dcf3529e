"""Tens of thousands of requests of every kind at one service: what it answers, and whether it grows.

    python benchmarks/reliability/soak.py [--requests 20000] [--control 5000] [--minutes 20]

Valid and broken images, forms, nonsense, everything over a limit, uploads that stop, clients that leave
(`_traffic.py`), from twelve clients at once, at a tiny network, so that the service and not the network is
what works. After each tenth of the requests it is left alone for some seconds, and memory, descriptors and
threads are counted, those of its worker too. Held against: no 5xx but 503 with Retry-After; no status that a
kind of request must not get; memory after the first three tenths grows by less than 3%; descriptors and
threads do not grow. The control: a service that leaks on purpose (`_leaking.py`) has to fail the same test.
About five minutes. Prints one JSON line last; exits with 1 where a promise was not kept.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _paths
from _common import report
from _fault import Target
from _serving import serving
from _traffic import LEFT, LIMITS, Traffic

from tests.service.bundles import write_tiny_bundle
from tests.service.running import children

CLIENTS, PARTS, WARM_UP = 12, 10, 3
REST_S = 8.0
"""Longer than it takes a service at rest to give memory back."""
MOST_GROWTH = 0.03
SERVICE = (sys.executable, "-m", "service")
LEAKING = (sys.executable, str(_paths.ROOT / "benchmarks/reliability/_leaking.py"))


@dataclass(frozen=True)
class Sample:
    """Of service and worker together, at rest. own_mb: memory that is theirs alone."""

    requests: int
    own_mb: float
    descriptors: int
    threads: int


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--control", type=int, default=5_000, help="requests to the leaking one; 0: none")
    parser.add_argument("--minutes", type=float, default=20.0, help="that each of the two may take at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_tiny_bundle(Path(folder) / "tiny")
        real = soak(bundle, SERVICE, args.requests, args.seed, 60 * args.minutes)
        control = soak(bundle, LEAKING, args.control, args.seed, 60 * args.minutes) if args.control else None
    failed = real["failed"] + ([] if control is None else _missed(control["failed"]))
    report(
        benchmark="soak",
        service=real,
        leaking=control,
        most_growth=MOST_GROWTH,
        failed=failed,
        met=not failed,
    )
    return 1 if failed else 0


def _missed(found: list[str]) -> list[str]:
    """What a service that leaks everything was not found out by."""
    leaks = ("memory", "descriptors", "threads")
    return [
        f"the control's {leak} went unnoticed" for leak in leaks if not any(leak in each for each in found)
    ]


def soak(bundle: Path, command: Sequence[str], requests: int, seed: int, limit_s: float) -> dict[str, Any]:
    """Figures of one service, and what of the promises failed."""
    variables = LIMITS | {"PSANET_MODELS": str(bundle), "PSANET_LOG_LEVEL": "error"}
    statuses: dict[str, Counter[int]] = {}
    samples, began = [], time.perf_counter()
    with serving(variables=variables, command=command, stderr=subprocess.PIPE) as running:
        log = _Log(running.process)
        for part in range(PARTS):
            traffic(running.port, requests // PARTS, seed + part, statuses)
            samples.append(_sample(Target(running), (part + 1) * (requests // PARTS)))
            print(f"{Path(command[-1]).name}: {samples[-1]}", flush=True)
            if time.perf_counter() - began > limit_s:
                break
        restarts = Target(running).metric_sum("psanet_worker_restarts_total")
        running.process.send_signal(signal.SIGTERM)
        code = running.process.wait(60)
    failed = [*_wrong(statuses), *_grown(samples)]
    failed += [f"exit code {code}"] if code else []
    failed += [f"{restarts:.0f} workers were replaced"] if restarts else []
    failed += [f"its log has {log.tracebacks} tracebacks"] if log.tracebacks else []
    seconds = round(time.perf_counter() - began)
    total: Counter[int] = sum(statuses.values(), Counter())
    by_kind = {kind: dict(sorted(counts.items())) for kind, counts in statuses.items()}
    print(
        f"{Path(command[-1]).name}: {total.total()} requests in {seconds} s: {dict(total)}; failed: {failed}"
    )
    return {
        "requests": total.total(),
        "seconds": seconds,
        "statuses": {str(status): count for status, count in sorted(total.items())},
        "by_kind": {
            kind: {str(status): n for status, n in counts.items()} for kind, counts in by_kind.items()
        },
        "samples": [asdict(sample) for sample in samples],
        "growth": round(_growth(samples), 4),
        "failed": failed,
    }


def traffic(port: int, requests: int, seed: int, statuses: dict[str, Counter[int]]) -> None:
    """That many requests of all kinds, from several clients at once; counts what came back."""
    kinds, lock = Traffic().kinds, threading.Lock()
    names, weights = list(kinds), [weight for weight, _, _ in kinds.values()]

    def client(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        for _ in range(-(-requests // CLIENTS)):
            (name,) = rng.choices(names, weights)
            try:
                status = kinds[name][1](port, rng)
            except Exception as error:  # whatever a client may meet: it is counted, and the others go on
                status = -1
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            with lock:
                statuses.setdefault(name, Counter())[status] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Log:
    """What a service writes to stderr, read so that it never waits. tracebacks: how many were in it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.tracebacks = 0
        assert process.stderr is not None
        self._lines = process.stderr
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._lines:
            if b"Traceback" in line:
                self.tracebacks += 1
                print(line.decode(errors="replace")[:2000], file=sys.stderr)


def _sample(service: Target, requests: int) -> Sample:
    service.until(lambda: service.metric("psanet_requests_in_progress") == 0)
    time.sleep(REST_S)
    pids = [service.process.pid, *children(service.process.pid)]
    own_kb = sum(_own_kb(pid) for pid in pids)
    return Sample(
        requests,
        round(own_kb * 1024 / 1e6, 2),
        sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
    )


def _own_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(
        int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )


def _growth(samples: Sequence[Sample]) -> float:
    """Of memory from the end of the warm-up to the end, of medians of three, as a share."""
    warm = sorted(sample.own_mb for sample in samples[WARM_UP - 1 : WARM_UP + 2])
    last = sorted(sample.own_mb for sample in samples[-3:])
    return last[1] / warm[1] - 1


def _grown(samples: Sequence[Sample]) -> list[str]:
    if len(samples) < PARTS:
        return [f"only {len(samples)} of {PARTS} parts were done in time"]
    warm, last = samples[WARM_UP - 1], samples[-1]
    growth = _growth(samples)
    failed = [f"memory grew by {100 * growth:.1f}%"] if growth >= MOST_GROWTH else []
    for name in ("descriptors", "threads"):
        before, after = getattr(warm, name), getattr(last, name)
        failed += [f"{name}: {before}, {after}"] if after > before else []
    return failed


def _wrong(statuses: dict[str, Counter[int]]) -> list[str]:
    kinds = Traffic().kinds
    return [
        f"{name}: {count} times {'no answer' if status == LEFT else status}"
        for name, counts in statuses.items()
        for status, count in counts.items()
        if status not in kinds[name][2]
    ]


if __name__ == "__main__":
    sys.exit(main())
