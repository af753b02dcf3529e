"""The shared core, shown on a miniature ADE20K."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.prepare.conftest import jpeg, png, read_png, write_folder, write_zip
from tests.training.prepare.miniatures import ade20k_files
from training.prepare import convert as convert_module
from training.prepare.__main__ import run
from training.prepare.errors import PrepareError

pytestmark = pytest.mark.usefixtures("few_ade20k")
LISTS = {"training": 3, "validation": 2}
PREFIX = "ADEChallengeData2016/"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "ADEChallengeData2016.zip", ade20k_files())


def prepared(archive: Path, **arguments: Any) -> dict[str, Any]:
    return run("ade20k", [archive], out=archive.parent / "out", **arguments)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def test_a_second_run_finds_everything_done(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(archive)
    before = content(archive.parent / "out")
    monkeypatch.setattr(convert_module, "write_atomically", None)
    second = prepared(archive)
    assert {**first, "seconds": 0.0} == second
    assert content(archive.parent / "out") == before
    assert first["lists"] == LISTS
    assert first["complete"] is True


def interrupt_after(writes: int, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Files are written until so many are; the next write breaks off."""
    write, done = convert_module.write_atomically, [0]

    def writing(path: Path, data: bytes) -> None:
        if done[0] == writes:
            raise error
        done[0] += 1
        write(path, data)

    monkeypatch.setattr(convert_module, "write_atomically", writing)


