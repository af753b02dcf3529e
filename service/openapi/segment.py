"""POST /segment in the OpenAPI document: the body, and an example of every output."""

from typing import Any, Final

from service.openapi.pictures import CONFIDENCE, LABELS, OVERLAY, OVERLAY_JPEG, OVERLAY_WEBP
from service.openapi.problems import UPLOAD, WORK, Responses, problems

_BINARY: Final = {"type": "string", "format": "binary"}

HEADERS: Final[dict[str, Any]] = {
    "X-Model": {"description": "The model that answered.", "schema": {"type": "string"}},
    "X-Request-ID": {
        "description": "The request's own id, if it was a plain one, else a new one.",
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "Milliseconds: decode, queue, infer, encode.",
        "schema": {
            "type": "string",
            "example": "decode;dur=8.0, queue;dur=0.1, infer;dur=210.5, encode;dur=7.1",
        },
    },
}
TIMINGS: Final[dict[str, Any]] = {
    "type": "object",
    "description": "Milliseconds.",
    "required": ["decode", "queue", "infer", "encode"],
    "properties": {name: {"type": "number"} for name in ("decode", "queue", "infer", "encode")},
}
IMAGE_SIZE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["height", "width"],
    "properties": {"height": {"type": "integer"}, "width": {"type": "integer"}},
}
STATISTICS_SCHEMA: Final[dict[str, Any]] = {
    "title": "Statistics",
    "type": "object",
    "required": ["model", "image", "classes", "timings_ms"],
    "properties": {
        "model": {"type": "string"},
        "image": IMAGE_SIZE,
        "classes": {
            "type": "array",
            "description": "The classes that are there, by id.",
            "items": {
                "type": "object",
                "required": ["id", "name", "color", "pixels", "share", "rle"],
                "properties": {
                    "id": {"type": "integer"},
                    "name": {"type": "string"},
                    "color": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3},
                    "pixels": {"type": "integer"},
                    "share": {"type": "number", "description": "Of the image's pixels, 0 to 1."},
                    "rle": {
                        "type": "object",
                        "description": "COCO's compressed run-length encoding; `size` is [height, width].",
                        "required": ["size", "counts"],
                        "properties": {
                            "size": {"type": "array", "items": {"type": "integer"}},
                            "counts": {"type": "string"},
                        },
                    },
                    "polygons": {
                        "type": "array",
                        "description": "With `polygons=true`: outer borders, x0, y0, x1, y1, … each.",
                        "items": {"type": "array", "items": {"type": "integer"}},
                    },
                },
            },
        },
        "timings_ms": TIMINGS,
    },
}
_STATISTICS: Final[dict[str, Any]] = {
    "model": "psanet18_camvid",
    "image": {"height": 4, "width": 6},
    "classes": [
        {
            "id": 0,
            "name": "sky",
            "color": [128, 128, 128],
            "pixels": 12,
            "share": 0.5,
            "rle": {"size": [4, 6], "counts": "0220000000000"},
        },
        {
            "id": 3,
            "name": "road",
            "color": [128, 64, 128],
            "pixels": 12,
            "share": 0.5,
            "rle": {"size": [4, 6], "counts": "222000000000"},
        },
    ],
    "timings_ms": {"decode": 4.1, "queue": 0.1, "infer": 105.0, "encode": 1.9},
}
_WITH_POLYGONS: Final[dict[str, Any]] = {
    **_STATISTICS,
    "classes": [
        {**_STATISTICS["classes"][0], "polygons": [[0, 0, 0, 1, 5, 1, 5, 0]]},
        {**_STATISTICS["classes"][1], "polygons": [[0, 2, 0, 3, 5, 3, 5, 2]]},
    ],
}


def pictures(**examples: str) -> dict[str, Any]:
    """An image as an answer, with small ones as data addresses."""
    return {
        "schema": _BINARY,
        "examples": {name: {"externalValue": address} for name, address in examples.items()},
    }


SEGMENT: Final[Responses] = {
    200: {
        "description": "The answer in the form that `output` and `format` ask for, of the image's own size.",
        "headers": HEADERS,
        "content": {
            "image/png": pictures(labels=LABELS, overlay=OVERLAY, color=LABELS, confidence=CONFIDENCE),
            "image/jpeg": pictures(overlay=OVERLAY_JPEG),
            "image/webp": pictures(overlay=OVERLAY_WEBP),
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Statistics"},
                "examples": {"json": {"value": _STATISTICS}, "polygons": {"value": _WITH_POLYGONS}},
            },
        },
    },
    **problems((*UPLOAD, *WORK)),
}

IMAGE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": _BINARY}}
            },
            "application/octet-stream": {"schema": _BINARY},
            "image/*": {"schema": _BINARY},
        },
    }
}
