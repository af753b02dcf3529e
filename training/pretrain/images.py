"""Small images in memory for pre-training: archives to tensors, the order of epochs, augmentation.

Not here: the classifier and its training (`loop.py`), images of any size (`training/dataset.py`).

    images, labels = load(sorted(folder.glob("train-*.npz")))
    chosen = images[order(len(labels), seed=0, epoch=0)[:256]]
    inputs = augment(Normalizer(device)(chosen), step_generator(seed=0, step=0))
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.pairs import DatasetError
from models.config import MEAN_RGB, STD_RGB


def load(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """All images (N, 3, 64, 64) uint8 RGB and labels (N,) int64 of these archives.

    Raises DatasetError, which names the archive that cannot be read.
    """
    images, labels = [], []
    for path in paths:
        try:
            with path.open("rb") as file, np.load(file) as archive:
                labels.append(archive["labels"].astype(np.int64))
                images.append(_decoded(archive["data"], archive["offsets"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DatasetError(f"{path} cannot be read ({error}): fetch the archive again") from error
    return torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2), torch.from_numpy(
        np.concatenate(labels)
    )


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """sha256 of the labels and of every image's first pixels: another data set has another one."""
    corners = images[:, :, :8, :8].cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(labels.cpu().numpy().tobytes() + corners).hexdigest()


def _decoded(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(_decode, np.split(data, offsets[1:-1]))))


def _decode(encoded: np.ndarray) -> np.ndarray:
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if len(encoded) else None
    if image is None:
        raise ValueError("an image cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def order(count: int, *, seed: int, epoch: int) -> Tensor:
    """(count,) int64: the indices of an epoch, shuffled by the seed and the epoch's number."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


def step_generator(*, seed: int, step: int) -> torch.Generator:
    """What a step's augmentation draws from: the same wherever a training was cut off before."""
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) to the same size: a crop of 25 to 100% of the area, of aspect 3/4 to 4/3; a mirror."""
    n = images.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    area, aspect = uniform(0.25, 1.0), torch.exp(uniform(-math.log(4 / 3), math.log(4 / 3)))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros(n)
    theta = torch.stack([torch.stack([width * mirror, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = F.affine_grid(theta.to(images.device, non_blocking=True), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


class Normalizer:
    """uint8 to normalised floats on the device, channels last."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mean = torch.tensor(MEAN_RGB, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(STD_RGB, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        floats = images.to(self.device, non_blocking=True).float()
        return ((floats - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
