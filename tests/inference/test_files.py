"""Which images are read and where results go; and that a file is there in full or not at all."""

import os
import stat
from pathlib import Path

import pytest

from inference.errors import ParameterError
from inference.files import plan_jobs, write_atomically

SUFFIXES = {"labels": ".png", "json": ".json"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """b.jpg, a.PNG, notes.txt, .hidden.jpg, sub/a.png, sub/deep/c.tif, .cache/x.png"""
    root = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/a.png", "sub/deep/c.tif", ".cache/x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def planned(inputs: list[str], out: Path, recursive: bool = False) -> dict[str, str]:
    """Source to label file, as relative as can be."""
    jobs = plan_jobs(inputs, out=out, suffixes=SUFFIXES, recursive=recursive)
    return {job.source.name: str(job.targets["labels"].relative_to(out)) for job in jobs}


def test_a_folder_gives_the_images_directly_in_it(photos: Path, tmp_path: Path) -> None:
    jobs = plan_jobs([str(photos)], out=tmp_path / "out", suffixes=SUFFIXES)
    assert [job.source.name for job in jobs] == ["a.PNG", "b.jpg"]
    assert jobs[1].targets == {
        "labels": tmp_path / "out/labels/b.png",
        "json": tmp_path / "out/json/b.json",
    }


def test_recursive_keeps_sub_folders_and_skips_hidden_ones(photos: Path, tmp_path: Path) -> None:
    jobs = plan_jobs([str(photos)], out=tmp_path, suffixes={"labels": ".png"}, recursive=True)
    targets = sorted(str(job.targets["labels"].relative_to(tmp_path)) for job in jobs)
    assert targets == ["labels/a.png", "labels/b.png", "labels/sub/a.png", "labels/sub/deep/c.png"]


def test_patterns_are_expanded_here_too(photos: Path, tmp_path: Path) -> None:
    assert planned([f"{photos}/*.jpg"], tmp_path) == {"b.jpg": "labels/b.png"}
    assert planned([f"{photos}/**/*.tif"], tmp_path) == {"c.tif": "labels/c.png"}


def test_a_name_with_brackets_that_exists_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "img[1].jpg").write_bytes(b"")
    assert planned([str(tmp_path / "img[1].jpg")], tmp_path) == {"img[1].jpg": "labels/img[1].png"}


def test_a_name_that_begins_as_homes_do_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("~a copy.jpg", "home/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert planned(["~a copy.jpg", "~/b.jpg"], tmp_path) == {
        "~a copy.jpg": "labels/~a copy.png",
        "b.jpg": "labels/b.png",
    }


def test_a_folder_that_cannot_be_read_is_an_error(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ParameterError, match=r"photos cannot be read \(Permission denied\)"):
        plan_jobs([str(photos)], out=tmp_path, suffixes=SUFFIXES)


def test_only_the_last_ending_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.b.jpg").write_bytes(b"")
    assert planned([str(tmp_path / "a.b.jpg")], tmp_path) == {"a.b.jpg": "labels/a.b.png"}


def test_a_file_named_by_itself_needs_no_image_ending(photos: Path, tmp_path: Path) -> None:
    assert planned([str(photos / "notes.txt")], tmp_path) == {"notes.txt": "labels/notes.png"}


def test_an_image_named_twice_is_done_once(photos: Path, tmp_path: Path) -> None:
    inputs = [str(photos), str(photos / "b.jpg"), f"{photos}/./*.jpg"]
    assert len(plan_jobs(inputs, out=tmp_path, suffixes=SUFFIXES)) == 2


def test_own_results_below_the_folder_are_not_read(photos: Path) -> None:
    (photos / "labels").mkdir()
    (photos / "labels/b.png").write_bytes(b"")
    jobs = plan_jobs([str(photos)], out=photos, suffixes=SUFFIXES, recursive=True)
    assert "labels" not in {job.source.parent.name for job in jobs}
    assert len(jobs) == 4


@pytest.mark.parametrize(
    "text",
    [
        "missing.jpg",
        "missing/",
        "missing/*.jpg",
        "",
        "~nobody-of-that-name/a.jpg",
        300 * "a",
        "a/" + 99 * "*b",
    ],
)
def test_what_is_not_there_is_an_error(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=r"does not exist|no file matches"):
        plan_jobs([text], out=tmp_path, suffixes=SUFFIXES)


def test_a_folder_without_images_is_an_error_that_names_recursive(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty/sub").mkdir(parents=True)
    with pytest.raises(ParameterError, match="--recursive"):
        plan_jobs([str(tmp_path / "empty")], out=tmp_path, suffixes=SUFFIXES)
    with pytest.raises(ParameterError, match="holds no image"):
        plan_jobs([str(tmp_path / "empty")], out=tmp_path, suffixes=SUFFIXES, recursive=True)


def test_two_images_of_one_stem_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="would both be written to"):
        plan_jobs([str(photos), str(photos / "sub")], out=tmp_path, suffixes=SUFFIXES)
    (photos / "b.png").write_bytes(b"")
    with pytest.raises(ParameterError, match=r"b\.jpg.*b\.png|b\.png.*b\.jpg"):
        plan_jobs([str(photos)], out=tmp_path, suffixes=SUFFIXES)


def test_an_image_is_never_its_own_result(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.png").write_bytes(b"")
    with pytest.raises(ParameterError, match="choose another --out"):
        plan_jobs([str(tmp_path / "labels")], out=tmp_path, suffixes=SUFFIXES)


def test_nor_is_it_where_links_lead_to_it(tmp_path: Path) -> None:
    photos, suffixes = tmp_path / "photos", {"labels": ".png"}
    photos.mkdir()
    (photos / "a.png").write_bytes(b"")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/labels").symlink_to(photos)
    (tmp_path / "picked").mkdir()
    (tmp_path / "picked/a.png").symlink_to(photos / "a.png")
    for source in (photos, tmp_path / "out/labels", tmp_path / "picked"):
        with pytest.raises(ParameterError, match="choose another --out"):
            plan_jobs([str(source)], out=tmp_path / "out", suffixes=suffixes)


def test_own_results_are_not_read_where_links_lead_to_them(photos: Path, tmp_path: Path) -> None:
    (photos / "labels").mkdir()
    (photos / "labels/b.png").write_bytes(b"")
    (tmp_path / "link").symlink_to(photos)
    for out, folder in ((tmp_path / "link", photos), (photos, tmp_path / "link")):
        jobs = plan_jobs([str(folder)], out=out, suffixes=SUFFIXES, recursive=True)
        assert len(jobs) == 4


def test_done_means_every_result_is_there(photos: Path, tmp_path: Path) -> None:
    job = plan_jobs([str(photos / "b.jpg")], out=tmp_path, suffixes=SUFFIXES)[0]
    assert not job.done
    write_atomically(job.targets["labels"], b"x")
    assert not job.done
    write_atomically(job.targets["json"], b"x")
    assert job.done


class TestWriteAtomically:
    def test_makes_folders_and_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "a/b/c.png"
        write_atomically(path, b"old")
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new"
        assert os.listdir(path.parent) == ["c.png"]

    def test_permissions_are_those_of_any_new_file(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a", b"")
        (tmp_path / "b").write_bytes(b"")
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"}
        assert len(modes) == 1

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    def test_an_interruption_leaves_what_was_there(
        self, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "c.png"
        path.write_bytes(b"old")

        def interrupted(source: object, target: object) -> None:
            raise error

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(error):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["c.png"]

    def test_long_names_still_fit(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / ("n" * 251 + ".png"), b"x")
        assert len(os.listdir(tmp_path)) == 1
