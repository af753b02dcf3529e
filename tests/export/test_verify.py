"""Verifying a bundle, from the command line on: right engines pass, wrong ones are found out and shown."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import export.verification
from export.onnx import export_onnx
from export.runs import EngineResult, Recorder, Runner
from export.verification import WINDOWS, Subject, _shares, find_checkpoint, verify_bundle
from export.verify import main
from inference.bundle import Bundle, PlanInfo, read_bundle, write_model_json
from inference.engines import Engine, open_model
from inference.errors import EngineError
from models.checkpoint import load_checkpoint, save_safetensors
from models.config import MMSEGMENTATION
from models.protocol import TestProtocol
from tests.export.tiny import save_own, tiny_config, tiny_network

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint and its bundle, whose images are small: two windows a side."""
    folder = tmp_path_factory.mktemp("made")
    bundle = read_bundle(export_onnx(save_own(tiny_network(tiny_config()), folder / "tiny.pth")).folder)
    write_model_json(bundle.folder, dataclasses.replace(bundle.info, base_size=97))
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy, its checkpoint beside it."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made" / "tiny"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two small images, their label files (all road, one quarter left out), and a list."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    lines = []
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (60, 97, 3), dtype=np.uint8)
        truth = np.full((60, 97), 3, np.uint8)
        truth[:15] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(truth).save(tmp_path / "labels" / f"{index}.png")
        lines.append(f"images/{index}.png labels/{index}.png\n")
    (tmp_path / "val.txt").write_text("".join(lines))
    return tmp_path


