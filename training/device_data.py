"""Augmented crops made on the training's device, of images that stay there: no processor can starve it.

Not here: what chance decides (`transforms.Draw`, the same as OpenCV's path gets) or the order of the images
(`dataset.EndlessSampler`). Coordinates: `source` the image as it is, `scaled` the picture at the draw's
factor, `crop` what the network sees.

    images = DeviceImages(pairs, classes=11, device=torch.device("cuda"))
    crops, labels = images.crops([3, 7], draws, crop_hw=(369, 481))
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.pairs import DatasetError, load_pair
from models.config import MEAN_RGB
from models.labels import IGNORE
from training.transforms import BLUR_SIDE, Draw, scaled_hw


class DeviceImages:
    """Decoded images and label maps of a data set on one device; smaller ones take the largest one's room.

    Raises DatasetError for files that cannot be read, and for more than the GPU has free.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], *, classes: int, device: torch.device) -> None:
        with ThreadPoolExecutor() as pool:
            decoded = list(pool.map(lambda pair: load_pair(pair, classes), pairs))
        self.sizes_hw = [(label.shape[0], label.shape[1]) for _, label in decoded]
        height, width = (max(sides) for sides in zip(*self.sizes_hw, strict=True))
        _require_room(4 * len(pairs) * height * width, device)
        self._images = torch.empty(len(pairs), 3, height, width, dtype=torch.uint8, device=device)
        self._labels = torch.full((len(pairs), height, width), IGNORE, dtype=torch.uint8, device=device)
        for index, ((image, label), (h, w)) in enumerate(zip(decoded, self.sizes_hw, strict=True)):
            self._images[index, :, :h, :w] = torch.from_numpy(image).to(device).permute(2, 0, 1)
            self._labels[index, :h, :w] = torch.from_numpy(label).to(device)
        self._mean = torch.tensor(MEAN_RGB, device=device).view(1, 3, 1, 1)
        gauss = torch.from_numpy(cv2.getGaussianKernel(BLUR_SIDE, 0, cv2.CV_32F)).to(device)
        self._blur = (gauss @ gauss.T).expand(3, 1, -1, -1)

    def crops(
        self, indices: Sequence[int], draws: Sequence[Draw], crop_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(N, 3, h, w) float32 RGB in [0, 255] and (N, h, w) int64 class ids, of the images at `indices`.

        As `TrainingTransform` makes them of the same draws, but for rounding, and for what OpenCV
        interpolates twice where a picture is turned, or blurs with what lies beyond the crop.
        """
        device = self._images.device
        chosen = torch.tensor(indices, device=device)
        rows, columns, inside = self._scaled_coordinates(indices, draws, crop_hw)
        factor = _column([draw.factor for draw in draws], device)
        height, width = (_column([self.sizes_hw[i][axis] for i in indices], device) for axis in (0, 1))

        def at(scaled: Tensor, side: Tensor) -> Tensor:
            return torch.minimum(((scaled + 0.5) / factor - 0.5).clamp(min=0), side - 1)

        def nearest(scaled: Tensor, side: Tensor) -> Tensor:  # OpenCV's: no half-pixel centres
            return torch.minimum((scaled.round() / factor).floor().clamp(min=0), side - 1).long()

        labels = self._labels[chosen[:, None, None], nearest(rows, height), nearest(columns, width)].long()
        images = self._sample(chosen, at(rows, height), at(columns, width))
        blurred = [number for number, draw in enumerate(draws) if draw.blurred]
        if blurred:
            edge = 4 * [BLUR_SIDE // 2]
            images[blurred] = F.conv2d(F.pad(images[blurred], edge, mode="reflect"), self._blur, groups=3)
        images = torch.where(inside[:, None], images, self._mean)
        return _recolored(images, draws), torch.where(inside, labels, IGNORE)

    def _scaled_coordinates(
        self, indices: Sequence[int], draws: Sequence[Draw], crop_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Row and column in the scaled picture of each of the crops' pixels, and whether it lies inside;
        (N, h, w) each, float64: labels of the nearest pixel hang on the last bits."""
        device = self._images.device
        sizes = [scaled_hw(self.sizes_hw[i], draw.factor) for i, draw in zip(indices, draws, strict=True)]
        origins = [
            (draw.top - max(0, crop_hw[0] - height) // 2, draw.left - max(0, crop_hw[1] - width) // 2)
            for draw, (height, width) in zip(draws, sizes, strict=True)
        ]
        height, width = (_column([size[axis] for size in sizes], device) for axis in (0, 1))
        first = [_column([origin[axis] for origin in origins], device) for axis in (0, 1)]
        down, across = (torch.arange(side, device=device, dtype=torch.float64) for side in crop_hw)
        rows = (first[0] + down[:, None]).expand(-1, *crop_hw)
        columns = (first[1] + across).expand(-1, *crop_hw)
        mirrored = _column([draw.mirrored for draw in draws], device).bool()
        columns = torch.where(mirrored, width - 1 - columns, columns)
        if any(draw.degrees for draw in draws):
            angle = torch.deg2rad(_column([draw.degrees for draw in draws], device))
            x, y = columns - width / 2, rows - height / 2
            columns = width / 2 + angle.cos() * x - angle.sin() * y
            rows = height / 2 + angle.sin() * x + angle.cos() * y
        inside = (rows.round() >= 0) & (rows.round() < height)
        return rows, columns, inside & (columns.round() >= 0) & (columns.round() < width)

    def _sample(self, chosen: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(N, 3, h, w) float32, bilinear, at coordinates of the source, (N, h, w) each."""
        height, width = self._images.shape[2:]
        grid = torch.stack([columns * (2 / max(width - 1, 1)), rows * (2 / max(height - 1, 1))], -1) - 1
        return F.grid_sample(
            self._images[chosen].float(), grid.float(), padding_mode="border", align_corners=True
        )


def _recolored(images: Tensor, draws: Sequence[Draw]) -> Tensor:
    colors = [draw.color.affine() for draw in draws if draw.color is not None]
    if not colors:
        return images
    assert len(colors) == len(draws), "colours are changed in every image or in none"
    matrices, offsets = (
        torch.from_numpy(np.stack(each)).to(images.device) for each in zip(*colors, strict=True)
    )
    changed = torch.baddbmm(offsets[:, :, None], matrices, images.flatten(2)).clamp(0, 255)
    return changed.view_as(images)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    """(N, 1, 1) float64."""
    return torch.tensor(values, dtype=torch.float64, device=device)[:, None, None]


def _require_room(needed: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if needed > free:
        raise DatasetError(
            f"data.on_device: the images take {needed >> 20} MiB and {device} has {free >> 20} MiB free: "
            "set data.on_device=false and give it workers"
        )
