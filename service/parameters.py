"""The query parameters of POST /segment and /attention: syntax, for the OpenAPI document too, and meaning."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from inference.attention_choice import choose_directions
from inference.bundle import ModelInfo
from models.config import Direction
from service.errors import Problem
from service.hosted import HostedModel
from service.settings import Settings
from service.tasks import AttentionTask, ImageFormat, Output, SegmentTask

_DIGITS = 9


class LabellingQuery(BaseModel):
    """What every query takes that has an image labelled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None, max_length=200, description="Name of a model from `/models`; the first if absent."
    )
    scales: str = Field(
        "1",
        max_length=400,
        description="Scales to average over, separated by commas.",
        examples=["0.5,1,1.5"],
    )
    flip: bool = Field(False, description="Average over the image and its mirror image.")


class SegmentQuery(LabellingQuery):
    """What may stand after `/segment?`. A parameter that the output has no use for is checked and ignored."""

    output: Output = Field(
        "labels",
        description="`labels`: palette PNG, pixel value = class id. `overlay`: the classes' colours over the "
        "image. `color`: the colours alone. `confidence`: grey, 255 = certain. `json`: pixels, share and "
        "RLE of each class.",
    )
    alpha: float = Field(
        0.5, ge=0, le=1, allow_inf_nan=False, description="Strength of the colours of an overlay."
    )
    format: ImageFormat = Field("png", description="Image format of the answer; labels are PNG only.")
    classes: str | None = Field(
        None,
        max_length=10_000,
        description="Ids or names of the classes that an overlay shows, separated by commas; all if absent.",
        examples=["road,car,11"],
    )
    polygons: bool = Field(False, description="Give polygons beside the RLE in `json`.")


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


def check_query(query: SegmentQuery, settings: Settings, info: ModelInfo) -> SegmentTask:
    """Give a query its meaning for one model. Raises Problem 422, code `bad_parameter`."""
    if query.output == "labels" and query.format != "png":
        raise bad_parameter(
            "format", f"{query.format} would change class ids: labels come as png, output=color in any format"
        )
    return SegmentTask(
        output=query.output,
        scales=read_scales(query.scales, settings),
        flip=query.flip,
        alpha=query.alpha,
        format=query.format,
        classes=None if query.classes is None else _class_ids(query.classes, info),
        polygons=query.polygons,
        max_pixels=settings.max_pixels,
    )


def read_scales(text: str, settings: Settings) -> tuple[float, ...]:
    """Scales from a text with commas between. Raises Problem 422, code `bad_parameter`."""
    low, high = settings.min_scale, settings.max_scale
    scales = []
    for part in text.split(","):
        try:
            scale = float(part)
        except ValueError:
            raise bad_parameter(
                "scales", f"{part.strip()!r} is not a number: write scales=0.5,1,1.5"
            ) from None
        if not (math.isfinite(scale) and low <= scale <= high):
            raise bad_parameter("scales", f"{part.strip()} is not between {low:g} and {high:g}")
        scales.append(scale)
    if len(scales) > settings.max_scales:
        raise bad_parameter("scales", f"{len(scales)} of them, at most {settings.max_scales} are taken")
    return tuple(scales)


def _class_ids(text: str, info: ModelInfo) -> frozenset[int]:
    by_name = {name.casefold(): class_id for class_id, name in enumerate(info.class_names)}
    ids = set()
    for part in (part.strip() for part in text.split(",")):
        class_id = by_name.get(part.casefold())
        if class_id is None and part.isdecimal() and part.isascii():
            class_id = int(part) if len(part) < 6 else info.classes
        if class_id is None or class_id >= info.classes:
            raise bad_parameter(
                "classes", f"{part!r} is no class of {info.name}: /models has their ids and names"
            )
        ids.add(class_id)
    return frozenset(ids)


def bad_parameter(name: str, message: str) -> Problem:
    """The 422 of a parameter that has no meaning; the message says what would have."""
    errors = [{"parameter": name, "message": message}]
    return Problem(422, "bad_parameter", f"{name}: {message}", title="Bad parameter", errors=errors)


def check_attention_query(query: AttentionQuery, settings: Settings, model: HostedModel) -> AttentionTask:
    """Give a query its meaning for one model.

    Raises Problem 422, code `bad_parameter`, and NoAttentionError for a model that does not tell.
    """
    wanted = None if query.direction is None else (query.direction,)
    directions = choose_directions(model.info, model.engine, model.directions, wanted)
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
    return AttentionTask(
        points=tuple(zip(columns, rows, strict=True)),
        directions=directions[:1] if overlay else directions,
        overlay=overlay,
        scale=query.scale,
        alpha=query.alpha,
        format=query.format,
        max_pixels=settings.max_pixels,
    )


def _numbers(name: str, text: str) -> list[int]:
    numbers = []
    for part in (part.strip() for part in text.split(",")):
        if not (part.isdecimal() and part.isascii() and len(part) <= _DIGITS):
            raise bad_parameter(
                name, f"{part[:20]!r} is no pixel: write {name}=240, or {name}=240,100 for several points"
            )
        numbers.append(int(part))
    return numbers
