"""One prediction by the published protocol (hszhao/semseg's): probabilities of windows, averaged and resized.

Not here: where windows lie (`windows.py`), how it fits the memory (`plan.py`), pixels (`crops.py`), sums
(`stitch.py`), the same on a GPU (`device/run.py`), MMSegmentation's protocol (`mmsegmentation.py`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from array_api_compat import is_numpy_array
from numpy.typing import NDArray

from inference.arrays import Workspace
from inference.bundle import ModelInfo
from inference.clock import HostClock
from inference.crops import WindowCutter
from inference.engines import Engine, arrays_of
from inference.plan import Plan, Request, View, make_plan
from inference.prediction import Check, Outputs, Prediction
from inference.sharing import share, usable_threads
from inference.stitch import Stitcher
from inference.window_logits import WindowLogits
from inference.windows import Interval, lay_out

ON_HOST: dict[str, Any] = {"block_values": 1 << 18, "tile": 32, "largest_block_hw": (64, 256)}
"""Of blocks whose arrays stay in one core's cache. Columns resampled by one product: the fewer, the less of a
product is zeros, and the more calls there are."""
ON_GPU: dict[str, Any] = {"block_values": 1 << 24, "tile": 256, "largest_block_hw": (256, 2048)}
"""Of blocks that a GPU is busy with."""


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
        **_place(engine, info.classes),
    )
    return make_plan(request, budget_bytes)


def run_published(
    info: ModelInfo, engine: Engine, plan: Plan, image: NDArray[np.uint8], check: Check
) -> Prediction:
    """The prediction that `plan` is of: on numpy or torch arrays, as the engine takes them."""
    like = arrays_of(engine)
    if is_numpy_array(like):
        return HostRun(info, engine, plan, image, check).result()
    from inference.device.run import run_on_device

    return run_on_device(info, engine, plan, image, check, like)


def _place(engine: Engine, classes: int) -> dict[str, Any]:
    """What `Request` says of where the logits are."""
    like = arrays_of(engine)
    if is_numpy_array(like):
        return {**ON_HOST, "threads": usable_threads(getattr(engine, "threads", None))}
    from inference.device.run import fuses

    return {
        **(ON_GPU if like.device.type == "cuda" else ON_HOST),
        "on_device": True,
        "fused": fuses(like, classes),
    }


class HostRun:
    """One prediction at work, on numpy arrays."""

    def __init__(
        self, info: ModelInfo, engine: Engine, plan: Plan, image: NDArray[np.uint8], check: Check
    ) -> None:
        self._engine, self._plan, self._check = engine, plan, check
        request = plan.request
        self._cutter = WindowCutter(image, request.layouts, info.mean_rgb)
        self._pixels = np.empty((plan.batch, 3, *info.crop_hw), np.float32)
        self._works = [Workspace(self._pixels) for _ in range(plan.threads)]
        self._logits = WindowLogits(plan, self._works[0])
        self._stitcher = Stitcher(plan, self._logits, self._works[0], align_corners=info.align_corners)
        self._clock, self._windows = HostClock(), 0
        self._outputs = Outputs(
            self._works[0],
            request.image_hw,
            request.classes,
            confidence=request.confidence,
            probabilities=request.probabilities,
        )

    def result(self) -> Prediction:
        """Does the work."""
        for band in self._plan.bands:
            self._logits.release(band)
            for views in self._plan.batches(band):
                self._infer(views)
            share(self._plan.parts(band), self._works, self._finish, self._check)
        return self._outputs.result(self._clock.seconds(), self._windows)

    def _infer(self, views: Sequence[View]) -> None:
        """Runs the network on `views` and keeps its logits."""
        self._check()
        for index, (scale, row, column, mirrored) in enumerate(views):
            if mirrored and index:
                self._pixels[index] = self._pixels[index - 1, :, :, ::-1]
                continue
            pixels = self._pixels[index]
            self._cutter.cut(scale, row, column, pixels[:, :, ::-1] if mirrored else pixels)
        given = self._engine.to_device(self._pixels[: len(views)])
        with self._clock:
            logits = self._engine.infer(given)
        self._windows += len(views)
        self._logits.keep(views, logits)

    def _finish(self, rows: Interval, work: Workspace, check: Check) -> None:
        """Computes the outputs of the image's rows [start, stop)."""
        prepared = self._stitcher.rows(rows)
        for index, columns in enumerate(self._stitcher.columns):
            check()
            block = self._stitcher.block(prepared, index, work)
            labels, best = work.first_maximum(block)
            self._outputs.write(rows, columns, labels, best, block)
