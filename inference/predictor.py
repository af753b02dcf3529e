"""Predictor: from an image to its labels by the published protocol, on any engine.

The one door for the service, evaluation, and the command line.

    from inference.predictor import Predictor
    prediction = Predictor.open("psanet18_camvid").predict(image)
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import is_numpy_array, to_device
from numpy.typing import NDArray

from inference.arrays import Array, Workspace
from inference.bundle import ModelInfo
from inference.crops import WindowCutter
from inference.engines import Engine, open_model
from inference.errors import BundleError, ParameterError
from inference.plan import MEBIBYTE, Plan, Request, View, intervals, make_plan
from inference.stitch import Stitcher
from inference.windows import lay_out
from models.options import ArchitectureOptions

DEFAULT_BUDGET_BYTES = 2048 * MEBIBYTE
BLOCK_VALUES_HOST = 1 << 18
"""float32 values of an array that stays in one core's cache."""
BLOCK_VALUES_DEVICE = 1 << 24
"""Enough for a GPU to be busy with."""
TILE_HOST, TILE_DEVICE = 32, 256
"""Columns resampled by one product: the fewer, the less of a product is zeros, and the more calls there
are."""


@dataclass(frozen=True)
class Prediction:
    """What a network says about one image of (H, W).

    labels: (H, W) class ids, uint8 up to 256 classes, else uint16; confidence: (H, W) float32, the
    probability of the label; probabilities: (C, H, W) float32; the last two None unless asked for.
    engine_s: seconds inside the engine; windows: images that the engine was given, mirror images among them.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    engine_s: float
    windows: int


class Predictor:
    """A model on an engine, ready for images. Keeps no state between calls: any thread may call `predict`.

    memory_budget_bytes: what one prediction may hold beside the model, the engine's own memory and the image.
    Raises BundleError for a model that takes whole images.
    """

    def __init__(
        self, info: ModelInfo, engine: Engine, *, memory_budget_bytes: int = DEFAULT_BUDGET_BYTES
    ) -> None:
        if info.test_mode != "sliding":
            raise BundleError(
                f"{info.name} takes whole images (test_mode {info.test_mode!r}), which this version cannot: "
                "use a model whose test_mode is 'sliding'"
            )
        if memory_budget_bytes < 1:
            raise ParameterError(f"memory_budget_bytes must be above 0, not {memory_budget_bytes}")
        self.info, self.engine = info, engine
        self.memory_budget_bytes = memory_budget_bytes

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        engine: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
        dataset: str | None = None,
        options: ArchitectureOptions | None = None,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> "Predictor":
        """Opens a bundle folder, a bundled model by its name, or a checkpoint; see `engines.open_model`."""
        info, opened = open_model(
            model, engine=engine, device=device, threads=threads, dataset=dataset, options=options
        )
        try:
            return cls(info, opened, memory_budget_bytes=memory_budget_bytes)
        except Exception:
            opened.close()
            raise

    def close(self) -> None:
        """Lets the engine go; no call may be running."""
        self.engine.close()

    def plan(
        self,
        image_hw: tuple[int, int],
        *,
        scales: Iterable[float] = (1.0,),
        flip: bool = False,
        base_size: int | None = None,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> Plan:
        """What `predict` would do with an image of that size. Raises ParameterError and MemoryBudgetError."""
        info, engine = self.info, self.engine
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
        return make_plan(request, self.memory_budget_bytes)

    def predict(
        self,
        image: NDArray[np.uint8],
        *,
        scales: Iterable[float] = (1.0,),
        flip: bool = False,
        base_size: int | None = None,
        confidence: bool = False,
        probabilities: bool = False,
        check: Callable[[], None] | None = None,
    ) -> Prediction:
        """Labels of `image`, (H, W, 3) uint8 RGB, by the published protocol in float32.

        scales: of `base_size`, the long side in pixels (None: the model's own); flip: averages with the
        mirror image; confidence, probabilities: what else to return; check: called before each engine call
        and each block of stitching, may raise (PredictionCancelled, say) to give the work up.
        Raises ParameterError, MemoryBudgetError before any work, EngineError.
        """
        _require_image(image)
        plan = self.plan(
            image.shape[:2],
            scales=scales,
            flip=flip,
            base_size=base_size,
            confidence=confidence,
            probabilities=probabilities,
        )
        return _Run(self.info, self.engine, plan, image, check or _nothing).result()


class _Run:
    """One prediction at work."""

    def __init__(
        self,
        info: ModelInfo,
        engine: Engine,
        plan: Plan,
        image: NDArray[np.uint8],
        check: Callable[[], None],
    ) -> None:
        self._engine, self._plan, self._check = engine, plan, check
        self._cutter = WindowCutter(image, plan.request.layouts, info.mean_rgb)
        self._pixels = np.empty((plan.batch, 3, *info.crop_hw), np.float32)
        like = engine.to_device(np.zeros(1, np.float32))
        self._stitcher = Stitcher(plan, align_corners=info.align_corners, like=like)
        self._engine_s, self._windows = 0.0, 0
        self._labels, self._confidence, self._probabilities = self._outputs(Workspace(like))

    def result(self) -> Prediction:
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
        labels = _to_host(self._labels)
        return Prediction(
            labels=labels if labels.dtype == np.uint8 else labels.astype(np.uint16),
            confidence=None if self._confidence is None else _to_host(self._confidence),
            probabilities=None if self._probabilities is None else _to_host(self._probabilities),
            engine_s=self._engine_s,
            windows=self._windows,
        )

    def _outputs(self, work: Workspace) -> tuple[Array, Array | None, Array | None]:
        request = self._plan.request
        return (
            work.empty(request.image_hw, "uint8" if request.classes <= 256 else "int16"),
            work.empty(request.image_hw) if request.confidence else None,
            work.empty((request.classes, *request.image_hw)) if request.probabilities else None,
        )

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
            at = (slice(*rows), slice(*columns))
            labels, best = self._stitcher.first_maximum(block)
            self._labels[at] = labels
            if self._confidence is not None:
                self._confidence[at] = best
            if self._probabilities is not None:
                self._probabilities[(slice(None), *at)] = block


def _require_image(image: NDArray[np.uint8]) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ParameterError(
            f"image takes a numpy array of uint8, not {getattr(image, 'dtype', type(image))}"
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ParameterError(f"image takes (height, width, 3) RGB of 1x1 pixels or more, not {image.shape}")


def _to_host(values: Array) -> NDArray[Any]:
    return values if is_numpy_array(values) else np.asarray(to_device(values, "cpu"))


def _nothing() -> None:
    """The check of a caller who never gives up."""
