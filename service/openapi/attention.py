"""POST /attention in the OpenAPI document."""

from typing import Any, Final

from service.openapi.pictures import OVERLAY, OVERLAY_JPEG, OVERLAY_WEBP
from service.openapi.problems import UPLOAD, WORK, Responses, problems
from service.openapi.segment import HEADERS, IMAGE_SIZE, TIMINGS, pictures

_HEAT_EXAMPLE: Final = {"size": [2, 3], "offset": 0.0, "scale": 0.0157, "data": "AB8/f77/"}
_EXAMPLE: Final[dict[str, Any]] = {
    "model": "psanet18_camvid",
    "image": {"height": 360, "width": 480},
    "points": [
        {
            "x": 240,
            "y": 120,
            "position": [9, 7],
            "window": [119.0, 0.0, 241.0, 241.0],
            "cells": [111.5, -7.5, 256.0, 256.0],
            "collect": _HEAT_EXAMPLE,
            "distribute": _HEAT_EXAMPLE,
        }
    ],
    "timings_ms": {"decode": 4.1, "queue": 0.1, "infer": 105.0, "encode": 0.1},
}
_HEAT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "A grid of weights, `offset + scale * byte`: `size` [rows, columns] bytes, row by row, in "
    "base64. 1 is what each position would get if all got the same.",
    "required": ["size", "offset", "scale", "data"],
    "properties": {
        "size": {"type": "array", "items": {"type": "integer"}},
        "offset": {"type": "number"},
        "scale": {"type": "number"},
        "data": {"type": "string", "format": "byte"},
    },
}
_BOX_SCHEMA: Final = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
ATTENTION_SCHEMA: Final[dict[str, Any]] = {
    "title": "Attention",
    "type": "object",
    "required": ["model", "image", "points", "timings_ms"],
    "properties": {
        "model": {"type": "string"},
        "image": IMAGE_SIZE,
        "points": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["x", "y", "position", "window", "cells"],
                "properties": {
                    "x": {"type": "integer"},
                    "y": {"type": "integer"},
                    "position": {
                        "type": "array",
                        "items": {"type": "integer"},
                        "description": "Row and column in the grid: the position nearest to the point.",
                    },
                    "window": {
                        **_BOX_SCHEMA,
                        "description": "What the network saw: left, top, width, height in pixels.",
                    },
                    "cells": {
                        **_BOX_SCHEMA,
                        "description": "Where to draw the grid over the image, so that each weight is the "
                        "middle of its cell; it may reach beyond the image.",
                    },
                    "collect": _HEAT_SCHEMA,
                    "distribute": _HEAT_SCHEMA,
                },
            },
        },
        "timings_ms": TIMINGS,
    },
}

ATTENTION: Final[Responses] = {
    200: {
        "description": "What the points attend to, as numbers or over the image.",
        "headers": HEADERS,
        "content": {
            "image/png": pictures(overlay=OVERLAY),
            "image/jpeg": pictures(overlay=OVERLAY_JPEG),
            "image/webp": pictures(overlay=OVERLAY_WEBP),
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Attention"},
                "examples": {"json": {"value": _EXAMPLE}},
            },
        },
    },
    **problems((*UPLOAD, *WORK, "no_attention")),
}
