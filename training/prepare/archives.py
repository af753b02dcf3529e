"""Archives and folders as one collection of files, read one by one.

Nothing is unpacked under a name that an archive chose: what is written gets its name from the data set's own
pattern. An archive with names that lead out of its folder, or with links, is refused all the same.

    with open_sources([Path("downloads")], ("ADEChallengeData2016.zip",), leave_out=Path("data")) as sources:
        images = find(sources, re.compile(r"(?:^|/)(images/training/\\w+\\.jpg)$"))
"""

import contextlib
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from training.prepare.errors import PrepareError

MAX_FILE_BYTES = 256 << 20
"""Above any image or label; what claims more is refused before it is read."""

_AGAIN = "its download broke off or it was damaged: download it again"
# What zipfile, tarfile and the decompressors under them raise for damaged input.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class Source(Protocol):
    """A place that files are read from. `label` names it in messages."""

    path: Path
    members: Sequence["Member"]

    def read(self, name: str) -> bytes:
        """A member's content; PrepareError where it is damaged."""
        ...

    def close(self) -> None:
        """Ends the reading."""
        ...


@dataclass(frozen=True)
class Member:
    """A file of a source. name: its path in there; order: its place, in which it is read fastest."""

    source: Source
    name: str
    size: int
    order: int

    @property
    def path(self) -> Path | None:
        """Of a loose file, else None."""
        return self.source.path / self.name if isinstance(self.source, FolderSource) else None

    def read(self, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The content; PrepareError where it is damaged or larger than any file of its kind."""
        if self.size > max_bytes:
            raise PrepareError(f"{self} claims {self.size:,} bytes, which no file of this data set has")
        return self.source.read(self.name)

    def __str__(self) -> str:
        return f"{self.source.path}: {self.name}"


class ZipSource:
    """A ZIP archive; its checksums are verified as its members are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        members = []
        with contextlib.ExitStack() as opened:
            try:
                self._zip = opened.enter_context(zipfile.ZipFile(path))
            except _DAMAGE as error:
                raise PrepareError(f"{path} cannot be read as a ZIP archive ({error}): {_AGAIN}") from error
            for info in self._zip.infolist():
                _refuse_dangerous(path, info.filename, link=stat.S_ISLNK(info.external_attr >> 16))
                if not info.is_dir():
                    members.append(Member(self, info.filename, info.file_size, info.header_offset))
            self.close = opened.pop_all().close
        self.members: Sequence[Member] = members

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except _DAMAGE as error:
            raise PrepareError(f"{self.path}: {name} is damaged ({error}): {_AGAIN}") from error


class TarSource:
    """A tar archive, compressed or not. A compressed one is read from front to back, so in `order`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        members = []
        self._infos: dict[str, tarfile.TarInfo] = {}
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(open(path, "rb"))
                self._tar = opened.enter_context(tarfile.open(fileobj=file))
                for info in self._tar:
                    _refuse_dangerous(path, info.name, link=not (info.isfile() or info.isdir()))
                    if info.isfile():
                        self._infos[info.name] = info
                        members.append(Member(self, info.name, info.size, info.offset))
            except _DAMAGE as error:
                reason = str(error).partition("\n")[0]  # tarfile goes on with each compression it tried
                raise PrepareError(f"{path} is no whole ZIP or tar archive ({reason}): {_AGAIN}") from error
            self.close = opened.pop_all().close
        self.members: Sequence[Member] = members

    def read(self, name: str) -> bytes:
        info = self._infos[name]
        try:
            file = self._tar.extractfile(info)
            data = b"" if file is None else file.read()
        except _DAMAGE as error:
            raise PrepareError(f"{self.path}: {name} is damaged ({error}): {_AGAIN}") from error
        if len(data) != info.size:
            raise PrepareError(f"{self.path}: {name} is cut short: {_AGAIN}")
        return data


class FolderSource:
    """A folder and what lies below it, symbolic links followed; hidden files are not looked at.

    leave_out: a folder in it that is no part of it: where the results go.
    """

    def __init__(self, path: Path, *, leave_out: Path) -> None:
        self.path = path
        members: list[Member] = []
        seen = {os.path.realpath(leave_out)}
        for parent, folders, names in os.walk(path, followlinks=True):
            if (real := os.path.realpath(parent)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                full = os.path.join(parent, name)
                if not name.startswith(".") and os.path.isfile(full):
                    inside = os.path.relpath(full, path).replace(os.sep, "/")
                    members.append(Member(self, inside, os.path.getsize(full), len(members)))
        self.members: Sequence[Member] = members

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise PrepareError(f"{self.path / name} cannot be read: {error.strerror}") from error

    def close(self) -> None:
        pass


@contextlib.contextmanager
def open_sources(
    paths: Sequence[Path], archives: Sequence[str], *, leave_out: Path
) -> Iterator[list[Source]]:
    """What `paths` name: archives, folders that archives were unpacked to, folders that archives lie in.

    archives: the names under which the data set's archives are downloaded; those are opened where they lie
    directly in a folder, and win over loose files, having checksums. Raises PrepareError for a path that is
    not there, for a file that is no archive, and for a damaged or dangerous archive.
    """
    packed: list[Path] = []
    loose: list[Path] = []
    for path in paths:
        if path.is_dir():
            packed += [path / name for name in archives if (path / name).is_file()]
            loose.append(path)
        elif path.exists():
            packed.append(path)
        else:
            raise PrepareError(
                f"{path} does not exist: name an archive ({', '.join(archives)}), the folder that they lie "
                "in, or the folder that they were unpacked to"
            )
    with contextlib.ExitStack() as opened:
        sources = [opened.enter_context(contextlib.closing(open_archive(path))) for path in packed]
        yield [*sources, *(FolderSource(path, leave_out=leave_out) for path in loose)]


def open_archive(path: Path) -> Source:
    """A ZIP or tar archive, by content. Raises PrepareError for any other file."""
    return ZipSource(path) if zipfile.is_zipfile(path) else TarSource(path)


def find(sources: Iterable[Source], pattern: re.Pattern[str]) -> dict[str, Member]:
    """Members whose names `pattern` finds, by its first group, sorted; of several, the first source's."""
    found: dict[str, Member] = {}
    for source in sources:
        for member in source.members:
            match = pattern.search(member.name)
            if match and not _is_litter(member.name):
                found.setdefault(match[1], member)
    return dict(sorted(found.items()))


def _is_litter(name: str) -> bool:
    """What macOS adds to archives: `__MACOSX/` and `._name`."""
    return "__MACOSX/" in name or name.rpartition("/")[2].startswith(".")


def _refuse_dangerous(archive: Path, name: str, *, link: bool) -> None:
    parts = name.replace("\\", "/").split("/")
    if link or ".." in parts or parts[0] == "" or parts[0].endswith(":") or "\0" in name:
        raise PrepareError(
            f"{archive} holds {name!r}, which leads out of the archive or is no ordinary file: this is not "
            "the archive that the data set's authors publish; nothing of it was unpacked"
        )
