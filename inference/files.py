"""Which image files a command reads and where its results go.

Not here: decoding, prediction, rendering. Whatever is wrong with the paths is found before any work starts.

    jobs = plan_jobs(["photos", "extra/*.jpg"], out=Path("results"), suffixes={"labels": ".png"})
"""

import glob
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.errors import ParameterError

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"}
)
"""What counts as an image in a folder. A file named by itself is judged by its content alone."""


@dataclass(frozen=True)
class Job:
    """One image and the files to make of it, by kind of output."""

    source: Path
    targets: Mapping[str, Path]

    @property
    def done(self) -> bool:
        return all(target.exists() for target in self.targets.values())


def plan_jobs(
    inputs: Sequence[str], *, out: Path, suffixes: Mapping[str, str], recursive: bool = False
) -> list[Job]:
    """The images that `inputs` (files, folders, patterns) name, each with its targets, every image once.

    suffixes: kind of output to file ending; a target is `out/<kind>/<stem><ending>`. A folder gives the
    images directly in it, in order of their names; with `recursive` those below it too, and the targets keep
    the sub-folders. Raises ParameterError for a path that is not there, a pattern or folder without an image,
    two images with the same targets, and a target that is one of the images.
    """
    jobs: list[Job] = []
    seen: set[str] = set()
    own = {os.path.realpath(out / kind) for kind in suffixes}
    for source, stem in _sources(inputs, recursive, own):
        if (identity := os.path.realpath(source)) not in seen:
            seen.add(identity)
            jobs.append(Job(source, {kind: out / kind / (stem + end) for kind, end in suffixes.items()}))
    _refuse_clashes(jobs)
    return jobs


def _sources(inputs: Sequence[str], recursive: bool, own: set[str]) -> Iterator[tuple[Path, str]]:
    """(path, stem) of each image; the stem keeps the folders below a folder that was named."""
    for text in inputs:
        for path in _expanded(text):
            if path.is_dir():
                try:
                    found = sorted(_below(path, own)) if recursive else _directly_in(path)
                except OSError as error:
                    raise ParameterError(
                        f"the folder {path} cannot be read ({error.strerror}): name one that can"
                    ) from error
                if not found:
                    hint = "" if recursive else ", or add --recursive for those in its sub-folders"
                    raise ParameterError(f"the folder {path} holds no image: name one that does{hint}")
                for name in found:
                    yield path / name, os.path.splitext(name)[0]
            else:
                yield path, path.stem


def _expanded(text: str) -> list[Path]:
    """What a shell would make of it, for patterns that came quoted."""
    path = Path(os.path.expanduser(text))  # unlike pathlib's, leaves a file of the name "~a.jpg" alone
    if text and os.path.exists(path):  # nor does this one mind a name that is too long
        return [path]
    if not glob.has_magic(text):
        raise ParameterError(
            f"{text!r} does not exist: name a file, a folder or a pattern such as 'photos/*.jpg'"
        )
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise ParameterError(f"no file matches {text!r}: check the pattern and the folder it starts from")
    return [Path(match) for match in matches]


def _directly_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_image(entry.name) and entry.is_file())


def _below(folder: Path, own: set[str]) -> Iterator[str]:
    """Relative paths of the images below, leaving out hidden folders and the command's own results."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in own
        ]
        for name in filter(_is_image, names):
            yield os.path.relpath(os.path.join(parent, name), folder)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _refuse_clashes(jobs: Iterable[Job]) -> None:
    owner: dict[str, Path] = {}
    # An image that is a link is read where it points to: neither it nor that may be written over.
    sources = {place for job in jobs for place in (_entry(job.source), os.path.realpath(job.source))}
    for job in jobs:
        for target in job.targets.values():
            key = _entry(target)
            if key in sources:
                raise ParameterError(
                    f"{target} is both an image to read and a file to write: choose another --out"
                )
            if key in owner:
                raise ParameterError(
                    f"{owner[key]} and {job.source} would both be written to {target}: run them with "
                    "different --out folders, rename one, or name their common folder with --recursive"
                )
            owner[key] = job.source


def _entry(path: Path) -> str:
    """The entry of a folder that a file of that path is, whatever links lead to the folder."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def make_output_folder(out: Path) -> None:
    """Makes `--out`, before the work, so that hours of it are not lost; raises ParameterError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"--out {out} cannot be made ({error.strerror}): name another folder") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either there in full or not at all, whatever interrupts it; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private to the user, and stay so once renamed.
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
