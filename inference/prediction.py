"""What a prediction is, and its arrays while they are being filled, whatever the test protocol.

Not here: filling them (`published.py`, `mmsegmentation.py`), the door to both (`predictor.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.arrays import Array, Workspace, to_host
from inference.windows import Interval

Check = Callable[[], None]
"""Called between pieces of work; gives the work up by raising."""


@dataclass(frozen=True)
class Prediction:
    """What a network says about one image of (H, W).

    labels: (H, W) class ids, uint8 up to 256 classes, else uint16; confidence: (H, W) float32, the
    probability of the label; probabilities: (C, H, W) float32; the last two None unless asked for.
    engine_s: seconds inside the engine; windows: images that the engine was given, mirror images among them.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    engine_s: float
    windows: int


class Outputs:
    """The arrays of one prediction, of the kind and on the device of `work`: labels (H, W), and where asked
    for confidence (H, W) and probabilities (C, H, W)."""

    def __init__(
        self,
        work: Workspace,
        image_hw: tuple[int, int],
        classes: int,
        *,
        confidence: bool,
        probabilities: bool,
    ) -> None:
        self.labels = work.empty(image_hw, "uint8" if classes <= 256 else "int16")
        self.confidence = work.empty(image_hw) if confidence else None
        self.probabilities = work.empty((classes, *image_hw)) if probabilities else None

    def write(
        self,
        rows: Interval,
        columns: Interval,
        labels: Array,
        confidence: Array | None,
        probabilities: Array | None,
    ) -> None:
        """Keeps what was asked for of the block at `rows`, `columns`; what was not may be None."""
        at = (slice(*rows), slice(*columns))
        self.labels[at] = labels
        if self.confidence is not None:
            self.confidence[at] = confidence
        if self.probabilities is not None:
            self.probabilities[(slice(None), *at)] = probabilities

    def result(self, engine_s: float, windows: int) -> Prediction:
        """All of it, on the host."""
        labels = to_host(self.labels)
        return Prediction(
            labels=labels if labels.dtype == np.uint8 else labels.astype(np.uint16),
            confidence=None if self.confidence is None else to_host(self.confidence),
            probabilities=None if self.probabilities is None else to_host(self.probabilities),
            engine_s=engine_s,
            windows=windows,
        )
