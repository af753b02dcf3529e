"""What the OpenAPI document says beyond the handlers' own signatures: bodies, answers, problems."""

from typing import Any

from service.errors import PROBLEM_TYPE

Responses = dict[int | str, dict[str, Any]]

_PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "description": "RFC 9457. `detail` says what is wrong and how to mend it; `code` is for programs.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"parameter": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def _problem(description: str, code: str, detail: str, status: int) -> dict[str, Any]:
    example = {"type": "about:blank", "title": description, "status": status, "detail": detail, "code": code}
    answer: dict[str, Any] = {
        "description": description,
        "content": {PROBLEM_TYPE: {"schema": _PROBLEM_SCHEMA, "example": example}},
    }
    if status in (429, 503):
        answer["headers"] = _RETRY_AFTER
    return answer


PROBLEMS: Responses = {
    500: _problem("Our fault", "internal_error", "See the log under the request's id.", 500)
}
NOT_READY: Responses = {503: _problem("Loading or draining", "not_ready", "Try again in a moment.", 503)}

_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_JSON_EXAMPLE = {
    "model": "psanet18_camvid",
    "image": {"height": 360, "width": 480},
    "classes": [
        {
            "id": 3,
            "name": "Road",
            "color": [128, 64, 128],
            "pixels": 51840,
            "share": 0.3,
            "rle": {"size": [360, 480], "counts": "…"},
        }
    ],
    "timings_ms": {"decode": 4.1, "queue": 0.1, "infer": 210.0, "encode": 1.9},
}

SEGMENT: Responses = {
    200: {
        "description": "The answer in the form that `output` and `format` ask for, of the image's own size.",
        "headers": {
            "X-Model": {"description": "The model that answered.", "schema": {"type": "string"}},
            "X-Request-ID": {
                "description": "The request's own id, if it was a plain one, else a new one.",
                "schema": {"type": "string"},
            },
            "Server-Timing": {
                "description": "Milliseconds: decode, queue, infer, encode.",
                "schema": {"type": "string", "example": "decode;dur=8.0, queue;dur=0.1, infer;dur=210.5"},
            },
        },
        "content": {
            "image/png": _IMAGE,
            "image/jpeg": _IMAGE,
            "image/webp": _IMAGE,
            "application/json": {"schema": {"type": "object"}, "example": _JSON_EXAMPLE},
        },
    },
    400: _problem(
        "Malformed request", "no_image", "The form has no field `image`: curl -F image=@photo.jpg", 400
    ),
    401: _problem("No valid API key", "bad_key", "Send it as Authorization: Bearer KEY.", 401),
    404: _problem("Unknown model", "unknown_model", "No model is called 'x': there is psanet18_camvid.", 404),
    408: _problem("The upload took too long", "upload_timeout", "Send it faster, or a smaller one.", 408),
    413: _problem("Too many bytes", "too_many_bytes", "A body may have 33554432 bytes (32.0MiB).", 413),
    415: _problem("Not a supported type of image", "unsupported_image", "Send JPEG, PNG, WebP, …", 415),
    422: _problem(
        "Undecodable, too many pixels or a bad parameter", "bad_parameter", "scales: 100 is not …", 422
    ),
    429: _problem("Too many requests", "rate_limited", "Wait for the time in Retry-After.", 429),
    503: _problem("Queue full, draining or not ready", "queue_full", "Try again later.", 503),
    504: _problem("Deadline passed", "deadline", "Ask for fewer scales or send a smaller image.", 504),
    **PROBLEMS,
}

_HEAT_EXAMPLE = {"size": [2, 3], "offset": 0.0, "scale": 0.0157, "data": "AB8/f77/"}
_ATTENTION_EXAMPLE = {
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
_HEAT_SCHEMA: dict[str, Any] = {
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
_BOX_SCHEMA = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
_ATTENTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["model", "image", "points", "timings_ms"],
    "properties": {
        "model": {"type": "string"},
        "image": {"type": "object"},
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
        "timings_ms": {"type": "object"},
    },
}

ATTENTION: Responses = {
    **SEGMENT,
    200: {
        **SEGMENT[200],
        "description": "What the points attend to, as numbers or over the image.",
        "content": {
            "image/png": _IMAGE,
            "image/jpeg": _IMAGE,
            "image/webp": _IMAGE,
            "application/json": {"schema": _ATTENTION_SCHEMA, "example": _ATTENTION_EXAMPLE},
        },
    },
    422: _problem(
        "Undecodable, too many pixels, a bad parameter, or a model without attention",
        "bad_parameter",
        "The point (900, 20) lies outside the image of 480x360 pixels: x takes 0 to 479, y 0 to 359.",
        422,
    ),
}

SEGMENT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": _IMAGE,
            "image/*": _IMAGE,
        },
    }
}
