"""The images that a model does worst on, as pictures: image, truth, prediction, errors.

Not here: choosing figures (`evaluate.py`); the first three panels (`monitor.py`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.metrics import ConfusionMatrix
from models.labels import IGNORE
from training.ledger import Counts
from training.monitor import beside

Labels = NDArray[np.uint8] | NDArray[np.uint16]

Score = tuple[float, float]
"""Pixel accuracy, and mIoU over present classes, of one image."""

_WRONG = (230, 0, 0)


def score(counts: Counts, classes: int) -> Score | None:
    """Of one image; None where no pixel counts."""
    if not len(counts.cells):
        return None
    confusion = ConfusionMatrix(classes)
    counts.add_to(confusion.counts)
    return confusion.allAcc, confusion.mIoU_present


class Worst:
    """Keeps the labels of the `count` images with the lowest scores so far; the first wins ties."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: dict[int, tuple[tuple[float, int], Labels]] = {}

    def offer(self, index: int, score: Score | None, labels: Labels) -> None:
        """Takes an image into consideration; ordered by pixel accuracy."""
        if score is None or not self._count:
            return
        self._kept[index] = ((score[0], index), labels)
        if len(self._kept) > self._count:
            del self._kept[max(self._kept, key=lambda kept: self._kept[kept][0])]

    def labels(self, index: int) -> Labels | None:
        """Those of an image that is kept."""
        return self._kept[index][1] if index in self._kept else None


def choose(scores: Mapping[int, Score | None], count: int) -> list[int]:
    """Indices of the `count` images with the lowest pixel accuracy, the worst first, the first of equals."""
    ranked = sorted((score[0], index) for index, score in scores.items() if score is not None)
    return [index for _, index in ranked[:count]]


def picture(
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    labels: Labels,
    palette: Sequence[tuple[int, int, int]],
) -> NDArray[np.uint8]:
    """Four panels side by side, (h, 4w, 3) RGB: image, truth, prediction, and the grey image with what is
    wrong in red and what does not count in black. Shrunk to a readable size.

    Class ids above 255 are shown as 255.
    """
    shown = np.minimum(labels, 255).astype(np.uint8)
    three = beside(image, truth, shown, palette)
    height, width = three.shape[0], three.shape[1] // 3
    small = (width, height)
    grey = cv2.cvtColor(cv2.cvtColor(three[:, :width], cv2.COLOR_RGB2GRAY) // 2, cv2.COLOR_GRAY2RGB)
    wrong = cv2.resize((shown != truth).astype(np.uint8), small, interpolation=cv2.INTER_NEAREST)
    ignored = cv2.resize((truth == IGNORE).astype(np.uint8), small, interpolation=cv2.INTER_NEAREST)
    errors = np.asarray(grey, np.uint8)
    errors[wrong == 1] = _WRONG
    errors[ignored == 1] = 0
    return np.concatenate([three, errors], axis=1)


def clear(folder: Path) -> None:
    """Removes the pictures that an earlier run left there."""
    for path in folder.glob("[0-9][0-9]*_*.png"):
        path.unlink()
