"""One engine at work on images and windows, and what it comes to; verification runs several side by side.

Not here: which engines there are (`export/verification.py`), tolerances (`export/comparison.py`).

    runner = Runner(info, engine, EngineResult("ONNX Runtime", "cpu", "fp32", info.classes))
    labels = runner.predict(image)
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.comparison import Comparison, Differences, at_full_size, infer_numpy
from export.errors import VerificationError
from export.pictures import Worst
from inference.bundle import ModelInfo, Precision
from inference.engines import Engine
from inference.errors import EngineError
from inference.metrics import ConfusionMatrix
from inference.predictor import DEFAULT_BUDGET_BYTES, Predictor

SUSPECT_SHARE, LEAST_SHARE = 0.1, 1e-3


@dataclass
class EngineResult:
    """One engine's figures; filled in as the images go by.

    note: why it did not run, or where it ran in place of what was asked for. logits: against PyTorch in
    float32 (None for PyTorch itself); exact: against float64. confusion: PyTorch's labels (rows) and the
    engine's (columns). truth: the labels given (rows) and the engine's. Seconds by image: window_s in the
    engine for one window, image_s in all. failure: why it does not pass.
    """

    name: str
    device: str
    precision: Precision
    classes: int
    note: str = ""
    ran: bool = True
    logits: Comparison | None = None
    exact: Comparison | None = None
    window_s: list[float] = field(default_factory=list)
    image_s: list[float] = field(default_factory=list)
    failure: str = ""

    def __post_init__(self) -> None:
        self.confusion, self.truth = ConfusionMatrix(self.classes), ConfusionMatrix(self.classes)
        self.worst = Worst()

    @property
    def agreement(self) -> float:
        """Share of the images' pixels to which PyTorch and this engine give the same label."""
        return self.confusion.allAcc

    @property
    def suspects(self) -> list[int]:
        """Class ids of which the engine gives at least a tenth of the pixels another label than PyTorch.

        A rare class can be lost whole while nearly all labels agree. Below a thousandth of all pixels it is
        left out: a few pixels on borders say nothing.
        """
        counts = self.confusion.counts
        pixels = counts.sum(1)
        lost = pixels - counts.diagonal() >= SUSPECT_SHARE * pixels
        return np.flatnonzero(lost & (pixels > 0) & (pixels >= LEAST_SHARE * counts.sum())).tolist()


class Recorder:
    """An engine around an engine, which keeps the first windows that pass through.

    crop_hw: of the only images that it is given; None: of those that the engine takes.
    """

    def __init__(self, engine: Engine, *, crop_hw: tuple[int, int] | None = None) -> None:
        self._engine, self._left = engine, 0
        self.crop_hw = crop_hw or engine.crop_hw
        self.windows: list[NDArray[np.float32]] = []

    @property
    def engine(self) -> Engine:
        """This, as the engine that it stands in for."""
        return cast(Engine, self)

    def start(self, count: int) -> None:
        """Forgets what was kept; keeps the next `count` windows."""
        self.windows, self._left = [], count

    def infer(self, images: Any) -> Any:
        """See `Engine.infer`."""
        for image in images[: self._left]:
            kept = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
            self.windows.append(np.array(kept[None]))
        self._left -= min(self._left, len(images))
        return self._engine.infer(images)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Runner:
    """An engine with its predictor. An engine that fails is left alone from then on: `result.failure`."""

    def __init__(
        self,
        info: ModelInfo,
        engine: Engine,
        result: EngineResult,
        *,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> None:
        self.engine, self.result = engine, result
        self._predictor = Predictor(info, engine, memory_budget_bytes=memory_budget_bytes)
        self._from_float32, self._from_float64 = Differences(), Differences()

    def predict(self, image: NDArray[np.uint8]) -> NDArray[Any] | None:
        """(H, W) labels; None where the engine failed, now or before."""
        if self.result.failure:
            return None
        started = time.perf_counter()
        try:
            prediction = self._predictor.predict(image)
        except EngineError as error:
            self.result.failure = str(error)
            return None
        self.result.image_s.append(time.perf_counter() - started)
        self.result.window_s.append(prediction.engine_s / prediction.windows)
        return prediction.labels

    def infer(self, windows: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Coarse logits of windows (1, 3, h, w), all in as few calls as may be, then each alone."""
        limit = min(self.engine.max_batch or len(windows), len(windows))
        batches = [np.concatenate(windows[at : at + limit]) for at in range(0, len(windows), limit)]
        together = np.concatenate([infer_numpy(self.engine, batch) for batch in batches])
        return [*np.split(together, len(windows)), *(infer_numpy(self.engine, window) for window in windows)]

    def add(self, full: torch.Tensor, own: torch.Tensor | None, exact: torch.Tensor) -> None:
        """(1, C, H, W) logits: the engine's, PyTorch's in float32 (None: it is the engine) and in float64."""
        if own is not None:
            self._from_float32.add(own, full)
            self.result.logits = self._from_float32.comparison()
        self._from_float64.add(exact, full)
        self.result.exact = self._from_float64.comparison()


class WindowComparison:
    """Logits of single windows: PyTorch in float32 and in float64, and each engine's beside them."""

    def __init__(
        self, info: ModelInfo, network: nn.Module, reference: Runner, runners: Sequence[Runner]
    ) -> None:
        self._align_corners, self._reference, self._runners = info.align_corners, reference, runners
        self._float32, self._float64, self.count = network, copy.deepcopy(network).double(), 0

    @torch.inference_mode()
    def add(self, windows: Sequence[NDArray[np.float32]]) -> None:
        """windows: (1, 3, h, w) each, all of one size. Engines get them together too: images must not mix."""
        if not windows:
            return
        self.count += len(windows)
        found = {}
        for runner in self._runners:
            if not runner.result.failure:
                try:
                    found[runner] = runner.infer(windows)
                except EngineError as error:
                    runner.result.failure = str(error)
        for index, window in enumerate(windows):
            own = self._float32(torch.from_numpy(window))
            exact = self._float64(torch.from_numpy(window).double())
            self._reference.add(own, None, exact)
            for runner, logits in found.items():
                for coarse in logits[index :: len(windows)]:
                    self._add(runner, coarse, own, exact)

    def _add(
        self, runner: Runner, coarse: NDArray[np.float32], own: torch.Tensor, exact: torch.Tensor
    ) -> None:
        try:
            full = at_full_size(coarse, own, align_corners=self._align_corners)
        except VerificationError as error:
            runner.result.failure = str(error)
        else:
            runner.add(full, own, exact)
