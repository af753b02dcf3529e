"""The published test protocol as one would write it down: what the predictor's speed is held against.

Eager PyTorch, one window (with its mirror image) after another, softmax at full size, float64 canvases of
numpy on the host, OpenCV for resizing. Written from the protocol's description; it shares nothing with
`inference`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.network import SceneParser

MEAN = (123.675, 116.28, 103.53)


@dataclass(frozen=True)
class Straight:
    """What came of it. labels: (H, W), None where the deadline came first; done: windows that were seen (a
    mirror image goes with its own); of: windows that there are; network_s: of them, with the copies back."""

    labels: NDArray[np.int64] | None
    seconds: float
    network_s: float
    done: int
    of: int

    @property
    def estimate_s(self) -> float:
        """Of the whole, where only a part was done."""
        return self.seconds * self.of / max(self.done, 1)


class Straightforward:
    """network: in eval mode, on `device`; deadline_s: seconds after which it stops between two windows."""

    def __init__(
        self, network: SceneParser, device: str, *, base_size: int, scales: Sequence[float], flip: bool
    ) -> None:
        self._network, self._device, self._crop = network, device, network.config.crop_hw[0]
        self._classes, self._base_size, self._scales, self._flip = (
            network.config.classes,
            base_size,
            scales,
            flip,
        )

    def run(self, image: NDArray[np.uint8], deadline_s: float = math.inf) -> Straight:
        """image: (H, W, 3) uint8 RGB."""
        self._started, self._deadline_s = time.perf_counter(), deadline_s
        self._network_s, self._done = 0.0, 0
        height, width = image.shape[:2]
        total = np.zeros((height, width, self._classes))
        sizes = [self._scaled(height, width, scale) for scale in self._scales]
        of = sum(len(self._starts(new_h)) * len(self._starts(new_w)) for new_h, new_w in sizes)
        for new_h, new_w in sizes:
            scaled = cv2.resize(image.astype(np.float32), (new_w, new_h), interpolation=cv2.INTER_LINEAR)
            found = self._one_scale(scaled)
            if found is None:
                return Straight(None, time.perf_counter() - self._started, self._network_s, self._done, of)
            total += cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
        labels = np.argmax(total / len(sizes), axis=2)
        return Straight(labels, time.perf_counter() - self._started, self._network_s, self._done, of)

    def _scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        long_side = round(scale * self._base_size)
        if height > width:
            return long_side, round(long_side / float(height) * width)
        return round(long_side / float(width) * height), long_side

    def _starts(self, side: int) -> list[int]:
        padded, stride = max(side, self._crop), math.ceil(self._crop * 2 / 3)
        count = math.ceil((padded - self._crop) / stride) + 1
        return [min(index * stride, padded - self._crop) for index in range(count)]

    def _one_scale(self, scaled: NDArray[np.float32]) -> NDArray[np.float64] | None:
        new_h, new_w = scaled.shape[:2]
        pad_h, pad_w = max(self._crop - new_h, 0), max(self._crop - new_w, 0)
        top, left = pad_h // 2, pad_w // 2
        padded = cv2.copyMakeBorder(
            scaled, top, pad_h - top, left, pad_w - left, cv2.BORDER_CONSTANT, value=MEAN
        )
        canvas = np.zeros((*padded.shape[:2], self._classes))
        count = np.zeros(padded.shape[:2])
        for y in self._starts(new_h):
            for x in self._starts(new_w):
                if time.perf_counter() - self._started > self._deadline_s:
                    return None
                at = slice(y, y + self._crop), slice(x, x + self._crop)
                canvas[at] += self._window(padded[at])
                count[at] += 1
                self._done += 1
        canvas /= count[:, :, None]
        return canvas[top : top + new_h, left : left + new_w]

    def _window(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(h, w, C) probabilities."""
        started = time.perf_counter()
        batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].to(self._device)
        if self._flip:
            batch = torch.cat((batch, batch.flip(3)))
        with torch.no_grad():
            probabilities = self._network(batch).softmax(1)
        found = probabilities[0]
        if self._flip:
            found = (found + probabilities[1].flip(2)) / 2
        result: NDArray[np.float32] = found.cpu().numpy().transpose(1, 2, 0)
        self._network_s += time.perf_counter() - started
        return result
