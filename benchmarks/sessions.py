"""Settings of ONNX Runtime on a CPU: spinning, the arena, memory patterns, threads. Which are worth having.

    python benchmarks/sessions.py [--model psanet18_camvid] [--repeats 10] [--threads 1,2]

Each setting is a session of its own on the same file; they take turns, window by window. Time is the least,
and the processor's of all threads; held is what a process keeps once a session has run ten times and rests,
above what it had before that session was made. `beside`: the time while another thread of this process
computes, as stitching or another request does. Prints a row each, then one JSON line.
"""

import argparse
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from _common import Timer, photograph, report, resident_bytes

from inference.bundle import Bundle, resolve_model
from inference.onnxruntime_library import onnxruntime

CHOICES = ("spinning", "arena", "pattern")


def main() -> None:
    args = _arguments()
    if args.held is not None:
        print(json.dumps(held_mib(args.model, json.loads(args.held))))
        return
    bundle = _bundle(args.model)
    window = _window(bundle)
    settings = [
        {"threads": threads, **dict(zip(CHOICES, choice, strict=True))}
        for threads in args.threads
        for choice in itertools.product((False, True), repeat=len(CHOICES))
    ]
    sessions = [made(bundle, setting) for setting in settings]
    alone, beside = [Timer() for _ in settings], [Timer() for _ in settings]
    for session in sessions:
        session.run(["logits"], {"image": window})
    for timers, busy in ((alone, False), (beside, True)):
        with _computing(busy):
            for _ in range(args.repeats):
                for session, timer in zip(sessions, timers, strict=True):
                    with timer:
                        session.run(["logits"], {"image": window})
    rows = []
    for setting, first, second in zip(settings, alone, beside, strict=True):
        command = [sys.executable, *sys.argv, "--held", json.dumps(setting)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        row = {
            **setting,
            "ms": round(min(first.seconds) * 1e3, 1),
            "processor_ms": round(min(first.processor) * 1e3, 1),
            "beside_ms": round(min(second.seconds) * 1e3, 1),
            "held_mib": json.loads(run.stdout),
        }
        rows.append(row)
        print(row, flush=True)
    report(benchmark="sessions", model=args.model, repeats=args.repeats, rows=rows)


def made(bundle: Bundle, setting: dict[str, Any]) -> onnxruntime.InferenceSession:
    """A session with those settings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = setting["threads"]
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(setting["spinning"])))
    options.enable_cpu_mem_arena = setting["arena"]
    options.enable_mem_pattern = setting["pattern"]
    return onnxruntime.InferenceSession(str(bundle.onnx_path), options, providers=["CPUExecutionProvider"])


def held_mib(model: str, setting: dict[str, Any]) -> float:
    """What a session keeps once it rests."""
    bundle = _bundle(model)
    window, before = _window(bundle), resident_bytes()
    session = made(bundle, setting)
    for _ in range(10):
        session.run(["logits"], {"image": window})
    return round((resident_bytes() - before) / 2**20, 1)


def _bundle(model: str) -> Bundle:
    found = resolve_model(model)
    if not isinstance(found, Bundle):
        sys.exit(f"{model} is a checkpoint: export it first (python -m export.onnx --ckpt {model})")
    return found


def _window(bundle: Bundle) -> np.ndarray:
    pixels = photograph(bundle.info.crop_hw).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(pixels, np.float32)


@contextmanager
def _computing(wanted: bool) -> Iterator[None]:
    """Another thread of this process is busy with arrays of a cache's size."""
    done = threading.Event()

    def compute() -> None:
        values = np.random.default_rng(0).normal(size=1 << 16).astype(np.float32)
        while not done.is_set():
            np.exp(values)

    thread = threading.Thread(target=compute)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if wanted:
            thread.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="psanet18_camvid", metavar="BUNDLE|NAME")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--threads", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2]
    )
    parser.add_argument("--held", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
