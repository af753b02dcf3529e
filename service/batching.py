"""An engine around an engine: windows, scales and mirror images of many requests share its calls.

    request A  ──infer(windows)──┐
    request B  ──infer(windows)──┤  Batcher: one call at a time, each of images of one model and one size,
    request C  ──infer(windows)──┘  taken in turn from the requests that have been served least

While a call runs, the images of the next one gather by themselves; a call that is not full waits for more
only where it was told to, and only while there is somebody who could send some. What was given up, or is past
its deadline, leaves before it runs. A call that fails for several requests is made again for each alone, so
that one request's trouble is not another's.

Not here: whose turn it is (`turns.py`), predictors (`workbench.py`), processes (`worker.py`).

    with batcher.engine_for("street", engine, ticket) as shared: Predictor(info, shared).predict(image)
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

from array_api_compat import array_namespace
from numpy.typing import NDArray

from inference.arrays import Array
from inference.engines import AttentionEngine, Engine
from inference.errors import EngineError
from models.config import Direction
from service.tasks import EngineUse, Uses
from service.tickets import Ticket
from service.turns import Demand, Line, Part, Turn

SMALL_PIXELS = 90_000
"""Of a window, two of which in a call keep a CPU's cores busier: on two cores 6% more at 241x241, and 2% less
at 465x465, where one alone does."""
_ENDING = "the service is ending"


class Batcher:
    """Makes the calls of all engines of one device, in a thread of its own.

    max_batch: images in a call at most, None for what the engine prefers; max_wait_s: how long the oldest
    image of a call that is not full waits for more.
    """

    def __init__(self, *, max_batch: int | None = None, max_wait_s: float = 0.0) -> None:
        self._max_batch, self._max_wait_s = max_batch, max_wait_s
        self._changed = threading.Condition()
        self._line, self._open = Line(), 0
        self._sizes: dict[str, Counter[int]] = {}
        self._engine_s: dict[str, float] = {}
        self._started: float | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def call_s(self) -> float:
        """For how long the engine has been at its present call, 0 between calls."""
        started = self._started
        return 0.0 if started is None else time.monotonic() - started

    def limit(self, engine: Engine) -> int:
        """Images in one call of that engine at most."""
        wanted = self._max_batch or _preferred(engine)
        return min(wanted, engine.max_batch or wanted)

    @contextmanager
    def engine_for(self, model: str, engine: Engine, ticket: Ticket) -> Iterator["SharedEngine"]:
        """The engine as one request may use it while the block lasts. model: what its calls count for."""
        with self._changed:
            self._open += 1
            turn = Turn(self._line.clock)
        kind = SharedAttentionEngine if isinstance(engine, AttentionEngine) else SharedEngine
        try:
            yield kind(self, model, engine, ticket, turn)
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify()

    def take_uses(self) -> Uses:
        """What the engines did since this was asked last."""
        with self._changed:
            sizes, self._sizes = self._sizes, {}
            seconds, self._engine_s = self._engine_s, {}
        return {model: EngineUse(dict(counts), seconds[model]) for model, counts in sizes.items()}

    def close(self, patience_s: float = 1.0) -> bool:
        """Make no more calls; what waits for one gets an EngineError. Whether the last call has ended."""
        with self._changed:
            self._closing = True
            for demand in self._line.clear():
                demand.settle(EngineError(_ENDING))
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return True
        thread.join(patience_s)
        return not thread.is_alive()

    def submit(self, demand: Demand) -> None:
        """Line its images up."""
        with self._changed:
            if self._closing:
                raise EngineError(_ENDING)
            self._line.join(demand)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="psanet-engine", daemon=True)
                self._thread.start()
            self._changed.notify()

    def drop(self, demand: Demand) -> None:
        """Take back what is not in a call yet; logits of what is are thrown away."""
        with self._changed:
            if self._line.leave(demand):
                self._changed.notify()
            demand.settle()

    def _serve(self) -> None:
        while parts := self._next():
            self._call(parts)

    def _next(self) -> list[Part]:
        """Wait for images and choose those of the next call; none once it is time to end."""
        with self._changed:
            while not self._closing:
                patience_s = self._patience_s() if self._line else None
                if patience_s is not None and patience_s <= 0:
                    return self._line.choose()
                self._changed.wait(patience_s)
            return []

    def _patience_s(self) -> float:
        """How long the next call may still wait for more images; 0 where it is full or nobody could come."""
        if not self._max_wait_s or self._line.full() or self._open <= self._line.requests:
            return 0.0
        return self._max_wait_s - self._line.waiting_s

    def _call(self, parts: list[Part]) -> None:
        """Run the engine on the parts and hand its logits out."""
        lead = parts[0][0]
        pieces = [demand.images[start:stop] for demand, start, stop in parts]
        self._started = started = time.monotonic()
        try:
            found = lead.call(_joined(pieces))
            ends = list(accumulate(stop - start for _, start, stop in parts))
            shares = [found]
            if not lead.alone:
                shares = [found[end - len(piece) : end] for end, piece in zip(ends, pieces, strict=True)]
        except Exception as error:  # an engine's library may raise anything
            self._started = None
            self._failed(parts, error)
            return
        with self._changed:
            self._started = None
            self._sizes.setdefault(lead.model, Counter())[ends[-1]] += 1
            seconds = self._engine_s.get(lead.model, 0.0) + time.monotonic() - started
            self._engine_s[lead.model] = seconds
        for (demand, start, stop), share in zip(parts, shares, strict=True):
            demand.pieces.append(share)
            demand.left -= stop - start
            if demand.left == 0:
                demand.settle()

    def _failed(self, parts: list[Part], error: Exception) -> None:
        """Call again for each request alone; of one alone, the error is its own."""
        if len(parts) > 1:
            for part in parts:
                if not part[0].settled.is_set():
                    self._call([part])
            return
        ((demand, _, _),) = parts
        with self._changed:
            self._line.leave(demand)
        demand.settle(error)


class SharedEngine:
    """`Engine` for one request: its images go into calls together with those of others."""

    def __init__(self, batcher: Batcher, model: str, engine: Engine, ticket: Ticket, turn: Turn) -> None:
        self._batcher, self._model, self._engine = batcher, model, engine
        self._ticket, self._turn = ticket, turn
        self.name, self.device = engine.name, engine.device
        self.crop_hw, self.limits_hw, self.coarse_hw = engine.crop_hw, engine.limits_hw, engine.coarse_hw
        self.max_batch = engine.max_batch
        self.preferred_batch = batcher.limit(engine)

    def to_device(self, array: NDArray[Any]) -> Array:
        """See `Engine.to_device`."""
        return self._engine.to_device(array)

    def infer(self, images: Array) -> Array:
        """See `Engine.infer`. Raises PredictionCancelled too, once the request's ticket is worth nothing."""
        return _joined(self._ask(self._engine.infer, images, self.preferred_batch, alone=False))

    def close(self) -> None:
        """Nothing: the engine belongs to all requests."""

    def _ask(self, call: Callable[[Array], Any], images: Array, limit: int, *, alone: bool) -> list[Any]:
        """What calls give for the images, in their order, once the batcher has made them all."""
        self._ticket.check()
        count = len(images)
        demand = Demand(self._model, self._engine, call, images, limit, self._turn, count, alone)
        forget = self._ticket.listen(lambda: self._batcher.drop(demand))
        try:
            self._batcher.submit(demand)
            while not demand.settled.wait(self._ticket.remaining_s):
                self._ticket.check()
        finally:
            forget()
            self._batcher.drop(demand)
        if demand.error is not None:
            raise demand.error
        if demand.left:  # settled without an answer: it was given up
            self._ticket.check()
        return demand.pieces


class SharedAttentionEngine(SharedEngine):
    """`AttentionEngine` for one request. Attention of all pairs is large: its calls are never joined."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """See `AttentionEngine`."""
        return self._telling.directions

    def attend(self, images: Array, directions: Sequence[Direction]) -> dict[Direction, Array]:
        """See `AttentionEngine.attend`. Raises PredictionCancelled too."""
        call = partial(self._telling.attend, directions=directions)
        (found,) = self._ask(call, images, len(images), alone=True)
        result: dict[Direction, Array] = found
        return result

    @property
    def _telling(self) -> AttentionEngine:
        assert isinstance(self._engine, AttentionEngine)
        return self._engine


def _preferred(engine: Engine) -> int:
    """What the engine prefers; where that is one window, two that are small."""
    small = engine.crop_hw is not None and math.prod(engine.crop_hw) <= SMALL_PIXELS
    return 2 if small and engine.preferred_batch == 1 else engine.preferred_batch


def _joined(pieces: Sequence[Array]) -> Array:
    """One array of them along the first axis; the piece itself where there is one."""
    if len(pieces) == 1:
        return pieces[0]
    return array_namespace(*pieces).concat(list(pieces), axis=0)
