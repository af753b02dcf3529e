"""Pieces of work that a few threads take one after another, the caller's own among them.

numpy lets other threads run while it computes, so that threads pay for arrays of a cache's size and more.

    share(rows, [Workspace(like) for _ in range(2)], finish, check)
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Piece = TypeVar("Piece")
Place = TypeVar("Place")

MOST_THREADS = 8
"""More wait for the interpreter's lock."""


def usable_threads(asked: int | None) -> int:
    """`asked` of a caller, else the processors that this process may use; at most MOST_THREADS."""
    if asked is None:
        asked = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked, MOST_THREADS)


def share(
    pieces: Sequence[Piece],
    places: Sequence[Place],
    do: Callable[[Piece, Place, Callable[[], None]], None],
    check: Callable[[], None],
) -> None:
    """Does every piece once, at each place one at a time; done when it returns.

    `do` gets a piece, a place, and what it is to call now and then: in the caller's thread `check`, whose
    exception ends the work once the other threads have done the pieces that they were at. So does one of
    theirs.
    """
    waiting, lock, stop = iter(pieces), threading.Lock(), threading.Event()

    def work(place: Place, check: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                with lock:
                    piece = next(waiting, _NONE)
                if piece is _NONE:
                    return
                do(piece, place, check)  # type: ignore[arg-type]
        except BaseException:
            stop.set()
            raise

    helpers = places[1 : len(pieces)]
    if not helpers:
        return work(places[0], check)
    with ThreadPoolExecutor(len(helpers), "share") as pool:
        running = [pool.submit(work, place, _nothing) for place in helpers]
        work(places[0], check)
    for each in running:
        each.result()
    return None


_NONE = object()


def _nothing() -> None:
    """The check of a thread that the caller does not see."""
