"""Damaged image files through decoding, and strange requests through the service.

    python benchmarks/reliability/fuzz.py [--files 50000] [--schemathesis VENV/bin/st] [--minutes 10]

Files: JPEG, PNG, WebP, TIFF and BMP of many kinds, changed at random (`tests/inference/mutated.py`), are
identified and decoded in a process whose memory is capped (RLIMIT_AS). It may raise an `ImageError` and
nothing else, may not end, and may not be at one file for longer than ten seconds. A file that breaks that is
kept with --keep. Requests: schemathesis makes them from the OpenAPI document of a running service; no answer
may be a 5xx but the asked-for 503, none may take longer than ten seconds, no worker may be lost. Without
--schemathesis that part is left out. A few minutes. Prints one JSON line last; exits with 1 for a finding.
"""

import argparse
import json
import mmap
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import _paths
from _common import report
from _fault import Target
from _serving import serving

from tests.inference.mutated import mutated, seeds

HANGS_S = 10.0
AT_ONCE = 5000
"""Files that one process decodes."""
MOST_FOUND = 50


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-mb", type=int, default=1024, help="above what the process holds at first")
    parser.add_argument("--keep", type=Path, help="folder for files that broke something")
    parser.add_argument("--schemathesis", metavar="PATH", help="the st command of an environment that has it")
    parser.add_argument(
        "--examples", type=int, default=200, help="of each operation and phase of schemathesis"
    )
    parser.add_argument("--model", default="psanet18_camvid", help="behind the strange requests")
    parser.add_argument("--minutes", type=float, default=10.0, help="that each of the two parts may take")
    args = parser.parse_args()
    files = fuzz_files(args)
    requests = None
    if args.schemathesis:
        requests = fuzz_requests(args)
    else:
        print("strange requests are left out: name schemathesis with --schemathesis")
    found = files["found"] + (requests["found"] if requests else [])
    report(benchmark="fuzz", files=files, requests=requests, found=found, met=not found)
    return 1 if found else 0


def fuzz_files(args: argparse.Namespace) -> dict[str, Any]:
    """What came of the damaged files."""
    outcomes: Counter[str] = Counter()
    found: list[str] = []
    slowest_s, peak_mb, want_of_memory, number = 0.0, 0, 0, 0
    began = time.perf_counter()
    while number < args.files and len(found) < MOST_FOUND and time.perf_counter() - began < 60 * args.minutes:
        stop = min(args.files, number + AT_ONCE)
        figures, ended_at, how = decode(args, number, stop)
        if figures is None:
            found.append(f"file {ended_at}: {how}")
            _keep(args, ended_at)
            number = ended_at + 1  # what came before it in this process is not counted
            continue
        number = stop
        outcomes.update(figures["outcomes"])
        found += [f"file {each}" for each in figures["unexpected"]]
        for each in figures["unexpected"]:
            _keep(args, int(each.partition(":")[0]))
        slowest_s, peak_mb = max(slowest_s, figures["slowest_s"]), max(peak_mb, figures["peak_mb"])
        want_of_memory += figures["want_of_memory"]
        print(
            f"{number} files, {time.perf_counter() - began:.0f} s, slowest {slowest_s} s, found {len(found)}",
            flush=True,
        )
    if number < args.files:
        found.append(f"only {number} files were done")
    return {
        "files": outcomes.total(),
        "seconds": round(time.perf_counter() - began),
        "outcomes": dict(sorted(outcomes.items())),
        "slowest_s": slowest_s,
        "peak_mb": peak_mb,
        "memory_cap_mb": args.memory_mb,
        "want_of_memory": want_of_memory,
        "found": found,
    }


def decode(args: argparse.Namespace, start: int, stop: int) -> tuple[dict[str, Any] | None, int, str]:
    """Files from start to stop in a process of their own: what came of them, else where it ended, and how."""
    with tempfile.NamedTemporaryFile() as progress:
        progress.write(struct.pack("<q", start))
        progress.flush()
        script = str(_paths.ROOT / "benchmarks/reliability/_decoding.py")
        numbers = map(str, (args.seed, start, stop, args.memory_mb))
        command = [sys.executable, script, progress.name, *numbers]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with mmap.mmap(progress.fileno(), 8) as at:
            before, since = -1, time.perf_counter()
            while process.poll() is None:
                (number,) = struct.unpack_from("<q", at, 0)
                if number != before:
                    before, since = number, time.perf_counter()
                elif time.perf_counter() - since > HANGS_S:
                    process.kill()
                    process.communicate()
                    return None, number, f"not done after {HANGS_S:g} s"
                time.sleep(0.1)
            (number,) = struct.unpack_from("<q", at, 0)
        output = process.communicate()[0]
        if process.returncode == 0:
            return json.loads(output), stop, ""
        code = process.returncode
        return None, number, signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _keep(args: argparse.Namespace, number: int) -> None:
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        kind, content = mutated(seeds(), number, args.seed)
        (args.keep / f"{args.seed}_{number}.{kind.lower()}").write_bytes(content)


def fuzz_requests(args: argparse.Namespace) -> dict[str, Any]:
    """What schemathesis found at a running service."""
    settings = {"PSANET_MODELS": args.model, "PSANET_LOG_LEVEL": "error"}
    with serving(variables=settings) as running, tempfile.TemporaryDirectory() as folder:
        base = [args.schemathesis, "run", f"http://127.0.0.1:{running.port}/openapi.json"]
        limits = [
            "--checks",
            "not_a_server_error",
            "--request-timeout",
            f"{HANGS_S:g}",
            "--continue-on-failure",
        ]
        amount = ["--max-examples", str(args.examples), "--seed", str(args.seed + 1)]
        amount += ["--max-time", str(round(60 * args.minutes)), "--report", "ndjson", "--report-dir", folder]
        # Of models that are not there nothing is learnt but 404: nearly always it is one that is.
        Path(folder, "schemathesis.toml").write_text(f'[parameters]\nmodel = "{args.model}"\n')
        began = time.perf_counter()
        done = subprocess.run([*base, *limits, *amount], capture_output=True, text=True, cwd=folder)
        seconds = time.perf_counter() - began
        print(done.stdout[-3000:])
        service = Target(running)
        statuses = service.by_label("psanet_requests_total", "code")
        found = [
            f"{count:.0f} times {code}" for code, count in statuses.items() if code >= "500" and code != "503"
        ]
        found += [] if done.returncode == 0 else [f"schemathesis ended with {done.returncode}"]
        problems = service.by_label("psanet_problems_total", "code")
        lost = service.metric_sum("psanet_worker_restarts_total")
        found += [f"{lost:.0f} workers were lost"] if lost else []
        found += [] if service.ask().status == 200 else ["afterwards an image was not segmented"]
    version = subprocess.run([args.schemathesis, "--version"], capture_output=True, text=True).stdout.split()[
        -1
    ]
    return {
        "schemathesis": version,
        "requests": int(sum(statuses.values())),
        "seconds": round(seconds),
        "statuses": {code: int(count) for code, count in sorted(statuses.items())},
        "problems": {code: int(count) for code, count in sorted(problems.items())},
        "found": found,
    }


if __name__ == "__main__":
    sys.exit(main())
