"""Memory that jobs share: never more than there is, in the order of arrival, and nobody waits in vain."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from inference.errors import PredictionCancelled
from service.room import Room
from service.tickets import Ticket
from tests.service.running import until


class Holders:
    """Threads that hold memory until they are let go."""

    def __init__(self, room: Room) -> None:
        self.room, self.pool = room, ThreadPoolExecutor(16)
        self.inside: list[int] = []
        self.go: dict[int, threading.Event] = {}

    def hold(self, wanted: int, ticket: Ticket | None = None) -> "Future[None]":
        self.go[wanted] = threading.Event()

        def work() -> None:
            with self.room.share(wanted, ticket or Ticket(20)):
                self.inside.append(wanted)
                self.go[wanted].wait(20)
            self.inside.remove(wanted)

        future = self.pool.submit(work)
        time.sleep(0.03)
        return future


def test_who_finds_too_little_waits_and_those_behind_wait_too() -> None:
    holders = Holders(Room(100))
    futures = [holders.hold(wanted) for wanted in (60, 50, 10)]
    assert holders.inside == [60]
    holders.go[60].set()
    until(lambda: sorted(holders.inside) == [10, 50])
    for event in holders.go.values():
        event.set()
    for future in futures:
        future.result(10)
    assert holders.room.free == 100


def test_who_wants_more_than_there_is_gets_in_alone() -> None:
    holders = Holders(Room(100))
    futures = [holders.hold(500), holders.hold(1)]
    assert holders.inside == [500]
    for event in holders.go.values():
        event.set()
    for future in futures:
        future.result(10)
    assert holders.room.free == 100


def test_the_wait_ends_with_the_ticket_and_lets_others_pass() -> None:
    holders = Holders(Room(100))
    first = holders.hold(60)
    given_up, late = Ticket(20), Ticket(0.1)
    waiting = [holders.hold(70, given_up), holders.hold(80, late), holders.hold(30)]
    given_up.give_up()
    for future in waiting[:2]:
        with pytest.raises(PredictionCancelled):
            future.result(10)
    until(lambda: 30 in holders.inside)
    for event in holders.go.values():
        event.set()
    first.result(10)
    waiting[2].result(10)
    assert holders.room.free == 100


def test_memory_is_given_back_when_the_work_fails() -> None:
    room = Room(10)
    with pytest.raises(ZeroDivisionError), room.share(10, Ticket(20)):
        _ = 1 // 0
    assert room.free == 10
