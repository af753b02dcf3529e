"""Breaks the service in every way we could think of; what the client saw, and how long recovery took.

    python benchmarks/reliability/faults.py [--only hangs,disk] [--repeat 1]

Each fault gets a service of its own, `python -m service` with its worker processes, and an outcome that is
held against what is promised. About three minutes. Prints a Markdown table and, last, one JSON line; exits
with 1 where a promise was not kept. Tests of the same, as far as they take a moment: tests/service.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import _bundle_faults
import _client_faults
import _machine_faults
import _paths  # noqa: F401
import _worker_faults
from _common import report
from _fault import Outcome

FAULTS = (*_worker_faults.ALL, *_client_faults.ALL, *_machine_faults.ALL, *_bundle_faults.ALL)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="faults whose name holds one of these words")
    parser.add_argument("--repeat", type=int, default=1, help="of each; the slowest recovery is shown")
    args = parser.parse_args()
    words = [word for word in args.only.split(",") if word]
    chosen = [fault for fault in FAULTS if not words or any(word in fault.__name__ for word in words)]
    outcomes = []
    print("| fault | what the client saw | served again after | as promised |\n|---|---|---|---|")
    for fault in chosen:
        with tempfile.TemporaryDirectory() as folder:
            found = [fault(Path(folder)) for _ in range(args.repeat)]
        worst = max(found, key=lambda each: (not each.good, each.recovery_s or 0.0))
        outcomes.append(worst)
        print(_row(worst), flush=True)
    kept = all(outcome.good for outcome in outcomes)
    report(benchmark="faults", repeats=args.repeat, outcomes=[asdict(each) for each in outcomes], met=kept)
    return 0 if kept else 1


def _row(outcome: Outcome) -> str:
    recovery = "nothing was lost" if outcome.recovery_s is None else f"{outcome.recovery_s:.2f} s"
    kept = "yes" if outcome.good else f"NO: {outcome.why}"
    return f"| {outcome.fault} | {outcome.seen} | {recovery} | {kept} |"


if __name__ == "__main__":
    sys.exit(main())
