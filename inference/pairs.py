"""Images and the label files that say what is in them: official lists, and folders of the same names.

Not here: metrics (`inference/metrics.py`), data sets' own folders.

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


class UnreadableImageError(ParameterError):
    """An image file is none, or a broken one; it is named."""


@dataclass(frozen=True)
class Pair:
    """An image file and, where there is one, its labels': single-channel 8-bit class ids."""

    image: Path
    labels: Path | None = None

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """(H, W, 3) RGB, and (H, W) class ids. Raises ParameterError that names the file;
        UnreadableImageError where it is the image's."""
        try:
            image = read_image(self.image, max_pixels=None)
        except (OSError, ImageError) as error:
            raise UnreadableImageError(f"{self.image} cannot be read as an image: {error}") from error
        if self.labels is None:
            return image, None
        labels = _read_labels(self.labels)
        if labels.shape != image.shape[:2]:
            raise ParameterError(
                f"{self.image} is {image.shape[:2]}, but its labels {self.labels} are {labels.shape}: "
                "name the labels of the same images"
            )
        return image, labels


def pairs_of_list(root: Path, list_path: Path) -> list[Pair]:
    """The pairs of an official list: `image label` a line, relative to `root`. Raises ParameterError."""
    try:
        lines = list_path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{list_path} cannot be read as a list: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if len(parts) == 2:
            pairs.append(Pair(root / parts[0], root / parts[1]))
        elif parts:
            raise ParameterError(f"{list_path}, line {number}: expected `image label`, found {line!r}")
    if not pairs:
        raise ParameterError(f"{list_path} is empty: name a list of `image label` lines")
    _require_files(pairs, f"is {root} the folder that the list's paths start from?")
    return pairs


def pairs_of_folder(images: Sequence[Path], labels: Path) -> list[Pair]:
    """Each image with the PNG of the same stem in the folder `labels`. Raises ParameterError."""
    if not labels.is_dir():
        raise ParameterError(f"{labels} is no folder: name the one that holds the images' label PNGs")
    pairs = [Pair(image, labels / f"{image.stem}.png") for image in images]
    _require_files(pairs, "labels have their image's name, with the ending .png")
    return pairs


def _require_files(pairs: Sequence[Pair], hint: str) -> None:
    files = [path for pair in pairs for path in (pair.image, pair.labels) if path is not None]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise ParameterError(f"{len(missing)} files are not there, the first {missing[0]}: {hint}")


def _read_labels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P"):
                raise ParameterError(
                    f"{path} holds {picture.mode} pixels: labels are single-channel 8-bit class ids"
                )
            return np.array(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise ParameterError(f"{path} cannot be read as a label image: {error}") from error
