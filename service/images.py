"""From the bytes of an image to the bytes of an answer: decode, predict, encode, in one thread of a worker.

Knows limits and formats; not HTTP, not queues. The steps are timed for Server-Timing and the metrics.
"""

import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from inference import render
from inference.images import decode_image
from inference.predictor import Prediction, Predictor
from service.tasks import Answer, SegmentTask, Timings
from service.tickets import Ticket

_PICTURES = 2
"""RGB pictures of the image's size at the same time: as it was decoded, and as it is answered."""


def bytes_of(task: SegmentTask, image_hw: tuple[int, int], predictor: Predictor) -> int:
    """Memory that `segment` takes at most, about: what is planned, the picture, and what is made of it.

    Raises ParameterError and MemoryBudgetError for what cannot be done at all.
    """
    plan = predictor.plan(
        image_hw, scales=task.scales, flip=task.flip, confidence=task.output == "confidence"
    )
    return plan.peak_bytes + _PICTURES * 3 * image_hw[0] * image_hw[1]


def segment(task: SegmentTask, data: bytes, predictor: Predictor, ticket: Ticket, queue_s: float) -> Answer:
    """Label an image. data: an image file's content; what it is is judged by that content.

    Raises what inference raises (ImageError, MemoryBudgetError, PredictionCancelled, …).
    """
    started = time.perf_counter()
    ticket.check()
    image = decode_image(data, max_pixels=task.max_pixels)
    decoded = time.perf_counter()
    ticket.check()
    prediction = predictor.predict(
        image,
        scales=task.scales,
        flip=task.flip,
        confidence=task.output == "confidence",
        check=ticket.check,
    )
    inferred = time.perf_counter()
    ticket.check()
    if task.output == "json":
        timings = Timings(decoded - started, queue_s, inferred - decoded, 0.0)
        content, media_type = _json_answer(prediction, task, predictor, timings), "application/json"
    else:
        content, media_type = _image_answer(image, prediction, task, predictor)
    encoded = time.perf_counter()
    timings = Timings(decoded - started, queue_s, inferred - decoded, encoded - inferred)
    return Answer(content, media_type, timings, prediction.windows)


def _image_answer(
    image: np.ndarray, prediction: Prediction, task: SegmentTask, predictor: Predictor
) -> tuple[bytes, str]:
    palette = predictor.info.palette
    if task.output == "labels":
        return render.label_png(prediction.labels, palette), "image/png"
    if task.output == "overlay":
        pixels = render.overlay(image, prediction.labels, palette, alpha=task.alpha, classes=task.classes)
    elif task.output == "color":
        pixels = render.colorize(prediction.labels, palette)
    else:
        assert prediction.confidence is not None
        pixels = render.confidence_image(prediction.confidence)
    return render.encode_image(pixels, task.format), f"image/{task.format}"


def _json_answer(prediction: Prediction, task: SegmentTask, predictor: Predictor, timings: Timings) -> bytes:
    started = time.perf_counter()
    height, width = prediction.labels.shape
    classes = render.statistics(prediction.labels, predictor.info, rle=True, polygons=task.polygons)
    durations = asdict(timings) | {"encode": time.perf_counter() - started}
    document: dict[str, Any] = {
        "model": predictor.info.name,
        "image": {"height": height, "width": width},
        "classes": classes,
        "timings_ms": {name: round(seconds * 1000, 1) for name, seconds in durations.items()},
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
