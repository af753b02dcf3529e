"""Predictor: from an image to its labels, by the test protocol that its model names, on any engine.

The one door for the service, evaluation, and the command line. The protocols: `published.py` and
`mmsegmentation.py`.

    from inference.predictor import Predictor
    prediction = Predictor.open("psanet18_camvid").predict(image)
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.bundle import ModelInfo
from inference.engines import Engine, open_model
from inference.errors import BundleError, ParameterError
from inference.mmseg_plan import PicturePlan
from inference.mmsegmentation import MmsegmentationRun, plan_mmsegmentation
from inference.plan import MEBIBYTE, Plan
from inference.prediction import Prediction
from inference.published import plan_published, run_published
from models.options import ArchitectureOptions

__all__ = ["DEFAULT_BUDGET_BYTES", "Prediction", "Predictor"]

DEFAULT_BUDGET_BYTES = 2048 * MEBIBYTE


class Predictor:
    """A model on an engine, ready for images. Keeps no state between calls: any thread may call `predict`.

    memory_budget_bytes: what one prediction may hold beside the model, the engine's own memory and the image.
    It counts the attention maps of an engine that takes images of any size: they grow with the image.
    Raises BundleError for a model whose test mode its protocol or its engine does not have.
    """

    def __init__(
        self, info: ModelInfo, engine: Engine, *, memory_budget_bytes: int = DEFAULT_BUDGET_BYTES
    ) -> None:
        _require_supported(info, engine)
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
        precision: str = "auto",
        compiled: bool = False,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> "Predictor":
        """Opens a bundle folder, a bundled model by its name, or a checkpoint; see `engines.open_model`."""
        info, opened = open_model(
            model,
            engine=engine,
            device=device,
            threads=threads,
            dataset=dataset,
            options=options,
            precision=precision,
            compiled=compiled,
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
    ) -> Plan | PicturePlan:
        """What `predict` would do with an image of that size. Raises ParameterError and MemoryBudgetError."""
        make_plan = plan_published if self.info.protocol == "published" else plan_mmsegmentation
        return make_plan(
            self.info,
            self.engine,
            image_hw,
            scales=scales,
            flip=flip,
            base_size=base_size,
            confidence=confidence,
            probabilities=probabilities,
            budget_bytes=self.memory_budget_bytes,
        )

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
        """Labels of `image`, (H, W, 3) uint8 RGB, by the protocol that the model names, in float32.

        scales: of `base_size`, the long side in pixels (None: the model's own), where MMSegmentation's
        protocol also limits the short side, in the proportion that the model's own two have; flip: averages
        with the mirror image; confidence, probabilities: what else to return; check: called before each
        engine call and each block of stitching, may raise (PredictionCancelled, say) to give the work up.
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
        check = check or _nothing
        if isinstance(plan, Plan):
            return run_published(self.info, self.engine, plan, image, check)
        return MmsegmentationRun(self.info, self.engine, plan, image, check).result()


def _require_supported(info: ModelInfo, engine: Engine) -> None:
    if info.test_mode == "sliding":
        return
    if info.protocol == "published":
        raise BundleError(
            f"{info.name} takes whole images (test_mode 'whole'), but the published protocol sees an image "
            "in windows: choose test_mode 'sliding' (--test-mode sliding), or protocol 'mmsegmentation'"
        )
    if engine.crop_hw is not None:
        height, width = engine.crop_hw
        raise BundleError(
            f"{info.name} takes whole images, but this {engine.name} engine takes {height}x{width} alone: "
            "choose --engine onnxruntime or torch, or export the checkpoint anew"
        )


def _require_image(image: NDArray[np.uint8]) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ParameterError(
            f"image takes a numpy array of uint8, not {getattr(image, 'dtype', type(image))}"
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ParameterError(f"image takes (height, width, 3) RGB of 1x1 pixels or more, not {image.shape}")


def _nothing() -> None:
    """The check of a caller who never gives up."""
