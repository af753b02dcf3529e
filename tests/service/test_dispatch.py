"""The pool: bounded, first come first served, and every request gets exactly one outcome."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.errors import ClientGoneError, Problem
from service.workers import Ticket, WorkerPool


async def never() -> None:
    await asyncio.Event().wait()


def pooled(
    scenario: Callable[[WorkerPool], Coroutine[Any, Any, None]],
    workers: int = 1,
    queue_size: int = 4,
    deadline_s: float = 20,
) -> WorkerPool:
    async def run() -> WorkerPool:
        pool = WorkerPool(workers, queue_size, deadline_s)
        try:
            async with asyncio.timeout(15):
                await scenario(pool)
        finally:
            pool.close()
        return pool

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def obedient(started: threading.Event) -> Callable[[Ticket], None]:
    """Work that goes on until its ticket says otherwise."""

    def work(ticket: Ticket) -> None:
        started.set()
        while True:
            ticket.check()
            time.sleep(0.002)

    return work


def test_the_result_is_returned_and_an_error_is_raised() -> None:
    async def scenario(pool: WorkerPool) -> None:
        assert await pool.run(lambda _: 7, never()) == 7
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda _: 1 // 0, never())
        await until(lambda: pool.running == 0)

    pooled(scenario)


def test_work_runs_in_the_order_of_arrival_and_never_more_than_the_workers_at_once() -> None:
    order: list[int] = []
    at_once: list[int] = []
    lock = threading.Lock()

    async def scenario(pool: WorkerPool) -> None:
        def work(number: int) -> Callable[[Ticket], None]:
            def do(_: Ticket) -> None:
                with lock:
                    order.append(number)
                    at_once.append(pool.running)
                time.sleep(0.005)

            return do

        await asyncio.gather(*(pool.run(work(number), never()) for number in range(12)))

    pooled(scenario, workers=2, queue_size=10)
    assert sorted(order) == list(range(12))
    assert all(abs(place - number) <= 1 for place, number in enumerate(order))
    assert max(at_once) == 2


def test_what_finds_no_room_is_refused_at_once_with_a_time_to_wait() -> None:
    async def scenario(pool: WorkerPool) -> None:
        gate = threading.Event()
        accepted = [asyncio.create_task(pool.run(lambda _: gate.wait(10), never())) for _ in range(3)]
        await until(lambda: pool.running == 1 and pool.waiting == 2)
        with pytest.raises(Problem) as refusal:
            await pool.run(lambda _: None, never())
        assert (refusal.value.status, refusal.value.code) == (503, "queue_full")
        assert int(refusal.value.headers["Retry-After"]) >= 1
        gate.set()
        assert await asyncio.gather(*accepted) == [True, True, True]
        assert await pool.run(lambda _: "room again", never()) == "room again"

    pooled(scenario, queue_size=2)


def test_without_a_queue_there_is_room_for_as_many_as_there_are_workers() -> None:
    async def scenario(pool: WorkerPool) -> None:
        gate = threading.Event()
        accepted = [asyncio.create_task(pool.run(lambda _: gate.wait(10), never())) for _ in range(2)]
        await until(lambda: pool.running == 2)
        with pytest.raises(Problem, match="Retry-After"):
            pool.refuse_when_full()
        gate.set()
        await asyncio.gather(*accepted)

    pooled(scenario, workers=2, queue_size=0)


def test_the_deadline_covers_waiting() -> None:
    async def scenario(pool: WorkerPool) -> None:
        gate = threading.Event()
        stubborn = asyncio.create_task(pool.run(lambda _: gate.wait(10), never()))
        await until(lambda: pool.running == 1)
        ran = threading.Event()
        with pytest.raises(Problem) as passed:
            await pool.run(lambda _: ran.set(), never())
        assert (passed.value.status, passed.value.code) == (504, "deadline")
        assert pool.waiting == 0
        assert not ran.is_set()
        gate.set()
        with pytest.raises(Problem, match="PSANET_DEADLINE_S"):
            await stubborn
        await until(lambda: pool.running == 0)

    pooled(scenario, deadline_s=0.1)


def test_the_deadline_covers_work_and_frees_the_worker() -> None:
    async def scenario(pool: WorkerPool) -> None:
        started = time.monotonic()
        with pytest.raises(Problem) as passed:
            await pool.run(obedient(threading.Event()), never())
        assert passed.value.code == "deadline"
        assert time.monotonic() - started < 2
        await until(lambda: pool.running == 0)

    pooled(scenario, deadline_s=0.1)


def test_a_client_that_leaves_frees_the_worker() -> None:
    async def scenario(pool: WorkerPool) -> None:
        started, leave = threading.Event(), asyncio.Event()

        async def gone() -> None:
            await leave.wait()

        request = asyncio.create_task(pool.run(obedient(started), gone()))
        await until(started.is_set)
        leave.set()
        with pytest.raises(ClientGoneError):
            await request
        await until(lambda: pool.running == 0)

    pooled(scenario)


def test_a_client_that_leaves_the_queue_makes_room_and_is_never_worked_on() -> None:
    async def scenario(pool: WorkerPool) -> None:
        gate, ran, leave = threading.Event(), threading.Event(), asyncio.Event()

        async def gone() -> None:
            await leave.wait()

        first = asyncio.create_task(pool.run(lambda _: gate.wait(10), never()))
        await until(lambda: pool.running == 1)
        second = asyncio.create_task(pool.run(lambda _: ran.set(), gone()))
        await until(lambda: pool.waiting == 1)
        leave.set()
        with pytest.raises(ClientGoneError):
            await second
        assert pool.waiting == 0
        gate.set()
        await first
        await until(lambda: pool.running == 0)
        assert not ran.is_set()

    pooled(scenario, queue_size=1)


def test_a_worker_counts_as_busy_until_given_up_work_has_really_ended() -> None:
    async def scenario(pool: WorkerPool) -> None:
        gate = threading.Event()
        with pytest.raises(Problem):
            await pool.run(lambda _: gate.wait(10), never())
        assert pool.running == 1
        with pytest.raises(Problem, match="Retry-After"):
            pool.refuse_when_full()
        gate.set()
        await until(lambda: pool.running == 0)
        pool.refuse_when_full()

    pooled(scenario, queue_size=0, deadline_s=0.1)


def test_giving_up_all_ends_what_waits_and_what_runs_with_503() -> None:
    async def scenario(pool: WorkerPool) -> None:
        started = threading.Event()
        requests = [asyncio.create_task(pool.run(obedient(started), never())) for _ in range(3)]
        await until(lambda: started.is_set() and pool.waiting == 2)
        pool.give_up_all()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert [outcome.code for outcome in outcomes if isinstance(outcome, Problem)] == ["draining"] * 3
        await until(lambda: pool.running == 0)
        assert pool.waiting == 0

    pooled(scenario)


def test_a_cancelled_handler_leaves_nothing_behind() -> None:
    async def scenario(pool: WorkerPool) -> None:
        started = threading.Event()
        requests = [asyncio.create_task(pool.run(obedient(started), never())) for _ in range(2)]
        await until(lambda: started.is_set() and pool.waiting == 1)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await until(lambda: pool.running == 0)
        assert pool.waiting == 0
        assert await pool.run(lambda _: "works", never()) == "works"

    pooled(scenario)


def test_the_time_in_the_queue_is_told() -> None:
    async def scenario(pool: WorkerPool) -> None:
        first = asyncio.create_task(pool.run(lambda _: time.sleep(0.1), never()))
        await until(lambda: pool.running == 1)
        assert await pool.run(lambda ticket: ticket.queue_s, never()) >= 0.08
        await first

    pooled(scenario)
