import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from inference.pairs import read_list
from tests.training.prepare.conftest import (
    HW,
    png,
    read_png,
    write_folder,
    write_tar,
    write_zip,
)
from tests.training.prepare.miniatures import (
    OWN,
    SBD,
    A,
    B,
    C,
    D,
    E,
    F,
    aug_files,
    mat,
    sbd_files,
    voc_files,
    write_downloads,
)
from training.config import read_config
from training.dataset import SegmentationDataset
from training.prepare.__main__ import run
from training.prepare.errors import PrepareError
from training.prepare.voc2012 import decode_sbd
from training.transforms import TrainingTransform

CONFIG = Path(__file__).parents[3] / "training/configs/voc2012_psanet50.yaml"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.prepare.voc2012.EXPECTED", {"train_aug": (4,), "train": (2,), "val": (2,)})


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return write_downloads("voc2012", tmp_path / "downloads")


def listed(out: Path, name: str) -> list[str]:
    return [Path(line.split()[0]).stem for line in (out / f"list/{name}.txt").read_text().splitlines()]


def check_result(out: Path, summary: dict) -> None:
    counts = {"train_aug": 4, "val": 2, "train": 2, "trainval": 4, "trainval_aug": 6}
    assert summary["lists"] == counts
    assert listed(out, "train_aug") == [A, B, E, F]
    assert listed(out, "val") == [C, D]
    assert (
        (out / "list/train.txt").read_text().startswith(f"JPEGImages/{A}.jpg SegmentationClassAug/{A}.png\n")
    )
    np.testing.assert_array_equal(read_png(out / f"SegmentationClassAug/{A}.png"), OWN)
    np.testing.assert_array_equal(read_png(out / f"SegmentationClassAug/{C}.png"), OWN)
    np.testing.assert_array_equal(read_png(out / f"SegmentationClassAug/{E}.png"), SBD)


def test_both_archives_give_train_aug(downloads: Path) -> None:
    out = downloads.parent / "out"
    check_result(out, run("voc2012", [downloads], out=out))


def test_the_ready_made_labels_do_instead_of_sbd(downloads: Path) -> None:
    (downloads / "benchmark.tgz").unlink()
    write_zip(downloads / "SegmentationClassAug.zip", aug_files())
    out = downloads.parent / "out"
    check_result(out, run("voc2012", [downloads], out=out))


def test_unpacked_folders_will_do(tmp_path: Path) -> None:
    folders = [
        write_folder(tmp_path / "x", voc_files()) / "VOCdevkit/VOC2012",
        write_folder(tmp_path / "y", sbd_files()),
    ]
    check_result(tmp_path / "out", run("voc2012", folders, out=tmp_path / "out"))


def test_the_configuration_trains_on_the_result_as_it_is(
    downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(downloads.parent)
    config = read_config(CONFIG)
    run("voc2012", [downloads], out=Path(config.data.root))
    root = Path(config.data.root)
    for name, count in ((config.data.train_list, 4), (config.data.val_list, 2)):
        pairs = read_list(root, root / name)
        transform = TrainingTransform(config.augment, (33, 33))
        data = SegmentationDataset(pairs, transform, classes=config.model.classes, seed=0)
        assert len(data) == count
        for index in range(count):
            image, label = data[0, index]
            assert tuple(image.shape[1:]) == tuple(label.shape) == (33, 33)
            assert set(label.unique().tolist()) <= {*range(21), 255}


def test_without_sbd_train_aug_is_too_small_and_the_mend_names_it(downloads: Path) -> None:
    (downloads / "benchmark.tgz").unlink()
    with pytest.raises(PrepareError, match=r"2 images of train_aug where 4 .* benchmark\.tgz"):
        run("voc2012", [downloads], out=downloads.parent / "out")


def test_without_voc_the_mend_names_it(downloads: Path) -> None:
    (downloads / "VOCtrainval_11-May-2012.tar").unlink()
    with pytest.raises(PrepareError, match=r"no image with labels was found: give VOCtrainval_11-May"):
        run("voc2012", [downloads], out=downloads.parent / "out")


def test_an_image_that_is_missing_is_named(downloads: Path) -> None:
    files = voc_files()
    del files[f"VOCdevkit/VOC2012/JPEGImages/{F}.jpg"]
    write_tar(downloads / "VOCtrainval_11-May-2012.tar", files)
    with pytest.raises(PrepareError, match=rf"the first {F} \(no image\)"):
        run("voc2012", [downloads], out=downloads.parent / "out")


def test_labels_that_were_saved_as_colours_are_refused(downloads: Path) -> None:
    files = voc_files()
    files[f"VOCdevkit/VOC2012/SegmentationClass/{B}.png"] = png(np.zeros((*HW, 3), dtype=np.uint8))
    write_tar(downloads / "VOCtrainval_11-May-2012.tar", files)
    with pytest.raises(PrepareError, match=rf"{B}\.png holds RGB pixels where a number"):
        run("voc2012", [downloads], out=downloads.parent / "out")


@pytest.mark.parametrize("data", [b"", b"no matrix", mat(SBD)[:300]])
def test_damaged_mat_files_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"is no label file of SBD .*benchmark\.tgz again"):
        decode_sbd(data)


def test_mat_files_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="class ids below 21"):
        decode_sbd(mat(np.full(HW, 21, dtype=np.uint8)))
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"other": SBD})
    with pytest.raises(ValueError, match="is no label file of SBD"):
        decode_sbd(buffer.getvalue())
