"""The one shape of an error (RFC 9457, application/problem+json) and the one place that maps exceptions.

{"type": "about:blank", "title": "…", "status": 422, "detail": "what is wrong, and the mend",
 "code": "undecodable_image", "request_id": "…"}
"""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from inference.errors import (
    ImageError,
    ImageTooLargeError,
    MemoryBudgetError,
    NoAttentionError,
    ParameterError,
    UnsupportedImageError,
)
from service.tasks import MissingModelError

PROBLEM_TYPE = "application/problem+json"
_MOST_ERRORS = 20
CLIENT_GONE = 499
"""Nobody reads it: the status that log and metrics give a request whose client left (nginx's number)."""


class Problem(Exception):
    """An answer that is an error.

    status: HTTP status. code: a short fixed word for programs. detail: for people, with the mend.
    headers: further response headers. retry_after_s: whole seconds for Retry-After.
    close: the connection is not worth keeping (the rest of the body is not read).
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        close: bool = False,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.title = title or HTTPStatus(status).phrase
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
        if close:
            self.headers["Connection"] = "close"
        self.errors = list(errors)

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """The problem as the object that is sent."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            document["errors"] = self.errors
        if request_id is not None:
            document["request_id"] = request_id
        return document


class ClientGoneError(Exception):
    """The client closed the connection: there is nobody to answer."""


MAPPED_ERRORS: tuple[type[Exception], ...] = (
    Problem,
    ImageError,
    ParameterError,
    MemoryBudgetError,
    MemoryError,
    NoAttentionError,
    MissingModelError,
)
"""What `problem_of` knows beside the framework's own two; anything else is ours and ends as a logged 500."""


def problem_response(problem: Problem, scope: Scope | None = None) -> Response:
    """The response that carries a problem. scope: of the request, None where it is no request at all.

    Under /v2 it has an `error` too: that is all that clients of the Open Inference Protocol look at.
    """
    document = problem.document(None if scope is None else scope["state"].get("request_id"))
    path = "" if scope is None else scope["path"]
    if path == "/v2" or path.startswith("/v2/"):
        document["error"] = problem.detail
    # What a client has sent may be quoted, and JSON can hold what UTF-8 cannot: half of a character pair.
    body = json.dumps(document, ensure_ascii=False).encode(errors="replace")
    return Response(body, status_code=problem.status, headers=problem.headers, media_type=PROBLEM_TYPE)


def problem_of(error: Exception) -> Problem:
    """The problem that an exception stands for; whatever is not listed is our fault: 500 without details."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return _invalid_parameters(error)
        case HTTPException():
            return _framework_problem(error)
        case UnsupportedImageError():
            return Problem(415, "unsupported_image", _sentence(error), title="Not a supported type of image")
        case ImageTooLargeError():
            return Problem(422, "too_many_pixels", _sentence(error), title="Too many pixels")
        case ImageError():
            return Problem(422, "undecodable_image", _sentence(error), title="The image cannot be decoded")
        case ParameterError():
            return Problem(422, "bad_parameter", _sentence(error), title="Bad parameter")
        case NoAttentionError():
            return Problem(422, "no_attention", _sentence(error), title="This model does not tell")
        case MemoryBudgetError():
            return Problem(
                422, "over_memory_budget", _sentence(error), title="More memory than a request may take"
            )
        case MemoryError():
            detail = "The machine is out of memory just now: try again later, or with a smaller image."
            return Problem(503, "out_of_memory", detail, retry_after_s=5)
        case MissingModelError():
            detail = "The models were exchanged in the meantime, and this one has gone; /models lists them."
            return Problem(503, "models_exchanged", detail, title="Models exchanged", retry_after_s=1)
    detail = "The fault is the service's, not the request's. Its log has more under the request's id."
    return Problem(500, "internal_error", detail)


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _framework_problem(error: HTTPException) -> Problem:
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return Problem(404, "not_found", "There is nothing here; /docs lists what there is.", headers=headers)
    if error.status_code == 405:
        detail = f"This address takes {headers.get('Allow', 'another method')}; /docs has examples."
        return Problem(405, "method_not_allowed", detail, headers=headers)
    return Problem(error.status_code, "malformed_request", str(error.detail), headers=headers)


def _invalid_parameters(error: RequestValidationError) -> Problem:
    errors = []
    for item in error.errors()[:_MOST_ERRORS]:  # a query can hold thousands
        name = str(item["loc"][-1]) if item["loc"] else "request"
        text = "no such parameter; /docs lists them" if item["type"] == "extra_forbidden" else item["msg"]
        errors.append({"parameter": name, "message": text})
    detail = "; ".join(f"{item['parameter']}: {item['message']}" for item in errors)
    return Problem(422, "bad_parameter", detail, title="Bad parameter", errors=errors)
