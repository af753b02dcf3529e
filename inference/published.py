"""One prediction by the published protocol (hszhao/semseg's): probabilities of windows, averaged and resized.

Not here: where windows lie (`windows.py`), how it fits the memory (`plan.py`), pixels (`crops.py`), sums
(`stitch.py`), MMSegmentation's protocol (`mmsegmentation.py`).
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from inference.arrays import Workspace
from inference.bundle import ModelInfo
from inference.crops import WindowCutter
from inference.engines import Engine
from inference.plan import Plan, Request, View, intervals, make_plan
from inference.prediction import Check, Outputs, Prediction
from inference.stitch import Stitcher
from inference.windows import lay_out

BLOCK_VALUES_HOST = 1 << 18
"""float32 values of an array that stays in one core's cache."""
BLOCK_VALUES_DEVICE = 1 << 24
"""Enough for a GPU to be busy with."""
TILE_HOST, TILE_DEVICE = 32, 256
"""Columns resampled by one product: the fewer, the less of a product is zeros, and the more calls there
are."""


def plan_published(
    info: ModelInfo,
    engine: Engine,
    image_hw: tuple[int, int],
    *,
    scales: Iterable[float],
    flip: bool,
    base_size: int | None,
    confidence: bool,
    probabilities: bool,
    budget_bytes: int,
) -> Plan:
    """See `Predictor.plan`."""
    layouts = lay_out(image_hw, scales, info.base_size if base_size is None else base_size, info.crop_hw)
    request = Request(
        image_hw=image_hw,
        layouts=layouts,
        crop_hw=info.crop_hw,
        coarse_hw=engine.coarse_hw,
        classes=info.classes,
        mirrored=flip,
        confidence=confidence,
        probabilities=probabilities,
        batch=min(engine.preferred_batch, engine.max_batch or engine.preferred_batch),
        block_values=BLOCK_VALUES_HOST if engine.device == "cpu" else BLOCK_VALUES_DEVICE,
        tile=TILE_HOST if engine.device == "cpu" else TILE_DEVICE,
    )
    return make_plan(request, budget_bytes)


class PublishedRun:
    """One prediction at work."""

    def __init__(
        self, info: ModelInfo, engine: Engine, plan: Plan, image: NDArray[np.uint8], check: Check
    ) -> None:
        self._engine, self._plan, self._check = engine, plan, check
        request = plan.request
        self._cutter = WindowCutter(image, request.layouts, info.mean_rgb)
        self._pixels = np.empty((plan.batch, 3, *info.crop_hw), np.float32)
        like = engine.to_device(np.zeros(1, np.float32))
        self._stitcher = Stitcher(plan, align_corners=info.align_corners, like=like)
        self._engine_s, self._windows = 0.0, 0
        self._work = Workspace(like)
        self._outputs = Outputs(
            self._work,
            request.image_hw,
            request.classes,
            confidence=request.confidence,
            probabilities=request.probabilities,
        )

    def result(self) -> Prediction:
        """Does the work."""
        for band in self._plan.bands:
            self._stitcher.release(band)
            batch: list[View] = []
            for view in self._plan.views(band):
                batch.append(view)
                if len(batch) == self._plan.batch:
                    self._infer(batch)
                    batch = []
            if batch:
                self._infer(batch)
            for rows in intervals(*band.rows, self._plan.block_hw[0]):
                self._finish(rows)
        return self._outputs.result(self._engine_s, self._windows)

    def _infer(self, views: Sequence[View]) -> None:
        """Runs the network on `views` and keeps its logits."""
        self._check()
        for index, (scale, row, column, mirrored) in enumerate(views):
            if mirrored and index:
                self._pixels[index] = self._pixels[index - 1, :, :, ::-1]
                continue
            self._cutter.cut(scale, row, column, self._pixels[index])
            if mirrored:
                self._pixels[index] = self._pixels[index, :, :, ::-1].copy()
        pixels = self._engine.to_device(self._pixels[: len(views)])
        started = time.perf_counter()
        logits = self._engine.infer(pixels)
        self._engine_s += time.perf_counter() - started
        self._windows += len(views)
        self._stitcher.keep(views, logits)

    def _finish(self, rows: tuple[int, int]) -> None:
        """Computes the outputs of the image's rows [start, stop)."""
        prepared = self._stitcher.rows(rows)
        for index, columns in enumerate(self._stitcher.columns):
            self._check()
            block = self._stitcher.block(prepared, index)
            labels, best = self._work.first_maximum(block)
            self._outputs.write(rows, columns, labels, best, block)
