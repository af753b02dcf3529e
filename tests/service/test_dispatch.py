"""The dispatcher: bounded, short before long, fair, and every request gets exactly one outcome."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from inference.errors import ParameterError, PredictionCancelled
from service.dispatch import Dispatcher, Done
from service.errors import ClientGoneError, Problem
from service.hosted import HostedModel
from service.pace import Pace
from service.tasks import Answer, Job, Order, SegmentTask, Timings
from tests.service.fakes import tiny_info

TASK = SegmentTask(
    output="labels",
    scales=(1.0,),
    flip=False,
    alpha=0.5,
    format="png",
    classes=None,
    polygons=False,
    max_pixels=1000,
)
ANSWER = Answer(b"png", "image/png", Timings(0, 0, 0, 0), 1)


def order(windows: int = 1) -> Order:
    return Order(model="tiny", task=TASK, data=b"", windows=windows)


async def never() -> None:
    await asyncio.Event().wait()


class FakeWorker:
    """Ends jobs when a test says so. window_s: what a window is said to take."""

    def __init__(self, workers: int = 1, window_s: float = 0.1, name: str = "fake") -> None:
        self.workers, self.name = workers, name
        facts = {"engine": "fake", "device": "cpu", "one_size": True, "directions": None, "batch": 1}
        self.models = (HostedModel(info=tiny_info(), window_s=window_s, **facts),)  # type: ignore[arg-type]
        self.jobs: dict[int, tuple[Job, Done]] = {}
        self.cancelled: list[int] = []

    def start(self, job: Job, done: Done) -> None:
        self.jobs[job.number] = job, done

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)

    def finish(self, outcome: Answer | Exception = ANSWER) -> int:
        """End the oldest job; its windows."""
        job, done = self.jobs.pop(next(iter(self.jobs)))
        done(outcome)
        return job.order.windows


Scenario = Callable[[Dispatcher, FakeWorker], Coroutine[Any, Any, None]]


def dispatched(
    scenario: Scenario,
    worker: FakeWorker | None = None,
    queue_size: int = 4,
    queue_windows: int = 1000,
    deadline_s: float = 20,
) -> None:
    async def run() -> None:
        dispatcher = Dispatcher(queue_size=queue_size, queue_windows=queue_windows, deadline_s=deadline_s)
        used = worker or FakeWorker()
        dispatcher.attach(used)
        async with asyncio.timeout(15):
            await scenario(dispatcher, used)

    asyncio.run(run())


async def asked(dispatcher: Dispatcher, windows: int = 1, gone: Any = None) -> asyncio.Task[Answer]:
    """A request that has been accepted."""
    task = asyncio.create_task(dispatcher.run(order(windows), gone or never()))
    await asyncio.sleep(0)
    return task


def test_the_answer_is_returned_and_an_error_is_raised() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        first, second = await asked(dispatcher), await asked(dispatcher)
        assert (dispatcher.running, dispatcher.waiting) == (1, 1)
        worker.finish()
        assert await first is ANSWER
        worker.finish(ParameterError("no"))
        with pytest.raises(ParameterError, match="no"):
            await second
        assert (dispatcher.running, dispatcher.waiting, dispatcher.finished) == (0, 0, 2)

    dispatched(scenario)


def test_requests_of_one_size_are_worked_on_in_the_order_of_arrival() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        tasks = [await asked(dispatcher) for _ in range(12)]
        order = []
        while worker.jobs:
            assert len(worker.jobs) <= 2
            order.append(next(iter(worker.jobs)))
            worker.finish()
        assert order == sorted(order)
        await asyncio.gather(*tasks)

    dispatched(scenario, FakeWorker(workers=2), queue_size=10)


def test_a_short_request_passes_long_ones_but_not_for_ever() -> None:
    """A request of 10 windows of 20 ms is passed by what comes within 200 ms, and by nothing after."""

    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        tasks = [await asked(dispatcher, 1), await asked(dispatcher, 10), await asked(dispatcher, 1)]
        await asyncio.sleep(0.25)
        tasks.append(await asked(dispatcher, 1))
        worker.finish()
        numbers = [worker.finish(), next(iter(worker.jobs))]
        assert numbers == [1, 2], "the short request that came second, then the long one"
        assert [worker.finish(), worker.finish()] == [10, 1]
        await asyncio.gather(*tasks)

    dispatched(scenario, FakeWorker(window_s=0.02))


def test_long_requests_leave_half_of_the_places_to_short_ones() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        long = [await asked(dispatcher, 100) for _ in range(4)]
        assert len(worker.jobs) == 2
        short = [await asked(dispatcher, 1) for _ in range(2)]
        assert len(worker.jobs) == 4
        for _ in range(6):
            worker.finish()
        await asyncio.gather(*long, *short)

    dispatched(scenario, FakeWorker(workers=4), deadline_s=60)


def test_a_single_place_takes_long_requests_too() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        task = await asked(dispatcher, 100)
        worker.finish()
        assert await task is ANSWER

    dispatched(scenario, FakeWorker(workers=1))


def test_the_worker_with_the_least_work_gets_the_next_request() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        other = FakeWorker(workers=4)
        dispatcher.attach(other)
        tasks = [await asked(dispatcher, windows) for windows in (9, 1, 1, 1)]
        assert [len(worker.jobs), len(other.jobs)] == [1, 3]
        while worker.jobs or other.jobs:
            (worker if worker.jobs else other).finish()
        await asyncio.gather(*tasks)

    dispatched(scenario, FakeWorker(workers=4))


def test_what_finds_no_room_is_refused_at_once_with_a_time_to_wait() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        accepted = [await asked(dispatcher) for _ in range(3)]
        with pytest.raises(Problem, match="2 requests") as refusal:
            await dispatcher.run(order(), never())
        assert (refusal.value.status, refusal.value.code) == (503, "queue_full")
        assert int(refusal.value.headers["Retry-After"]) >= 1
        for _ in range(3):
            worker.finish()
        await asyncio.gather(*accepted)
        dispatcher.refuse_when_full()

    dispatched(scenario, queue_size=2)


def test_without_a_queue_there_is_room_for_as_many_as_are_worked_on() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        accepted = [await asked(dispatcher) for _ in range(2)]
        with pytest.raises(Problem, match="Retry-After"):
            dispatcher.refuse_when_full()
        worker.finish()
        worker.finish()
        await asyncio.gather(*accepted)

    dispatched(scenario, FakeWorker(workers=2), queue_size=0)


def test_the_queue_is_bounded_in_windows_but_one_request_of_any_size_may_wait() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        first, large = await asked(dispatcher), await asked(dispatcher, 50)
        with pytest.raises(Problem, match="50 windows are waiting already, and this would be 1 more"):
            await dispatcher.run(order(1), never())
        assert dispatcher.waiting_windows == 50
        worker.finish()
        small = await asked(dispatcher, 10)
        worker.finish()
        worker.finish()
        await asyncio.gather(first, large, small)

    dispatched(scenario, queue_windows=10, deadline_s=60)


def test_what_could_not_be_done_before_its_deadline_is_refused_with_the_measured_time() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        for _ in range(2):  # a window is said to take 1 s and takes 50 ms
            first = await asked(dispatcher)
            await asyncio.sleep(0.05)
            worker.finish()
            await first
        waiting = [await asked(dispatcher, 10) for _ in range(3)]
        assert 1.2 < dispatcher.wait_s < 2.5
        dispatcher.refuse_when_full("tiny", 1)
        with pytest.raises(Problem, match=r"take about .* of the 3.75 s that are allowed") as refusal:
            dispatcher.refuse_when_full("tiny", 40)
        assert refusal.value.headers["Retry-After"] in ("2", "3")
        dispatcher.give_up_all()
        await asyncio.gather(*waiting, return_exceptions=True)

    dispatched(scenario, FakeWorker(window_s=1.0), deadline_s=3.75)


def test_the_pace_is_work_per_busy_time() -> None:
    pace = Pace()
    assert pace.seconds(5) == 0
    for _ in range(3):
        pace.begin()
        time.sleep(0.02)
        pace.count(2.0)
    assert 0.02 <= pace.seconds(2.0) < 0.1


def test_the_deadline_covers_waiting() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        stubborn = await asked(dispatcher)
        with pytest.raises(Problem) as passed:
            await dispatcher.run(order(), never())
        assert (passed.value.status, passed.value.code) == (504, "deadline")
        assert (dispatcher.waiting, len(worker.jobs)) == (0, 1)
        with pytest.raises(Problem, match="PSANET_DEADLINE_S"):
            await stubborn
        assert worker.cancelled == list(worker.jobs)

    dispatched(scenario, deadline_s=0.1)


def test_a_job_knows_how_long_it_waited_and_what_is_left() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        first, second = await asked(dispatcher), await asked(dispatcher)
        await asyncio.sleep(0.1)
        worker.finish()
        ((job, _),) = worker.jobs.values()
        assert 0.08 < job.queue_s < 1
        assert 18 < job.remaining_s < 19.95
        worker.finish()
        await asyncio.gather(first, second)

    dispatched(scenario)


def test_a_worker_whose_clock_is_faster_ends_in_the_same_answer() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        task = await asked(dispatcher)
        worker.finish(PredictionCancelled("deadline passed"))
        with pytest.raises(Problem) as passed:
            await task
        assert passed.value.code == "deadline"

    dispatched(scenario)


def test_a_client_that_leaves_is_cancelled_at_the_worker_or_leaves_the_queue() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        leave = asyncio.Event()
        first = await asked(dispatcher, gone=leave.wait())
        second = await asked(dispatcher, gone=leave.wait())
        leave.set()
        for task in (first, second):
            with pytest.raises(ClientGoneError):
                await task
        assert (dispatcher.waiting, dispatcher.running) == (0, 1)
        assert worker.cancelled == list(worker.jobs)
        worker.finish(PredictionCancelled("given up"))
        assert dispatcher.running == 0

    dispatched(scenario)


def test_a_place_counts_as_busy_until_given_up_work_has_really_ended() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        with pytest.raises(Problem):
            await dispatcher.run(order(), never())
        with pytest.raises(Problem, match="Retry-After"):
            dispatcher.refuse_when_full()
        worker.finish()
        dispatcher.refuse_when_full()

    dispatched(scenario, queue_size=0, deadline_s=0.1)


def test_giving_up_all_ends_what_waits_and_what_runs_with_503() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        tasks = [await asked(dispatcher) for _ in range(3)]
        dispatcher.give_up_all()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [outcome.code for outcome in outcomes if isinstance(outcome, Problem)] == ["draining"] * 3
        assert (dispatcher.waiting, worker.cancelled) == (0, list(worker.jobs))

    dispatched(scenario)


def test_a_cancelled_handler_leaves_nothing_behind() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        tasks = [await asked(dispatcher) for _ in range(2)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (dispatcher.waiting, worker.cancelled) == (0, list(worker.jobs))
        worker.finish()
        assert dispatcher.running == 0

    dispatched(scenario)


def test_requests_wait_for_a_worker_that_is_being_replaced() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        running, waiting = await asked(dispatcher), await asked(dispatcher)
        dispatcher.detach(worker)
        worker.finish(Problem(503, "worker_lost", "gone"))
        with pytest.raises(Problem, match="gone"):
            await running
        assert (dispatcher.workers, dispatcher.waiting) == (0, 1)
        another = FakeWorker()
        dispatcher.attach(another)
        another.finish()
        assert await waiting is ANSWER

    dispatched(scenario)


def test_a_worker_that_is_exchanged_finishes_what_it_has() -> None:
    async def scenario(dispatcher: Dispatcher, worker: FakeWorker) -> None:
        old = await asked(dispatcher)
        another = FakeWorker()
        dispatcher.attach(another)
        dispatcher.detach(worker)
        new = await asked(dispatcher)
        assert (len(worker.jobs), len(another.jobs), dispatcher.running) == (1, 1, 2)
        worker.finish()
        another.finish()
        await asyncio.gather(old, new)

    dispatched(scenario)
