import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference.pairs import DatasetError
from models.checkpoint import load_backbone
from models.resnet import ResNet
from training.pretrain import loop
from training.pretrain.__main__ import main
from training.pretrain.images import augment, load
from training.pretrain.schedule import Schedule
from training.pretrain.state import Pretraining


def archive(path: Path, count: int, seed: int) -> np.ndarray:
    """WebP images of one colour end to end, as the archives hold them; returns the colours."""
    colors = np.random.default_rng(seed).integers(0, 256, (count, 3), dtype=np.uint8)
    parts = []
    for color in colors:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), tuple(map(int, color))).save(buffer, "WEBP", lossless=True)
        parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, parts)])
    np.savez(path, data=np.concatenate(parts), offsets=offsets, labels=np.arange(count) % 3)
    return colors


def test_archives_are_read_in_order_as_rgb(tmp_path: Path) -> None:
    first, second = archive(tmp_path / "train-0.npz", 5, 0), archive(tmp_path / "train-1.npz", 4, 1)
    images, labels = load([tmp_path / "train-0.npz", tmp_path / "train-1.npz"])
    assert (images.shape, images.dtype) == ((9, 3, 64, 64), torch.uint8)
    np.testing.assert_array_equal(images[:, :, 0, 0].numpy(), np.concatenate([first, second]))
    assert labels.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0]


def test_augmentation_keeps_size_and_range_and_follows_its_generator() -> None:
    images = torch.rand(6, 3, 32, 32)
    once = augment(images, torch.Generator().manual_seed(1))
    again = augment(images, torch.Generator().manual_seed(1))
    other = augment(images, torch.Generator().manual_seed(2))
    assert once.shape == images.shape
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.min() >= images.min() - 1e-6
    assert once.max() <= images.max() + 1e-6


