"""Arrays of numbers as JSON text and back, without lists that hold millions of Python's numbers.

    json_integers(np.array([3, 4, 255], np.uint8))       b"3,4,255"
    read_bytes(b"[[1, 2, 3]]", (1, 1, 3))                 the array

Writing the labels of 2 megapixels takes 0.03 s and 0.2 by the json module, their confidence 0.35 and 1.9.
Reading takes as long as it does there, but in pieces, between which other threads get on.
"""

import json
from functools import cache

import numpy as np
from numpy.typing import NDArray

from inference.errors import ParameterError

_PIECE = 1 << 18
"""Characters that the json module reads at a time: a few milliseconds."""
_INSIDE = bytes.maketrans(b"[]", b"  ")
_DIGITS, _GROUP = 12, 3
_NUMBERS = "data has to hold whole numbers from 0 to 255, with commas between"


def json_integers(values: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """All values, row by row, with commas between and no brackets."""
    if values.max(initial=0) < 10:  # masks, and labels of few classes: no zero bytes to take out
        text = np.empty((values.size, 2), np.uint8)
        text[:, 0], text[:, 1] = ord("0") + values.ravel(), ord(",")
        return text.tobytes()[:-1]
    return _integers(values.dtype.itemsize)[values.ravel()].tobytes().translate(None, b"\0")[:-1]


def json_fractions(values: NDArray[np.float32]) -> bytes:
    """All values, which lie in 0..1 or hardly outside, with commas between and no brackets. Twelve digits:
    from 0.0001 on they read back as the same float32."""
    scaled = np.rint(values.ravel() * np.float64(10**_DIGITS)).clip(0).astype(np.uint64)
    text = np.empty((scaled.size, 2 + _DIGITS + 1), np.uint8)
    text[:, 0] = ord("0") + scaled // 10**_DIGITS
    text[:, 1], text[:, -1] = ord("."), ord(",")
    for start in range(0, _DIGITS, _GROUP):
        group = scaled // 10 ** (_DIGITS - _GROUP - start) % 10**_GROUP
        text[:, 2 + start : 2 + start + _GROUP] = _groups()[group]
    return text.tobytes()[:-1]


def read_bytes(text: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """An array of that shape from JSON: nested as it is, or flat.

    Raises ParameterError for anything else than that many whole numbers from 0 to 255.
    """
    if text.translate(None, b"0123456789 \t\r\n") not in (_flat(shape), _nested(shape)):
        count = shape[0] * shape[1] * shape[2]
        raise ParameterError(
            f"data has to hold {count} whole numbers, in one list or nested as the shape {list(shape)} is"
        )
    numbers = text.translate(_INSIDE)
    values = np.empty(shape, np.uint8)
    flat, done, start = values.reshape(-1), 0, 0
    while start < len(numbers):
        end = numbers.find(b",", start + _PIECE)
        end = len(numbers) if end < 0 else end
        piece = _piece(numbers[start:end])
        flat[done : done + len(piece)] = piece
        done, start = done + len(piece), end + 1
    if done < flat.size:
        raise ParameterError(_NUMBERS)
    return values


def _piece(text: bytes) -> NDArray[np.uint8]:
    try:
        return np.asarray(json.loads(b"[%b]" % text), np.uint8)
    except (ValueError, OverflowError):  # no number between two commas, or two of them; above 255
        raise ParameterError(_NUMBERS) from None


def _flat(shape: tuple[int, int, int]) -> bytes:
    """What remains of a flat list without its numbers."""
    return b"[%b]" % (b"," * (shape[0] * shape[1] * shape[2] - 1))


def _nested(shape: tuple[int, int, int]) -> bytes:
    """The same of nested lists."""
    text = b""
    for count in reversed(shape):
        text = b"[%b]" % b",".join([text] * count)
    return text


@cache
def _integers(size: int) -> NDArray[np.bytes_]:
    """Every number of so many bytes, as text with a comma, filled up with zero bytes."""
    return np.array([b"%d," % number for number in range(256**size)])


@cache
def _groups() -> NDArray[np.uint8]:
    """Every number of three digits as its characters."""
    return np.array([list(b"%03d" % number) for number in range(10**_GROUP)], np.uint8)
