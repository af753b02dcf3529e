"""What asking a service can end in:

PSANetError
├── NoAnswerError            nobody answers there, or not in time
├── UnreadableAnswerError    it is no PSANet service that answers
└── AnswerError              the service says what is wrong: status, code, detail, request_id
    ├── RefusedError         what was sent cannot be used (4xx): `detail` says how to mend it
    ├── BusyError            no room or not ready (429, 503), also after all retries: `retry_after_s`
    └── FaultError           its own fault, or not done in time (other 5xx)
"""

from collections.abc import Mapping
from typing import Any

from httpx2 import Response

_BUSY = (429, 503)
_EXCERPT = 200


class PSANetError(Exception):
    """Whatever went wrong while a service was asked."""


class NoAnswerError(PSANetError):
    """Nobody answers at that address, or not in time."""


class UnreadableAnswerError(PSANetError):
    """An answer that no PSANet service gives."""


class AnswerError(PSANetError):
    """A problem that the service answers.

    status: of HTTP; code: for programs (docs/openapi.json lists them); detail: for people, with the mend;
    request_id: by which the service's log tells more; errors: parameter → message, of bad parameters.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        errors: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{detail} ({status} {code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.errors = dict(errors or {})


class RefusedError(AnswerError):
    """What was sent cannot be used."""


class BusyError(AnswerError):
    """There is no room just now; `retry_after_s` says when to come back, where the service knows."""


class FaultError(AnswerError):
    """The service's own fault, or a deadline that has passed."""


def error_of(response: Response, retry_after_s: float | None) -> AnswerError:
    """The error that a response with a status of 400 or more stands for, whoever sent it."""
    status = response.status_code
    kind = BusyError if status in _BUSY else FaultError if status >= 500 else RefusedError
    document = _object(response)
    detail = document.get("detail")
    if not isinstance(detail, str):  # a proxy's own page, say
        detail = f"{response.url} answers {status} {response.reason_phrase}: {response.text[:_EXCERPT]!r}"
    return kind(
        status,
        str(document.get("code", "unknown")),
        detail,
        request_id=document.get("request_id") or response.headers.get("X-Request-ID"),
        retry_after_s=retry_after_s,
        errors=_messages(document.get("errors")),
    )


def _messages(errors: Any) -> dict[str, str]:
    entries = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    return {str(each.get("parameter")): str(each.get("message")) for each in entries}


def _object(response: Response) -> dict[str, Any]:
    if "json" not in response.headers.get("Content-Type", ""):
        return {}
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
