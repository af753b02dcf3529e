"""Ablations of the miniature data set, as small as the trainer takes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.ablation.plan import RESULT, Plan, Run, Settings, make_plan
from training.ablation.rows import BUDGETS

TINY = ("model.crop_hw=[33, 33]", "model.head_width=8", "iterations=2", "batch=2", "bf16=false")
ENVIRONMENT = {"device": "cpu, abacus", "threads": 1, "torch": "2.0", "python": "3.11"}

MakePlan = Callable[..., Plan]


@pytest.fixture
def plan(miniature: Path, tmp_path: Path) -> MakePlan:
    """Makes a plan of the miniature; what is given replaces its settings."""

    def make(**changes: Any) -> Plan:
        settings: dict[str, Any] = {
            "data_root": miniature,
            "out": tmp_path / "out",
            "budget": BUDGETS["cpu"],
            "overrides": TINY,
            "device": "cpu",
        }
        return make_plan(Settings(**{**settings, **changes}))

    return make


def write_result(run: Run, single: float, several: float = 0.0, **changes: Any) -> None:
    """As if the run were finished, with these figures."""
    figures = {"single": {"mIoU": single, "allAcc": single / 2}, "several": {"mIoU": several, "allAcc": 0.5}}
    trained = {"parameters": 12_345_678, "training_seconds": 10.0, "environment": ENVIRONMENT}
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / RESULT).write_text(json.dumps({**figures, **trained, "spec": run.spec, **changes}))
