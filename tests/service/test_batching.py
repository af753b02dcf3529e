"""Batches of many requests give what each request alone would get, in fair turns."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.engines import AttentionEngine, Engine
from inference.errors import EngineError, PredictionCancelled
from inference.predictor import Predictor
from models.config import Direction
from service.batching import Batcher
from service.tickets import Ticket
from tests.inference.fakes import AnySizeEngine, ConvolutionEngine, made_info

Images = NDArray[np.float32]


class GatedEngine(ConvolutionEngine):
    """Waits before each call until it is let through; remembers whose images a call held, by their value."""

    def __init__(self, preferred_batch: int = 4) -> None:
        super().__init__(preferred_batch=preferred_batch)
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.calls: list[list[int]] = []
        self.fails: Callable[[list[int]], bool] = lambda call: False

    def infer(self, images: Any) -> Any:
        call = [int(image[0, 0, 0]) for image in images]
        self.calls.append(call)
        self.entered.release()
        assert self.gate.acquire(timeout=20), "a test has left the gate shut"
        if self.fails(call):
            raise EngineError(f"cannot do {call}")
        return super().infer(images)

    def let(self, calls: int = 1000) -> None:
        """Let that many calls through."""
        self.gate.release(calls)


def images(value: int, count: int = 1) -> Images:
    return np.full((count, 3, 33, 33), value, np.float32)


class Requests:
    """Requests in threads of their own."""

    def __init__(self, batcher: Batcher, engine: Engine) -> None:
        self.batcher, self.engine = batcher, engine
        self.pool = ThreadPoolExecutor(16)
        self.tickets: dict[int, Ticket] = {}
        self.lined_up = threading.Semaphore(0)

    def ask(self, value: int, count: int = 1, deadline_s: float = 20) -> "Future[Any]":
        """One request that wants `count` windows, each of that value; returns once they are lined up."""
        ticket = self.tickets[value] = Ticket(deadline_s)

        def submit(demand: Any) -> None:
            try:
                Batcher.submit(self.batcher, demand)
            finally:
                self.lined_up.release()

        self.batcher.submit = submit  # type: ignore[method-assign]

        def work() -> Any:
            with self.batcher.engine_for("made", self.engine, ticket) as shared:
                return shared.infer(images(value, count))

        future = self.pool.submit(work)
        assert self.lined_up.acquire(timeout=10)
        return future


@pytest.fixture
def engine() -> GatedEngine:
    return GatedEngine()


def held(engine: GatedEngine, **options: Any) -> tuple[Requests, "Future[Any]"]:
    """A batcher whose engine is inside its first call, of request 0, so that others line up behind."""
    requests = Requests(Batcher(**options), engine)
    first = requests.ask(0)
    assert engine.entered.acquire(timeout=10)
    return requests, first


def test_windows_of_several_requests_share_a_call_and_each_gets_its_own(engine: GatedEngine) -> None:
    requests, first = held(engine)
    futures = {value: requests.ask(value, count) for value, count in ((1, 1), (2, 2), (3, 1))}
    engine.let()
    for value, future in {0: first, **futures}.items():
        count = 2 if value == 2 else 1
        np.testing.assert_array_equal(future.result(10), ConvolutionEngine().infer(images(value, count)))
    assert [sorted(call) for call in engine.calls] == [[0], [1, 2, 2, 3]]
    assert requests.batcher.take_uses()["made"].sizes == {1: 1, 4: 1}
    assert requests.batcher.take_uses() == {}
    assert requests.batcher.close()


def test_a_call_holds_no_more_than_the_most(engine: GatedEngine) -> None:
    requests, first = held(engine, max_batch=3)
    large = requests.ask(1, 8)
    engine.let()
    np.testing.assert_array_equal(large.result(10), ConvolutionEngine().infer(images(1, 8)))
    assert [len(call) for call in engine.calls] == [1, 3, 3, 2]
    first.result(10)


@pytest.mark.parametrize(
    ("wanted", "able", "limit"), [(None, None, 4), (2, None, 2), (9, 6, 6), (None, 1, 1)]
)
def test_the_most_is_what_was_set_or_preferred_and_the_engine_can(
    wanted: int | None, able: int | None, limit: int
) -> None:
    engine = ConvolutionEngine(preferred_batch=4)
    engine.max_batch = able  # type: ignore[assignment]
    batcher = Batcher(max_batch=wanted)
    assert batcher.limit(engine) == limit
    with batcher.engine_for("made", engine, Ticket(1)) as shared:
        assert (shared.preferred_batch, shared.max_batch) == (limit, able)


@pytest.mark.parametrize(
    ("crop_hw", "preferred", "limit"),
    [((241, 241), 1, 2), ((465, 465), 1, 1), (None, 1, 1), ((33, 33), 8, 8)],
)
def test_two_small_windows_go_into_a_call_where_an_engine_prefers_one(
    crop_hw: tuple[int, int] | None, preferred: int, limit: int
) -> None:
    engine = ConvolutionEngine(preferred_batch=preferred)
    engine.crop_hw = crop_hw  # type: ignore[assignment]
    assert Batcher().limit(engine) == limit


def test_a_thumbnail_takes_turns_with_a_panorama_instead_of_waiting_for_its_end(engine: GatedEngine) -> None:
    requests, first = held(engine, max_batch=2)
    panorama = requests.ask(1, 40)
    engine.let(3)
    for _ in range(3):  # the first, and two calls of the panorama's alone
        assert engine.entered.acquire(timeout=10)
    thumbnail = requests.ask(2, 1)
    engine.let(1)
    assert engine.entered.acquire(timeout=10)
    assert 2 in engine.calls[4], engine.calls
    engine.let(1)
    assert thumbnail.result(10).shape[0] == 1
    assert not panorama.done()
    engine.let()
    assert panorama.result(10).shape[0] == 40
    first.result(10)


def test_requests_are_served_in_equal_parts(engine: GatedEngine) -> None:
    requests, first = held(engine, max_batch=3)
    futures = [requests.ask(value, 12) for value in (1, 2, 3)]
    engine.let()
    for future in futures:
        future.result(10)
    assert all(sorted(call) == [1, 2, 3] for call in engine.calls[1:]), engine.calls
    first.result(10)


def test_whole_images_are_weighed_by_their_pixels() -> None:
    """A request of large images gets as many pixels as one of small images, not as many images."""
    order: list[int] = []
    lined_up = threading.Event()

    class Recorder(AnySizeEngine):
        def infer(self, images: Any) -> Any:
            lined_up.wait(10)
            order.append(images.shape[-1])
            return super().infer(images)

    engine, batcher = Recorder(), Batcher(max_batch=1)

    def work(side: int, count: int) -> None:
        with batcher.engine_for("made", engine, Ticket(20)) as shared:
            shared.infer(np.zeros((count, 3, side, side), np.float32))

    threads = [threading.Thread(target=work, args=each) for each in ((64, 4), (16, 40))]
    for thread in threads:
        thread.start()
    while len(batcher._line) < 1 or batcher._open < 2:
        time.sleep(0.001)
    time.sleep(0.05)
    lined_up.set()
    for thread in threads:
        thread.join(10)
    first_large, second_large = [at for at, side in enumerate(order) if side == 64][:2]
    assert 14 <= second_large - first_large - 1 <= 18, order


def test_images_of_different_sizes_or_models_never_share_a_call() -> None:
    shapes: list[tuple[Any, ...]] = []
    gate = threading.Event()

    class Recorder(AnySizeEngine):
        def infer(self, images: Any) -> Any:
            gate.wait(10)
            shapes.append((id(self), *images.shape))
            return super().infer(images)

    one, other = Recorder(), Recorder()
    batcher = Batcher(max_batch=8)

    def work(engine: Recorder, side: int) -> None:
        with batcher.engine_for("made", engine, Ticket(20)) as shared:
            shared.infer(np.zeros((1, 3, side, side), np.float32))

    sides = [(one, 16), (one, 24), (other, 16), (one, 16), (other, 16)]
    threads = [threading.Thread(target=work, args=each) for each in sides]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert sum(shape[1] for shape in shapes) == 5
    assert {(*shape[:1], *shape[2:]) for shape in shapes} == {
        *((id(one), 3, side, side) for side in (16, 24)),
        (id(other), 3, 16, 16),
    }


def test_what_is_given_up_leaves_before_it_runs(engine: GatedEngine) -> None:
    requests, first = held(engine, max_batch=2)
    given_up, other = requests.ask(1, 6), requests.ask(2, 2)
    requests.tickets[1].give_up()
    with pytest.raises(PredictionCancelled):
        given_up.result(10)
    engine.let()
    other.result(10)
    assert engine.calls == [[0], [2, 2]]
    first.result(10)


def test_the_deadline_ends_the_wait_while_the_engine_hangs(engine: GatedEngine) -> None:
    requests, first = held(engine)
    started = time.monotonic()
    late = requests.ask(1, 1, deadline_s=0.1)
    with pytest.raises(PredictionCancelled):
        late.result(10)
    assert time.monotonic() - started < 2
    assert requests.batcher.call_s > 0.1
    engine.let()
    first.result(10)
    assert engine.calls == [[0]]
    assert requests.batcher.call_s == 0


def test_a_request_given_up_inside_a_call_does_not_disturb_the_others(engine: GatedEngine) -> None:
    requests, first = held(engine)
    futures = [requests.ask(value) for value in (1, 2)]
    engine.let(1)
    assert engine.entered.acquire(timeout=10)
    requests.tickets[1].give_up()
    with pytest.raises(PredictionCancelled):
        futures[0].result(10)
    engine.let()
    np.testing.assert_array_equal(futures[1].result(10), ConvolutionEngine().infer(images(2)))
    first.result(10)


def test_a_failing_call_is_made_again_for_each_so_that_only_the_culprit_fails(engine: GatedEngine) -> None:
    requests, first = held(engine)
    engine.fails = lambda call: 2 in call
    futures = {value: requests.ask(value) for value in (1, 2, 3)}
    engine.let()
    for value in (1, 3):
        np.testing.assert_array_equal(futures[value].result(10), ConvolutionEngine().infer(images(value)))
    with pytest.raises(EngineError, match=r"cannot do \[2\]"):
        futures[2].result(10)
    first.result(10)


def test_a_call_waits_for_more_only_while_somebody_could_come(engine: GatedEngine) -> None:
    engine.let()
    batcher = Batcher(max_wait_s=5)
    requests = Requests(batcher, engine)
    started = time.monotonic()
    requests.ask(1).result(10)
    assert time.monotonic() - started < 2, "nobody else was there"
    with batcher.engine_for("made", engine, Ticket(20)) as somebody:
        waiting = requests.ask(2)
        time.sleep(0.1)
        assert not waiting.done()
        somebody.infer(images(3, 3))
    waiting.result(10)
    assert sorted(engine.calls[-1]) == [2, 3, 3, 3]
    with batcher.engine_for("made", engine, Ticket(20)):
        waiting = requests.ask(4)
        time.sleep(0.05)
        assert not waiting.done()
    waiting.result(2)
    assert engine.calls[-1] == [4]


def test_a_call_waits_no_longer_than_the_most(engine: GatedEngine) -> None:
    engine.let()
    batcher = Batcher(max_wait_s=0.1)
    with batcher.engine_for("made", engine, Ticket(20)):
        started = time.monotonic()
        Requests(batcher, engine).ask(1).result(10)
        assert 0.09 < time.monotonic() - started < 2


def test_attention_takes_its_turn_but_shares_no_call(engine: GatedEngine) -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []

    class Telling(GatedEngine):
        directions: tuple[Direction, ...] = ("collect", "distribute")

        def attend(self, images: Any, directions: Sequence[Direction]) -> dict[Direction, Any]:
            asked.append((len(images), tuple(directions)))
            return {direction: images[:, 0, :2, :2] for direction in directions}

    telling = Telling()
    requests, first = held(telling)

    def attend(value: int) -> Any:
        with requests.batcher.engine_for("made", telling, Ticket(20)) as shared:
            assert isinstance(shared, AttentionEngine)
            assert shared.directions == ("collect", "distribute")
            return shared.attend(images(value, 2), ("distribute",))

    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(attend, value) for value in (1, 2)]
        assert all(requests.lined_up.acquire(timeout=10) for _ in found)
        other = requests.ask(3)
        telling.let()
        for value, future in zip((1, 2), found, strict=True):
            (weights,) = future.result(10).values()
            np.testing.assert_array_equal(weights, np.full((2, 2, 2), value))
    other.result(10)
    first.result(10)
    assert asked == [(2, ("distribute",))] * 2
    assert requests.batcher.take_uses()["made"].sizes == {1: 2, 2: 2}
    with requests.batcher.engine_for("made", engine, Ticket(20)) as shared:
        assert not isinstance(shared, AttentionEngine)


def test_closing_ends_what_waits_and_tells_whether_a_call_is_left(engine: GatedEngine) -> None:
    requests, first = held(engine)
    waiting = requests.ask(1)
    assert not requests.batcher.close(patience_s=0.05)
    for ended in (waiting, requests.pool.submit(lambda: requests.ask(2).result(10))):
        with pytest.raises(EngineError, match="ending"):
            ended.result(10)
    engine.let()
    first.result(10)
    assert requests.batcher.close()


@settings(deadline=None, max_examples=15)
@given(
    hws=st.lists(st.tuples(st.integers(20, 120), st.integers(20, 120)), min_size=2, max_size=5),
    max_batch=st.integers(1, 7),
    flip=st.booleans(),
)
def test_predictions_through_a_shared_engine_are_those_of_the_engine_alone(
    hws: list[tuple[int, int]], max_batch: int, flip: bool
) -> None:
    info, engine = made_info(), ConvolutionEngine()
    rng = np.random.default_rng(len(hws))
    pictures = [rng.integers(0, 256, (*hw, 3)).astype(np.uint8) for hw in hws]
    batcher = Batcher(max_batch=max_batch)

    def predict(picture: NDArray[np.uint8]) -> Any:
        with batcher.engine_for("made", engine, Ticket(20)) as shared:
            return Predictor(info, shared).predict(picture, scales=(0.5, 1, 1.5), flip=flip, confidence=True)

    with ThreadPoolExecutor(len(pictures)) as pool:
        together = list(pool.map(predict, pictures))
    for picture, found in zip(pictures, together, strict=True):
        alone = Predictor(info, engine).predict(picture, scales=(0.5, 1, 1.5), flip=flip, confidence=True)
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_array_equal(found.confidence, alone.confidence)
    batcher.close()


def test_torch_tensors_are_joined_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    engine = ConvolutionEngine(convert=torch.from_numpy)
    batcher, start = Batcher(max_batch=8, max_wait_s=5), threading.Barrier(2)

    def work(value: int) -> Any:
        with batcher.engine_for("made", engine, Ticket(20)) as shared:
            start.wait(10)
            return shared.infer(shared.to_device(images(value, 2)))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, (1, 2)))
    assert engine.batches == [4]
    for value, logits in zip((1, 2), found, strict=True):
        assert isinstance(logits, torch.Tensor)
        np.testing.assert_array_equal(logits.numpy(), ConvolutionEngine().infer(images(value, 2)))
