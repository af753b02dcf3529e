"""A network on a GPU at one precision, as fast as it gets there: folded, channels last, in CUDA graphs.

Not here: the contract (`pytorch.py`), what folding is (`folding.py`).

For each size of batch that is met, which is a power of two, the forms that the network can take are captured
as CUDA graphs and timed, and the fastest is kept: cuDNN's fused convolutions or PyTorch's own operations, and
what `torch.compile` makes of it where asked for. A form that fails, or that gives other logits, is left out
with a warning that says why; where none can be captured the network runs as it is.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inference.engines.cuda_graphs import Captured, CudaGraphs, Forward
from inference.engines.folding import fold, set_fused
from models.config import Direction
from models.network import SceneParser

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_BATCH = 8
SAME_LOGITS = 0.05
"""Largest difference between two forms' logits, of their deviation, that is still rounding."""


class GpuNetwork:
    """Images (N, 3, h, w) float32 on the GPU to coarse logits float32. Any thread may call it.

    dtype: of weights and activations; pixels are normalised, and attention's softmax taken, in float32.
    compiled: `torch.compile` is among the forms, which takes a minute or more for each size of batch. graphs:
    of the device.
    """

    def __init__(
        self,
        network: SceneParser,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
        graphs: Any = None,
    ) -> None:
        folded = fold(network).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        folded.mean, folded.std = network.mean.to(device), network.std.to(device)
        self._network: SceneParser = folded
        self._device, self._dtype, self._compiled = device, dtype, compiled
        config = network.config
        # A graph holds for one size of images.
        self._hw = None if config.any_size else config.crop_hw
        self._forms: dict[int, tuple[str, Captured | None]] = {}
        self._graphs, self._lock = CudaGraphs(device) if graphs is None else graphs, threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """See the class. Raises torch's errors."""
        if self._hw is None or tuple(images.shape[2:]) != self._hw:
            return self._forward(images).float()
        pieces, start = [], 0
        with self._lock, self._graphs.turn():
            while start < len(images):
                size = largest_power_of_two(min(len(images) - start, LARGEST_BATCH))
                pieces.append(self._run(images[start : start + size]))
                start += size
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def attention(self, images: Tensor) -> dict[Direction, Tensor]:
        """What positions attend to, as `SceneParser.attention` has it, float32; without graphs."""
        with self._lock, self._graphs.turn():
            weights = self._network.attention_of(deep_features(self._network, images, self._dtype))
            return {direction: each.float() for direction, each in weights.items()}

    def form(self, batch: int) -> str:
        """The name of the form that runs batches of that size, a power of two; prepares it."""
        assert self._hw is not None, "a network for any size has no forms"
        with self._lock, self._graphs.turn():
            return self._prepared(torch.zeros(batch, 3, *self._hw, device=self._device))[0]

    def _run(self, images: Tensor) -> Tensor:
        _, captured = self._prepared(images)
        if captured is None:
            return self._forward(images).float()
        captured.images.copy_(images)
        return captured.run().to(torch.float32, copy=True)

    def _forward(self, images: Tensor) -> Tensor:
        return coarse_logits(self._network, images, self._dtype)

    def _prepared(self, images: Tensor) -> tuple[str, Captured | None]:
        """The fastest form for batches of that size, made when the first is met; None to run it as it is."""
        batch = len(images)
        if batch not in self._forms:
            started = time.perf_counter()
            self._forms[batch] = self._fastest(images)
            seconds = time.perf_counter() - started
            name = self._forms[batch][0]
            log.info("batches of %d run as %s, which took %.1f s to find out", batch, name, seconds)
        return self._forms[batch]

    def _fastest(self, images: Tensor) -> tuple[str, Captured | None]:
        best: tuple[str, Captured | None] = ("eager", None)
        least, reference = float("inf"), None
        for name, prepare in self._candidates():
            try:
                captured = self._graphs.capture(prepare(), images)
                seconds = self._graphs.seconds(captured.run)
                logits = captured.run().to(torch.float32, copy=True)
                reference = logits if reference is None else reference
                _require_same(logits, reference)
            except Exception as error:  # torch, cuDNN, Triton or a compiler: each has exceptions of its own
                said = str(error).strip().partition("\n")[0] or type(error).__name__
                log.warning("the network does not run as %s here, others do its work: %s", name, said)
                self._graphs.settle()
                continue
            log.info("batches of %d as %s: %.2f ms", len(images), name, seconds * 1000)
            if seconds < least:
                best, least = (name, captured), seconds
        set_fused(self._network, False)
        return best

    def _candidates(self) -> list[tuple[str, Callable[[], Forward]]]:
        """Forms by name; the first is what the others are held against."""

        def plain() -> Forward:
            set_fused(self._network, False)
            return self._forward

        def fused() -> Forward:
            set_fused(self._network, True)
            return self._forward

        def compiled() -> Forward:
            network, dtype = self._network, self._dtype
            set_fused(network, False)
            return torch.compile(lambda images: coarse_logits(network, images, dtype), dynamic=False)

        found: list[tuple[str, Callable[[], Forward]]] = [("graph", plain)]
        if self._dtype == torch.float16:
            found.append(("graph of fused convolutions", fused))
        if self._compiled:
            found.append(("compiled graph", compiled))
        return found


def coarse_logits(network: SceneParser, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Of a network whose weights have that type, channels last; pixels are normalised in float32."""
    logits: Tensor = network.cls(network.context(deep_features(network, images, dtype)))
    return logits


def deep_features(network: SceneParser, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Of stage 5, of a network as above."""
    pixels = network.normalize(images).to(dtype, memory_format=torch.channels_last)
    _, stage5 = network.backbone(pixels)
    features: Tensor = stage5
    return features


def largest_power_of_two(count: int) -> int:
    """Not above `count`, which is 1 or more."""
    return 1 << (count.bit_length() - 1)


def _require_same(logits: Tensor, reference: Tensor) -> None:
    difference = float((logits - reference).abs().max() / reference.std().clamp(min=1e-6))
    if not difference <= SAME_LOGITS:
        raise RuntimeError(f"its logits differ by {difference:.3g} deviations")
