"""The query parameters of POST /segment: their syntax (for the OpenAPI document too), then their meaning."""

import math

from pydantic import BaseModel, ConfigDict, Field

from inference.bundle import ModelInfo
from service.errors import Problem
from service.settings import Settings
from service.tasks import ImageFormat, Output, SegmentTask


class SegmentQuery(BaseModel):
    """What may stand after `/segment?`. A parameter that the output has no use for is checked and ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None, max_length=200, description="Name of a model from `/models`; the first if absent."
    )
    output: Output = Field(
        "labels",
        description="`labels`: palette PNG, pixel value = class id. `overlay`: the classes' colours over the "
        "image. `color`: the colours alone. `confidence`: grey, 255 = certain. `json`: pixels, share and "
        "RLE of each class.",
    )
    scales: str = Field(
        "1",
        max_length=400,
        description="Scales to average over, separated by commas.",
        examples=["0.5,1,1.5"],
    )
    flip: bool = Field(False, description="Average over the image and its mirror image.")
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


def check_query(query: SegmentQuery, settings: Settings, info: ModelInfo) -> SegmentTask:
    """Give a query its meaning for one model. Raises Problem 422, code `bad_parameter`."""
    if query.output == "labels" and query.format != "png":
        raise bad_parameter(
            "format", f"{query.format} would change class ids: labels come as png, output=color in any format"
        )
    return SegmentTask(
        output=query.output,
        scales=_scales(query.scales, settings),
        flip=query.flip,
        alpha=query.alpha,
        format=query.format,
        classes=None if query.classes is None else _class_ids(query.classes, info),
        polygons=query.polygons,
        max_pixels=settings.max_pixels,
    )


def _scales(text: str, settings: Settings) -> tuple[float, ...]:
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
