"""The service under load: throughput and latency, what happens above its capacity, and LitServe beside it.

    python benchmarks/reliability/load.py [--litserve VENV/bin/python] [--seconds 8] [--rounds 2]

Small: an image that is one window of the model, from 1, 8 and 32 clients that each ask again as soon as they
have their answer. Mixed: four such clients beside one that asks for six scales and the mirror image of a
2048x1024 picture, again and again. Overload: four times as many clients as the service has places to work and
to wait, by its default deadline and by a short one; who is refused asks again after 0.3 s.
`litserve`: the interpreter of an environment with litserve and what this project's predictor needs
(onnxruntime, numpy, opencv-python-headless, pillow, pycocotools, array-api-compat, tqdm); the same predictor
is then served by LitServe too, and measured in turn, one worker beside one, two beside two. Without it that
part is left out. About five minutes with both. Prints one JSON line last; exits with 1 for a missed target.
"""

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import _paths
from _clients import Client, Load, run
from _common import report
from _fault import LONG_QUERY, Target
from _serving import Running, free_port, jpeg_of, serving

from inference.bundle import resolve_model

SMALL, SIX = "small", "six scales"
PLACES = 4 + 32
"""Requests at work and in the queue, by default on a CPU."""
LIMITS = {"refused_p95_ms": 50.0, "throughput_ratio": 1.0, "mixed_p95_ratio": 3.0}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="psanet18_camvid", help="a bundle or a bundled name")
    parser.add_argument("--litserve", metavar="PYTHON", help="interpreter that has litserve")
    parser.add_argument("--workers", default="1,2", help="worker processes of each side, compared in turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement, in each round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--deadline", type=float, default=1.0, help="the short one, seconds")
    args = parser.parse_args()
    pictures = Pictures(args.model)
    sides, throughput = measure(pictures, args)
    overload = {
        "default": overloaded(pictures, args.seconds, 60.0),
        "short": overloaded(pictures, args.seconds, args.deadline),
    }
    for name, figures in overload.items():
        print(f"overload, {name} deadline: {json.dumps(figures)}")
    ratios = compared(sides, throughput) if args.litserve else None
    missed = missed_targets(overload, ratios)
    report(
        benchmark="load",
        model=args.model,
        seconds=args.seconds * args.rounds,
        sides=sides,
        litserve=litserve_version(args.litserve) if args.litserve else None,
        ratios=ratios,
        overload=overload,
        limits=LIMITS,
        missed=missed,
        met=not missed,
    )
    return 1 if missed else 0


class Pictures:
    """What is sent, as either side wants it."""

    def __init__(self, model: str) -> None:
        found = resolve_model(model)
        info = found.info  # type: ignore[union-attr]
        self.model = model
        self._scale = round(max(info.crop_hw) / info.base_size, 6)
        self._small, self._large = jpeg_of(info.crop_hw), jpeg_of((1024, 2048))

    def ours(self, kind: str) -> Client:
        """As image/jpeg."""
        if kind == SIX:
            return Client(SIX, self._large, LONG_QUERY)
        return Client(SMALL, self._small, f"?scales={self._scale}")

    def litserve(self, kind: str) -> Client:
        """As JSON."""
        scales, flip, jpeg = [self._scale], False, self._small
        if kind == SIX:
            scales, flip, jpeg = [0.5, 0.75, 1, 1.25, 1.5, 1.75], True, self._large
        document = {"image": base64.b64encode(jpeg).decode(), "scales": scales, "flip": flip}
        return Client(kind, json.dumps(document).encode(), path="/predict", media_type="application/json")


CASES = {"1": [SMALL], "8": [SMALL] * 8, "32": [SMALL] * 32, "mixed": [SIX, *[SMALL] * 4]}


def measure(
    pictures: Pictures, args: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, list[float]]]]:
    """Figures by side and case, of all rounds; and the small images' answers a second in each round."""
    if not args.litserve:
        print("LitServe is left out: give the interpreter of an environment that has it with --litserve")
    with ExitStack() as stack:
        sides: dict[str, tuple[Running, Any]] = {}
        for workers in args.workers.split(","):
            settings = {"PSANET_MODELS": pictures.model, "PSANET_PROCESSES": workers}
            sides[f"psanet x{workers}"] = stack.enter_context(serving(variables=settings)), pictures.ours
            if args.litserve:
                other = stack.enter_context(litserving(args.litserve, pictures.model, workers))
                sides[f"litserve x{workers}"] = other, pictures.litserve
        loads = {side: {case: {SMALL: Load(), SIX: Load()} for case in CASES} for side in sides}
        throughput: dict[str, dict[str, list[float]]] = {side: {case: [] for case in CASES} for side in sides}
        for running, client in sides.values():
            run(running.port, [client(SMALL)] * 4, 1.0, {SMALL: Load()})
        for number in range(args.rounds):
            for case, kinds in CASES.items():
                for side in sorted(sides, reverse=bool(number % 2)):  # none is always the first
                    running, client = sides[side]
                    found = {SMALL: Load(), SIX: Load()}
                    run(running.port, [client(kind) for kind in kinds], args.seconds, found)
                    throughput[side][case].append(found[SMALL].per_s)
                    for kind, load in found.items():
                        loads[side][case][kind].add(load)
    figures: dict[str, dict[str, Any]] = {}
    for side, cases in loads.items():
        figures[side] = {}
        for case, kinds_loads in cases.items():
            figures[side][case] = {kind: load.summary() for kind, load in kinds_loads.items() if load.asked}
            print(f"{side:12} {case:>5}: {json.dumps(figures[side][case])}")
    return figures, throughput


