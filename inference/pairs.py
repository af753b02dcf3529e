"""Images and the label files that say what is in them: official lists, and folders of the same names.

Not here: metrics (`inference/metrics.py`), data sets' own folders (`training/prepare`).

    pairs = pairs_of_list(Path("data/camvid"), Path("data/camvid/list/val.txt"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from inference.errors import ImageError, ParameterError
from inference.images import read_image
from models.labels import IGNORE


class DatasetError(ParameterError):
    """A list or a file of a data set that cannot be used; the message names it and the mend."""


class UnreadableImageError(DatasetError):
    """An image file is none, or a broken one; it is named."""


@dataclass(frozen=True)
class Pair:
    """An image file and, where there is one, its labels': single-channel 8-bit class ids."""

    image: Path
    labels: Path | None = None

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """(H, W, 3) RGB, and (H, W) class ids. Raises DatasetError that names the file."""
        if self.labels is None:
            return _read_image(self.image), None
        return load_pair((self.image, self.labels))


def read_list(root: Path, list_path: Path) -> list[tuple[Path, Path]]:
    """Pairs of image and label files of an official list: `image label` a line, relative to `root`.

    Raises DatasetError for a missing list, a line of another form, or the first missing files, each by name.
    """
    pairs: list[tuple[Path, Path]] = []
    for number, parts in _lines(root, list_path, "`image label`"):
        if len(parts) != 2:
            raise DatasetError(
                f"{list_path}, line {number}: expected `image label`, found {' '.join(parts)!r}"
            )
        pairs.append((root / parts[0], root / parts[1]))
    _require_files(root, list_path, [path for pair in pairs for path in pair])
    return pairs


def read_test_list(root: Path, list_path: Path) -> list[tuple[Path, Path | None]]:
    """As `read_list`, for images that may have no labels: a line holds `image`, or `image label`."""
    pairs: list[tuple[Path, Path | None]] = []
    for number, parts in _lines(root, list_path, "`image`"):
        if len(parts) > 2:
            raise DatasetError(f"{list_path}, line {number}: expected `image`, found {' '.join(parts)!r}")
        pairs.append((root / parts[0], root / parts[1] if len(parts) == 2 else None))
    _require_files(root, list_path, [path for pair in pairs for path in pair if path is not None])
    return pairs


def pairs_of_list(root: Path, list_path: Path) -> list[Pair]:
    """The pairs of `read_list`."""
    return [Pair(image, labels) for image, labels in read_list(root, list_path)]


def pairs_of_folder(images: Sequence[Path], labels: Path) -> list[Pair]:
    """Each image with the PNG of the same stem in the folder `labels`. Raises DatasetError."""
    if not labels.is_dir():
        raise DatasetError(f"{labels} is no folder: name the one that holds the images' label PNGs")
    pairs = [Pair(image, labels / f"{image.stem}.png") for image in images]
    missing = [pair.labels for pair in pairs if pair.labels is not None and not pair.labels.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} files are not there, the first {missing[0]}: labels have their image's name, "
            "with the ending .png"
        )
    return pairs


def _lines(root: Path, list_path: Path, form: str) -> list[tuple[int, list[str]]]:
    """Number and words of each line that is not blank; DatasetError where there are none."""
    if not list_path.is_file():
        raise DatasetError(
            f"there is no list {list_path}; give the path of one, {form} a line relative to {root}"
        )
    try:
        lines = list_path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{list_path} is no text in UTF-8; give a list, {form} a line") from error
    words = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not words:
        raise DatasetError(f"{list_path} is empty")
    return words


def _require_files(root: Path, list_path: Path, paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{list_path} names {len(missing)} files that are not there, the first {missing[0]}; "
            f"is {root} the folder that the list's paths start from?"
        )


def load_pair(
    pair: tuple[Path, Path], classes: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(H, W, 3) uint8 RGB and (H, W) uint8 class ids.

    Raises DatasetError for a file that cannot be read (UnreadableImageError where it is the image), and where
    sizes do not fit, or ids where `classes` says how many there are.
    """
    image = _read_image(pair[0])
    label = read_label(pair[1])
    if image.shape[:2] != label.shape:
        raise DatasetError(f"{pair[0]} is {image.shape[:2]} but its labels {pair[1]} are {label.shape}")
    wrong = label[(label >= classes) & (label != IGNORE)] if classes is not None else label[:0]
    if wrong.size:
        raise DatasetError(
            f"{pair[1]} holds {int(wrong.flat[0])}, which is neither a class id below {classes} nor {IGNORE}"
        )
    return image, label


def read_label(path: Path) -> NDArray[np.uint8]:
    """(H, W) uint8 class ids of a single-channel 8-bit image, palette or not; DatasetError for any other."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise DatasetError(
                    f"{path} holds {image.mode} pixels; labels are single-channel 8-bit class ids"
                )
            return np.array(image)
    except (OSError, UnidentifiedImageError) as error:
        raise DatasetError(f"{path} cannot be read as a label image: {error}") from error


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        return read_image(path, max_pixels=None, profiles=False)
    except (OSError, ImageError) as error:
        raise UnreadableImageError(f"{path} cannot be read as an image: {error}") from error
