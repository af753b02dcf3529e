"""Pieces of work among threads: each once, at one place at a time, and what happens when one fails."""

import threading
import time
from collections.abc import Callable

import pytest

from inference.sharing import MOST_THREADS, share, usable_threads


def nothing() -> None:
    pass


@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_every_piece_is_done_once_and_a_place_has_one_at_a_time(count: int, places: int) -> None:
    done: list[int] = []
    busy = [threading.Lock() for _ in range(places)]

    def do(piece: int, place: threading.Lock, check: Callable[[], None]) -> None:
        assert place.acquire(blocking=False)
        time.sleep(0.001)
        done.append(piece)
        place.release()

    share(range(count), busy, do, nothing)
    assert sorted(done) == list(range(count))


def test_other_threads_help() -> None:
    """Each piece waits for another one to be under way."""
    together = threading.Barrier(2, timeout=10)
    share([1, 2], ["a", "b"], lambda piece, place, check: [together.wait()][0] and None, nothing)


def test_a_check_that_raises_ends_the_work_and_no_thread_is_left() -> None:
    calls: list[int] = []

    def check() -> None:
        raise KeyboardInterrupt

    def do(piece: int, place: str, check: Callable[[], None]) -> None:
        check()
        calls.append(piece)
        time.sleep(0.001)

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        share(range(1000), ["a", "b"], do, check)
    assert len(calls) < 1000
    assert threading.active_count() == before


def test_what_fails_in_another_thread_is_raised_here() -> None:
    caller = threading.current_thread()

    def do(piece: int, place: str, check: Callable[[], None]) -> None:
        time.sleep(0.002)
        if threading.current_thread() is not caller:
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        share(range(1000), ["a", "b"], do, nothing)


def test_threads_are_those_asked_for_or_the_processors_within_reason() -> None:
    assert usable_threads(3) == 3
    assert usable_threads(100) == MOST_THREADS
    assert 1 <= usable_threads(None) <= MOST_THREADS
