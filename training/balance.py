"""How much each class weighs in the loss, by how rare it is in the training's labels.

weights = class_weights(pixels_of_classes(pairs, classes=11), power=0.25)
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.pairs import read_label


def pixels_of_classes(pairs: Sequence[tuple[Path, Path]], classes: int) -> NDArray[np.int64]:
    """(classes,): how many pixels of the label files each class has. Raises DatasetError."""

    def count(pair: tuple[Path, Path]) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = np.bincount(read_label(pair[1]).ravel(), minlength=256)[:classes]
        return counts

    with ThreadPoolExecutor() as pool:
        counts: NDArray[np.int64] = np.stack(list(pool.map(count, pairs))).sum(axis=0)
    return counts


def class_weights(pixels: NDArray[np.int64], power: float) -> NDArray[np.float32]:
    """(classes,): frequency ** -power, so scaled that a pixel weighs 1 on average; 1 for absent classes.

    power: 0 gives 1 to each; 1 gives every class the same share of the loss.
    """
    there = pixels > 0
    frequencies = np.where(there, pixels, 1) / max(pixels.sum(), 1)
    weights = frequencies**-power
    weights /= max((weights * frequencies)[there].sum(), np.finfo(float).tiny)
    return np.where(there, weights, 1).astype(np.float32)
