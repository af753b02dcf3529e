"""The CVAT function in the OpenAPI document."""

from typing import Any, Final

from service.openapi.problems import IMAGE, RECEIVING, WORK, Responses, problems
from service.openapi.segment import HEADERS

_CORNERS: Final = [0, 2, 0, 3, 5, 3, 5, 2]
_SHAPE: Final = {"confidence": "0.9712", "label": "road", "type": "mask", "points": _CORNERS}
SHAPES_SCHEMA: Final[dict[str, Any]] = {
    "title": "CvatShapes",
    "type": "array",
    "items": {
        "type": "object",
        "required": ["confidence", "label", "type"],
        "properties": {
            "confidence": {"type": "string", "description": "Mean of the area, 0 to 1."},
            "label": {"type": "string"},
            "type": {"type": "string", "enum": ["mask", "polygon"]},
            "points": {
                "type": "array",
                "items": {"type": "integer"},
                "description": "The outer border, x0, y0, x1, y1, …; none for an area without an inside.",
            },
            "mask": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "description": "0 and 1 of the box around the area, row by row; left, top, right, bottom.",
            },
        },
    },
}
SHAPES: Final[Responses] = {
    200: {
        "description": "The connected areas of each class.",
        "headers": HEADERS,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/CvatShapes"},
                "examples": {
                    "mask": {"value": [{**_SHAPE, "mask": [*([1] * 12), 0, 2, 5, 3]}]},
                    "polygon": {"value": [{**_SHAPE, "type": "polygon"}]},
                },
            }
        },
    },
    **problems(("malformed_json", "no_image", *IMAGE, *RECEIVING, *WORK)),
}
SHAPES_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "byte", "description": "The file in base64."},
                        "threshold": {"type": "number", "minimum": 0, "maximum": 1},
                    },
                },
                "example": {"image": "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBw…", "threshold": 0.5},
            }
        },
    }
}
