"""Receives one image from a request body, counting bytes as they arrive: nothing spooled, nothing unbounded.

Starlette's own form parser reads a whole upload before the handler runs, and its part limit leaves files out.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from service.errors import ClientGoneError, Problem
from service.settings import Settings

_RAW_TYPES = ("application/octet-stream", "")
_ACCEPT = "image/*, application/octet-stream, multipart/form-data"


class Buffers:
    """Counts the bytes of all bodies that are held at the same time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    @contextmanager
    def lease(self) -> Iterator[Callable[[int], None]]:
        """Give a function that books bytes (Problem 503 past the limit); all are given back at the end."""
        booked = 0

        def book(count: int) -> None:
            nonlocal booked
            if self.held + count > self._limit:
                detail = (
                    "Too much is being received and held: send less at once, or try again after the time in "
                    "Retry-After."
                )
                raise Problem(503, "too_many_uploads", detail, title="Too busy", retry_after_s=2)
            self.held += count
            booked += count

        try:
            yield book
        finally:
            self.held -= booked


async def receive_image(request: Request, settings: Settings, book: Callable[[int], None]) -> bytes:
    """Read the body and return the bytes of the image in it.

    book: called with the size of each piece before it is kept.
    Raises Problem (400 malformed, empty, not exactly one field `image` · 408 too slow · 413 too many bytes ·
    415 not a body that can hold an image · 503 no room) or ClientGoneError.
    """
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    kind = media_type.decode("latin-1").lower()
    _refuse_encoded(request)
    if kind == "multipart/form-data":
        form = _ImageForm(options.get(b"boundary", b""))
        await _receive(request, settings, book, form.feed)
        return form.image()
    if kind.startswith("image/") or kind in _RAW_TYPES:
        data = bytearray()
        await _receive(request, settings, book, data.extend)
        return _not_empty(data)
    detail = (
        f"A body of type {kind} cannot hold an image: send multipart/form-data with a field `image` "
        "(curl -F image=@photo.jpg), or the bytes with Content-Type: image/jpeg or application/octet-stream."
    )
    raise Problem(415, "unsupported_media_type", detail, headers={"Accept-Post": _ACCEPT})


async def receive_body(request: Request, settings: Settings, book: Callable[[int], None]) -> bytes:
    """Read the whole body, whatever its type. Raises as `receive_image` does."""
    _refuse_encoded(request)
    data = bytearray()
    await _receive(request, settings, book, data.extend)
    return bytes(data)


def _refuse_encoded(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        detail = f"Content-Encoding {encoding} is not accepted: send the bytes as they are."
        raise Problem(415, "unsupported_encoding", detail)


async def _receive(
    request: Request, settings: Settings, book: Callable[[int], None], feed: Callable[[bytes], object]
) -> None:
    limit = settings.max_bytes
    too_large = Problem(
        413,
        "too_many_bytes",
        f"A body may have {limit} bytes ({limit.human_readable()}): send a smaller image, or compress it.",
        title="Too many bytes",
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > 20 or int(declared) > limit):
        raise too_large
    received = 0
    try:
        async with asyncio.timeout(settings.receive_timeout_s):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limit:
                    raise too_large
                book(len(chunk))
                feed(chunk)
    except TimeoutError:
        detail = (
            f"The body did not arrive within {settings.receive_timeout_s:g} s: send less, or send it faster."
        )
        raise Problem(408, "upload_timeout", detail, title="The upload took too long", close=True) from None
    except ClientDisconnect:
        raise ClientGoneError from None


def _not_empty(data: bytearray) -> bytes:
    if not data:
        detail = "The image has no bytes: send the file's content (curl -F image=@photo.jpg, with the @)."
        raise Problem(400, "empty_body", detail, title="No image")
    return bytes(data)


class _ImageForm:
    """A multipart/form-data body that is allowed exactly one part, `image`."""

    def __init__(self, boundary: bytes) -> None:
        self._data = bytearray()
        self._parts = 0
        self._ended = False
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        if not boundary:
            raise _malformed("its Content-Type has no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._name,
                    "on_header_value": self._value,
                    "on_header_end": self._header,
                    "on_headers_finished": self._identify,
                    "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(str(error)) from None

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(str(error)) from None

    def image(self) -> bytes:
        if self._parts == 0:
            raise Problem(
                400, "no_image", "The form has no field `image`: curl -F image=@photo.jpg", title="No image"
            )
        if not self._ended:
            raise _malformed("it ends before its closing boundary")
        return _not_empty(self._data)

    def _begin(self) -> None:
        self._disposition = b""

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _identify(self) -> None:
        _, options = parse_options_header(self._disposition)
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if field != "image":
            detail = (
                f"The form has a field `{field[:64]}`: only `image` is taken, parameters go into the query "
                "string (/segment?output=overlay)."
            )
            raise Problem(400, "unexpected_field", detail)
        self._parts += 1
        if self._parts > 1:
            raise Problem(400, "several_images", "The form has several images: send one a request.")

    def _end(self) -> None:
        self._ended = True


def _malformed(reason: str) -> Problem:
    return Problem(
        400, "malformed_form", f"The multipart body cannot be read: {reason}.", title="Malformed request"
    )
