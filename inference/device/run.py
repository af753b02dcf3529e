"""One prediction by the published protocol on torch tensors: one upload, no wait until the end, one download.

Not here: the same on numpy arrays (`published.py`), what fits the memory (`plan.py`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.arrays import Workspace
from inference.bundle import ModelInfo
from inference.clock import engine_clock
from inference.device.availability import current, find_kernels, give_up
from inference.device.tables import Stitching, to
from inference.device.windows import DeviceCutter
from inference.engines import Engine
from inference.errors import EngineError
from inference.plan import MEBIBYTE, Band, Plan, View
from inference.prediction import Check, Outputs, Prediction
from inference.stitch import Stitcher
from inference.window_logits import WindowLogits

MAX_FUSED_CLASSES = 1024
"""All classes of a pixel are in one program's registers; beyond, they would not be."""


def fuses(like: Tensor, classes: int) -> bool:
    """Whether one kernel finishes images there, so that blocks need no memory."""
    return classes <= MAX_FUSED_CLASSES and find_kernels(like.device) is not None


def run_on_device(
    info: ModelInfo, engine: Engine, plan: Plan, image: NDArray[np.uint8], check: Check, like: Tensor
) -> Prediction:
    """The prediction that `plan` is of, where `like` lies. EngineError where memory does not suffice."""
    try:
        return DeviceRun(info, engine, plan, image, check, like).result()
    except torch.OutOfMemoryError as error:
        height, width = plan.request.image_hw
        raise EngineError(
            f"the GPU's memory is too small for {width}x{height} pixels, which take "
            f"{plan.peak_bytes / MEBIBYTE:.0f} MiB beside the network: free some, or choose a smaller memory "
            "budget, --device cpu"
        ) from error


class DeviceRun:
    """One prediction at work."""

    def __init__(
        self,
        info: ModelInfo,
        engine: Engine,
        plan: Plan,
        image: NDArray[np.uint8],
        check: Check,
        like: Tensor,
    ) -> None:
        self._engine, self._plan, self._check = engine, plan, check
        self._align_corners, self._put = info.align_corners, to(like.device)
        self._kernels: Any = find_kernels(like.device) if plan.request.fused else None
        request = plan.request
        self._cutter = DeviceCutter(_uploaded(image, like), plan, info.mean_rgb, self._put, self._kernels)
        self._work = Workspace(like)
        self._logits = WindowLogits(plan, self._work)
        self._clock, self._windows = engine_clock(like), 0
        self._tables: Stitching | None = None
        self._stitcher: Stitcher | None = None
        self._outputs = Outputs(
            self._work,
            request.image_hw,
            request.classes,
            confidence=request.confidence,
            probabilities=request.probabilities,
        )

    def result(self) -> Prediction:
        """Does the work."""
        with current(self._outputs.labels.device):
            return self._result()

    def _result(self) -> Prediction:
        for band in self._plan.bands:
            self._logits.release(band)
            for views in self._plan.batches(band):
                self._infer(views)
            self._check()
            if not self._finish_fused(band):
                self._finish_in_blocks(band)
        # The first wait for the device: what follows has everything to say of it.
        engine_s = self._clock.seconds()
        self._logits.verify()
        return self._outputs.result(engine_s, self._windows)

    def _infer(self, views: Sequence[View]) -> None:
        """Runs the network on `views` and keeps its logits."""
        self._check()
        pixels = self._cutter.cut(views)
        with self._clock:
            logits = self._engine.infer(pixels)
        self._windows += len(views)
        self._logits.keep(views, logits)

    def _finish_fused(self, band: Band) -> bool:
        """Computes the outputs of the band's rows in one launch; False where there is no kernel for that."""
        if self._kernels is None:
            return False
        if self._tables is None:
            self._tables = Stitching(self._plan, self._put, align_corners=self._align_corners)
        slots, outputs = self._tables.slots(self._logits.slots), self._outputs
        tile = self._kernels.Tile.of(self._plan.request.classes)
        try:
            self._kernels.finish(
                self._logits.values, slots, self._tables, band.rows,
                outputs.labels, outputs.confidence, outputs.probabilities, tile,
            )  # fmt: skip
        except Exception as error:  # see `availability`
            give_up(outputs.labels.device, error)
            self._kernels = None
            return False
        return True

    def _finish_in_blocks(self, band: Band) -> None:
        if self._stitcher is None:
            self._stitcher = Stitcher(self._plan, self._logits, self._work, align_corners=self._align_corners)
        for rows in self._plan.parts(band):
            prepared = self._stitcher.rows(rows)
            for index, columns in enumerate(self._stitcher.columns):
                self._check()
                block = self._stitcher.block(prepared, index, self._work)
                labels, best = self._work.first_maximum(block)
                self._outputs.write(rows, columns, labels, best, block)


def _uploaded(image: NDArray[np.uint8], like: Tensor) -> Tensor:
    """A copy of the image, of any strides, beside `like`; by way of memory that a GPU reads by itself."""
    copy = torch.empty(image.shape, dtype=torch.uint8, pin_memory=like.is_cuda)
    copy.numpy()[...] = image
    return copy.to(like.device, non_blocking=True)
