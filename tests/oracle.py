"""The published test protocol, slow and obvious: what the predictor is held against.

One window at a time, whole pictures, float64, loops. Written from the protocol's description, to be read in
one go; it shares nothing with `inference`. Pixels: OpenCV's resize and border. Logits: a loop over the
pixels of a window.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(N, 3, h, w) float32 RGB in [0, 255] to coarse logits (N, C, h', w')."""


def upsampled(
    logits: NDArray[np.float32], hw: tuple[int, int], *, align_corners: bool
) -> NDArray[np.float64]:
    """(C, h', w') bilinearly resampled to (C, *hw), pixel by pixel."""
    channels, in_h, in_w = logits.shape
    result = np.empty((channels, *hw))
    for y in range(hw[0]):
        y0, y1, dy = _neighbours(y, in_h, hw[0], align_corners)
        for x in range(hw[1]):
            x0, x1, dx = _neighbours(x, in_w, hw[1], align_corners)
            upper = (1 - dx) * logits[:, y0, x0].astype(float) + dx * logits[:, y0, x1]
            lower = (1 - dx) * logits[:, y1, x0].astype(float) + dx * logits[:, y1, x1]
            result[:, y, x] = (1 - dy) * upper + dy * lower
    return result


def _neighbours(index: int, inputs: int, outputs: int, align_corners: bool) -> tuple[int, int, float]:
    if align_corners:
        position = index * (inputs - 1) / (outputs - 1) if outputs > 1 else 0.0
    else:
        position = max((index + 0.5) * inputs / outputs - 0.5, 0.0)
    first = min(int(position), inputs - 1)
    return first, min(first + 1, inputs - 1), position - first


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first axis."""
    scores = np.exp(logits - logits.max(0))
    return scores / scores.sum(0)


def window_probabilities(
    network: Network, window: NDArray[np.float32], *, flip: bool, align_corners: bool
) -> NDArray[np.float64]:
    """(h, w, 3) to (C, h, w): the network on the window and, with `flip`, on its mirror image."""
    hw = window.shape[:2]

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
        return softmax(upsampled(network(batch)[0], hw, align_corners=align_corners))

    result = run(window)
    if flip:
        mirrored = run(np.ascontiguousarray(window[:, ::-1]))
        result = (result + mirrored[:, :, ::-1]) / 2
    return result


def scale_probabilities(
    network: Network,
    scaled: NDArray[np.float32],
    crop_hw: tuple[int, int],
    mean_rgb: Sequence[float],
    *,
    flip: bool,
    align_corners: bool,
) -> NDArray[np.float64]:
    """(H, W, 3) float32 to (C, H, W): padded, seen window by window, summed, divided by the counts, cut
    out."""
    height, width = scaled.shape[:2]
    crop_h, crop_w = crop_hw
    pad_h, pad_w = max(crop_h - height, 0), max(crop_w - width, 0)
    top, left = pad_h // 2, pad_w // 2
    padded = cv2.copyMakeBorder(
        scaled, top, pad_h - top, left, pad_w - left, cv2.BORDER_CONSTANT, value=tuple(mean_rgb)
    )
    padded_h, padded_w = padded.shape[:2]
    stride_h, stride_w = math.ceil(crop_h * 2 / 3), math.ceil(crop_w * 2 / 3)
    total: NDArray[np.float64] | None = None
    counts = np.zeros((padded_h, padded_w))
    y = 0
    while True:
        y0 = min(y, padded_h - crop_h)
        x = 0
        while True:
            x0 = min(x, padded_w - crop_w)
            at = (slice(y0, y0 + crop_h), slice(x0, x0 + crop_w))
            seen = window_probabilities(network, padded[at], flip=flip, align_corners=align_corners)
            if total is None:
                total = np.zeros((seen.shape[0], padded_h, padded_w))
            total[(slice(None), *at)] += seen
            counts[at] += 1
            if x + crop_w >= padded_w:
                break
            x += stride_w
        if y + crop_h >= padded_h:
            break
        y += stride_h
    return (total / counts)[:, top : top + height, left : left + width]


def published_probabilities(
    network: Network,
    image: NDArray[np.uint8],
    *,
    crop_hw: tuple[int, int],
    base_size: int,
    mean_rgb: Sequence[float],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    align_corners: bool = True,
) -> NDArray[np.float64]:
    """(H, W, 3) uint8 RGB to the class probabilities (C, H, W), averaged over scales."""
    height, width = image.shape[:2]
    results = []
    for scale in scales:
        long_side = round(scale * base_size)
        if height > width:
            size = (long_side, max(round(long_side / height * width), 1))
        else:
            size = (max(round(long_side / width * height), 1), long_side)
        scaled = cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        found = scale_probabilities(
            network, scaled, crop_hw, mean_rgb, flip=flip, align_corners=align_corners
        )
        results.append(
            np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in found])
        )
    return np.mean(results, axis=0)