@pytest.mark.parametrize("writes", [0, 3, 4])
def test_an_interrupted_run_goes_on(archive: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    out = archive.parent / "out"
    with monkeypatch.context() as patch:
        interrupt_after(writes, patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepared(archive)
    assert not (out / "list").exists()
    assert len([*out.rglob("*.jpg"), *out.rglob("*.png")]) == writes
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert prepared(archive)["lists"] == LISTS
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    other = run("ade20k", [archive], out=archive.parent / "other")
    assert other["lists"] == LISTS
    assert content(out) == content(archive.parent / "other")


def test_files_that_vanished_or_are_empty_are_made_again(archive: Path) -> None:
    prepared(archive)
    out = archive.parent / "out"
    whole = content(out)
    (out / "images/training/ADE_train_00000002.jpg").unlink()
    (out / "annotations/training/ADE_train_00000003.png").write_bytes(b"")
    (out / "list/validation.txt").unlink()
    assert prepared(archive)["lists"] == LISTS
    assert content(out) == whole


def test_old_temporary_files_of_a_killed_run_are_removed(archive: Path) -> None:
    out = archive.parent / "out"
    with pytest.raises(PrepareError):
        run("ade20k", [write_zip(archive.parent / "a.zip", ade20k_files(1, 1))], out=out)
    assert not out.exists()
    prepared(archive)
    (out / "list/training.txt").unlink()
    old, young = out / "images/.0.part", out / "images/.1.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    prepared(archive)
    assert leftovers(out) == [young]


def test_processes_make_the_same_files(archive: Path) -> None:
    alone, out = prepared(archive), archive.parent / "out"
    several = run("ade20k", [archive], out=archive.parent / "several", workers=1)
    assert several["lists"] == alone["lists"]
    assert content(archive.parent / "several") == content(out)


def test_images_of_a_folder_are_linked_and_labels_are_not(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "unpacked", ade20k_files())
    run("ade20k", [source], out=tmp_path / "out")
    name = "images/training/ADE_train_00000001.jpg"
    assert (tmp_path / "out" / name).samefile(source / PREFIX / name)
    label = source / PREFIX / "annotations/training/ADE_train_00000001.png"
    assert label.read_bytes() == ade20k_files()[f"{PREFIX}annotations/training/ADE_train_00000001.png"]
    assert leftovers(tmp_path) == []


def test_images_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    source = write_folder(tmp_path / "unpacked", ade20k_files())
    run("ade20k", [source], out=tmp_path / "out")
    name = "images/training/ADE_train_00000001.jpg"
    assert (tmp_path / "out" / name).read_bytes() == (source / PREFIX / name).read_bytes()
    assert not (tmp_path / "out" / name).samefile(source / PREFIX / name)


def test_wrong_counts_are_an_error_before_anything_is_written(tmp_path: Path) -> None:
    files = ade20k_files()
    del files[f"{PREFIX}annotations/training/ADE_train_00000002.png"]
    archive = write_zip(tmp_path / "ADEChallengeData2016.zip", files)
    with pytest.raises(
        PrepareError, match=r"2 training images where 3 were published; 1 files lack"
    ) as error:
        prepared(archive)
    assert "ADE_train_00000002.jpg" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_allow_partial_goes_on_and_says_so(tmp_path: Path) -> None:
    files = ade20k_files()
    del files[f"{PREFIX}annotations/training/ADE_train_00000002.png"]
    files[f"{PREFIX}images/training/ADE_train_00000003.jpg"] = b"no image"
    archive = write_zip(tmp_path / "ADEChallengeData2016.zip", files)
    summary = prepared(archive, allow_partial=True)
    assert summary["lists"] == {"training": 1, "validation": 2}
    assert summary["complete"] is False
    assert "ADE_train_00000003.jpg is no usable image" in summary["left_out"][0]
    assert len((tmp_path / "out/list/training.txt").read_text().splitlines()) == 1


def test_a_partial_folder_is_completed_by_the_whole_archive(tmp_path: Path) -> None:
    part = write_zip(tmp_path / "part.zip", ade20k_files(training=2))
    run("ade20k", [part], out=tmp_path / "out", allow_partial=True)
    whole = write_zip(tmp_path / "ADEChallengeData2016.zip", ade20k_files())
    assert prepared(whole)["lists"] == LISTS
    assert (tmp_path / "out/list/training.txt").read_text().count("\n") == 3


def test_nothing_found_says_what_to_give(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"readme.txt": b"hello"})
    with pytest.raises(PrepareError, match=r"no image with labels was found: give ADEChallengeData2016\.zip"):
        prepared(archive, allow_partial=True)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("images/training/ADE_train_00000002.jpg", b"no image", "is no usable image"),
        ("images/training/ADE_train_00000002.jpg", jpeg(0)[:-20], "is cut short"),
        ("images/training/ADE_train_00000002.jpg", jpeg(0, (5, 5)), "is 12x16 .*, its image 5x5"),
        ("annotations/training/ADE_train_00000002.png", b"no image", "cannot be decoded"),
        (
            "annotations/training/ADE_train_00000002.png",
            png(np.full((12, 16), 200, dtype=np.uint8)),
            "holds 200, which is no label",
        ),
    ],
)
@pytest.mark.parametrize("workers", [0])
def test_a_file_that_does_not_fit_is_named(
    tmp_path: Path, name: str, data: bytes, says: str, workers: int
) -> None:
    archive = write_zip(tmp_path / "ADEChallengeData2016.zip", {**ade20k_files(), PREFIX + name: data})
    with pytest.raises(PrepareError, match=rf"ADE_train_00000002\.\w+ {says}"):
        prepared(archive, workers=workers)
    assert not (tmp_path / "out/list").exists()
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_told_before_the_work(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(PrepareError, match="GB free and .* GB are still to be written"):
        prepared(archive)


def test_a_disk_that_fills_up_leaves_a_run_that_goes_on(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(3, patch, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(PrepareError, match="no space is left .* same command again"):
            prepared(archive, allow_partial=True)
    assert prepared(archive)["lists"] == LISTS


def test_a_folder_with_other_things_is_not_touched(archive: Path) -> None:
    out = write_folder(archive.parent / "out", {"annotations/training/ADE_train_00000001.png": b"mine"})
    with pytest.raises(PrepareError, match="not empty and was not begun by this command"):
        prepared(archive)
    assert content(out) == {"annotations/training/ADE_train_00000001.png": b"mine"}


def test_a_folder_of_another_data_set_is_not_touched(archive: Path) -> None:
    prepared(archive)
    files = {"images/train/a.png": png(np.zeros((2, 2), np.uint8)), "labels/train/a.png": b"x"}
    source = write_folder(archive.parent / "camvid", files)
    with pytest.raises(PrepareError, match="holds ade20k prepared in another way"):
        run("camvid", [source], out=archive.parent / "out", allow_partial=True)


def test_an_out_that_cannot_be_made_is_an_error(archive: Path) -> None:
    with pytest.raises(PrepareError, match="cannot be written"):
        run("ade20k", [archive], out=archive / "out")


def test_labels_are_converted(archive: Path) -> None:
    prepared(archive)
    ids = read_png(archive.parent / "out/annotations/validation/ADE_val_00000002.png")
    assert set(np.unique(ids).tolist()) == {0, 1, 149, 255}
