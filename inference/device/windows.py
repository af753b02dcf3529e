"""Windows cut out of an image that lies on the device: scaled, padded, mirrored, for a whole batch at once.

Not here: where windows lie (`inference/windows.py`), how the CPU cuts them (`crops.py`). Pixels are resampled
as OpenCV's INTER_LINEAR does it in float32: first along rows of the image, then between them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.device.availability import give_up
from inference.device.tables import Cutting, Put
from inference.plan import Plan, View


class DeviceCutter:
    """Cuts the plan's views out of one image.

    image: (H, W, 3) uint8 RGB on the device; mean_rgb: of the padding, in [0, 255]; kernels: the module of
    that name, None for torch's own operations, which give the same.
    """

    def __init__(
        self, image: Tensor, plan: Plan, mean_rgb: tuple[float, float, float], put: Put, kernels: Any | None
    ) -> None:
        self._image, self._mean_rgb, self._kernels, self._put = image, mean_rgb, kernels, put
        self._mean = torch.tensor(mean_rgb, device=image.device).view(3, 1, 1)
        self._crop_hw, self._tables = plan.request.crop_hw, Cutting(plan, put)

    def cut(self, views: Sequence[View]) -> Tensor:
        """(N, 3, h, w) float32 RGB in [0, 255]."""
        out = self._image.new_empty((len(views), 3, *self._crop_hw), dtype=torch.float32)
        which = [self._tables.of(view) for view in views]
        rows, columns = self._tables.rows, self._tables.columns
        if self._kernels is not None:
            views_n2 = self._put(np.array(which, np.int32))
            try:
                self._kernels.cut(self._image, views_n2, rows, columns, self._mean_rgb, out)
            except Exception as error:  # see `availability`
                give_up(self._image.device, error)
                self._kernels = None
            else:
                return out
        for window, (row, column) in zip(out, which, strict=True):
            (top, bottom), (left, right) = rows.taps[:, row].long(), columns.taps[:, column].long()
            across, down = columns.fractions[column][:, None], rows.fractions[row][:, None, None]
            value = self._between(top, left, right, across) * (1 - down)
            value += self._between(bottom, left, right, across) * down
            inside = (top >= 0)[:, None] & (left >= 0)
            window[...] = torch.where(inside, value.permute(2, 0, 1), self._mean)
        return out

    def _between(self, rows: Tensor, left: Tensor, right: Tensor, across: Tensor) -> Tensor:
        """(h, w, 3): whole rows of the image, between columns `left` and `right`."""
        at = rows.clamp(min=0)[:, None]
        value = self._image[at, left.clamp(min=0)] * (1 - across)
        value += self._image[at, right.clamp(min=0)] * across
        return value
