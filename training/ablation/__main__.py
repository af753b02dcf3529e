"""Trains the ten rows of the paper's Table 1 with equal budgets and several seeds, and writes the table.

Not here: what a training is (`training/train.py`); ADE20K, VOC and Cityscapes at full size
(`training/configs`, `training/README.md`).

    python -m training.ablation --data-root data/camvid --out runs/ablation [--budget cpu] [--init FILE]

`--out` gets `ablation.json`, `ablation.md` and `ablation.svg`, anew after every run, and a folder for each
row and seed. The same command goes on where another was cut off or runs have failed. Prints one JSON line
last; exit 0 where all runs are finished, 1 where some have failed, 2 for a mistake, 143 and 130 after a
signal.
"""

import argparse
import dataclasses
import json
import logging
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from inference.errors import InferenceError, ParameterError
from inference.files import write_atomically
from models.config import ConfigError
from training.ablation.plan import PUBLISHED_SCALES, Plan, Run, Settings, make_plan
from training.ablation.plot import svg
from training.ablation.results import begin, result_of
from training.ablation.rows import BUDGETS, ROWS
from training.ablation.schedule import alone, carry_out
from training.ablation.summary import summarize
from training.ablation.table import markdown
from training.signals import InterruptedTraining, StopSignals

logger = logging.getLogger(__name__)


def ablate(
    settings: Settings, *, parallel: int, restart: bool, command: str, stop: StopSignals
) -> dict[str, Any]:
    """Carries out what is left to do; returns the JSON line's content.

    Raises ConfigError and InferenceError for mistakes, OSError where the table cannot be written (the runs at
    work have saved), InterruptedTraining after a signal.
    """
    plan = make_plan(settings)
    with alone(settings.out) as lock:
        begin(plan, restart=restart)
        todo = [run for run in plan.runs if result_of(run) is None]
        logger.info("%d of %d runs are finished", len(plan.runs) - len(todo), len(plan.runs))
        done, since = 0, time.monotonic()

        def finished(run: Run, seconds: float) -> None:
            nonlocal done
            done += 1
            left = (time.monotonic() - since) / done * (len(todo) - done)
            write(plan, {}, parallel, command)
            logger.info("%s: %s in %.0f s; about %.0f min left", run.name, _told(run), seconds, left / 60)

        failed = carry_out(todo, parallel=parallel, stop=stop, lock=lock, finished=finished)
        summary = write(plan, failed, parallel, command)
    if stop.received:
        left = f"{len(summary['missing'])} of {len(plan.runs)} runs are left"
        message = f"{left}; the same command goes on from here"
        raise InterruptedTraining(stop.received, message)
    return {
        "runs": len(plan.runs),
        "failed": summary["failed"],
        "mIoU": {row["name"]: row["single"]["mIoU"]["mean"] for row in summary["rows"]},
        "table": str(settings.out / "ablation.md"),
    }


def write(plan: Plan, failed: dict[str, str], parallel: int, command: str) -> dict[str, Any]:
    """Writes the three files from what is finished; returns the summary."""
    results = {run.name: result for run in plan.runs if (result := result_of(run)) is not None}
    summary = summarize(plan, results, failed=failed, parallel=parallel, command=command)
    for name, text in (
        ("ablation.json", json.dumps(summary, indent=1) + "\n"),
        ("ablation.md", markdown(summary)),
        ("ablation.svg", svg(summary)),
    ):
        write_atomically(plan.settings.out / name, text.encode())
    return summary


def _told(run: Run) -> str:
    result = result_of(run) or {}
    return (
        f"mIoU {100 * result['single']['mIoU']:.2f}, at several scales {100 * result['several']['mIoU']:.2f}"
    )


def main() -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_intermixed_args()
    if args.parallel < 1:
        parser.error("--parallel takes 1 or more")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    command = shlex.join(["python", "-m", "training.ablation", *sys.argv[1:]])
    try:
        with StopSignals() as stop:
            settings = _settings(args)
            summary = ablate(
                settings, parallel=args.parallel, restart=args.restart, command=command, stop=stop
            )
    except InterruptedTraining as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:  # a second Ctrl-C
        parser.exit(130)
    except (ConfigError, InferenceError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(json.dumps(summary))
    sys.exit(1 if summary["failed"] else 0)


def _settings(args: argparse.Namespace) -> Settings:
    budget = BUDGETS[args.budget]
    changes = {
        name: getattr(args, name) for name in ("base_size", "every") if getattr(args, name) is not None
    }
    return Settings(
        data_root=args.data_root,
        out=args.out,
        budget=dataclasses.replace(budget, **changes),
        rows=args.rows.split(","),
        seeds=_numbers(args.seeds, int, "--seeds"),
        overrides=args.overrides,
        init=args.init,
        device=args.device,
        scales=_numbers(args.scales, float, "--scales"),
    )


def _numbers(text: str, kind: type[int] | type[float], option: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"{option} takes numbers with commas between, not {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.ablation", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add(
        "--data-root",
        type=Path,
        required=True,
        help="CamVid as `python -m training.prepare camvid` leaves it",
    )
    add("--out", type=Path, required=True, help="folder for the table and all runs")
    add(
        "--budget",
        default="full",
        choices=tuple(BUDGETS),
        help="full: 60 epochs, for a GPU; cpu: a small one",
    )
    add("--seeds", default="0,1,2", help="comma-separated")
    add("--rows", default=",".join(row.name for row in ROWS), help="comma-separated; default: all ten")
    add("--init", type=Path, metavar="FILE", help="pre-trained weights of the backbone, for all rows")
    add("--device", default="auto", metavar="auto|cpu|cuda|cuda:N")
    add("--parallel", type=int, default=1, metavar="N", help="runs at a time")
    add("--scales", default=",".join(f"{scale:g}" for scale in PUBLISHED_SCALES), help="the several scales")
    add(
        "--base-size", type=int, metavar="N", help="long side at scale 1 in evaluation; default: the budget's"
    )
    add("--every", type=int, metavar="N", help="evaluate one image in N; default: the budget's")
    add("--restart", action="store_true", help="drop what an earlier run has left of these rows and seeds")
    add("overrides", nargs="*", metavar="key.path=value", help="of the training, for all rows alike")
    return parser


if __name__ == "__main__":
    main()
