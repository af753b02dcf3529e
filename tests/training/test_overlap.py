"""Reading ahead and finishing behind: order, bounds, errors, and that it does overlap."""

import threading
import time
from collections import Counter
from contextlib import closing

import pytest

from training.overlap import overlapped


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order_whatever_the_number_of_workers(workers: int, count: int) -> None:
    def finish(item: int, worked: str) -> str:
        time.sleep(0.004 * (count - item))  # the last ones are done first
        return f"{worked} finished"

    found = list(
        overlapped(
            range(count),
            lambda item: item * 10,
            lambda item, loaded: f"{item} {loaded}",
            finish,
            workers=workers,
        )
    )
    assert found == [(item, f"{item} {item * 10} finished") for item in range(count)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_few_items_are_held_at_a_time(workers: int) -> None:
    at: Counter[str] = Counter()
    most: Counter[str] = Counter()
    lock = threading.Lock()

    def move(leaves: str | None, enters: str) -> None:
        with lock:
            at[enters] += 1
            if leaves:
                at[leaves] -= 1
            most[enters] = max(most[enters], at[enters])

    steps = overlapped(
        range(30),
        lambda item: move(None, "loaded"),
        lambda item, loaded: move("loaded", "worked"),
        lambda item, worked: move("worked", "finished"),
        workers=workers,
    )
    for _ in steps:
        move("finished", "taken")
    assert most["loaded"] <= workers + 1
    assert most["worked"] <= workers + 1


def test_loading_and_finishing_happen_beside_the_work() -> None:
    """Each step waits for a neighbour's: one after another they would wait for ever."""
    loaded, worked = threading.Event(), threading.Event()

    def load(item: int) -> None:
        if item == 1:
            loaded.set()

    def work(item: int, value: None) -> None:
        if item == 0:
            assert loaded.wait(5), "the next item was not loaded beside the work"
        if item == 1:
            worked.set()

    def finish(item: int, value: None) -> None:
        if item == 0:
            assert worked.wait(5), "the next item was not worked on beside the finishing"

    assert len(list(overlapped(range(2), load, work, finish, workers=1))) == 2


def test_the_work_stays_in_the_callers_thread() -> None:
    names = [
        found
        for _, found in overlapped(
            range(3),
            lambda item: None,
            lambda item, loaded: threading.current_thread(),
            lambda item, worked: worked,
            workers=2,
        )
    ]
    assert set(names) == {threading.current_thread()}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("failing", ["load", "work", "finish"])
def test_an_error_comes_at_its_items_turn_and_leaves_no_thread(workers: int, failing: str) -> None:
    def step(name: str, item: int) -> None:
        if name == failing and item == 3:
            raise ValueError(f"{name} of {item}")

    before = threading.active_count()
    done = []
    steps = overlapped(
        range(9),
        lambda item: step("load", item),
        lambda item, _: step("work", item),
        lambda item, _: step("finish", item),
        workers=workers,
    )
    with pytest.raises(ValueError, match=f"{failing} of 3"):
        done += [item for item, _ in steps]
    for item, _ in steps:
        done.append(item)
    assert threading.active_count() == before


def test_closing_it_half_way_leaves_no_thread() -> None:
    before = threading.active_count()
    steps = overlapped(range(9), lambda item: item, lambda item, a: a, lambda item, b: b, workers=2)
    with closing(steps):
        assert next(steps) == (0, 0)
    assert threading.active_count() == before
