"""The models that are served: opened and warmed up before the service calls itself ready, found by name."""

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from inference.bundle import resolve_model
from inference.predictor import Predictor
from models.options import parse_options
from service import memory
from service.errors import Problem
from service.settings import Settings

logger = logging.getLogger(__name__)

SMALL_HW = (64, 64)


class HostingError(Exception):
    """A model that cannot be served; the message says which and why."""


def open_predictors(settings: Settings) -> dict[str, Predictor]:
    """Open every configured model and run each once, so that the first request finds it warm.

    Returns the predictors by name, in the configured order. Takes seconds; not for the event loop.
    Raises HostingError.
    """
    predictors: dict[str, Predictor] = {}
    dataset, options = parse_options(settings.checkpoint_options)
    for model in settings.models:
        started = time.monotonic()
        try:
            is_checkpoint = isinstance(resolve_model(model), Path)
            predictor = Predictor.open(
                model,
                engine=settings.engine,
                device=settings.device,
                threads=settings.threads,
                dataset=dataset if is_checkpoint else None,
                options=options if is_checkpoint else None,
                memory_budget_bytes=settings.memory_budget,
            )
            warm_up(predictor)
        except Exception as error:  # a library below an engine may raise anything; the entry point ends on it
            logger.debug("opening %s failed", model, exc_info=True)
            raise HostingError(f"cannot serve {model}: {error}") from error
        name = predictor.info.name
        if name in predictors:
            raise HostingError(
                f"cannot serve {model}: another model is called {name} too; rename one in model.json"
            )
        predictors[name] = predictor
        logger.info("model %s is ready after %.2f s", name, time.monotonic() - started)
    memory.give_back()  # building a session leaves more than a hundred megabytes free
    return predictors


def warm_up(predictor: Predictor) -> None:
    """Send one blank image through it that makes a single window; a small one where any size will do."""
    crop_hw = predictor.engine.crop_hw or SMALL_HW
    predictor.predict(np.zeros((*crop_hw, 3), np.uint8), base_size=max(crop_hw))


class Models:
    """The predictors by name; empty until they are loaded."""

    def __init__(self, predictors: Mapping[str, Predictor] = MappingProxyType({})) -> None:
        self._predictors = dict(predictors)

    def __iter__(self) -> Iterator[Predictor]:
        return iter(self._predictors.values())

    def __len__(self) -> int:
        return len(self._predictors)

    def find(self, name: str | None) -> Predictor:
        """The predictor of that name, the first one for None. Raises Problem 404 that lists the names."""
        if name is None:
            return next(iter(self))
        predictor = self._predictors.get(name)
        if predictor is None:
            detail = f"No model is called {name!r}: there is {', '.join(self._predictors)}."
            raise Problem(404, "unknown_model", detail, title="Unknown model")
        return predictor

    def close(self) -> None:
        """Release the engines."""
        for predictor in self:
            predictor.close()
