"""From the bytes of an image to the bytes of an answer: decode, predict, encode, in one worker thread.

Knows limits and formats; not HTTP, not queues. The steps are timed for Server-Timing and the metrics.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from inference import render
from inference.images import decode_image
from inference.predictor import Prediction, Predictor
from service.parameters import Parameters
from service.workers import Ticket

Work = Callable[[Ticket], "Answer"]


@dataclass(frozen=True)
class Timings:
    """How long the parts of a request took, in seconds."""

    decode: float
    queue: float
    infer: float
    encode: float

    def header(self) -> str:
        """As the value of Server-Timing, in milliseconds."""
        return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in asdict(self).items())


@dataclass(frozen=True)
class Answer:
    """A finished request. windows: how many windows the engine saw."""

    content: bytes
    media_type: str
    timings: Timings
    windows: int


def segmentation(data: bytes, parameters: Parameters, predictor: Predictor, *, max_pixels: int) -> Work:
    """The work of one request, to be run by the worker pool.

    data: an image file's content; what it is is judged by that content.
    Raises what inference raises (ImageError, MemoryBudgetError, PredictionCancelled, …).
    """
    return partial(_segment, data, parameters, predictor, max_pixels)


def _segment(
    data: bytes, parameters: Parameters, predictor: Predictor, max_pixels: int, ticket: Ticket
) -> Answer:
    started = time.perf_counter()
    ticket.check()
    image = decode_image(data, max_pixels=max_pixels)
    decoded = time.perf_counter()
    ticket.check()
    prediction = predictor.predict(
        image,
        scales=parameters.scales,
        flip=parameters.flip,
        confidence=parameters.output == "confidence",
        check=ticket.check,
    )
    inferred = time.perf_counter()
    ticket.check()
    if parameters.output == "json":
        timings = Timings(decoded - started, ticket.queue_s, inferred - decoded, 0.0)
        content, media_type = _json_answer(prediction, parameters, predictor, timings), "application/json"
    else:
        content, media_type = _image_answer(image, prediction, parameters, predictor)
    encoded = time.perf_counter()
    timings = Timings(decoded - started, ticket.queue_s, inferred - decoded, encoded - inferred)
    return Answer(content, media_type, timings, prediction.windows)


def _image_answer(
    image: np.ndarray, prediction: Prediction, parameters: Parameters, predictor: Predictor
) -> tuple[bytes, str]:
    palette = predictor.info.palette
    if parameters.output == "labels":
        return render.label_png(prediction.labels, palette), "image/png"
    if parameters.output == "overlay":
        pixels = render.overlay(
            image, prediction.labels, palette, alpha=parameters.alpha, classes=parameters.classes
        )
    elif parameters.output == "color":
        pixels = render.colorize(prediction.labels, palette)
    else:
        assert prediction.confidence is not None
        pixels = render.confidence_image(prediction.confidence)
    return render.encode_image(pixels, parameters.format), f"image/{parameters.format}"


def _json_answer(
    prediction: Prediction, parameters: Parameters, predictor: Predictor, timings: Timings
) -> bytes:
    started = time.perf_counter()
    height, width = prediction.labels.shape
    classes = render.statistics(prediction.labels, predictor.info, rle=True, polygons=parameters.polygons)
    durations = asdict(timings) | {"encode": time.perf_counter() - started}
    document: dict[str, Any] = {
        "model": predictor.info.name,
        "image": {"height": height, "width": width},
        "classes": classes,
        "timings_ms": {name: round(seconds * 1000, 1) for name, seconds in durations.items()},
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
