"""The command; once with a real network, as small as can be, in processes of its own."""

import functools
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from tests.training.ablation.conftest import TINY, MakePlan
from training.ablation import __main__ as main_module
from training.ablation.results import begin, result_of
from training.ablation.rows import BUDGETS, Budget
from training.ablation.run import carry_out
from training.ablation.schedule import carry_out as carry_out_all


def arguments(root: Path, out: Path, *more: str) -> list[str]:
    own = ["--budget", "cpu", "--rows", "collect", "--seeds", "0", "--base-size", "40", "--scales", "1"]
    return ["--data-root", str(root), "--out", str(out), "--device", "cpu", *own, *more, *TINY]


def test_a_command_that_was_stopped_goes_on_to_the_result_of_one_that_was_not(
    miniature: Path, tmp_path: Path, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Threads that wait for one another make nothing of a network this small faster.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "cut"
    command = [sys.executable, "-m", "training.ablation", *arguments(miniature, out), "iterations=12"]
    stopped = subprocess.Popen([*command, "save_every=2"], stderr=subprocess.PIPE, text=True)
    while not (out / "collect/seed0/checkpoint.pth").exists() and stopped.poll() is None:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    _, told = stopped.communicate()
    assert stopped.returncode == 143, told
    assert "SIGTERM: 1 of 1 runs are left; the same command goes on from here" in told
    assert "is saved in" in (out / "collect/seed0/log.txt").read_text()
    assert "Not finished yet: collect, seed 0" in (out / "ablation.md").read_text()

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    result = json.loads((out / "collect/seed0/result.json").read_text())
    expected = {"runs": 1, "failed": {}, "mIoU": {"collect": result["single"]["mIoU"]}}
    assert summary == {**expected, "table": str(out / "ablation.md")}
    assert "going on from iteration" in (out / "collect/seed0/log.txt").read_text()
    assert (out / "ablation.svg").is_file()

    budget = Budget(config=BUDGETS["cpu"].config, base_size=40)
    whole = plan(
        budget=budget, rows=("collect",), seeds=(0,), scales=(1,), overrides=(*TINY, "iterations=12")
    )
    begin(whole, restart=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    carry_out(whole.runs[0].folder)
    torch.set_num_threads(threads)
    found = load_file(out / "collect/seed0/weights.safetensors")
    for key, value in load_file(whole.runs[0].folder / "weights.safetensors").items():
        assert (found[key] == value).all(), key


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: str
) -> tuple[object, str, str]:
    """Exit code, stdout and stderr."""
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    monkeypatch.setattr(sys, "argv", ["ablation", *given])
    with pytest.raises(SystemExit) as ended:
        main_module.main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_failed_runs_make_exit_code_1_and_are_tried_again(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for script, code, failed in (
        ("echo no luck; exit 2", 1, {"collect, seed 0": "no luck"}),
        ('cp "$0/../../prepared" "$0/result.json"', 0, {}),
        ("exit 3", 0, {}),  # nothing is left to start
    ):
        shell = functools.partial(
            carry_out_all,
            command=lambda run, script=script: ["sh", "-c", script, str(run.folder)],
        )
        monkeypatch.setattr(main_module, "carry_out", shell)
        found, told, _ = run_main(monkeypatch, capsys, *arguments(miniature, out))
        assert found == code
        assert json.loads(told.splitlines()[-1])["failed"] == failed
        page = (out / "ablation.md").read_text()
        assert ("Failed: collect, seed 0: no luck" in page) == bool(failed)
        assert "Command: `python -m training.ablation --data-root" in page
        spec = json.loads((out / "collect/seed0/run.json").read_text())
        figures = {"mIoU": 0.25, "allAcc": 0.5}
        made = {"single": figures, "several": figures, "parameters": 1, "training_seconds": 2.0, "spec": spec}
        environment = {"device": "cpu", "threads": 1, "torch": "2", "python": "3"}
        (out / "prepared").write_text(json.dumps({**made, "environment": environment}))
    assert "| +COLLECT | 25.00 | 50.00 |" in page


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--seeds", "0,x"], "--seeds takes numbers with commas between, not '0,x'"),
        (["--parallel", "0"], "--parallel takes 1 or more"),
        (["--every", "0"], "every takes 1 or more, not 0"),
        (["warp=9"], r"unknown keys ['warp']"),
    ],
)
def test_mistakes_end_with_exit_code_2_and_the_mend(
    miniature: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    told: str,
) -> None:
    code, out, err = run_main(monkeypatch, capsys, *arguments(miniature, tmp_path, *given))
    assert (code, out) == (2, "")
    assert told in err


def test_other_settings_in_the_same_folder_are_refused(
    miniature: Path,
    tmp_path: Path,
    plan: MakePlan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = plan(out=tmp_path, rows=("collect",), seeds=(0,))
    begin(made, restart=False)
    code, _, err = run_main(monkeypatch, capsys, *arguments(miniature, tmp_path))
    assert code == 2
    assert "evaluation.base_size: 240, now 40" in err
    assert result_of(made.runs[0]) is None
