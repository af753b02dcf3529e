import json
from pathlib import Path

import pytest

from inference.errors import ParameterError
from tests.training.ablation.conftest import TINY, MakePlan, write_result
from training.ablation.plan import SPEC
from training.ablation.results import begin, result_of


def test_beginning_writes_what_the_runs_need(plan: MakePlan, tmp_path: Path) -> None:
    made = plan(seeds=(0,))
    begin(made, restart=False)
    assert (tmp_path / "out/validation.txt").read_bytes() == made.validation
    for run in made.runs:
        assert json.loads((run.folder / SPEC).read_text()) == run.spec
        assert result_of(run) is None


def test_finished_runs_are_recognised_and_others_refused_before_anything_is_written(
    plan: MakePlan, tmp_path: Path
) -> None:
    made = plan(seeds=(0,))
    begin(made, restart=False)
    write_result(made.runs[3], 0.5)
    same = plan(seeds=(0,), overrides=(*TINY, "workers=1"))
    begin(same, restart=False)
    assert [result_of(run) is not None for run in same.runs] == [run.row.name == "aspp" for run in made.runs]
    for rows in (("aspp",), ("collect",)):  # finished, and begun
        with pytest.raises(ParameterError, match=r"holds another run \(batch: 2, now 3\).* --restart"):
            begin(plan(rows=rows, seeds=(1, 0), overrides=(*TINY, "batch=3")), restart=False)
    assert not (tmp_path / "out/aspp/seed1").exists()


def test_a_restart_drops_the_rows_that_are_named_and_what_was_made_of_them(plan: MakePlan) -> None:
    made = plan(seeds=(0, 1))
    begin(made, restart=False)
    for run in made.runs:
        write_result(run, 0.5)
    begin(plan(seeds=(0,), rows=("baseline", "psp")), restart=True)
    dropped = [run.name for run in made.runs if result_of(run) is None]
    assert dropped == ["baseline, seed 0", "densecrf, seed 0", "psp, seed 0"]


def test_a_damaged_result_is_named(plan: MakePlan) -> None:
    made = plan()
    begin(made, restart=False)
    (made.runs[0].folder / "result.json").write_text("{")
    with pytest.raises(ParameterError, match=r"baseline/seed0/result.json is damaged .* --restart begins"):
        begin(made, restart=False)
    begin(made, restart=True)
    assert result_of(made.runs[0]) is None
