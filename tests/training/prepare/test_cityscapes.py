from pathlib import Path

import numpy as np
import pytest

from tests.training.prepare.conftest import numbers, png, read_png, write_folder, write_zip
from tests.training.prepare.miniatures import PICTURE, cityscapes_files, write_downloads
from training.prepare.__main__ import run
from training.prepare.errors import PrepareError

COUNTS = {"train": (4,), "val": (2,), "test": (2,), "train_extra": (3, 2)}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.prepare.cityscapes.EXPECTED", COUNTS)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return write_downloads("cityscapes", tmp_path / "downloads")


def test_all_archives_give_fine_and_coarse_lists(downloads: Path) -> None:
    out = downloads.parent / "out"
    summary = run("cityscapes", [downloads], out=out, options={"fine": False})
    assert summary["lists"] == {
        "fine_train": 4,
        "fine_val": 2,
        "fine_trainval": 6,
        "fine_test": 2,
        "coarse_train": 2,
        "fine_coarse_train": 6,
        "fine_coarse_trainval": 8,
    }
    assert summary["notes"] == ["3 coarsely labelled images; the paper rounds to 20,000"]
    assert (out / "list/fine_train.txt").read_text().splitlines()[2] == (
        "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png "
        "gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png"
    )
    fine_and_coarse = (out / "list/fine_coarse_train.txt").read_text()
    assert fine_and_coarse == "".join(
        (out / f"list/{name}.txt").read_text() for name in ("fine_train", "coarse_train")
    )


@pytest.mark.parametrize(
    "name",
    [
        "gtFine/val/munster/munster_000001_000019_gtFine",
        "gtCoarse/train_extra/troisdorf/troisdorf_000001_000019_gtCoarse",
    ],
)
def test_labels_become_train_ids(downloads: Path, name: str) -> None:
    out = downloads.parent / "out"
    run("cityscapes", [downloads], out=out)
    renamed = {0: 255, 7: 0, 33: 18, 255: 255}
    expected = np.vectorize(renamed.__getitem__)(numbers(1, [0, 7, 33, 255]))
    np.testing.assert_array_equal(read_png(out / f"{name}_labelTrainIds.png"), expected)


def test_the_black_picture_is_left_out_and_said(downloads: Path) -> None:
    out = downloads.parent / "out"
    summary = run("cityscapes", [downloads], out=out)
    assert summary["left_out"] == [
        "troisdorf/troisdorf_000000_000073_leftImg8bit.png is blank, as it was published"
    ]
    assert summary["complete"] is True
    assert "000073" not in (out / "list/coarse_train.txt").read_text()


def test_the_black_picture_is_taken_once_it_was_replaced(downloads: Path) -> None:
    files = cityscapes_files()["leftImg8bit_trainextra.zip"]
    (name,) = (name for name in files if "000073" in name)
    write_zip(downloads / "leftImg8bit_trainextra.zip", {**files, name: png(PICTURE)})
    summary = run("cityscapes", [downloads], out=downloads.parent / "out")
    assert (summary["lists"]["coarse_train"], summary["left_out"]) == (3, [])


def test_the_fine_archives_alone_give_the_fine_lists(downloads: Path) -> None:
    for name in ("gtCoarse.zip", "leftImg8bit_trainextra.zip"):
        (downloads / name).unlink()
    summary = run("cityscapes", [downloads], out=downloads.parent / "out")
    assert list(summary["lists"]) == ["fine_train", "fine_val", "fine_trainval", "fine_test"]
    assert summary["complete"] is True


def test_coarse_labels_without_their_images_are_an_error(downloads: Path) -> None:
    (downloads / "leftImg8bit_trainextra.zip").unlink()
    with pytest.raises(PrepareError, match=r"gtCoarse\.zip is there and leftImg8bit_trainextra\.zip is not"):
        run("cityscapes", [downloads], out=downloads.parent / "out")
    summary = run("cityscapes", [downloads], out=downloads.parent / "out", options={"fine": True})
    assert "coarse_train" not in summary["lists"]


def test_a_missing_archive_is_named(downloads: Path) -> None:
    (downloads / "gtFine_trainvaltest.zip").unlink()
    with pytest.raises(PrepareError, match=r"no image with labels .* gtFine_trainvaltest\.zip"):
        run("cityscapes", [downloads], out=downloads.parent / "out", options={"fine": True})


def test_unpacked_folders_will_do(tmp_path: Path) -> None:
    for files in cityscapes_files().values():
        write_folder(tmp_path / "cityscapes", files)
    summary = run("cityscapes", [tmp_path / "cityscapes"], out=tmp_path / "out")
    assert summary["lists"]["fine_coarse_trainval"] == 8
