"""MMSegmentation's test protocol, slow and obvious: what the predictor is held against.

One window at a time, whole pictures, float64, loops. Written from the protocol's description, to be read in
one go; it shares nothing with `inference`. Pixels: OpenCV's resize of uint8. Logits: PyTorch's interpolate.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(N, 3, h, w) float32 RGB in [0, 255] to coarse logits (N, C, h', w')."""


def bilinear(logits: Tensor, hw: tuple[int, int], *, align_corners: bool) -> Tensor:
    """(N, C, h', w') to (N, C, *hw)."""
    return F.interpolate(logits, hw, mode="bilinear", align_corners=align_corners)


def picture_hw(image_hw: tuple[int, int], long_side: int, short_side: int | None) -> tuple[int, int]:
    """Size of the image made as large as fits, its ratio kept."""
    height, width = image_hw
    factor = long_side / max(height, width)
    if short_side is not None:
        factor = min(factor, short_side / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def seen(network: Network, pixels: NDArray[np.float32], *, align_corners: bool) -> Tensor:
    """(h, w, 3) to the network's own logits (1, C, h, w)."""
    coarse = network(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None])
    return bilinear(torch.from_numpy(coarse).double(), pixels.shape[:2], align_corners=align_corners)


def slid(
    network: Network, pixels: NDArray[np.float32], crop_hw: tuple[int, int], *, align_corners: bool
) -> Tensor:
    """(h, w, 3) to (1, C, h, w): logits of windows, summed, divided by how many lie over each pixel."""
    height, width = pixels.shape[:2]
    (crop_h, crop_w), (stride_h, stride_w) = crop_hw, (math.ceil(side * 2 / 3) for side in crop_hw)
    total: Tensor | None = None
    counts = torch.zeros(1, 1, height, width, dtype=torch.float64)
    for row in range(max(height - crop_h + stride_h - 1, 0) // stride_h + 1):
        for column in range(max(width - crop_w + stride_w - 1, 0) // stride_w + 1):
            bottom, right = min(row * stride_h + crop_h, height), min(column * stride_w + crop_w, width)
            top, left = max(bottom - crop_h, 0), max(right - crop_w, 0)
            logits = seen(network, pixels[top:bottom, left:right], align_corners=align_corners)
            if total is None:
                total = torch.zeros(1, logits.shape[1], height, width, dtype=torch.float64)
            total[:, :, top:bottom, left:right] += logits
            counts[:, :, top:bottom, left:right] += 1
    assert total is not None
    return total / counts


def mmsegmentation_views(
    network: Network,
    image: NDArray[np.uint8],
    *,
    long_side: int,
    short_side: int | None,
    crop_hw: tuple[int, int] | None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    align_corners: bool = False,
) -> list[NDArray[np.float64]]:
    """(H, W, 3) uint8 RGB to the logits (C, H, W) of each view; crop_hw None: whole pictures."""
    height, width = image.shape[:2]
    result = []
    for scale in scales:
        short = None if short_side is None else int(short_side * scale)
        size = picture_hw((height, width), int(long_side * scale), short)
        picture = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        for mirrored in (False, True) if flip else (False,):
            pixels = (picture[:, ::-1] if mirrored else picture).astype(np.float32)
            if crop_hw is None:
                logits = seen(network, pixels, align_corners=align_corners)
            else:
                logits = slid(network, pixels, crop_hw, align_corners=align_corners)
            logits = bilinear(logits, (height, width), align_corners=align_corners)
            if mirrored:
                logits = logits.flip(3)
            result.append(logits[0].numpy())
    return result


def mmsegmentation_probabilities(views: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(C, H, W): the mean over views of the softmax of each."""
    return np.mean([torch.from_numpy(logits).softmax(0).numpy() for logits in views], axis=0)
