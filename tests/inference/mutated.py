"""Image files of many kinds, and the same damaged in the ways that break decoders: for tests and fuzzing.

files = seeds(); name, content = mutated(files, number)      the same for the same number, at any time
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)
_HEAD = 160
"""Bytes at the beginning that half of all changes go to: sizes, tables, tags."""


def seeds() -> dict[str, list[bytes]]:
    """Small sound files by format: colour modes, bit depths, compressions, layouts, frames, metadata."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 31, 4)).astype(np.uint8)
    smooth = Image.fromarray(noise[:4, :5, :3]).resize((61, 47))
    grainy, alpha = Image.fromarray(noise[:, :, :3]), Image.fromarray(noise)
    grey, palette = smooth.convert("L"), smooth.convert("P")
    deep = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "JPEG": [
            _file(smooth, "JPEG"),
            _file(grainy, "JPEG", progressive=True),
            _file(grey, "JPEG", quality=30),
            _file(smooth.convert("CMYK"), "JPEG"),
            _file(smooth, "JPEG", exif=exif, subsampling=0, optimize=True),
            _file(smooth, "JPEG", restart_marker_rows=1),
        ],
        "PNG": [
            _file(smooth, "PNG"),
            _file(grey, "PNG"),
            _file(palette, "PNG"),
            _file(alpha, "PNG"),
            _file(deep, "PNG"),
            _file(smooth.convert("1"), "PNG"),
            _file(grainy, "PNG", save_all=True, append_images=[grainy.rotate(90, expand=False)]),
        ],
        "WEBP": [
            _file(smooth, "WEBP"),
            _file(grainy, "WEBP", lossless=True),
            _file(alpha, "WEBP", exif=exif),
            _file(smooth, "WEBP", save_all=True, append_images=[smooth.rotate(180)]),
        ],
        "TIFF": [
            *(
                _file(smooth, "TIFF", compression=kind)
                for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")
            ),
            _file(grey, "TIFF", compression="packbits"),
            _file(smooth.convert("1"), "TIFF", compression="raw"),
            _file(deep, "TIFF"),
            _file(palette, "TIFF"),
            _file(smooth.convert("CMYK"), "TIFF"),
            _file(grainy, "TIFF", save_all=True, append_images=[grainy]),
        ],
        "BMP": [
            _file(smooth, "BMP"),
            _file(grey, "BMP"),
            _file(smooth.convert("1"), "BMP"),
            _file(alpha, "BMP"),
        ],
    }


def mutated(files: Mapping[str, list[bytes]], number: int, seed: int = 0) -> tuple[str, bytes]:
    """Format and content of the damaged file of that number."""
    rng = random.Random(seed << 40 | number)
    kind = FORMATS[number % len(FORMATS)]
    content = bytearray(rng.choice(files[kind]))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choice(_CHANGES)(content, rng, files[kind])
    if kind == "PNG" and rng.random() < 0.7:  # else its checksums would stop nearly all of it at the door
        content = _with_right_checksums(content)
    return kind, bytes(content)


def _place(content: bytearray, rng: random.Random, room: int = 1) -> int:
    end = max(1, len(content) - room + 1)
    return rng.randrange(min(end, _HEAD)) if rng.random() < 0.5 else rng.randrange(end)


def _flip_bit(content: bytearray, rng: random.Random, _: list[bytes]) -> None:
    if content:
        content[_place(content, rng)] ^= 1 << rng.randrange(8)


def _set_bytes(content: bytearray, rng: random.Random, _: list[bytes]) -> None:
    count = rng.choice((1, 2, 4, 16))
    place = _place(content, rng, count)
    content[place : place + count] = rng.randbytes(count)


def _set_number(content: bytearray, rng: random.Random, _: list[bytes]) -> None:
    code, most = rng.choice((("H", 0xFFFF), ("I", 0xFFFFFFFF)))
    value = struct.pack(rng.choice("<>") + code, rng.choice(_NUMBERS) & most)
    place = _place(content, rng, len(value))
    content[place : place + len(value)] = value


def _truncate(content: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del content[_place(content, rng) :]


def _delete(content: bytearray, rng: random.Random, _: list[bytes]) -> None:
    place = _place(content, rng)
    del content[place : place + rng.choice((1, 2, 10, 100))]


def _repeat(content: bytearray, rng: random.Random, _: list[bytes]) -> None:
    start = _place(content, rng)
    piece = content[start : start + rng.choice((1, 12, 64, 400))] * rng.choice((1, 2, 20))
    place = _place(content, rng)
    content[place:place] = piece


def _splice(content: bytearray, rng: random.Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    place = _place(content, rng)
    content[place:] = other[rng.randrange(len(other)) :]


_CHANGES: tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...] = (
    _flip_bit,
    _flip_bit,
    _set_bytes,
    _set_number,
    _set_number,
    _truncate,
    _delete,
    _repeat,
    _splice,
)


def _with_right_checksums(content: bytearray) -> bytearray:
    place = 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        end = place + 8 + size
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(content[place + 4 : end]))
        place = end + 4
    return content


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
