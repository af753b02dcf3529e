"""Evaluation against slow loops, with a quick model in place of a network."""

import csv
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import training.evaluate as evaluate_module
from inference.bundle import ModelInfo, resolve_model
from inference.errors import EngineError, MemoryBudgetError, ParameterError
from inference.pairs import DatasetError
from inference.prediction import Prediction
from models.labels import get_label_set
from training.densecrf import DenseCRFParameters, refine
from training.evaluate import evaluate

CLASSES = 11


def seen_in(image: np.ndarray) -> np.ndarray:
    """(H, W) labels that the quick model gives: right for some colours, wrong for others, class 3 never."""
    labels = (image[..., 0] // 20 % CLASSES).astype(np.uint8)
    labels[:, ::7] = (labels[:, ::7] + 1) % CLASSES
    labels[labels == 3] = 4
    return labels


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


class QuickPredictor:
    """As much of a Predictor as evaluation uses. `seen` counts images; `before` may raise at any of them."""

    def __init__(self, info: ModelInfo) -> None:
        self.info, self.engine = info, SimpleNamespace(name="quick", device="cpu")
        self.seen = 0
        self.before: Callable[[int], None] = lambda number: None

    def predict(
        self, image: np.ndarray, *, probabilities: bool, check: Callable[[], None] | None, **protocol: Any
    ) -> Prediction:
        if check:
            check()
        self.before(self.seen)
        self.seen += 1
        labels = seen_in(image)
        soft = np.full((self.info.classes, *labels.shape), 0.05, np.float32)
        np.put_along_axis(soft, labels[None].astype(np.int64), 0.5, 0)
        return Prediction(labels, None, soft if probabilities else None, 0.25, 1)

    def close(self) -> None:
        pass


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> Iterator[QuickPredictor]:
    quick = QuickPredictor(resolve_model("psanet18_camvid").info)
    monkeypatch.setattr(evaluate_module.Predictor, "open", lambda *args, **kwargs: quick)
    return quick


@pytest.fixture
def given(miniature: Path) -> dict[str, Any]:
    """Arguments for an evaluation of all six pictures, whose labels are made to lack class 7."""
    lines = (miniature / "list/train.txt").read_text() + (miniature / "list/val.txt").read_text()
    (miniature / "list/all.txt").write_text(lines)
    for path in (miniature / "labels").iterdir():
        label = pixels(path)
        label[label == 7] = 255
        Image.fromarray(label).save(path)
    return {"model": "psanet18_camvid", "root": miniature, "list_path": miniature / "list/all.txt"}


def slow_matrix(root: Path, see: Callable[[np.ndarray], np.ndarray] = seen_in) -> list[list[int]]:
    counts = [[0] * CLASSES for _ in range(CLASSES)]
    for index in range(6):
        truth = pixels(root / f"labels/{index}.png").tolist()
        labels = see(pixels(root / f"images/{index}.png")).tolist()
        for true_row, row in zip(truth, labels, strict=True):
            for true, label in zip(true_row, row, strict=True):
                if true != 255:
                    counts[true][label] += 1
    return counts


def slow_figures(counts: list[list[int]]) -> dict[str, float]:
    """By the official definitions, class by class."""
    ious, present, accuracies = [], [], []
    for index in range(CLASSES):
        right = counts[index][index]
        true = sum(counts[index])
        union = true + sum(row[index] for row in counts) - right
        ious.append(right / union if union else 0.0)
        present += [right / union] if union else []
        accuracies.append(right / true if true else 0.0)
    whole = sum(map(sum, counts))
    return {
        "mIoU": sum(ious) / CLASSES,
        "mIoU_present": sum(present) / len(present),
        "mAcc": sum(accuracies) / CLASSES,
        "allAcc": sum(counts[index][index] for index in range(CLASSES)) / whole,
    }


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_figures_are_those_of_slow_loops_whatever_the_workers(
    predictor: QuickPredictor, given: dict[str, Any], workers: int
) -> None:
    found = evaluate(**given, workers=workers)
    slow = slow_figures(slow_matrix(given["root"]))
    assert {name: found[name] for name in slow} == {name: round(value, 5) for name, value in slow.items()}
    assert found["images"] == predictor.seen == 6
    assert found["engine_seconds"] == 1.5
    assert found["flip"] is True
    assert found["scales"] == [1.0]


def test_a_class_that_is_nowhere_counts_as_0_in_the_official_mean_alone(
    predictor: QuickPredictor, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "seen_in", lambda image: np.zeros(image.shape[:2], np.uint8))
    for path in (given["root"] / "labels").iterdir():
        Image.fromarray(np.zeros((60, 80), np.uint8)).save(path)
    found = evaluate(**given)
    assert found["mIoU"] == round(1 / CLASSES, 5)
    assert found["mIoU_present"] == found["allAcc"] == 1.0


def test_the_folder_holds_figures_matrix_and_pictures(
    predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO):
        found = evaluate(**given, out=out, worst_count=2)
    slow = slow_matrix(given["root"])
    metrics = json.loads((out / "metrics.json").read_text())
    assert {name: metrics[name] for name in found} == found
    names = predictor.info.class_names
    assert list(metrics["iou"]) == list(metrics["accuracy"]) == list(names)
    assert metrics["pixels"] == {name: sum(row) for name, row in zip(names, slow, strict=True)}
    rows = list(csv.reader((out / "confusion.csv").read_text().splitlines()))
    assert [[int(value) for value in row[1:]] for row in rows[1:]] == slow
    assert pixels(out / "confusion.png").shape[1] > 500
    assert all(name in caplog.text for name in names)
    accuracies = {}
    for index in range(6):
        truth = pixels(given["root"] / f"labels/{index}.png")
        right = seen_in(pixels(given["root"] / f"images/{index}.png")) == truth
        accuracies[index] = right[truth != 255].mean()
    lowest = sorted(accuracies, key=lambda index: accuracies[index])[:2]
    told = [(Path(entry["image"]).stem, entry["picture"], entry["allAcc"]) for entry in metrics["worst"]]
    assert told == [
        (str(index), f"worst/{rank:02d}_{index}.png", round(float(accuracies[index]), 5))
        for rank, index in enumerate(lowest, 1)
    ]
    assert sorted(path.name for path in (out / "worst").iterdir()) == sorted(Path(t[1]).name for t in told)
    assert pixels(out / told[0][1]).shape == (60, 4 * 80, 3)


def test_nothing_is_written_without_a_folder(
    predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    evaluate(**given)
    assert not list((tmp_path / "here").iterdir())


def stop_at(number: int) -> Callable[[int], None]:
    def before(seen: int) -> None:
        if seen == number:
            raise KeyboardInterrupt

    return before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_evaluation_goes_on_to_the_same_report(
    predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    whole = evaluate(**given, out=tmp_path / "whole", workers=workers)
    predictor.seen, predictor.before = 0, stop_at(4)
    with pytest.raises(KeyboardInterrupt):
        evaluate(**given, out=tmp_path / "cut", workers=workers)
    kept = len((tmp_path / "cut/progress.jsonl").read_text().splitlines()) - 1
    assert 1 <= kept <= 4
    predictor.seen, predictor.before = 0, lambda number: None
    found = evaluate(**given, out=tmp_path / "cut", workers=workers, worst_count=0)
    assert predictor.seen == 6 - kept
    assert found["resumed"] == kept
    same = ("mIoU", "mIoU_present", "mAcc", "allAcc", "images", "engine_seconds")
    assert [found[name] for name in same] == [whole[name] for name in same]
    again = evaluate(**given, out=tmp_path / "cut", workers=workers)
    assert again["resumed"] == 6
    wholes = files_of(tmp_path / "whole")
    assert len(wholes) == 2 + 6
    assert files_of(tmp_path / "cut") == wholes


def files_of(out: Path) -> dict[str, bytes]:
    """Pictures and matrix, by name; worst pictures say by their names which images they show."""
    paths = [*out.glob("confusion.*"), *out.glob("worst/*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def test_a_limit_may_grow(predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path) -> None:
    evaluate(**given, out=tmp_path / "out", limit=2)
    assert evaluate(**given, out=tmp_path / "out")["resumed"] == 2
    found = evaluate(**given, out=tmp_path / "out", limit=2)
    assert (found["images"], found["resumed"]) == (2, 2)
    assert found["mIoU"] == evaluate(**given, limit=2)["mIoU"]


def test_an_image_whose_labels_were_changed_is_counted_anew(
    predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path
) -> None:
    evaluate(**given, out=tmp_path / "out")
    path = given["root"] / "labels/3.png"
    Image.fromarray(np.full((60, 80), 5, np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    found = evaluate(**given, out=tmp_path / "out")
    assert found["resumed"] == 5
    assert found["mIoU"] == round(slow_figures(slow_matrix(given["root"]))["mIoU"], 5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scales": (1.0, 1.5)}, "scales"),
        ({"flip": False}, "flip"),
        ({"base_size": 300}, "base_size"),
        ({"densecrf": DenseCRFParameters()}, "densecrf"),
        ({"list": "other"}, "list's sha256"),
        ({"engine": "other"}, "engine"),
        ({"model": "other"}, "model's sha256"),
    ],
)
def test_another_evaluation_in_the_folder_is_refused_until_restarted(
    predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    if says == "densecrf":
        pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    checkpoint = tmp_path / "model.pth"
    checkpoint.write_bytes(b"one")
    given["model"] = checkpoint
    evaluate(**given, out=tmp_path / "out")
    if change.pop("list", None):
        given["list_path"].write_text(given["list_path"].read_text().replace("images/0", "images/1"))
    if change.pop("engine", None):
        predictor.engine.name = "other"
    if change.pop("model", None):
        checkpoint.write_bytes(b"two")
    with pytest.raises(ParameterError, match=f"holds another evaluation .*{says}.*--restart"):
        evaluate(**given, **change, out=tmp_path / "out")
    assert evaluate(**given, **change, out=tmp_path / "out", restart=True)["resumed"] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_name_the_image(predictor: QuickPredictor, given: dict[str, Any], workers: int) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise EngineError("no such device")

    predictor.before = fail
    with pytest.raises(EngineError, match=r"images/2.png: no such device"):
        evaluate(**given, workers=workers)
    predictor.before = lambda number: None
    (given["root"] / "images/4.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"images/4.png cannot be read as an image"):
        evaluate(**given, workers=workers)


def test_densecrf_refines_what_the_network_says(predictor: QuickPredictor, given: dict[str, Any]) -> None:
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    parameters = DenseCRFParameters(iterations=3)

    def see(image: np.ndarray) -> np.ndarray:
        soft = np.full((CLASSES, *image.shape[:2]), 0.05, np.float32)
        np.put_along_axis(soft, seen_in(image)[None].astype(np.int64), 0.5, 0)
        return refine(image, soft, parameters)

    slow = slow_figures(slow_matrix(given["root"], see))
    found = evaluate(**given, densecrf=parameters, workers=1)
    assert found["mIoU"] == round(slow["mIoU"], 5)
    assert found["mIoU"] != evaluate(**given)["mIoU"]
    assert found["densecrf"]["iterations"] == 3


def as_ade20k(predictor: QuickPredictor) -> None:
    labels, info = get_label_set("ade20k"), predictor.info
    predictor.info = replace(
        info,
        architecture=replace(info.architecture, classes=150),
        dataset="ade20k",
        class_names=labels.class_names,
        palette=labels.palette,
    )


def test_a_submission_of_unlabelled_images_has_files_and_no_figures(
    predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path
) -> None:
    as_ade20k(predictor)
    given["list_path"].write_text("images/0.png\nimages/1.png\n")
    found = evaluate(**given, submission="ade20k", out=tmp_path / "out")
    assert found["images"] == 2
    assert found["mIoU"] is found["mAcc"] is found["allAcc"] is None
    for index in range(2):
        labels = pixels(tmp_path / f"out/submission/ade20k/{index}.png")
        assert np.array_equal(labels, seen_in(pixels(given["root"] / f"images/{index}.png")) + 1)
    assert not (tmp_path / "out/confusion.png").exists()
    (tmp_path / "out/submission/ade20k/1.png").unlink()
    assert evaluate(**given, submission="ade20k", out=tmp_path / "out")["resumed"] == 1
    assert (tmp_path / "out/submission/ade20k/1.png").exists()


def test_a_submission_of_labelled_images_has_figures_too(
    predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path
) -> None:
    as_ade20k(predictor)
    found = evaluate(**given, submission="ade20k", out=tmp_path / "out")
    assert found["allAcc"] == evaluate(**given)["allAcc"] > 0


def test_a_submission_without_a_folder_is_refused(predictor: QuickPredictor, given: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="give --out"):
        evaluate(**given, submission="ade20k")


def test_a_list_without_labels_is_for_submissions_alone(
    predictor: QuickPredictor, given: dict[str, Any]
) -> None:
    given["list_path"].write_text("images/0.png\n")
    with pytest.raises(DatasetError, match="expected `image label`"):
        evaluate(**given)


def test_the_check_gives_an_evaluation_up(
    predictor: QuickPredictor, given: dict[str, Any], tmp_path: Path
) -> None:
    def check() -> None:
        if predictor.seen == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(**given, check=check, workers=0, out=tmp_path / "out")
    assert len((tmp_path / "out/progress.jsonl").read_text().splitlines()) == 1 + 3


def run_command(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], arguments: list[str]) -> None:
    start = ["evaluate.py", "--model", str(given["model"]), "--data-root", str(given["root"])]
    monkeypatch.setattr(sys, "argv", [*start, "--list", str(given["list_path"]), *arguments])
    evaluate_module.main()


def test_the_command_takes_every_option_and_ends_with_json(
    predictor: QuickPredictor,
    given: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--scales", "0.5,1", "--no-flip", "--limit", "3", "--workers", "1", "--worst", "1"]
    run_command(monkeypatch, given, [*arguments, "--out", str(tmp_path / "out"), "--restart"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == json.loads(json.dumps(found))
    assert (found["images"], found["scales"], found["flip"]) == (3, [0.5, 1.0], False)
    assert len(list((tmp_path / "out/worst").iterdir())) == 1


def test_the_memory_budget_reaches_the_predictor_and_its_error_names_the_option(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opened(*args: Any, memory_budget_bytes: int, **kwargs: Any) -> QuickPredictor:
        raise MemoryBudgetError(f"{memory_budget_bytes} bytes: try a larger memory budget")

    monkeypatch.setattr(evaluate_module.Predictor, "open", opened)
    with pytest.raises(SystemExit) as stopped:
        run_command(monkeypatch, given, ["--memory-budget", "3GiB"])
    assert stopped.value.code == 2
    assert "3221225472 bytes: try a larger memory budget (--memory-budget)" in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_what_was_counted_kept(
    predictor: QuickPredictor,
    given: dict[str, Any],
    tmp_path: Path,
    signum: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def before(number: int) -> None:
        if number == 2:
            os.kill(os.getpid(), signum)

    predictor.before = before
    with pytest.raises(SystemExit) as stopped:
        run_command(monkeypatch, given, ["--out", str(tmp_path / "out"), "--workers", "0"])
    assert stopped.value.code == 128 + signum
    assert f"{signum.name}: what was counted is kept" in capsys.readouterr().err
    assert len((tmp_path / "out/progress.jsonl").read_text().splitlines()) == 1 + 3
    assert not (tmp_path / "out/metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "-1"], "--workers and --worst take 0 or more"),
        (["--densecrf", "w=1"], "--densecrf takes name=number"),
        (["--submission", "ade20k"], "give --out"),
        (["--submission", "voc2012", "--out", "{root}/out"], "takes a model of its 21"),
        (["--submission", "coco"], "invalid choice"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(
    predictor: QuickPredictor,
    given: dict[str, Any],
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--densecrf" in arguments:
        pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    with pytest.raises(SystemExit) as stopped:
        run_command(monkeypatch, given, [each.format(root=given["root"]) for each in arguments])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
