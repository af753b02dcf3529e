import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from inference.predictor import Predictor
from models.checkpoint import CheckpointError
from models.config import PRESETS
from models.network import build_network
from tests.training.ablation.conftest import TINY, MakePlan
from training.ablation import run as run_module
from training.ablation.plan import Run
from training.ablation.results import begin, result_of
from training.ablation.rows import BUDGETS, Budget
from training.ablation.run import carry_out
from training.config import TrainingConfig
from training.densecrf import DenseCRFParameters
from training.release import parameters
from training.signals import InterruptedTraining

SMALL = Budget(config=BUDGETS["cpu"].config, base_size=40)


@pytest.fixture
def runs(plan: MakePlan) -> dict[str, Run]:
    made = plan(seeds=(0,), rows=("baseline", "densecrf", "collect"), budget=SMALL, scales=(0.5, 1))
    begin(made, restart=False)
    return {run.row.name: run for run in made.runs}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another make nothing of a network this small faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slow_figures(truths: list[np.ndarray], labels: list[np.ndarray]) -> tuple[float, float]:
    """mIoU and pixel accuracy by their definitions."""
    true, seen = (
        np.concatenate([each.ravel() for each in truths]),
        np.concatenate([each.ravel() for each in labels]),
    )
    counted = true != 255
    ious = []
    for index in range(11):
        union = (((true == index) | (seen == index)) & counted).sum()
        ious.append(((true == index) & (seen == index)).sum() / union if union else 0.0)
    return float(np.mean(ious)), float((true == seen)[counted].mean())


@pytest.mark.usefixtures("one_thread")
def test_a_run_trains_and_leaves_the_figures_of_the_weights_that_it_leaves(
    runs: dict[str, Run], miniature: Path
) -> None:
    run = runs["collect"]
    result = carry_out(run.folder)
    assert result == result_of(run)
    assert result["spec"] == run.spec
    assert result["environment"]["device"].startswith("cpu")
    assert not (run.folder / "checkpoint.pth").exists()
    weights = run.folder / "weights.safetensors"
    learned = [
        value for key, value in load_file(weights).items() if not key.endswith(("_mean", "_var", "_tracked"))
    ]
    assert result["parameters"] == sum(value.size for value in learned)
    truths = [np.asarray(Image.open(miniature / f"labels/{index}.png")) for index in (4, 5)]
    images = [np.asarray(Image.open(miniature / f"images/{index}.png")) for index in (4, 5)]
    predictor = Predictor.open(str(weights))
    for name, scales in (("single", [1.0]), ("several", [0.5, 1.0])):
        labels = [
            np.asarray(predictor.predict(image, scales=scales, flip=True, base_size=40).labels)
            for image in images
        ]
        miou, accuracy = slow_figures(truths, labels)
        assert result[name]["mIoU"] == round(miou, 5)
        assert result[name]["allAcc"] == round(accuracy, 5)
        assert result[name]["images"] == 2
        assert (run.folder / name / "confusion.csv").is_file()
    predictor.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_run_on_a_gpu_augments_there_and_says_what_it_ran_on(plan: MakePlan) -> None:
    overrides = [each for each in TINY if not each.startswith("iterations")]
    made = plan(
        budget=Budget(config=BUDGETS["full"].config, base_size=40),
        rows=("collect_distribute",),
        seeds=(0,),
        scales=(0.5, 1),
        device="cuda",
        overrides=(*overrides, "epochs=1"),
    )
    begin(made, restart=False)
    assert made.runs[0].spec["config"]["data"]["on_device"]
    result = carry_out(made.runs[0].folder)
    assert result["environment"]["device"] == f"cuda, {torch.cuda.get_device_name()}"
    assert 0 <= result["single"]["mIoU"] <= 1


class Work:
    """In place of training and evaluation: counts calls, and may be cut off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[TrainingConfig] = []
        self.evaluated: list[dict[str, Any]] = []
        self.interrupts: set[str] = set()
        for name in ("train", "release", "evaluate"):
            monkeypatch.setattr(run_module, name, getattr(self, name))

    def train(self, config: TrainingConfig, *, validates: bool) -> None:
        assert not validates
        self.trained.append(config)
        self._cut_off("train")

    def release(self, checkpoint: Path, out: Path) -> None:
        out.write_bytes(b"weights")

    def evaluate(self, weights: Path, **options: Any) -> dict[str, Any]:
        self.evaluated.append({"weights": weights, **options})
        self._cut_off("evaluate")
        return {"mIoU": 0.5, "allAcc": 0.25}

    def _cut_off(self, what: str) -> None:
        if what in self.interrupts:
            self.interrupts.remove(what)
            raise InterruptedTraining(15, "cut off")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is ten seconds after the last."""
    ticks = iter(range(0, 10_000, 10))
    monkeypatch.setattr(run_module.time, "monotonic", lambda: next(ticks))


@pytest.mark.usefixtures("clock")
def test_a_run_that_was_cut_off_goes_on_and_counts_the_time_of_all_its_parts(
    runs: dict[str, Run], work: Work
) -> None:
    folder = runs["collect"].folder
    for what in ("train", "evaluate"):
        work.interrupts = {what}
        with pytest.raises(InterruptedTraining):
            carry_out(folder)
        assert result_of(runs["collect"]) is None
    result = carry_out(folder)
    assert len(work.trained) == 2  # not again once there are weights
    assert result["training_seconds"] == 20
    assert result["single"] == {"mIoU": 0.5, "allAcc": 0.25}


def test_the_densecrf_row_refines_the_baseline_s_weights_with_the_paper_s_parameters(
    runs: dict[str, Run], work: Work
) -> None:
    run = runs["densecrf"]
    with pytest.raises(CheckpointError, match=r"baseline/seed0/weights.safetensors is not there"):
        carry_out(run.folder)
    carry_out(runs["baseline"].folder)
    result = carry_out(run.folder)
    assert len(work.trained) == 1
    assert result["training_seconds"] is None
    for call, scales in zip(work.evaluated[-2:], ([1.0], [0.5, 1.0]), strict=True):
        assert call["weights"] == runs["baseline"].folder / "weights.safetensors"
        assert call["densecrf"] == DenseCRFParameters()
        assert (call["scales"], call["flip"], call["base_size"]) == (scales, True, 40)
    assert all(call["densecrf"] is None for call in work.evaluated[:-2])


def test_parameters_are_those_that_are_learned_and_served() -> None:
    config = PRESETS["psanet18_camvid"].replace(crop_hw=(33, 33), head_width=8)
    network = build_network(config)
    whole = sum(parameter.numel() for parameter in network.parameters())
    assert network.aux is not None
    assert parameters(config) == whole - sum(parameter.numel() for parameter in network.aux.parameters())


def test_mistakes_and_signals_have_the_exit_codes_of_a_training(
    runs: dict[str, Run], work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    for name, interrupts, code, told in (
        ("densecrf", set[str](), 2, "train that row too"),
        ("collect", {"train"}, 143, "SIGTERM: cut off"),
    ):
        work.interrupts = interrupts
        monkeypatch.setattr(sys, "argv", ["run", str(runs[name].folder)])
        with pytest.raises(SystemExit) as ended:
            run_module.main()
        assert ended.value.code == code
        assert told in capsys.readouterr().err
    run_module.main()
    assert json.loads(capsys.readouterr().out)["single"]["mIoU"] == 0.5
