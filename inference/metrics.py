"""Confusion matrix, IoU and accuracies by the published definitions. Evaluation and verification share them.

python -c "from inference.metrics import ConfusionMatrix; help(ConfusionMatrix)"
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.errors import ParameterError
from models.labels import IGNORE


class ConfusionMatrix:
    """Counts of pixels by true class (rows) and predicted class (columns), int64, summed over images.

    All figures are fractions, computed from the sums over all images, as the published evaluation does.
    """

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise ParameterError(f"classes must be 1 or more, not {classes}")
        self.classes = classes
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def update(self, labels: NDArray[Any], truth: NDArray[Any], ignore: int = IGNORE) -> None:
        """Adds one image: `labels` (H, W) as predicted, `truth` (H, W), both class ids; integers.

        Pixels whose truth is `ignore` count nowhere. Raises ParameterError for different sizes, and for a
        class id of C or above: the official histogram counts a truth of C as class C - 1, which hides label
        files of another data set.
        """
        if labels.shape != truth.shape:
            raise ParameterError(f"labels of {labels.shape} and a truth of {truth.shape}: give both one size")
        counted = truth != ignore
        true, predicted = truth[counted].astype(np.int64), labels[counted].astype(np.int64)
        for name, values in (("truth", true), ("labels", predicted)):
            if values.size and (values.max() >= self.classes or values.min() < 0):
                wrong = values[(values >= self.classes) | (values < 0)][0]
                raise ParameterError(
                    f"the {name} holds class id {wrong}, and there are {self.classes} classes "
                    f"(0..{self.classes - 1}, {ignore} is left out): are these labels of another data set?"
                )
        pairs = np.bincount(true * self.classes + predicted, minlength=self.classes**2)
        self.counts += pairs.reshape(self.classes, self.classes)

    def merge(self, other: "ConfusionMatrix") -> None:
        """Adds the counts of `other`, of as many classes."""
        if other.classes != self.classes:
            raise ParameterError(f"a matrix of {other.classes} classes cannot join one of {self.classes}")
        self.counts += other.counts

    @property
    def intersection(self) -> NDArray[np.int64]:
        """Pixels of each class that were found, (C,)."""
        return self.counts.diagonal()

    @property
    def union(self) -> NDArray[np.int64]:
        """Pixels of each class that are true or predicted, (C,)."""
        union: NDArray[np.int64] = self.counts.sum(0) + self.counts.sum(1) - self.intersection
        return union

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, (C,); 0 for a class that is nowhere (official)."""
        return _share(self.intersection, self.union)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of each class's true pixels that were found, (C,); 0 for a class without any (official)."""
        return _share(self.intersection, self.counts.sum(1))

    @property
    def mIoU(self) -> float:  # noqa: N802 - the name in every paper and in the published log
        """Mean of `iou` over all classes: a class that is nowhere counts as 0 (official)."""
        return float(self.iou.mean())

    @property
    def mIoU_present(self) -> float:  # noqa: N802
        """Mean of `iou` over the classes that are true or predicted somewhere; 0 where there are none."""
        present = self.union > 0
        return float(self.iou[present].mean()) if present.any() else 0.0

    @property
    def mAcc(self) -> float:  # noqa: N802
        """Mean of `accuracy` over all classes (official)."""
        return float(self.accuracy.mean())

    @property
    def allAcc(self) -> float:  # noqa: N802
        """Share of all counted pixels that were right."""
        return float(self.intersection.sum() / max(int(self.counts.sum()), 1))


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
