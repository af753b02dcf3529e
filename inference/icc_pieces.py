"""ICC profiles as JPEG and PNG files hold them. Not here: what is done with one (`color_profiles.py`).

Sources: ICC.1:2022 annex B; PNG third edition, 11.3.2.3.
"""

import zlib

MAX_PROFILE_BYTES = 1 << 20
"""Printers' colour profiles have half of it, those of photographs some kilobytes."""

_MAX_PROFILE_PIECES = MAX_PROFILE_BYTES >> 16


class JpegProfile:
    """An ICC profile, in numbered pieces of at most 64 KB."""

    _MARK = b"ICC_PROFILE\0"

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self._count = 0

    def add(self, content: bytes) -> None:
        """A segment of the kind that pieces come in."""
        if content.startswith(self._MARK) and len(content) > 14 and len(self._pieces) < _MAX_PROFILE_PIECES:
            self._pieces[content[12]], self._count = content[14:], content[13]

    def joined(self) -> bytes:
        """Empty where a piece is missing."""
        if not self._count or sorted(self._pieces) != list(range(1, self._count + 1)):
            return b""
        return b"".join(self._pieces[number] for number in sorted(self._pieces))


def png_profile(content: bytes) -> bytes:
    """Of an iCCP chunk: a name, a zero, the method of compression, which is always 0, and the profile."""
    _, _, compressed = content.partition(b"\0")
    decompressor = zlib.decompressobj()
    try:
        profile = decompressor.decompress(compressed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if decompressor.eof else b""
