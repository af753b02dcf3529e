import re
import tarfile
import zipfile
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from tests.training.prepare.conftest import write_folder, write_tar, write_zip
from training.prepare.archives import Source, find, open_archive, open_sources
from training.prepare.errors import PrepareError

FILES = {"set/images/a.jpg": b"A", "set/images/b.jpg": b"BB"}
PATTERN = re.compile(r"(?:^|/)images/(\w)\.jpg$")


def opened(path: Path, *archives: str) -> AbstractContextManager[list[Source]]:
    return open_sources([path], archives, leave_out=path / "out")


def contents(path: Path, *archives: str) -> dict[str, bytes]:
    with opened(path, *archives) as sources:
        return {key: member.read() for key, member in find(sources, PATTERN).items()}


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz", "folder", "unpacked deeper"])
def test_files_are_found_and_read_wherever_they_lie(tmp_path: Path, kind: str) -> None:
    path = {
        "zip": lambda: write_zip(tmp_path / "x.zip", FILES),
        "tar": lambda: write_tar(tmp_path / "x.tar", FILES),
        "tgz": lambda: write_tar(tmp_path / "x.tgz", FILES, "w:gz"),
        "folder": lambda: write_folder(tmp_path / "x", FILES),
        "unpacked deeper": lambda: write_folder(tmp_path / "x", FILES) / "set",
    }[kind]()
    assert contents(path) == {"a": b"A", "b": b"BB"}


def test_archives_in_a_folder_win_over_loose_files(tmp_path: Path) -> None:
    write_folder(tmp_path, {"images/a.jpg": b"loose", "images/c.jpg": b"C"})
    write_zip(tmp_path / "known.zip", FILES)
    write_zip(tmp_path / "other.zip", {"images/d.jpg": b"D"})
    assert contents(tmp_path, "known.zip") == {"a": b"A", "b": b"BB", "c": b"C"}


def test_results_and_litter_in_a_folder_are_no_sources(tmp_path: Path) -> None:
    litter = ("out/images/a.jpg", "__MACOSX/images/a.jpg", ".cache/images/a.jpg", "images/.a.jpg")
    write_folder(tmp_path, dict.fromkeys(litter, b"x"))
    with opened(tmp_path) as sources:
        assert find(sources, re.compile(r"(?:^|/)images/(\.?\w)\.jpg$")) == {}


def test_links_between_folders_are_followed_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"images/a.jpg": b"A"})
    (tmp_path / "x").mkdir()
    (tmp_path / "x/set").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "x")
    with opened(tmp_path / "x") as (source,):
        assert [member.name for member in source.members] == ["set/images/a.jpg"]


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "images/../../evil.jpg", "/etc/evil.jpg", "C:/evil", "..\\evil"]
)
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path: Path, name: str) -> None:
    for path in (write_zip(tmp_path / "x.zip", {name: b"x"}), write_tar(tmp_path / "x.tar", {name: b"x"})):
        with pytest.raises(PrepareError, match=r"leads out of the archive.*nothing of it was unpacked"):
            open_archive(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("images/a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(PrepareError, match="no ordinary file"):
        open_archive(tmp_path / "x.tar")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("images/a.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(PrepareError, match="no ordinary file"):
        open_archive(tmp_path / "x.zip")


def test_a_path_that_is_not_there_names_the_archives(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"absent does not exist: name an archive \(known\.zip\)"):
        contents(tmp_path / "absent", "known.zip")


@pytest.mark.parametrize("data", [b"", b"<html>Log in</html>", b"\x1f\x8b\x08\x00 no gzip"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    with pytest.raises(PrepareError, match="download it again"):
        open_archive(path)


def test_a_zip_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", FILES)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(PrepareError, match="download it again"):
        open_archive(path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_was_cut_short_is_refused_or_its_file_is(tmp_path: Path, mode: str) -> None:
    noise = bytes(range(256)) * 400
    path = write_tar(tmp_path / "x.tar", {"images/a.jpg": noise[::-1], "images/b.jpg": noise}, mode)
    path.write_bytes(path.read_bytes()[: 150_000 if mode == "w" else -200])

    def read_all() -> None:
        with closing(open_archive(path)) as source:
            for member in source.members:
                member.read()

    with pytest.raises(PrepareError, match="download it again"):
        read_all()


def test_a_damaged_file_in_a_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/a.jpg", b"wholesome")
    path.write_bytes(path.read_bytes().replace(b"wholesome", b"wholesoMe"))
    with closing(open_archive(path)) as source:
        (member,) = source.members
        with pytest.raises(PrepareError, match=r"x\.zip: images/a\.jpg is damaged .*download it again"):
            member.read()


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with closing(open_archive(write_zip(tmp_path / "x.zip", {"a.png": b"x" * 1000}))) as source:
        (member,) = source.members
        with pytest.raises(PrepareError, match="claims 1,000 bytes"):
            member.read(max_bytes=999)


def test_a_compressed_tar_can_be_read_in_any_order(tmp_path: Path) -> None:
    with closing(open_archive(write_tar(tmp_path / "x.tgz", FILES, "w:gz"))) as source:
        assert [member.read() for member in reversed(source.members)] == [b"BB", b"A"]
