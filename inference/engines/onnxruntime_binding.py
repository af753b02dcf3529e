"""ONNX Runtime on torch tensors where they lie: it reads and writes their memory, nothing goes by the host.

Not here: sessions (`onnxruntime.py`).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.onnxruntime_library import onnxruntime


def usable(device: str) -> bool:
    """Whether torch has the device, too."""
    found = torch.device(device)
    if found.type == "cpu":
        return True
    return torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count()


class Binding:
    """A session with an input `image` and an output `logits`; keeps no state but shapes that it has seen.

    device: "cpu", "cuda", "cuda:N", where tensors and session are.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        self._session, self._device = session, torch.device(device)
        self._place = self._device.type, self._device.index or 0
        self._logits_shapes: dict[tuple[int, ...], tuple[int, ...]] = {}

    def put(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device."""
        return torch.tensor(array, device=self._device)

    def run(self, images: Tensor) -> Tensor:
        """(N, 3, h, w) float32 to logits, a new tensor. Raises what the session raises."""
        images = images.contiguous()
        binding = self._session.io_binding()
        binding.bind_input("image", *self._place, np.float32, tuple(images.shape), images.data_ptr())
        # It has a stream of its own, which waits for nothing of torch's, and is done when it returns.
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        size = tuple(images.shape[2:])
        if size not in self._logits_shapes:
            return self._first(binding, images, size)
        logits = torch.empty((len(images), *self._logits_shapes[size]), device=images.device)
        binding.bind_output("logits", *self._place, np.float32, tuple(logits.shape), logits.data_ptr())
        self._session.run_with_iobinding(binding)
        return logits

    def _first(self, binding: onnxruntime.IOBinding, images: Tensor, size: tuple[int, ...]) -> Tensor:
        """Of a size whose logits' shape is not known yet."""
        binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(binding)
        logits = torch.from_numpy(binding.copy_outputs_to_cpu()[0]).to(images.device)
        self._logits_shapes[size] = tuple(logits.shape[1:])
        return logits