@contextmanager
def litserving(python: str, model: str, workers: str) -> Iterator[Running]:
    """LitServe with the same predictor, until the block ends."""
    port = free_port()
    script = _paths.ROOT / "benchmarks/reliability/_litserve_app.py"
    command = [python, str(script), model, str(port), workers]
    options = {"stderr": subprocess.DEVNULL, "start_new_session": True}
    with serving(command=command, port=port, ready_path="/health", **options) as running:
        try:
            yield running
        finally:  # it would leave its processes behind
            os.killpg(running.process.pid, signal.SIGKILL)


def litserve_version(python: str) -> str:
    """As its metadata has it."""
    code = "import importlib.metadata as m; print(m.version('litserve'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def overloaded(pictures: Pictures, seconds: float, deadline_s: float) -> dict[str, Any]:
    """Four times as many clients as there are places."""
    settings = {"PSANET_MODELS": pictures.model, "PSANET_DEADLINE_S": f"{deadline_s:g}"}
    with serving(variables=settings) as running:
        run(running.port, [pictures.ours(SMALL)] * 4, 1.0, {SMALL: Load()})
        service = Target(running)
        before = service.metric_sum("psanet_requests_total", route="/segment")
        load = Load()
        run(running.port, [pictures.ours(SMALL)] * (4 * PLACES), seconds, {SMALL: load})
        answered = service.metric_sum("psanet_requests_total", route="/segment") - before
    return {
        "clients": 4 * PLACES,
        "deadline_s": deadline_s,
        **load.summary(),
        "slowest_accepted_s": round(max(load.seconds), 3),
        "past_deadline": load.statuses[504],
        "no_retry_after": load.no_retry_after,
        "asked": load.asked,
        "answered_by_its_own_count": int(answered),
        "unanswered": load.unanswered,
        "answered_twice": load.twice,
        "answers_to_another": load.strange,
    }


def compared(
    sides: dict[str, dict[str, Any]], throughput: dict[str, dict[str, list[float]]]
) -> dict[str, dict[str, float]]:
    """By number of workers: our answers a second over LitServe's, the median of the rounds; and its p95 over
    ours beside six scales."""
    result = {}
    for side in sides:
        name, _, workers = side.partition(" ")
        if name == "psanet":
            ours, theirs = sides[side], sides[f"litserve {workers}"]
            ratios = {}
            for case in ("1", "8", "32"):
                pairs = zip(throughput[side][case], throughput[f"litserve {workers}"][case], strict=True)
                ratios[f"throughput {case}"] = round(median(mine / other for mine, other in pairs), 3)
            p95 = theirs["mixed"][SMALL]["p95_ms"] / ours["mixed"][SMALL]["p95_ms"]
            result[workers] = ratios | {"mixed p95": round(p95, 2)}
    return result


def missed_targets(overload: dict[str, Any], ratios: dict[str, dict[str, float]] | None) -> list[str]:
    """In words; empty where all are met."""
    missed = []
    for name, figures in overload.items():
        wrong = ("past_deadline", "no_retry_after", "unanswered", "answered_twice", "answers_to_another")
        missed += [f"{name}: {figures[key]} {key}" for key in wrong if figures[key]]
        if figures["asked"] != figures["answered_by_its_own_count"]:
            missed.append(
                f"{name}: asked {figures['asked']}, answered {figures['answered_by_its_own_count']}"
            )
        if (figures["refused_p95_ms"] or 0) >= LIMITS["refused_p95_ms"]:
            missed.append(f"{name}: refusals took {figures['refused_p95_ms']} ms at p95")
    for workers, pairs in (ratios or {}).items():
        low = [
            f"throughput {case}"
            for case in ("8", "32")
            if pairs[f"throughput {case}"] < LIMITS["throughput_ratio"]
        ]
        low += ["mixed p95"] if pairs["mixed p95"] < LIMITS["mixed_p95_ratio"] else []
        missed += [f"{workers}: {key} {pairs[key]}" for key in low]
    return missed


if __name__ == "__main__":
    sys.exit(main())
