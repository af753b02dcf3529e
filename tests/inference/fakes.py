"""A network of one convolution, as an engine on numpy or torch arrays; and what a model of it would say of
itself."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.bundle import ModelInfo
from models.config import ModelConfig


def made_info(classes: int = 5, crop_hw: tuple[int, int] = (33, 33), **changes: Any) -> ModelInfo:
    """A model of made-up classes; windows of `crop_hw`."""
    values: dict[str, Any] = {
        "name": "made",
        "architecture": ModelConfig(depth=18, classes=classes, crop_hw=(33, 33)),
        "dataset": "made",
        "class_names": tuple(f"class {index}" for index in range(classes)),
        "palette": tuple((index % 256, index // 256, 7) for index in range(classes)),
        "crop_hw": crop_hw,
        "base_size": 60,
    }
    return ModelInfo(**(values | changes))


def on_host(images: Any) -> NDArray[np.float32]:
    """As a numpy array, wherever it lies."""
    return np.asarray(images.cpu() if hasattr(images, "cpu") else images)


class ConvolutionEngine:
    """Logits at stride 8 that depend on the pixels and on the place in the window, so that nothing can be
    swapped.

    gain: deviation of the logits, about. convert: makes the arrays that `to_device` gives
    (torch.from_numpy, say).
    """

    name, device, max_batch, limits_hw = "made", "cpu", None, None
    threads: int | None = None

    def __init__(
        self,
        classes: int = 5,
        crop_hw: tuple[int, int] = (33, 33),
        *,
        gain: float = 3.0,
        preferred_batch: int = 4,
        convert: Any = None,
    ) -> None:
        rng = np.random.default_rng(classes)
        self.crop_hw = crop_hw
        self.coarse_hw = ((crop_hw[0] - 1) // 8 + 1, (crop_hw[1] - 1) // 8 + 1)
        self.preferred_batch = preferred_batch
        self.batches: list[int] = []
        self._convert = convert
        self._weights = rng.normal(0, gain / 400, (classes, 3)).astype(np.float32)
        self._places = rng.normal(0, gain / 2, (classes, *self.coarse_hw)).astype(np.float32)

    def to_device(self, array: NDArray[Any]) -> Any:
        return array if self._convert is None else self._convert(array)

    def infer(self, images: Any) -> Any:
        assert tuple(images.shape[1:]) == (3, *self.crop_hw)
        assert str(images.dtype).endswith("float32")
        self.batches.append(len(images))
        pixels = on_host(images)[:, :, ::8, ::8]
        logits = np.einsum("kc,nchw->nkhw", self._weights, pixels) + self._places
        return self.to_device(logits.astype(np.float32))

    def close(self) -> None:
        pass


class AnySizeEngine:
    """As ConvolutionEngine, for images of any size; logits depend on pixels and on the place in the image.

    stride: pixels per coarse logit, rounded up. convert: as there.
    """

    name, device, crop_hw, coarse_hw, max_batch = "made", "cpu", None, (5, 5), None
    limits_hw: tuple[tuple[int, int], tuple[int, int]] | None = None

    def __init__(
        self, classes: int = 5, *, stride: int = 8, preferred_batch: int = 4, convert: Any = None
    ) -> None:
        rng = np.random.default_rng(classes)
        self.classes, self.preferred_batch = classes, preferred_batch
        self.shapes: list[tuple[int, ...]] = []
        self._stride, self._convert = stride, convert
        self._weights = rng.normal(0, 0.01, (classes, 3)).astype(np.float32)
        self._phases = rng.uniform(1, 6, (classes, 2, 1)).astype(np.float32)

    def to_device(self, array: NDArray[Any]) -> Any:
        return array if self._convert is None else self._convert(array)

    def infer(self, images: Any) -> Any:
        assert images.ndim == 4
        assert images.shape[1] == 3
        assert str(images.dtype).endswith("float32")
        self.shapes.append(tuple(images.shape))
        pixels = on_host(images)[:, :, :: self._stride, :: self._stride]
        rows, columns = (np.linspace(0, 1, side, dtype=np.float32) for side in pixels.shape[2:])
        places = (
            np.sin(self._phases[:, 0] * rows * 4)[:, :, None] + np.cos(self._phases[:, 1] * columns)[:, None]
        )
        logits = np.einsum("kc,nchw->nkhw", self._weights, pixels) + 2 * places
        return self.to_device(logits.astype(np.float32))

    def close(self) -> None:
        pass
