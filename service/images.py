"""From the bytes of an image to the bytes of an answer: decode, predict, encode, in one thread of a worker.

Knows limits and formats; not HTTP, not queues. The steps are timed for Server-Timing and the metrics. Here
are the steps, which all tasks that label share, and /segment's own answers; others': `oip/tensors.py`,
`labelstudio/brush.py`, `cvat/shapes.py`.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference import render
from inference.images import decode_image
from inference.predictor import Prediction, Predictor
from service.tasks import Answer, BrushTask, SegmentTask, ShapesTask, TensorTask, Timings
from service.tickets import Ticket

_PICTURES = 2
"""RGB pictures of the image's size at the same time: as it was decoded, and as it is answered."""

Pixels = NDArray[np.uint8]
LabellingTask = SegmentTask | TensorTask | BrushTask | ShapesTask


@dataclass(frozen=True)
class Labelled:
    """An image that has been labelled. timings: of what came before the answer is made; encode is still 0."""

    image: Pixels
    prediction: Prediction
    timings: Timings


@dataclass(frozen=True)
class Content:
    """An answer's bytes and what they are; see `Answer`."""

    data: bytes
    media_type: str
    head_bytes: int | None = None


def bytes_to_label(
    task: LabellingTask, image_hw: tuple[int, int], predictor: Predictor, *, confidence: bool
) -> int:
    """Memory that `label` takes at most, about: what is planned, the picture, and one more like it.

    Raises ParameterError and MemoryBudgetError for what cannot be done at all.
    """
    plan = predictor.plan(image_hw, scales=task.scales, flip=task.flip, confidence=confidence)
    return plan.peak_bytes + _PICTURES * 3 * image_hw[0] * image_hw[1]


def label(
    task: LabellingTask,
    predictor: Predictor,
    ticket: Ticket,
    queue_s: float,
    *,
    decode: Callable[[], Pixels],
    encode: Callable[[Labelled], Content],
    confidence: bool,
) -> Answer:
    """Get an image, label it, make an answer of it. queue_s: that it has waited.

    Raises what decode and encode raise, and what inference does (MemoryBudgetError, PredictionCancelled, …).
    """
    started = time.perf_counter()
    ticket.check()
    image = decode()
    decoded = time.perf_counter()
    ticket.check()
    prediction = predictor.predict(
        image, scales=task.scales, flip=task.flip, confidence=confidence, check=ticket.check
    )
    inferred = time.perf_counter()
    ticket.check()
    timings = Timings(decoded - started, queue_s, inferred - decoded, 0.0)
    content = encode(Labelled(image, prediction, timings))
    encoded = time.perf_counter() - inferred
    timings = Timings(timings.decode, timings.queue, timings.infer, encoded)
    return Answer(content.data, content.media_type, timings, prediction.windows, content.head_bytes)


def bytes_of(task: SegmentTask, image_hw: tuple[int, int], predictor: Predictor) -> int:
    """Memory that `segment` takes at most, about. Raises what `bytes_to_label` raises."""
    return bytes_to_label(task, image_hw, predictor, confidence=task.output == "confidence")


def segment(task: SegmentTask, data: bytes, predictor: Predictor, ticket: Ticket, queue_s: float) -> Answer:
    """Label an image. data: an image file's content; what it is is judged by that content.

    Raises what inference raises (ImageError, MemoryBudgetError, PredictionCancelled, …).
    """
    return label(
        task,
        predictor,
        ticket,
        queue_s,
        decode=lambda: decode_image(data, max_pixels=task.max_pixels),
        encode=lambda labelled: _content(labelled, task, predictor),
        confidence=task.output == "confidence",
    )


def _content(labelled: Labelled, task: SegmentTask, predictor: Predictor) -> Content:
    prediction, palette = labelled.prediction, predictor.info.palette
    if task.output == "json":
        return Content(_json_answer(labelled, task, predictor), "application/json")
    if task.output == "labels":
        return Content(render.label_png(prediction.labels, palette), "image/png")
    if task.output == "overlay":
        pixels = render.overlay(
            labelled.image, prediction.labels, palette, alpha=task.alpha, classes=task.classes
        )
    elif task.output == "color":
        pixels = render.colorize(prediction.labels, palette)
    else:
        assert prediction.confidence is not None
        pixels = render.confidence_image(prediction.confidence)
    return Content(render.encode_image(pixels, task.format), f"image/{task.format}")


def _json_answer(labelled: Labelled, task: SegmentTask, predictor: Predictor) -> bytes:
    started = time.perf_counter()
    labels = labelled.prediction.labels
    height, width = labels.shape
    classes = render.statistics(labels, predictor.info, rle=True, polygons=task.polygons)
    durations = asdict(labelled.timings) | {"encode": time.perf_counter() - started}
    document: dict[str, Any] = {
        "model": predictor.info.name,
        "image": {"height": height, "width": width},
        "classes": classes,
        "timings_ms": {name: round(seconds * 1000, 1) for name, seconds in durations.items()},
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
