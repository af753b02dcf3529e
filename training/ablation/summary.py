"""What the finished runs add up to: means and sample deviations over the seeds, in plain values.

Not here: how that is shown (`table.py`, `plot.py`).
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from training.ablation.plan import Plan
from training.ablation.rows import ROWS, Row

FIGURES: Final = ("mIoU", "allAcc")
SCALES: Final = ("single", "several")


def summarize(
    plan: Plan,
    results: Mapping[str, Mapping[str, Any]],
    *,
    failed: Mapping[str, str],
    parallel: int,
    command: str,
) -> dict[str, Any]:
    """The content of `ablation.json`. results, failed: by the run's name; figures are fractions.

    Of the runs that are neither, the names stand in `missing`.
    """
    settings, config = plan.settings, plan.config
    missing = [run.name for run in plan.runs if run.name not in results and run.name not in failed]
    return {
        "dataset": config.data.dataset,
        "budget": {
            "config": Path(settings.budget.config).stem,
            "warning": settings.budget.warning,
            "iterations": config.iterations,
            "epochs": config.epochs,
            "batch": config.batch,
            "crop_hw": list(config.model.crop_hw),
            "scale": list(config.augment.scale),
            "depth": config.model.depth,
            "head_width": config.model.head_width,
            "overrides": list(settings.overrides),
        },
        "evaluation": {
            "list": config.data.val_list,
            "every": settings.budget.every,
            "images": len(plan.validation.splitlines()),
            **plan.runs[0].spec["evaluation"],
        },
        "init": None if settings.init is None else settings.init.name,
        "files": plan.runs[0].spec["files"],
        "seeds": list(settings.seeds),
        "environments": _environments(results.values()),
        "parallel": parallel,
        "command": command,
        "rows": [_row(row, plan, results) for row in ROWS if row.name in settings.rows],
        "failed": dict(failed),
        "missing": missing,
    }


def _row(row: Row, plan: Plan, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    by_seed = {run.seed: results[run.name] for run in plan.runs if run.row is row and run.name in results}
    found = list(by_seed.values())
    seconds = [result["training_seconds"] for result in found if result["training_seconds"] is not None]
    return {
        "name": row.name,
        "title": row.title,
        "paper": {
            name: {"mIoU": figures.miou / 100, "allAcc": figures.accuracy / 100}
            for name, figures in (("single", row.single), ("several", row.several))
        },
        "seeds": {
            str(seed): {name: {figure: result[name][figure] for figure in FIGURES} for name in SCALES}
            for seed, result in by_seed.items()
        },
        **{
            name: {figure: spread([result[name][figure] for result in found]) for figure in FIGURES}
            for name in SCALES
        },
        "parameters": found[0]["parameters"] if found else None,
        "training_seconds": round(statistics.mean(seconds), 1) if seconds else None,
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample deviation (n - 1); None where there are too few values for it."""
    return {
        "mean": statistics.mean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def _environments(results: Any) -> list[dict[str, Any]]:
    """Each one that runs were carried out in, once."""
    found: list[dict[str, Any]] = []
    for result in results:
        if result["environment"] not in found:
            found.append(result["environment"])
    return found
