"""Keeps glibc from holding on to memory that nobody uses. Does nothing on other C libraries.

Decoding and stitching allocate and free tens or hundreds of megabytes a request. glibc keeps freed memory, in
a heap for each thread, so that a service seems to grow for ever: what its users complain of most.
"""

import ctypes
import os
import sys
from functools import cache

_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1
_KEPT_BLOCK_BYTES, _KEPT_BYTES = 32 << 20, 256 << 20
"""Of one block, the most that glibc takes; and of all that is free at the end of a heap."""
_ARENAS = 2


def limit_heaps() -> None:
    """Let threads share two heaps instead of up to eight a core. For entry points, before there are threads.

    Same as MALLOC_ARENA_MAX=2, which would have to be set before the process starts; that variable wins.
    """
    libc = _glibc()
    if libc is not None and "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def keep_buffers() -> None:
    """Let memory that a request has freed stay for the next one, until `give_back`: for workers.

    Left alone, glibc may return the buffers of every image to the system and ask for them again: 18 MB and
    4,700 page faults for a photograph of 2048x1024, 8 of the 21 ms that decoding it took.
    """
    libc = _glibc()
    if libc is not None and not {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Return free memory to the system. Takes milliseconds; not for the event loop."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


class Tidier:
    """Gives memory back soon after the last work, or once in a while under load. Asked at equal intervals."""

    def __init__(self, at_least_every: int = 12) -> None:
        self._at_least_every, self._seen, self._since = at_least_every, 0, 0

    def due(self, finished: int, *, busy: bool) -> bool:
        """Whether to `give_back` now. finished: pieces of work that have ended so far."""
        self._since += 1
        if finished == self._seen or (busy and self._since < self._at_least_every):
            return False
        self._seen, self._since = finished, 0
        return True


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
