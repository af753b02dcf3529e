"""Images as callers have them, and as they are sent: a path, a file's content, or an array of pixels."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ImageLike = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""A path, the content of an image file, or (H, W, 3) RGB in [0, 255]."""


def read(image: ImageLike) -> bytes | NDArray[np.uint8]:
    """The content of the file, or the array. Raises OSError, and TypeError for what is no image."""
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise TypeError(f"an image is (H, W, 3) of uint8, RGB, not {image.shape} of {image.dtype}")
        return image
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    raise TypeError(f"an image is a path, bytes or an array, not {type(image).__name__}")


def as_file(image: bytes | NDArray[np.uint8]) -> bytes:
    """The content of an image file, of arrays a PNG."""
    return image if isinstance(image, bytes) else _png(image)


def _png(image: NDArray[Any]) -> bytes:
    """Plain rows, lightly packed: made for a short way, not for a disk."""
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = image.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
