"""Scheduling with shell commands in place of trainings."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from inference.errors import ParameterError
from tests.training.ablation.conftest import MakePlan
from training.ablation.plan import Run
from training.ablation.results import begin, result_of
from training.ablation.schedule import Command, alone, carry_out
from training.signals import StopSignals

SAVING = """trap 'echo saved > "$0/saved"; exit 143' TERM; : > "$0/begun"; while :; do sleep 0.02; done"""
OK = 'echo "{}" > "$0/result.json"'


def shell(script: str | Callable[[Run], str]) -> Command:
    """Runs a script with the run's folder as $0."""
    return lambda run: ["sh", "-c", script if isinstance(script, str) else script(run), str(run.folder)]


def scheduled(
    runs: Sequence[Run], out: Path, command: Command, *, parallel: int = 1
) -> tuple[dict[str, str], list[str]]:
    names: list[str] = []
    with alone(out) as lock, StopSignals() as stop:
        failed = carry_out(
            runs,
            parallel=parallel,
            stop=stop,
            lock=lock,
            finished=lambda run, seconds: names.append(run.row.name),
            command=command,
        )
    return failed, names


@pytest.fixture
def runs(plan: MakePlan) -> list[Run]:
    made = plan(seeds=(0,), rows=("baseline", "densecrf", "psp", "collect"))
    begin(made, restart=False)
    return list(made.runs)


def test_one_run_at_a_time_in_order(runs: list[Run], tmp_path: Path) -> None:
    script = f'test -e "$0/../../busy" && exit 3; : > "$0/../../busy"; sleep 0.05; rm "$0/../../busy"; {OK}'
    failed, names = scheduled(runs, tmp_path / "out", shell(script))
    assert failed == {}
    assert names == ["baseline", "densecrf", "psp", "collect"]


def test_several_at_a_time_and_post_processing_only_after_its_training(
    runs: list[Run], tmp_path: Path
) -> None:
    def script(run: Run) -> str:
        if run.row.name == "densecrf":
            return f'test -e "$0/../../baseline/seed0/result.json" || exit 3; {OK}'
        # Each waits for the other two, so that they must be at work together.
        wait = 'until test $(ls "$0/../.." | grep -c at_work) = 3; do sleep 0.02; done'
        return f': > "$0/../../at_work_{run.row.name}"; {wait}; {OK}'

    failed, names = scheduled(runs, tmp_path / "out", shell(script), parallel=3)
    assert failed == {}
    assert sorted(names) == ["baseline", "collect", "densecrf", "psp"]


def test_several_at_a_time_share_the_cores_unless_told_otherwise(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script = f'echo "$OMP_NUM_THREADS" > "$0/threads"; {OK}'
    for parallel, told, expected in ((1, None, ""), (2, None, "3"), (8, None, "1"), (2, "5", "5")):
        if told:
            monkeypatch.setenv("OMP_NUM_THREADS", told)
        scheduled(runs[:1], tmp_path / "out", shell(script), parallel=parallel)
        assert (runs[0].folder / "threads").read_text().strip() == expected


def test_a_failure_is_told_and_takes_along_only_what_builds_on_it(runs: list[Run], tmp_path: Path) -> None:
    failing = {
        "baseline": 'printf "10%%\\r20%%\\rerror: no luck\\n"; exit 2',
        "psp": "kill -9 $$",
        "collect": OK,
    }
    failed, names = scheduled(runs, tmp_path / "out", shell(lambda run: failing[run.row.name]))
    assert names == ["collect"]
    assert failed == {
        "baseline, seed 0": "error: no luck",
        "densecrf, seed 0": "baseline, seed 0, which it builds on, has failed",
        "psp, seed 0": f"it was killed by SIGKILL; {runs[2].folder}/log.txt has its output",
    }


def test_a_process_that_leaves_no_result_has_failed(runs: list[Run], tmp_path: Path) -> None:
    failed, names = scheduled(runs[:1], tmp_path / "out", shell("exit 0"))
    assert (failed, names) == ({"baseline, seed 0": "exit code 0"}, [])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_runs_at_work_save_and_starts_no_other(
    runs: list[Run], tmp_path: Path, signum: signal.Signals
) -> None:
    def send() -> None:
        while not all((run.folder / "begun").exists() for run in (runs[0], runs[2])):
            time.sleep(0.02)
        os.kill(os.getpid(), signum)

    sender = threading.Thread(target=send)
    sender.start()
    names: list[str] = []
    with alone(tmp_path / "out") as lock, StopSignals() as stop:
        failed = carry_out(
            runs, parallel=2, stop=stop, lock=lock, finished=lambda run, _: names.append(run.name),
            command=shell(SAVING),
        )  # fmt: skip
        assert stop.received == signum
    sender.join()
    assert (failed, names) == ({}, [])
    assert [(run.folder / "saved").exists() for run in runs] == [True, False, True, False]


def test_runs_at_work_may_save_when_the_table_cannot_be_written(runs: list[Run], tmp_path: Path) -> None:
    def script(run: Run) -> str:
        wait = 'until test -e "$0/../../psp/seed0/begun"; do sleep 0.02; done'
        return f"{wait}; {OK}" if run.row.name == "baseline" else SAVING

    def full(run: Run, seconds: float) -> None:
        raise OSError("the disk is full")

    with alone(tmp_path / "out") as lock, StopSignals() as stop, pytest.raises(OSError, match="disk is full"):
        carry_out(
            [runs[0], runs[2]], parallel=2, stop=stop, lock=lock, finished=full, command=shell(script)
        )  # fmt: skip
    assert (runs[2].folder / "saved").exists()


def test_a_folder_is_worked_on_once_even_by_a_run_that_was_left_behind(
    runs: list[Run], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with alone(out), pytest.raises(ParameterError, match="another ablation is at work in"), alone(out):
        pass
    # The scheduler ends, as if it were killed, while a run of it goes on.
    left = 'sleep 0.4 > /dev/null 2>&1 & echo "{}" > "$0/result.json"'
    scheduled(runs[:1], out, shell(left))
    with pytest.raises(ParameterError, match="or a run that it left behind"), alone(out):
        pass
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with alone(out):
                break
        except ParameterError:
            time.sleep(0.05)
    else:
        pytest.fail("the lock outlives the run")
    assert json.loads((runs[0].folder / "result.json").read_text()) == result_of(runs[0]) == {}
