"""Augmented crops of images and label maps, and the endless, resumable order that training takes them in.

Not here: reading lists and files (`inference/pairs.py`), preparing data sets (`training/prepare`).

    dataset = SegmentationDataset(read_list(root, root / "list/train.txt"), transform, classes=11, seed=0)
"""

import signal
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from inference.pairs import DatasetError, load_pair
from training.config import TrainingConfig
from training.device_data import DeviceImages
from training.distributed import Processes
from training.transforms import Draw, TrainingTransform

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images and labels, of one image or of several."""

_GRACE_S: Final = 600
"""Longer than any step: until then whoever trains has ended a worker, or is gone, which a worker notices."""


def generator(seed: int, position: int) -> np.random.Generator:
    """What decides about the image at that position of a training."""
    return np.random.default_rng((seed, position))


class SegmentationDataset(Dataset[Batch]):
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

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        position, index = key
        image, label = self._decoded[index] if self._decoded else load_pair(self.pairs[index], self.classes)
        rng = generator(self.seed, position)
        image, label = self.transform(image.astype(np.float32), label, rng)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label).long()


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


def training_batches(
    pairs: list[tuple[Path, Path]],
    config: TrainingConfig,
    processes: Processes,
    *,
    share: int,
    start: int,
    stop: int,
) -> Generator[Batch, None, None]:
    """Batches of `share` augmented crops, from step `start` to `stop` of the training, for one process.

    Items are stacked as `SegmentationDataset` gives them; to close it ends the workers. Raises DatasetError.
    """
    sampler = EndlessSampler(
        len(pairs),
        seed=config.seed,
        start=start * config.batch,
        stop=stop * config.batch,
        share=share,
        rank=processes.rank,
        count=processes.count,
    )
    if config.data.on_device:
        images = DeviceImages(pairs, classes=config.model.classes, device=processes.device)
        return _device_batches(images, config, sampler, share)
    loader = _loader(pairs, config, sampler, share, pin_memory=processes.device.type == "cuda")
    return _raised(iter(loader))


def _device_batches(
    images: DeviceImages, config: TrainingConfig, sampler: EndlessSampler, share: int
) -> Generator[Batch, None, None]:
    crop_hw, places = config.model.crop_hw, iter(sampler)
    while batch := list(islice(places, share)):
        draws = [
            Draw.of(
                config.augment,
                images.sizes_hw[index],
                crop_hw,
                generator(config.seed, position),
            )
            for position, index in batch
        ]
        yield images.crops([index for _, index in batch], draws, crop_hw)


def _loader(
    pairs: list[tuple[Path, Path]],
    config: TrainingConfig,
    sampler: EndlessSampler,
    share: int,
    *,
    pin_memory: bool,
) -> DataLoader[Batch | DatasetError]:
    """It is iterated once: its workers live as long as the training."""
    dataset = SegmentationDataset(
        pairs,
        TrainingTransform(config.augment, config.model.crop_hw),
        classes=config.model.classes,
        seed=config.seed,
        cache=config.data.cache,
    )
    return DataLoader(
        _Told(dataset),
        share,
        collate_fn=_stacked,
        sampler=sampler,
        num_workers=config.workers,
        prefetch_factor=config.prefetch if config.workers else None,
        worker_init_fn=_begin_worker,
        pin_memory=pin_memory,
        drop_last=True,
        # Its own, or making the loader's workers would move the state that resuming puts back.
        generator=torch.Generator().manual_seed(config.seed),
    )


class _Told(Dataset[Batch | DatasetError]):
    """A data set whose errors are items: to what a worker raises, its loader adds the whole traceback."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Batch | DatasetError:
        try:
            return self._dataset[key]
        except DatasetError as error:
            return error


def _stacked(items: list[Batch | DatasetError]) -> Batch | DatasetError:
    crops: list[Batch] = []
    for item in items:
        if isinstance(item, DatasetError):
            return item
        crops.append(item)
    images, labels = default_collate(crops)
    return images, labels


def _raised(batches: Iterator[Batch | DatasetError]) -> Generator[Batch, None, None]:
    try:
        for batch in batches:
            if isinstance(batch, DatasetError):
                raise batch
            yield batch
    finally:
        del batches  # Its workers end with it: now, not when the process does, which would wait for them.


def _begin_worker(worker: int) -> None:
    """Keeps OpenCV to one thread (there are as many processes as cores) and the process to its task.

    A signal may go to the whole group of processes, and the step that is under way needs its images: SIGINT
    is the parent's affair, and SIGTERM ends a worker only some time after it.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
