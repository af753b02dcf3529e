"""Where two label maps of an image differ, as pictures; of many images, the few where they differ most.

Not here: reports (`export/report.py`), label PNGs and overlays (`inference/render.py`).

    worst = Worst(); worst.add("street.jpg", image, reference, labels); worst.pictures[0].difference()
"""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

KEPT: Final = 4
LONGEST_SIDE: Final = 480
"""Of a picture in a report, in pixels; larger images are scaled down."""
_RED: Final = (214, 0, 36)


@dataclass(frozen=True)
class Picture:
    """An image scaled down for a report: (h, w, 3) RGB, labels (h, w), and where they differ (h, w) bool.

    share: of the pixels of the whole image whose labels differ.
    """

    name: str
    share: float
    image: Pixels
    reference: NDArray[Any]
    labels: NDArray[Any]
    differs: NDArray[np.bool_]

    def difference(self) -> Pixels:
        """(h, w, 3) RGB: the image pale and grey, and red where labels differ, each pixel made 3 x 3."""
        grey = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)
        pale = np.asarray(cv2.convertScaleAbs(grey, alpha=0.3, beta=170), np.uint8)
        picture = np.repeat(pale[:, :, None], 3, axis=2)
        wide = cv2.dilate(self.differs.astype(np.uint8), np.ones((3, 3), np.uint8))
        picture[wide > 0] = _RED
        return picture


class Worst:
    """The pictures of the images where labels differ most, the worst first; none of those without any."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self.pictures: list[Picture] = []

    def add(self, name: str, image: Pixels, reference: NDArray[Any], labels: NDArray[Any]) -> None:
        """image: (H, W, 3) RGB; reference, labels: (H, W). Keeps scaled-down copies."""
        differs = reference != labels
        share = float(differs.mean())
        full = len(self.pictures) == self._kept
        if share == 0 or (full and share <= self.pictures[-1].share):
            return
        height, width = labels.shape
        scale = min(1.0, LONGEST_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # A pixel of the small picture differs where any that it stands for does.
        small = cv2.resize(differs.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        picture = Picture(
            name,
            share,
            np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8),
            cv2.resize(reference, size, interpolation=cv2.INTER_NEAREST),
            cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST),
            small,
        )
        self.pictures = sorted([*self.pictures, picture], key=lambda item: -item.share)[: self._kept]
