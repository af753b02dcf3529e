"""A model that needs no network: it calls the brightness of a pixel its class."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference.bundle import ModelInfo
from models.config import PRESETS
from models.labels import get_label_set

CAMVID = get_label_set("camvid")
INFO = ModelInfo(
    name="brightness",
    architecture=PRESETS["psanet18_camvid"],
    dataset="camvid",
    class_names=CAMVID.class_names,
    palette=CAMVID.palette,
    crop_hw=(65, 65),
    base_size=96,
)


@dataclass
class BrightnessEngine:
    """Calls the brightness of a pixel its class: 0 black, 10 white."""

    before_call: Callable[[int], None] = lambda call: None
    calls: int = 0
    closed: bool = False
    name: str = "stand-in"
    device: str = "cpu"
    crop_hw: tuple[int, int] | None = (65, 65)
    coarse_hw: tuple[int, int] = (9, 9)
    preferred_batch: int = 4
    max_batch: int | None = None
    limits_hw: tuple[tuple[int, int], tuple[int, int]] | None = None
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def to_device(self, array: Any) -> Any:
        return array

    def infer(self, images: Any) -> Any:
        self.calls += 1
        self.shapes.append(images.shape)
        self.before_call(self.calls)
        brightness = images[:, :, ::8, ::8].mean(axis=1, keepdims=True) / 25.5
        distance = np.abs(brightness - np.arange(11, dtype=np.float32)[None, :, None, None])
        return (-10 * distance).astype(np.float32)

    def close(self) -> None:
        self.closed = True
