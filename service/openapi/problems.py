"""The problems that answers can be, each with an example. `errors.py` is where they come from."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from service.errors import PROBLEM_TYPE

Responses = dict[int | str, dict[str, Any]]

PROBLEM_SCHEMA: Final[dict[str, Any]] = {
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
        "error": {"type": "string", "description": "`detail` again; under /v2 alone."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["parameter", "message"],
                "properties": {"parameter": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}

CODES: Final[dict[str, tuple[int, str, str]]] = {
    "no_image": (400, "No image", "The form has no field `image`: curl -F image=@photo.jpg"),
    "empty_body": (400, "No image", "The image has no bytes: send the file's content."),
    "malformed_form": (
        400,
        "Malformed request",
        "The multipart body cannot be read: it ends before its closing boundary.",
    ),
    "unexpected_field": (400, "Bad Request", "The form has a field `file`: only `image` is taken."),
    "several_images": (400, "Bad Request", "The form has several images: send one a request."),
    "malformed_json": (400, "Malformed request", "The body cannot be read as JSON: it holds no object."),
    "malformed_request": (
        400,
        "Malformed request",
        "The inference request cannot be used: the input's shape is [height, width, 3], not [360, 480].",
    ),
    "bad_key": (
        401,
        "No valid API key",
        "This service asks for an API key: send it as Authorization: Bearer KEY.",
    ),
    "unknown_model": (404, "Unknown model", "No model is called 'x': there is psanet18_camvid."),
    "unknown_version": (404, "Unknown version", "psanet18_camvid has no version '2': there is 1."),
    "upload_timeout": (408, "The upload took too long", "The body did not arrive within 60 s: send less."),
    "too_many_bytes": (
        413,
        "Too many bytes",
        "A body may have 33554432 bytes (32.0MiB): send a smaller image.",
    ),
    "unsupported_image": (
        415,
        "Not a supported type of image",
        "This is a PDF, judged by its content: convert it to one of JPEG, PNG, WebP, BMP, TIFF, GIF.",
    ),
    "unsupported_media_type": (
        415,
        "Unsupported Media Type",
        "A body of type text/plain cannot hold an image: send multipart/form-data with a field `image`.",
    ),
    "unsupported_encoding": (
        415,
        "Unsupported Media Type",
        "Content-Encoding gzip is not accepted: send the bytes as they are.",
    ),
    "bad_parameter": (422, "Bad parameter", "scales: 100 is not between 0.25 and 3"),
    "undecodable_image": (
        422,
        "The image cannot be decoded",
        "The JPEG file is truncated: send the whole file, or save it anew.",
    ),
    "too_many_pixels": (
        422,
        "Too many pixels",
        "The image has 120.0 megapixels (12000x10000), at most 50 are accepted: make it smaller.",
    ),
    "over_memory_budget": (
        422,
        "More memory than a request may take",
        "The image needs 3012 MiB, at most 2048 are allowed: ask for fewer scales or send a smaller image.",
    ),
    "no_attention": (422, "This model does not tell", "The model psanet18_camvid gives logits alone."),
    "bad_label_config": (
        422,
        "Labelling interface",
        "The labelling interface cannot be used: it has no BrushLabels over an Image.",
    ),
    "no_common_label": (
        422,
        "No label in common",
        "None of the project's labels (Cat, Dog) is a class of psanet18_camvid (sky, building, …).",
    ),
    "no_task_image": (
        422,
        "No image",
        "The image of the task cannot be had: http://example.org/1.jpg is an address.",
    ),
    "no_training": (
        422,
        "This service does not train",
        "This service does not train: export the annotations, and see python -m training.train --help.",
    ),
    "rate_limited": (429, "Too many requests", "You have asked too often: wait for the time in Retry-After."),
    "internal_error": (500, "Internal Server Error", "The fault is the service's, not the request's."),
    "queue_full": (
        503,
        "Too busy",
        "32 requests are waiting already: try again after the time in Retry-After.",
    ),
    "too_many_uploads": (503, "Too busy", "Too many uploads are being received: try again."),
    "out_of_memory": (503, "Service Unavailable", "The machine is out of memory just now: try again later."),
    "worker_lost": (503, "Worker lost", "The process that worked on this request ended before it was done."),
    "models_exchanged": (503, "Models exchanged", "The models were exchanged, and this one has gone."),
    "not_ready": (503, "Not ready", "The models are still being loaded: try again in a moment."),
    "no_worker": (503, "Not ready", "No worker could be started just now: try again later."),
    "draining": (503, "Shutting down", "The service is shutting down: ask again in a moment."),
    "deadline": (504, "Deadline passed", "The request was not done after 60 s: ask for fewer scales."),
}
"""Status, title and an example's detail of each code that a route answers. Not those of no route: 404
`not_found`, 405 `method_not_allowed`."""

_STATUS_TEXTS: Final = {
    400: "Malformed request",
    401: "No valid API key, where the service asks for one",
    404: "Unknown model",
    408: "The upload took too long",
    413: "Too many bytes",
    415: "Not a supported type of image, by content, or of body",
    422: "What was sent cannot be used: the image, or a parameter",
    429: "Too many requests, where the service counts them",
    500: "The service's own fault",
    503: "The queue is full, or the service is draining or not ready",
    504: "Deadline passed",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}

OPEN: Final = ("internal_error",)
NOT_READY: Final = ("not_ready", "no_worker", "draining")
ACCESS: Final = ("bad_key", "rate_limited", *OPEN)
RECEIVING: Final = ("upload_timeout", "too_many_bytes", "unsupported_encoding", "too_many_uploads")
WORK: Final = (
    *(
        "unknown_model",
        "bad_parameter",
        "too_many_pixels",
        "over_memory_budget",
        "queue_full",
        "out_of_memory",
    ),
    *("worker_lost", "models_exchanged", "deadline", *NOT_READY, *ACCESS),
)
IMAGE: Final = ("unsupported_image", "undecodable_image")
UPLOAD: Final = (
    *("no_image", "empty_body", "malformed_form", "unexpected_field", "several_images"),
    *("unsupported_media_type", *RECEIVING, *IMAGE),
)
"""Groups of codes, for `problems`."""


def problems(codes: Iterable[str], *, oip: bool = False) -> Responses:
    """The answers that those problems are, by status. oip: under /v2, where they have `error` too."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in dict.fromkeys(codes):
        by_status[CODES[code][0]].append(code)
    return {status: _answer(status, codes, oip) for status, codes in sorted(by_status.items())}


def _answer(status: int, codes: list[str], oip: bool) -> dict[str, Any]:
    examples = {code: {"$ref": f"#/components/examples/{_name(code, oip)}"} for code in codes}
    answer: dict[str, Any] = {
        "description": _STATUS_TEXTS[status],
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}},
    }
    if status in (429, 503):
        answer["headers"] = _RETRY_AFTER
    return answer


def examples() -> dict[str, dict[str, Any]]:
    """What the answers refer to: a problem of every code, as it is and as it is under /v2."""
    return {_name(code, oip): {"value": _example(code, oip)} for oip in (False, True) for code in CODES}


def _name(code: str, oip: bool) -> str:
    return f"v2_{code}" if oip else code


def _example(code: str, oip: bool) -> dict[str, Any]:
    status, title, detail = CODES[code]
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "3f1c9c1e5b0f4f0c8d0a7f3a2b1c4d5e",
    }
    return document | ({"error": detail} if oip else {})
