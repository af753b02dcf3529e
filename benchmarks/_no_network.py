"""An engine that costs nothing, for figures of everything else."""

from typing import Any

import numpy as np

from models.config import ModelConfig


class NoNetwork:
    """Gives the same logits for every window, without work. device: "numpy", or one of torch's."""

    name, max_batch, limits_hw = "none", None, None
    threads: int | None = None

    def __init__(self, config: ModelConfig, device: str, *, preferred_batch: int = 8) -> None:
        self.device, self.preferred_batch = device, preferred_batch
        self.crop_hw, self.coarse_hw = config.crop_hw, config.feature_hw
        shape = (self.preferred_batch, config.classes, *self.coarse_hw)
        logits = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
        self._logits: Any = self.to_device(logits)

    def to_device(self, array: Any) -> Any:
        if self.device == "numpy":
            return array
        import torch

        return torch.from_numpy(array).to(self.device)

    def infer(self, images: Any) -> Any:
        return self._logits[: len(images)]

    def close(self) -> None:
        pass