class Spoilt:
    """An engine whose logits are changed."""

    def __init__(self, engine: Engine, change: Change) -> None:
        self.engine, self.change = engine, change

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.change(np.array(self.engine.infer(images)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Makes ONNX Runtime, as verification opens it, an engine with changed logits."""

    def spoilt(change: Change) -> None:
        def opened(*args: Any, **kwargs: Any) -> Any:
            info, engine = open_model(*args, **kwargs)
            return info, Spoilt(engine, change)

        monkeypatch.setattr(export.verification, "open_model", opened)

    return spoilt


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object, stderr."""
    try:
        code = main([str(argument) for argument in (*arguments, "--threads", 1)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, errors = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if out else {}, errors


def test_a_bundle_passes_on_images_with_labels(
    bundle: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    listed = ("--list", photographs / "val.txt", "--data-root", photographs)
    code, figures, _ = run(capsys, bundle, *listed, "--out", out)
    assert code == 0
    assert figures["passed"] is True
    assert (figures["images"], figures["report"]) == (2, str(out / "report.html"))
    reference, (engine,) = figures["reference"], figures["engines"]
    assert (engine["name"], engine["device"], engine["precision"]) == ("ONNX Runtime", "cpu", "fp32")
    assert 0 < engine["max_logit_error"] < 1e-3
    assert 0 < engine["mean_logit_error"] < engine["max_logit_error"]
    assert 0 < engine["max_logit_error_float64"] < 1e-3
    assert 0 < reference["max_logit_error_float64"] < 1e-3
    assert "max_logit_error" not in reference
    assert "suspect_classes" not in engine
    assert engine["label_agreement"] > 0.999
    assert engine["window_ms"] > 0
    assert engine["image_ms"] > engine["window_ms"]
    # By hand: all labels are road.
    folder = (str(photographs / "images"), "--labels", str(photographs / "labels"))
    code, again, _ = run(capsys, bundle, "--images", *folder, "--out", out)
    assert (
        again["reference"]["mIoU"] == reference["mIoU"] == pytest.approx(reference["allAcc"] / 11, abs=1e-4)
    )
    text = (out / "report.html").read_text()
    assert "Passed" in text
    assert "mIoU" in text


class OneSize(Spoilt):
    """An engine that takes images of 48x64 alone."""

    crop_hw = (48, 64)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if images.shape[2:] != self.crop_hw:
            raise EngineError(f"no images of {images.shape}")
        return super().infer(images)


def test_pytorch_sees_the_padded_windows_that_an_engine_of_one_size_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**{**MMSEGMENTATION, "crop_hw": (48, 64), "mask_hw": (4, 4)})
    path = save_own(tiny_network(config), tmp_path / "theirs.pth")
    protocol = TestProtocol(base_size=96, name="mmsegmentation")
    torch.save({**torch.load(path), "protocol": protocol.to_dict()}, path)
    info, engine = open_model(path)
    engine = OneSize(engine, lambda logits: logits)
    monkeypatch.setattr(export.verification, "open_model", lambda *_, **__: (info, engine))
    low = np.random.default_rng(0).integers(0, 256, (30, 96, 3), dtype=np.uint8)
    verification = verify_bundle(Bundle(info, tmp_path), [Subject("low", low)])
    assert verification.passed
    assert verification.engines[0].agreement > 0.999


def test_without_images_it_makes_two_up(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = read_bundle(bundle).info
    write_model_json(bundle, dataclasses.replace(info, name="../elsewhere/tiny"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, figures, _ = run(capsys, bundle)
    assert code == 0
    assert (figures["images"], figures["windows"]) == (2, WINDOWS)
    assert "mIoU" not in figures["reference"]
    # The name leads nowhere else.
    assert (tmp_path / "here" / "tiny-verification" / "report.html").is_file()


def test_an_engine_that_confuses_two_classes_fails_and_the_report_names_them(
    bundle: Path,
    photographs: Path,
    tmp_path: Path,
    spoil: Callable[[Change], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Class names are markup here, which must not become any."""
    info = read_bundle(bundle).info
    images = ("--images", photographs / "images")
    subjects = [Subject("0", np.array(Image.open(photographs / "images" / "0.png")))]
    frequent = int(verify_bundle(read_bundle(bundle), subjects).reference.confusion.counts.sum(1).argmax())
    other = (frequent + 1) % 11
    names = list(info.class_names)
    names[frequent], names[other] = "<b>one</b>", "two & <i>more</i>"
    write_model_json(bundle, dataclasses.replace(info, class_names=tuple(names)))

    def confuse(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        logits[:, [frequent, other]] = logits[:, [other, frequent]]
        return logits

    spoil(confuse)
    code, figures, _ = run(capsys, bundle, *images, "--out", tmp_path / "out")
    assert code == 1
    assert figures["passed"] is False
    (engine,) = figures["engines"]
    assert "of labels must agree in fp32" in engine["failure"]
    assert "<b>one</b>" in engine["suspect_classes"]
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Failed" in text
    assert "<b>one" not in text
    row = text.partition("&lt;b&gt;one&lt;/b&gt;</td>")[2].partition("</tr>")[0]
    assert "100.000%" in row
    assert "two &amp; &lt;i&gt;more&lt;/i&gt; (100.000%)" in row
    assert text.count("<figure>") == 2
    code, figures, _ = run(capsys, bundle, *images, "--out", tmp_path / "md", "--format", "markdown")
    assert code == 1
    report = (tmp_path / "md" / "report.md").read_text()
    assert "&lt;b&gt;one" in report
    pictures = sorted(path.name for path in (tmp_path / "md" / "pictures").iterdir())
    assert pictures[:4] == [
        f"engine0-image0-{index}.{end}" for index, end in enumerate(("jpg", *["png"] * 3))
    ]
    assert len(pictures) == 8
    assert all(f"pictures/{name}" in report for name in pictures)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda logits: logits * np.float32(np.nan), "not finite"),
        (lambda logits: logits + np.float32(0.05), "the error may be"),  # of all classes: labels stay
        (lambda logits: logits[:, :, ::-1].copy(), "of labels must agree in fp32"),
    ],
)
def test_other_wrong_engines_fail(
    bundle: Path,
    tmp_path: Path,
    spoil: Callable[[Change], None],
    capsys: pytest.CaptureFixture[str],
    change: Change,
    says: str,
) -> None:
    spoil(change)
    code, figures, _ = run(capsys, bundle, "--out", tmp_path / "out", "--limit", 1)
    assert code == 1
    assert says in figures["engines"][0]["failure"]


def test_an_engine_that_fails_at_work_is_a_failure_and_the_report_is_written(
    bundle: Path, tmp_path: Path, spoil: Callable[[Change], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        raise EngineError("the device went away")

    spoil(fail)
    code, figures, _ = run(capsys, bundle, "--out", tmp_path / "out", "--limit", 1)
    assert code == 1
    assert figures["engines"][0]["failure"] == "the device went away"
    assert "the device went away" in (tmp_path / "out" / "report.html").read_text()


def test_plans_that_cannot_run_here_are_told_and_do_not_fail(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.verification.torch.cuda, "is_available", lambda: False)
    plan = PlanInfo(
        file="tiny.plan",
        runtime="tensorrt",
        runtime_version="10.13.0",
        target="sm89",
        precision="fp16",
        max_batch=8,
        psa_form="plugin",
        sha256="0" * 64,
        verified=False,
    )
    write_model_json(bundle, dataclasses.replace(read_bundle(bundle).info, plans=(plan,)))
    code, figures, _ = run(capsys, bundle, "--out", tmp_path / "out", "--limit", 1)
    assert code == 0
    engine = figures["engines"][1]
    assert (engine["name"], engine["precision"], engine["note"]) == (
        "TensorRT, tiny.plan",
        "fp16",
        "not run: no GPU",
    )
    assert "label_agreement" not in engine
    assert "not run: no GPU" in (tmp_path / "out" / "report.html").read_text()


def test_the_checkpoint_is_found_or_named_or_asked_for(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = bundle.parent / "tiny.pth"
    moved = tmp_path / "moved.pth"
    checkpoint.rename(moved)
    out = tmp_path / "out"
    code, _, errors = run(capsys, bundle, "--out", out)
    assert code == 2
    assert "tiny.pth" in errors
    assert errors.endswith(": verifying needs the checkpoint, name it with --ckpt\n")
    assert str(checkpoint) in errors
    assert "--engine" not in errors
    assert ".." not in errors
    found = find_checkpoint(read_bundle(bundle), moved)
    assert found.path.samefile(moved)
    # The same weights in another file: fine, and told.
    other = tmp_path / "other.safetensors"
    save_safetensors(load_checkpoint(moved), other)
    result = verify_bundle(
        read_bundle(bundle), [Subject("grey", np.full((60, 97, 3), 99, np.uint8))], checkpoint=other
    )
    assert not result.same_checkpoint
    another = save_own(tiny_network(tiny_config(psa_type="collect")), tmp_path / "another.pth")
    for path, says in ((tmp_path / "none.pth", "is no file"), (another, f"{another} does not fit {bundle}")):
        code, _, errors = run(capsys, bundle, "--out", out, "--ckpt", path)
        assert code == 2
        assert says in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--images", "missing"], "does not exist"),
        (["--images", "empty"], "holds no image"),
        (["--images", "images", "--labels", "empty"], "labels have their image's name"),
        (["--labels", "labels"], "--labels go with --images"),
        (["--list", "val.txt"], "--list and --data-root go together"),
        (["--list", "val.txt", "--data-root", "empty"], "the folder that the list's paths start from"),
        (["--list", "val.txt", "--data-root", ".", "--images", "images"], "leave out --images"),
        (["--limit", "0"], "--limit takes 1 or more"),
        (["--format", "pdf"], "invalid choice"),
        (["--device", "tpu"], "unknown device"),
        (["--out", "val.txt"], "cannot be made"),
    ],
)
def test_bad_input_is_an_error_with_the_mend(
    bundle: Path,
    photographs: Path,
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (photographs / "empty").mkdir()
    monkeypatch.chdir(photographs)
    code, figures, errors = run(capsys, bundle, *arguments)
    assert (code, figures) == (2, {})
    assert says in errors
    assert not list(photographs.rglob("report.*"))
    assert not list(photographs.glob("*-verification"))


def test_what_is_no_bundle_is_an_error(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, says in ((bundle.parent / "tiny.pth", "export.onnx --ckpt"), (tmp_path / "none", "none")):
        code, _, errors = run(capsys, model, "--out", tmp_path / "out")
        assert code == 2
        assert says in errors


def test_labels_of_another_data_set_are_an_error_that_names_the_image(
    bundle: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((60, 97), 77, np.uint8)).save(photographs / "labels" / "1.png")
    folders = ("--images", photographs / "images", "--labels", photographs / "labels")
    code, _, errors = run(capsys, bundle, *folders, "--out", photographs / "out")
    assert code == 2
    assert "1.png: the truth holds class id 77" in errors


def test_a_broken_image_of_a_folder_is_left_out_and_all_broken_is_an_error(
    bundle: Path,
    photographs: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (photographs / "images" / "0.png").write_bytes(b"no image")
    out = photographs / "out"
    images = ("--images", photographs / "images", "--out", out)
    code, figures, _ = run(capsys, bundle, *images)
    assert (code, figures["images"]) == (0, 1)
    assert figures["windows"] == 2, "all that the other image has"
    assert "0.png cannot be read" in caplog.text
    assert "left out" in caplog.text
    listed = ("--list", photographs / "val.txt", "--data-root", photographs, "--out", out)
    code, _, errors = run(capsys, bundle, *listed)
    assert code == 2, "a list says what counts"
    assert "0.png cannot be read" in errors
    (photographs / "images" / "1.png").write_bytes(b"")
    code, figures, errors = run(capsys, bundle, *images)
    assert (code, figures) == (2, {})
    assert "none of the 2 images can be read" in errors


def test_an_interruption_ends_with_130_and_leaves_no_folder(
    bundle: Path, tmp_path: Path, spoil: Callable[[Change], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        raise KeyboardInterrupt

    spoil(interrupt)
    code, figures, errors = run(capsys, bundle, "--out", tmp_path / "out")
    assert (code, figures) == (130, {})
    assert errors == "export.verify: interrupted; no report was written\n"
    assert not (tmp_path / "out").exists()


def test_an_image_over_the_memory_budget_is_an_error_that_names_the_option(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wide").mkdir()
    Image.new("RGB", (4000, 4000)).save(tmp_path / "wide" / "0.png")
    arguments = ("--images", tmp_path / "wide", "--out", tmp_path / "out", "--memory-budget", "16MiB")
    code, figures, errors = run(capsys, bundle, *arguments)
    assert (code, figures) == (2, {})
    assert "budget of 16.0 MiB" in errors
    assert "(--memory-budget)" in errors


@pytest.mark.parametrize("images", [1, 2, 3, 7, 8, 9, 50])
def test_windows_are_few_and_spread_over_the_images(images: int) -> None:
    shares = _shares(images)
    assert len(shares) == images
    assert sum(shares) <= WINDOWS
    assert sum(shares) > WINDOWS // 2
    assert shares[0] > 0


def test_the_recorder_keeps_the_first_windows_and_changes_nothing(bundle: Path) -> None:
    read = read_bundle(bundle)
    _, engine = open_model(read.folder, threads=1)
    recorder = Recorder(engine)
    recorder.start(3)
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 65, 65)).astype(np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(recorder.infer(images), engine.infer(images))
    assert [window.shape for window in recorder.windows] == [(1, 3, 65, 65)] * 3
    np.testing.assert_array_equal(recorder.windows[2], images[:1])
    recorder.start(0)
    recorder.infer(images)
    assert recorder.windows == []


def test_a_class_that_is_lost_is_suspect_however_many_labels_agree() -> None:
    result = EngineResult("engine", "cpu", "fp16", 4)
    reference = np.zeros((100, 100), np.uint8)
    reference[0, :20], reference[1, :9], reference[2:4] = 1, 2, 3
    labels = reference.copy()
    labels[0, :2] = 3  # a tenth of class 1
    labels[1] = 3  # all of class 2, which is below a thousandth
    labels[2, :19] = 0  # less than a tenth of class 3
    result.confusion.update(labels, reference, ignore=-1)
    assert result.agreement > 0.98
    assert result.suspects == [1]


def test_an_engine_gets_no_more_windows_at_once_than_it_takes(bundle: Path) -> None:
    read: Bundle = read_bundle(bundle)
    info, engine = open_model(read.folder, threads=1)
    batches: list[int] = []

    class Small(Spoilt):
        max_batch = 2

        def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            batches.append(len(images))
            return super().infer(images)

    small: Any = Small(engine, lambda logits: logits)
    runner = Runner(info, small, EngineResult("small", "cpu", "fp32", info.classes))
    windows = list(np.random.default_rng(0).uniform(0, 255, (3, 1, 3, 65, 65)).astype(np.float32))
    logits = runner.infer(windows)
    assert batches == [2, 1, 1, 1, 1]
    assert len(logits) == 6
    for index in range(3):
        np.testing.assert_allclose(logits[index], logits[index + 3], atol=1e-4)
