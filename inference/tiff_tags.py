"""The tags of a TIFF directory that concern pixels, and the orientation that Exif keeps in such a directory.

Reads what is asked for and nothing else: a directory may claim thousands of values, each as large as the
file, and a reader that loads them all copies the file thousands of times over. Sources: TIFF 6.0, BigTIFF,
Exif 2.32.
"""

import struct
from dataclasses import dataclass
from typing import Final

WIDTH, HEIGHT, COMPRESSION, ORIENTATION, TILE_WIDTH, TILE_HEIGHT = 256, 257, 259, 274, 322, 323
ICC_PROFILE = 34675
_CONCERN_PIXELS: Final = frozenset(
    {
        *(WIDTH, HEIGHT, 258, COMPRESSION, 262, 266),  # size, bits, compression, photometric, fill order
        *(273, 277, 278, 279, 284, 317, 320),  # strips, samples, planes, predictor, colour map
        *(TILE_WIDTH, TILE_HEIGHT, 324, 325),  # tiles
        *(332, 338, 339, 347, 529, 530, 531, 532),  # inks, extra samples, sample format, JPEG tables, YCbCr
    }
)
_MAX_ENTRIES: Final = 4096
_LETTERS: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class Directory:
    """First directory of a TIFF: entries by tag as they stand in the file (12 bytes, 20 in BigTIFF)."""

    start: int
    order: str
    big: bool
    entries: dict[int, bytes]

    def value(self, tag: int, default: int) -> int:
        """The tag's first integer where the entry itself holds it, else `default`."""
        entry = self.entries.get(tag)
        if entry is None:
            return default
        letter = _LETTERS.get(struct.unpack_from(self.order + "H", entry, 2)[0], "")
        at = 12 if self.big else 8
        if not letter or at + struct.calcsize(letter) > len(entry):
            return default
        return int(struct.unpack_from(self.order + letter, entry, at)[0])

    def content(self, tag: int, data: bytes, most: int) -> bytes:
        """What the tag's entry points to, of single bytes; empty where there are none or more than `most`."""
        entry = self.entries.get(tag)
        if entry is None or struct.unpack_from(self.order + "H", entry, 2)[0] not in (1, 7):
            return b""
        word = "Q" if self.big else "I"
        count, at = struct.unpack_from(self.order + 2 * word, entry, 4)
        if not struct.calcsize(word) < count <= most or at + count > len(data):
            return b""
        return data[at : at + count]


def read_directory(data: bytes) -> Directory:
    """Raises struct.error where there is no directory or it lies outside the data."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise struct.error("neither II nor MM")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    if start >= len(data):  # checked here: a huge offset would raise something other than struct.error
        raise struct.error("the directory lies outside the data")
    count = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
    size, first = (20, start + 8) if big else (12, start + 2)
    entries: dict[int, bytes] = {}
    for at in range(first, first + min(count, _MAX_ENTRIES) * size, size):
        entry = data[at : at + size]
        if len(entry) < size:
            raise struct.error("the directory ends outside the data")
        entries.setdefault(struct.unpack_from(order + "H", entry)[0], entry)
    return Directory(start, order, big, entries)


def without_metadata(data: bytes, directory: Directory) -> bytes:
    """The same bytes, but the directory lists only what concerns pixels, and no other follows it.

    Written in place, where it is never longer than it was: appended, it would serve as pixels to a strip that
    the end of the file cuts off.
    """
    kept = [directory.entries[tag] for tag in sorted(directory.entries.keys() & _CONCERN_PIXELS)]
    count, link = ("Q", "Q") if directory.big else ("H", "I")
    table = b"".join(
        [struct.pack(directory.order + count, len(kept)), *kept, struct.pack(directory.order + link, 0)]
    )
    return b"".join([data[: directory.start], table, data[directory.start + len(table) :]])


def exif_orientation(exif: bytes) -> int:
    """Orientation 1..8 of an Exif block; 1 where it is absent or broken."""
    try:
        return valid_orientation(read_directory(exif).value(ORIENTATION, 1))
    except struct.error:
        return 1


def valid_orientation(value: int) -> int:
    return value if 1 <= value <= 8 else 1
