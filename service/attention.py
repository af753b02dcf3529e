"""POST /attention: its parameters, and its work in one worker thread, from an image's bytes to an answer's.

Limits, queue and deadline are those of /segment. Not here: attention itself (`inference/attention.py`).
"""

import base64
import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from inference import render
from inference.attention import Attention, Point, PointAttention, attention_at, require_attention
from inference.heatmap import draw_attention
from inference.images import decode_image
from inference.predictor import Predictor
from models.config import Direction
from service.images import Answer, Timings, Work
from service.parameters import ImageFormat, bad_parameter
from service.settings import Settings
from service.workers import Ticket

_DIGITS = 9


class AttentionQuery(BaseModel):
    """What may stand after `/attention?`. A parameter that the output does not use is checked and ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None, max_length=200, description="Name of a model from `/models`; the first if absent."
    )
    x: str = Field(
        max_length=10_000,
        description="Of each point, pixels from the left edge, from 0; separated by commas.",
        examples=["240"],
    )
    y: str = Field(
        max_length=10_000,
        description="Of each point, pixels from the top edge, as many as there are of `x`.",
        examples=["120"],
    )
    direction: Direction | None = Field(
        None,
        description="`collect`: what the point takes from everywhere; `distribute`: what everywhere takes "
        "from it. If absent `json` has all that the model has, and `overlay` shows the first.",
    )
    output: Literal["json", "overlay"] = Field(
        "json",
        description="`json`: the weights of all points. `overlay`: the image with the weights of one point "
        "as heat.",
    )
    scale: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Of the image: at a smaller one the point's window shows more of it.",
    )
    alpha: float = Field(
        0.8, ge=0, le=1, allow_inf_nan=False, description="Strength of the heat of an overlay."
    )
    format: ImageFormat = Field("png", description="Image format of an overlay.")


@dataclass(frozen=True, kw_only=True)
class AttentionParameters:
    """A checked request; the points may still lie outside the image, which has not been seen."""

    points: tuple[Point, ...]
    directions: tuple[Direction, ...]
    overlay: bool
    scale: float
    alpha: float
    format: ImageFormat


def check_attention_query(
    query: AttentionQuery, settings: Settings, predictor: Predictor
) -> AttentionParameters:
    """Give a query its meaning for one model.

    Raises Problem 422, code `bad_parameter`, and NoAttentionError for a model that does not tell.
    """
    _, directions = require_attention(predictor, None if query.direction is None else (query.direction,))
    columns, rows = _numbers("x", query.x), _numbers("y", query.y)
    if len(columns) != len(rows):
        raise bad_parameter("y", f"{len(rows)} of them for {len(columns)} of x: give both for each point")
    if len(columns) > settings.max_points:
        raise bad_parameter("x", f"{len(columns)} points, at most {settings.max_points} are taken")
    overlay = query.output == "overlay"
    if overlay and len(columns) > 1:
        raise bad_parameter("output", "an overlay shows one point: ask for each, or for json")
    if not settings.min_scale <= query.scale <= settings.max_scale:
        raise bad_parameter(
            "scale", f"{query.scale:g} is not between {settings.min_scale:g} and {settings.max_scale:g}"
        )
    return AttentionParameters(
        points=tuple(map(Point, columns, rows)),
        directions=tuple(directions)[:1] if overlay else tuple(directions),
        overlay=overlay,
        scale=query.scale,
        alpha=query.alpha,
        format=query.format,
    )


def attention_work(
    data: bytes, parameters: AttentionParameters, predictor: Predictor, *, max_pixels: int
) -> Work:
    """The work of one request, to be run by the worker pool; raises what inference raises."""
    return partial(_attend, data, parameters, predictor, max_pixels)


def _attend(
    data: bytes, parameters: AttentionParameters, predictor: Predictor, max_pixels: int, ticket: Ticket
) -> Answer:
    started = time.perf_counter()
    ticket.check()
    image = decode_image(data, max_pixels=max_pixels)
    decoded = time.perf_counter()
    ticket.check()
    attention = attention_at(
        predictor,
        image,
        parameters.points,
        scale=parameters.scale,
        directions=parameters.directions,
        check=ticket.check,
    )
    inferred = time.perf_counter()
    ticket.check()
    timings = Timings(decoded - started, ticket.queue_s, inferred - decoded, 0.0)
    if parameters.overlay:
        (direction,), (seen,) = parameters.directions, attention.points
        pixels = draw_attention(image, seen, direction, alpha=parameters.alpha)
        content = render.encode_image(pixels, parameters.format)
        media_type = f"image/{parameters.format}"
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


def _numbers(name: str, text: str) -> list[int]:
    numbers = []
    for part in (part.strip() for part in text.split(",")):
        if not (part.isdecimal() and part.isascii() and len(part) <= _DIGITS):
            raise bad_parameter(
                name, f"{part[:20]!r} is no pixel: write {name}=240, or {name}=240,100 for several points"
            )
        numbers.append(int(part))
    return numbers
