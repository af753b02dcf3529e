"""Images and label maps from official lists, and the endless, resumable order that training takes them in.

Not here: downloading or converting data sets.

    pairs = read_list(Path("data/camvid"), Path("data/camvid/list/train.txt"))
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset, Sampler

from inference.errors import ImageError
from inference.images import read_image
from models.labels import IGNORE
from training.config import TrainingConfig
from training.transforms import TrainingTransform

_GRACE_S: Final = 15


class DatasetError(Exception):
    """A list or a file of a data set that cannot be used; the message names it and the mend."""


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


class SegmentationDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Augmented crops: an item is (3, h, w) float32 RGB in [0, 255] and (h, w) int64 class ids.

    Items are asked for by (position, index): the position in the whole training seeds the augmentation, so a
    resumed training sees what an uninterrupted one would have seen, whatever the number of workers.
    """

    def __init__(
        self,
        pairs: list[tuple[Path, Path]],
        transform: TrainingTransform,
        *,
        classes: int,
        seed: int,
        cache: bool = False,
    ) -> None:
        self.pairs, self.transform, self.classes, self.seed = pairs, transform, classes, seed
        self._decoded = [load_pair(pair, classes) for pair in pairs] if cache else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        position, index = key
        image, label = self._decoded[index] if self._decoded else load_pair(self.pairs[index], self.classes)
        rng = np.random.default_rng((self.seed, position))
        image, label = self.transform(image.astype(np.float32), label, rng)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label).long()


def load_pair(pair: tuple[Path, Path], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB and (H, W) uint8 class ids.

    Raises DatasetError for a file that cannot be read and where sizes or ids do not fit.
    """
    try:
        image = read_image(pair[0], max_pixels=None)
    except (OSError, ImageError) as error:
        raise DatasetError(f"{pair[0]} cannot be read as an image: {error}") from error
    label = read_label(pair[1])
    if image.shape[:2] != label.shape:
        raise DatasetError(f"{pair[0]} is {image.shape[:2]} but its labels {pair[1]} are {label.shape}")
    wrong = label[(label >= classes) & (label != IGNORE)]
    if wrong.size:
        raise DatasetError(
            f"{pair[1]} holds {int(wrong[0])}, which is neither a class id below {classes} nor {IGNORE}"
        )
    return image, label


def read_label(path: Path) -> np.ndarray:
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


class EndlessSampler(Sampler[tuple[int, int]]):
    """(position, index) pairs from `start` on, each epoch shuffled by the seed and its number.

    rank, count: this process among those that share a training. They take turns of `share` positions each,
    so that `share * count` positions in a row hold the images that one process alone would take there.
    """

    def __init__(
        self, size: int, *, seed: int, start: int, stop: int, share: int = 1, rank: int = 0, count: int = 1
    ) -> None:
        self.size, self.seed, self.start, self.stop = size, seed, start, stop
        self.share, self.rank, self.count = share, rank, count

    def __len__(self) -> int:
        return (self.stop - self.start) // self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for position in range(self.start, self.stop):
            if position // self.share % self.count != self.rank:
                continue
            if position // self.size != epoch:
                epoch = position // self.size
                order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
            yield position, int(order[position % self.size])


def training_loader(
    pairs: list[tuple[Path, Path]],
    config: TrainingConfig,
    *,
    share: int,
    start: int,
    stop: int,
    rank: int = 0,
    count: int = 1,
    pin_memory: bool = False,
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of `share` augmented crops, from step `start` to `stop` of the training, for one process.

    It is iterated once: its workers live as long as the training. Raises DatasetError.
    """
    dataset = SegmentationDataset(
        pairs,
        TrainingTransform(config.augment, config.model.crop_hw),
        classes=config.model.classes,
        seed=config.seed,
        cache=config.data.cache,
    )
    sampler = EndlessSampler(
        len(pairs),
        seed=config.seed,
        start=start * config.batch,
        stop=stop * config.batch,
        share=share,
        rank=rank,
        count=count,
    )
    return DataLoader(
        dataset,
        share,
        sampler=sampler,
        num_workers=config.workers,
        prefetch_factor=config.prefetch if config.workers else None,
        worker_init_fn=_begin_worker,
        pin_memory=pin_memory,
        drop_last=True,
        # Its own, or making the loader's workers would move the state that resuming puts back.
        generator=torch.Generator().manual_seed(config.seed),
    )


def _begin_worker(worker: int) -> None:
    """Keeps OpenCV to one thread (there are as many processes as cores) and the process to its task.

    A signal may go to the whole group of processes, and the step that is under way needs its images: SIGINT
    is the parent's affair, and SIGTERM ends a worker only some time after it.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
