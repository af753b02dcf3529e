"""Opening the models that a worker serves, and warming them up before it calls itself ready."""

import logging
import time
from pathlib import Path

import numpy as np

from inference.bundle import resolve_model
from inference.predictor import Predictor
from models.options import parse_options
from service.tasks import WorkerSpec

logger = logging.getLogger(__name__)

SMALL_HW = (64, 64)


class HostingError(Exception):
    """A model that cannot be served; the message says which and why."""


def open_predictors(spec: WorkerSpec) -> dict[str, Predictor]:
    """Open every model that is named. Returns the predictors by name, in that order. Takes seconds.

    Raises HostingError.
    """
    predictors: dict[str, Predictor] = {}
    dataset, options = parse_options(spec.checkpoint_options)
    for model in spec.models:
        started = time.monotonic()
        try:
            is_checkpoint = isinstance(resolve_model(model), Path)
            predictor = Predictor.open(
                model,
                engine=spec.engine,
                device=spec.device,
                threads=spec.threads,
                dataset=dataset if is_checkpoint else None,
                options=options if is_checkpoint else None,
                memory_budget_bytes=spec.memory_budget,
            )
        except Exception as error:  # a library below an engine may raise anything; the entry point ends on it
            logger.debug("opening %s failed", model, exc_info=True)
            raise HostingError(f"cannot serve {model}: {error}") from error
        name = predictor.info.name
        if name in predictors:
            raise HostingError(
                f"cannot serve {model}: another model is called {name} too; rename one in model.json"
            )
        predictors[name] = predictor
        logger.info("model %s was opened in %.2f s", name, time.monotonic() - started)
    return predictors


def warm_up(predictor: Predictor, batch: int) -> float:
    """Send one blank image through it that makes a single window, so that no request finds it cold; seconds
    that such a window takes.

    A GPU's engine also sees each number of images that a call may hold, up to `batch`: kernels are chosen and
    graphs captured for each. An engine for any size sees a small image: nobody knows the sizes to come.
    Raises what the engine raises, and EngineError for values that are not finite.
    """
    engine = predictor.engine
    crop_hw = engine.crop_hw or SMALL_HW
    seconds = _window_s(predictor, crop_hw)
    if engine.device != "cpu":
        for size in range(2, batch + 1 if engine.crop_hw else 0):
            engine.infer(engine.to_device(np.zeros((size, 3, *crop_hw), np.float32)))
        seconds = _window_s(predictor, crop_hw)
    return seconds * float(np.prod(predictor.info.crop_hw)) / float(np.prod(crop_hw))


def _window_s(predictor: Predictor, crop_hw: tuple[int, int]) -> float:
    started = time.perf_counter()
    predictor.predict(np.zeros((*crop_hw, 3), np.uint8), base_size=max(crop_hw))
    return time.perf_counter() - started
