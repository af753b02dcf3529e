"""JSON that strangers send, read with bounds: the service's own process must not stall over it."""

import json
from typing import Any, NoReturn

from service.errors import Problem

_MOST_VALUES = 2_000_000
"""Commas, about. Reading so many takes a tenth of a second; a text of any length takes next to none."""


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises Problem 400, code `malformed_json`."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > _MOST_VALUES:
        raise _malformed(f"it holds more than {_MOST_VALUES} values")
    try:
        document = json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except ValueError as error:
        raise _malformed(str(error)) from None
    if not isinstance(document, dict):
        raise _malformed("it holds no object")
    return document


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _malformed(reason: str) -> Problem:
    detail = f"The body cannot be read as JSON: {reason}."
    return Problem(400, "malformed_json", detail, title="Malformed request")
