"""What points attend to: from the bytes of an image to the bytes of an answer, in one thread of a worker.

Not here: attention itself (`inference/attention.py`), the query (`parameters.py`).
"""

import base64
import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference import render
from inference.attention import Attention, Point, PointAttention, attention_at
from inference.attention_grid import lay_out_grid
from inference.heatmap import draw_attention
from inference.images import decode_image
from inference.plan import Plan
from inference.predictor import Predictor
from service.tasks import Answer, AttentionTask, Timings
from service.tickets import Ticket

_PICTURES = 2
"""RGB pictures of the image's size at the same time: as it was decoded, and as it is answered."""


def bytes_of_attention(task: AttentionTask, image_hw: tuple[int, int], predictor: Predictor) -> int:
    """Memory that `attend` takes at most, about. Raises ParameterError and MemoryBudgetError."""
    plan = predictor.plan(image_hw, scales=(task.scale,))
    layout = plan.request.layouts[0] if isinstance(plan, Plan) else plan.request.pictures[0]
    pairs = lay_out_grid(predictor.info, layout).positions ** 2
    calls = min(len(task.points), predictor.engine.preferred_batch)
    maps = 4 * len(task.directions) * pairs * calls
    return plan.peak_bytes + maps + _PICTURES * 3 * image_hw[0] * image_hw[1]


def attend(task: AttentionTask, data: bytes, predictor: Predictor, ticket: Ticket, queue_s: float) -> Answer:
    """Tell what points of an image attend to. Raises what inference raises."""
    started = time.perf_counter()
    ticket.check()
    image = decode_image(data, max_pixels=task.max_pixels)
    decoded = time.perf_counter()
    ticket.check()
    attention = attention_at(
        predictor,
        image,
        [Point(x, y) for x, y in task.points],
        scale=task.scale,
        directions=task.directions,
        check=ticket.check,
    )
    inferred = time.perf_counter()
    ticket.check()
    timings = Timings(decoded - started, queue_s, inferred - decoded, 0.0)
    if task.overlay:
        (direction,), (seen,) = task.directions, attention.points
        pixels = draw_attention(image, seen, direction, alpha=task.alpha)
        content, media_type = render.encode_image(pixels, task.format), f"image/{task.format}"
    else:
        content = _json_answer(attention, image.shape[:2], predictor.info.name, timings)
        media_type = "application/json"
    encoded = time.perf_counter() - inferred
    timings = Timings(timings.decode, timings.queue, timings.infer, encoded)
    return Answer(content, media_type, timings, attention.windows)


def _json_answer(attention: Attention, image_hw: tuple[int, int], model: str, timings: Timings) -> bytes:
    started = time.perf_counter()
    points = [_point(seen) for seen in attention.points]
    durations = asdict(timings) | {"encode": time.perf_counter() - started}
    document = {
        "model": model,
        "image": {"height": image_hw[0], "width": image_hw[1]},
        "points": points,
        "timings_ms": {name: round(seconds * 1000, 1) for name, seconds in durations.items()},
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _point(seen: PointAttention) -> dict[str, Any]:
    return {
        "x": seen.point.x,
        "y": seen.point.y,
        "position": list(seen.position),
        "window": [round(value, 3) for value in seen.window],
        "cells": [round(value, 3) for value in seen.cells],
        **{direction: compact(weights) for direction, weights in seen.weights.items()},
    }


def compact(weights: NDArray[np.float32]) -> dict[str, Any]:
    """(rows, columns) as JSON: a weight is `offset + scale * byte`, bytes row by row in base64."""
    offset, highest = min(float(weights.min()), 0.0), float(weights.max())
    scale = (highest - offset) / 255 or 1.0
    levels = np.rint((weights - offset) / scale).astype(np.uint8)
    return {
        "size": list(weights.shape),
        "offset": offset,
        "scale": scale,
        "data": base64.b64encode(levels.tobytes()).decode(),
    }
