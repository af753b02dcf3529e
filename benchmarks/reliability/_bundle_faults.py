"""Model bundles that are corrupted: before the start, under a service that runs, and when its worker dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import _paths  # noqa: F401
from _fault import Checks, Outcome, target

from tests.service.bundles import write_tiny_bundle
from tests.service.running import environment

CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "half of model.onnx": lambda folder: _cut(folder / "model.onnx", 0.5),
    "zeros in model.onnx": lambda folder: _overwrite(folder / "model.onnx", bytes(64)),
    "no model.onnx": lambda folder: (folder / "model.onnx").unlink(),
    "half of model.json": lambda folder: _cut(folder / "model.json", 0.5),
    "text in model.json": lambda folder: (folder / "model.json").write_text('{"schema": "no"}'),
}


def corrupted_bundle_at_start(folder: Path) -> Outcome:
    """In five ways; each has to be said in one line, with exit code 2."""
    checks, saw = Checks(), set()
    for number, (name, corrupt) in enumerate(CORRUPTIONS.items()):
        bundle = write_tiny_bundle(folder / f"bundle{number}")
        corrupt(bundle)
        command = [sys.executable, "-m", "service"]
        variables = environment(PSANET_MODELS=str(bundle))
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
        last = done.stderr.strip().splitlines()[-1]
        checks.that(done.returncode == 2, f"{name}: exit code {done.returncode}")
        checks.that(last.startswith("error: ") and "model." in last, f"{name}: {last[:80]}")
        checks.that("Traceback" not in done.stderr, f"{name}: a traceback")
        saw.add(done.returncode)
    return checks.outcome(
        "corrupted bundle at start, 5 ways", f"exit code {sorted(saw)[0]}, one line that names the file", None
    )


def corrupted_bundle_later(folder: Path) -> Outcome:
    """Put there before SIGHUP, in five ways: the model that is served stays."""
    checks, bundle = Checks(), write_tiny_bundle(folder / "bundle")
    whole = folder / "whole"
    shutil.copytree(bundle, whole)
    with target(bundle, PSANET_LOG_LEVEL="error", popen={"stderr": subprocess.DEVNULL}) as service:
        worker, statuses = service.worker, set()
        for count, corrupt in enumerate(CORRUPTIONS.values(), 1):
            corrupt(bundle)
            service.process.send_signal(signal.SIGHUP)
            failed = service.until(
                lambda n=count: service.metric("psanet_reloads_total", outcome="failed") == n
            )
            checks.that(failed < 20, f"corruption {count} was not noticed")
            statuses |= {service.ask().status for _ in range(5)}
            shutil.copytree(whole, bundle, dirs_exist_ok=True)
        checks.that(service.worker == worker, "the worker was replaced")
        checks.that(statuses == {200}, f"statuses {statuses}")
        service.process.send_signal(signal.SIGHUP)
        checks.that(service.ask().status == 200, "the mended one is not served")
    seen = "200 throughout, from the model that was there"
    return checks.outcome("corrupted bundle at SIGHUP, 5 ways", seen, None)


def corrupted_bundle_and_a_crash(folder: Path) -> Outcome:
    """The worker dies when its bundle cannot be read again: 503 until somebody mends it."""
    checks, bundle = Checks(), write_tiny_bundle(folder / "bundle")
    model = (bundle / "model.onnx").read_bytes()
    with target(bundle, popen={"stderr": subprocess.DEVNULL}) as service:
        (bundle / "model.onnx").write_bytes(model[:100])
        os.kill(service.worker, signal.SIGKILL)
        service.until(lambda: service.get("/readyz") == 503)
        answer = service.ask()
        checks.that((answer.status, answer.code) == (503, "no_worker"), "not 503 no_worker")
        checks.that(answer.retry_after is not None, "no Retry-After")
        checks.that((service.get("/readyz"), service.get("/healthz")) == (503, 200), "ready, or not alive")
        (bundle / "model.onnx").write_bytes(model)
        recovery_s = service.recovers(time.perf_counter())
    return checks.outcome("worker dies, its bundle is corrupted; then mended", str(answer), recovery_s)


ALL = (corrupted_bundle_at_start, corrupted_bundle_later, corrupted_bundle_and_a_crash)


def _cut(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])


def _overwrite(path: Path, piece: bytes) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(piece)] = piece
    path.write_bytes(content)
