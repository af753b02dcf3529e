"""Ids of the miniature: VOC's train is a, b; its val is c, d; SBD has a, c, e, f (e, f in its own val)."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from inference.pairs import read_list
from tests.training.prepare.conftest import (
    HW,
    jpeg,
    numbers,
    png,
    read_png,
    write_folder,
    write_tar,
    write_zip,
)
from training.config import read_config
from training.dataset import SegmentationDataset
from training.prepare.__main__ import run
from training.prepare.errors import PrepareError
from training.prepare.voc2012 import decode_sbd
from training.transforms import TrainingTransform

CONFIG = Path(__file__).parents[3] / "training/configs/voc2012_psanet50.yaml"
A, B, C, D, E, F = (f"2008_{number:06d}" for number in range(6))
OWN = numbers(1, [0, 20, 255])
SBD = numbers(2, [0, 3, 19])


def mat(ids: np.ndarray) -> bytes:
    """As SBD's: a struct with sparse boundaries in cells, the map of classes, and what classes occur."""
    boundaries = np.empty((20, 1), dtype=object)
    for index in range(20):
        boundaries[index, 0] = scipy.sparse.csc_array(np.eye(3) * (index == 3))
    buffer = io.BytesIO()
    struct = {"Boundaries": boundaries, "Segmentation": ids, "CategoriesPresent": np.array([[3.0], [19.0]])}
    scipy.io.savemat(buffer, {"GTcls": struct}, do_compression=True)
    return buffer.getvalue()


def voc_files() -> dict[str, bytes]:
    root = "VOCdevkit/VOC2012"
    files = {f"{root}/JPEGImages/{key}.jpg": jpeg(index) for index, key in enumerate((A, B, C, D, E, F))}
    for key in (A, B, C, D):
        files[f"{root}/SegmentationClass/{key}.png"] = png(OWN, palette=True)
        files[f"{root}/SegmentationObject/{key}.png"] = png(OWN, palette=True)
    files[f"{root}/ImageSets/Segmentation/train.txt"] = f"{A}\n{B}\n".encode()
    files[f"{root}/ImageSets/Segmentation/val.txt"] = f"{C}\n{D}\n".encode()
    files[f"{root}/ImageSets/Main/train.txt"] = b"2011_000009\n"
    files["VOCdevkit/VOC2007/ImageSets/Segmentation/train.txt"] = b"000032\n"
    return files


def sbd_files() -> dict[str, bytes]:
    root = "benchmark_RELEASE/dataset"
    files = {f"{root}/cls/{key}.mat": mat(SBD) for key in (A, C, E, F)}
    files |= {f"{root}/inst/{key}.mat": b"instances" for key in (A, C, E, F)}
    files |= {f"{root}/img/{key}.jpg": jpeg(0) for key in (A, C, E, F)}
    files[f"{root}/train.txt"] = f"{A}\n{C}\n".encode()
    files[f"{root}/val.txt"] = f"{E}\n{F}\n".encode()
    return files


def aug_files() -> dict[str, bytes]:
    files = {f"SegmentationClassAug/{key}.png": png(OWN) for key in (A, B, C, D)}
    files |= {f"SegmentationClassAug/{key}.png": png(SBD) for key in (E, F)}
    return files | {f"__MACOSX/SegmentationClassAug/._{key}.png": b"litter" for key in (A, B)}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.prepare.voc2012.EXPECTED", {"train_aug": (4,), "train": (2,), "val": (2,)})


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    write_tar(folder / "VOCtrainval_11-May-2012.tar", voc_files())
    write_tar(folder / "benchmark.tgz", sbd_files(), "w:gz")
    return folder


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