@pytest.mark.parametrize("stride", [8, 32])
def test_the_command_writes_weights_that_a_training_starts_from(stride: int, tmp_path: Path) -> None:
    archive(tmp_path / "train-0.npz", 24, 0)
    archive(tmp_path / "val.npz", 6, 1)
    out = tmp_path / "resnet18.pth"
    command = [sys.executable, "-m", "training.pretrain", "--data", str(tmp_path), "--out", str(out)]
    done = subprocess.run(
        [*command, "--epochs", "2", "--batch", "8", "--stride", str(stride)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 <= json.loads(done.stdout.splitlines()[-1])["top1"] <= 1
    backbone = ResNet(18)
    before = backbone.layer4[0].conv1.weight.clone()
    load_backbone(backbone, out)
    assert not torch.equal(before, backbone.layer4[0].conv1.weight)


def rates(seconds: float | None, pause_s: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of a schedule of 100 steps whose steps take `pause_s` seconds each."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    schedule, found = Schedule(0.2, 100, seconds), []
    while not schedule.over:
        found.append(schedule.step())
        clock[0] += pause_s
    return found


def test_the_rate_rises_and_falls_once_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rates(None, 1.0, monkeypatch)
    assert len(found) == 100
    assert max(found) == found[15] == pytest.approx(0.2)
    assert found[:16] == sorted(found[:16])
    assert found[15:] == sorted(found[15:], reverse=True)
    assert found[-1] < 0.001


def test_the_schedule_is_run_to_its_end_when_the_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rates(20.0, 1.0, monkeypatch)
    assert len(found) == 21, "the first step, which compiles, does not count"
    assert max(found) == pytest.approx(0.2, rel=0.05)
    assert found[-1] < 0.01
    assert rates(1000.0, 1.0, monkeypatch) == rates(None, 1.0, monkeypatch)


def test_the_time_of_processes_before_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    whole, parts = Schedule(0.2, 100, 20.0), [Schedule(0.2, 100, 20.0), Schedule(0.2, 100, 20.0)]
    expected = []
    for _ in range(9):
        expected.append(whole.step())
        clock[0] += 1.0
    found = []
    for _ in range(4):
        found.append(parts[0].step())
        clock[0] += 1.0
    parts[1].go_on(parts[0].taken, parts[0].elapsed)
    clock[0] += 1000.0  # between the processes
    for _ in range(5):
        found.append(parts[1].step())
        clock[0] += 1.0
    assert found[:5] == expected[:5]
    assert found[5] == expected[4], "the first step of a process, which compiles, does not count"
    assert not parts[1].over


@pytest.fixture
def few_images(tmp_path: Path) -> None:
    archive(tmp_path / "train-0.npz", 8, 0)
    archive(tmp_path / "val.npz", 2, 1)


def command(folder: Path, out: Path, *more: str) -> list[str]:
    data = ["--data", str(folder), "--out", str(out), "--device", "cpu"]
    return ["pretrain", *data, "--epochs", "2", "--batch", "8", *more]


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, float]:
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_what_was_cut_off_goes_on_to_the_same_weights(
    cut: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two epochs of three steps: in the middle of an epoch, at its end, and after the last step."""
    archive(tmp_path / "train-0.npz", 24, 0)
    archive(tmp_path / "val.npz", 6, 1)
    whole, parts = tmp_path / "whole.pth", tmp_path / "parts.pth"
    expected = run(command(tmp_path, whole), monkeypatch, capsys)

    steps, step = [], loop._step

    def step_and_signal(*args: object) -> torch.Tensor:
        steps.append(1)
        if len(steps) == cut:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(loop, "_step", step_and_signal)
    with pytest.raises(SystemExit) as ended:
        run(command(tmp_path, parts), monkeypatch, capsys)
    assert ended.value.code == 143
    assert f"step {cut} is saved in {parts}; the same command goes on" in capsys.readouterr().err
    assert torch.load(parts, weights_only=True)["taken"] == cut
    load_backbone(ResNet(18), parts)
    assert f"{parts} is of a pre-training that was cut off: it is started from as it is" in caplog.text
    found = run(command(tmp_path, parts), monkeypatch, capsys)
    assert len(steps) == 6
    assert (found["top1"], found["epochs"]) == (expected["top1"], expected["epochs"])
    one, other = (torch.load(path, weights_only=True) for path in (whole, parts))
    assert all(torch.equal(other["state_dict"][key], value) for key, value in one["state_dict"].items())
    assert set(one) == set(other) == {"depth", "top1", "state_dict", "settings", "result"}

    assert run(command(tmp_path, parts), monkeypatch, capsys) == found, "it is finished"
    assert len(steps) == 6


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--lr", "0.1"], "was begun with --lr 0.2: give another --out, or these values again"),
        (["--depth", "50", "--stride", "8"], "was begun with --depth 18 --stride 32:"),
        (["--seconds", "60"], "was begun with --seconds None:"),
        (["--data", "{folder}/other"], "was begun with other archives than --data holds: give another --out"),
    ],
)
def test_another_training_is_not_gone_on_with(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "x.pth"
    run(command(tmp_path, out), monkeypatch, capsys)
    before = out.read_bytes()
    (tmp_path / "other").mkdir()
    archive(tmp_path / "other/train-0.npz", 8, 2)  # the same labels
    archive(tmp_path / "other/val.npz", 2, 1)
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        run(command(tmp_path, out, *arguments), monkeypatch, capsys)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.usefixtures("few_images")
def test_a_file_of_something_else_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, text = tmp_path / "weights.pth", tmp_path / "text.pth"
    torch.save({"state_dict": ResNet(18).state_dict()}, weights)
    text.write_bytes(b"no weights")
    for out, says in (
        (weights, "weights.pth is of another command or version: give another --out"),
        (text, "text.pth"),
    ):
        before = out.read_bytes()
        with pytest.raises(SystemExit) as ended:
            run(command(tmp_path, out), monkeypatch, capsys)
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
        assert out.read_bytes() == before


@pytest.mark.usefixtures("few_images")
def test_weights_that_a_step_has_ruined_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ruins(training: Pretraining, *args: object) -> torch.Tensor:
        training.classifier.fc.bias.data.fill_(torch.nan)
        return torch.tensor(1.0)

    monkeypatch.setattr(loop, "_step", ruins)
    with pytest.raises(SystemExit) as ended:
        run(command(tmp_path, tmp_path / "x.pth"), monkeypatch, capsys)
    assert ended.value.code == 2
    assert "weights that are not finite, so they are not saved" in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize("missing", ["train-0.npz", "val.npz"])
def test_a_folder_without_the_archives_is_an_error(tmp_path: Path, missing: str) -> None:
    for name in {"train-0.npz", "val.npz"} - {missing}:
        archive(tmp_path / name, 3, 0)
    command = [
        sys.executable,
        "-m",
        "training.pretrain",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "x.pth"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "holds no train-*.npz and val.npz" in done.stderr


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epochs", "0"], "argument --epochs: takes 1 or more, not '0'"),
        (["--seconds", "0"], "argument --seconds: takes a number above 0, not '0'"),
        (["--seconds", "nan"], "argument --seconds: takes a number above 0, not 'nan'"),
        (["--lr", "-1"], "argument --lr: takes a number above 0, not '-1'"),
        (["--out", "{folder}/x.safetensors"], "x.safetensors must end in .pth"),
        (["--device", "gpu"], "device is auto, cpu, cuda or cuda:N, not 'gpu'"),
        (["--batch", "9"], "--batch 9 is more than the 8 images"),
        (["--batch", "2", "--lr", "1e9"], "a lower --lr and another --out"),
        (["--out", "{folder}/val.npz/below/x.pth"], "val.npz/below"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--data", str(tmp_path), "--out", str(tmp_path / "x.pth"), "--device", "cpu", "--epochs", "1"]
    given += [argument.format(folder=tmp_path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize("case", ["no labels", "no archive", "no image"])
def test_a_damaged_archive_is_named(case: str, tmp_path: Path) -> None:
    path = tmp_path / "train-0.npz"
    archive(path, 3, 0)
    if case == "no archive":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        with np.load(path) as whole:
            arrays = dict(whole)
        if case == "no labels":
            del arrays["labels"]
        else:
            arrays["data"][:] = 0
        np.savez(path, **arrays)
    with pytest.raises(DatasetError, match=r"train-0\.npz cannot be read \(.*\): fetch the archive again"):
        load([path])
