"""A model that is served, as those know it who do not run it: facts, and how much work an image is.

Not here: opening it (`hosting.py`). Free of numpy: the windows of an image are arithmetic.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inference.bundle import ModelInfo
from inference.mmseg_layout import box_of, lay_out_pictures
from inference.windows import lay_out
from models.config import Direction
from service.tasks import AttentionTask, Task


@dataclass(frozen=True, kw_only=True)
class HostedModel:
    """A model in a worker. engine, device: what runs it; one_size: whether its engine takes images of the
    crop alone; directions: of attention that the engine tells of, None for one that never does; batch: images
    in an engine call at most; window_s: seconds that one window took when the worker started."""

    info: ModelInfo
    engine: str
    device: str
    one_size: bool
    directions: tuple[Direction, ...] | None
    batch: int
    window_s: float

    def work_of(self, task: Task, image_hw: tuple[int, int]) -> int:
        """How much work a task is, in windows. Raises ParameterError for scales that an image cannot have."""
        if not isinstance(task, AttentionTask):
            return self.windows(image_hw, task.scales, flip=task.flip)
        windows = self.windows(image_hw, (task.scale,), flip=False)
        # A point needs the one window in which it is most central.
        return windows if self.info.test_mode == "whole" else min(windows, len(task.points))

    def windows(self, image_hw: tuple[int, int], scales: Iterable[float], *, flip: bool) -> int:
        """How much work an image is, in windows of the model's crop; whole images count by their pixels.

        Raises ParameterError for scales that the image cannot have.
        """
        info = self.info
        if info.protocol == "published":
            layouts = lay_out(image_hw, scales, info.base_size, info.crop_hw)
            count = sum(len(each.rows.starts) * len(each.columns.starts) for each in layouts)
            return count * (1 + flip)
        pictures = lay_out_pictures(
            image_hw,
            scales,
            box_of(info, None),
            crop_hw=None if info.test_mode == "whole" else info.crop_hw,
            padded=self.one_size,
            coarse_of=lambda window_hw: window_hw,
        )
        pixels = sum(each.windows * math.prod(each.window_hw) for each in pictures) * (1 + flip)
        return max(1, math.ceil(pixels / math.prod(info.crop_hw)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        facts = {
            "engine": self.engine,
            "device": self.device,
            "one_size": self.one_size,
            "directions": self.directions,
        }
        return {**facts, "batch": self.batch, "window_s": self.window_s, "info": self.info.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HostedModel":
        """The inverse of `to_dict`."""
        directions = None if values["directions"] is None else tuple(values["directions"])
        return cls(**{**values, "info": ModelInfo.from_dict(values["info"]), "directions": directions})
