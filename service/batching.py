"""An engine around an engine: windows, scales and mirror images of many requests share its calls.

    request A  ──infer(windows)──┐
    request B  ──infer(windows)──┤  Batcher: one call at a time, each of images of one model and one size,
    request C  ──infer(windows)──┘  taken in turn from the requests that have been served least

While a call runs, the images of the next one gather by themselves; a call that is not full waits for more
only where it was told to, and only while there is somebody who could send some. What was given up, or is past
its deadline, leaves before it runs. A call that fails for several requests is made again for each alone, so
that one request's trouble is not another's.

Being served is counted in pixels since the request's first image (start-time fair queueing: P. Goyal, H. Vin,
H. Cheng 1996): whoever comes new begins where the least served one is, so that a panorama of a thousand
windows and a thumbnail of one take turns from then on.

Not here: threads of requests, predictors (`workbench.py`), processes (`worker.py`).

    with batcher.engine_for("street", engine, ticket) as shared: Predictor(info, shared).predict(image)
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from array_api_compat import array_namespace
from numpy.typing import NDArray

from inference.arrays import Array
from inference.engines import Engine
from inference.errors import EngineError
from service.tasks import EngineUse, Uses
from service.tickets import Ticket

_ENDING = "the service is ending"


@dataclass(eq=False)
class _Turn:
    """One request's standing. served: pixels that went into calls, from where it began."""

    served: float = 0.0


@dataclass(eq=False)
class _Demand:
    """What one `infer` asks for. taken, left: images that are in calls, and that have no logits yet."""

    model: str
    engine: Engine
    images: Array
    limit: int
    turn: _Turn
    left: int
    since: float = field(default_factory=time.monotonic)
    taken: int = 0
    pieces: list[Array] = field(default_factory=list)
    error: Exception | None = None
    settled: threading.Event = field(default_factory=threading.Event)

    @property
    def kind(self) -> tuple[Engine, tuple[int, ...]]:
        """Images of one kind may share a call."""
        return self.engine, tuple(self.images.shape[1:])


_Part = tuple[_Demand, int, int]
"""Images [start, stop) of a demand."""


class Batcher:
    """Makes the calls of all engines of one device, in a thread of its own.

    max_batch: images in a call at most, None for what the engine prefers; max_wait_s: how long the oldest
    image of a call that is not full waits for more.
    """

    def __init__(self, *, max_batch: int | None = None, max_wait_s: float = 0.0) -> None:
        self._max_batch, self._max_wait_s = max_batch, max_wait_s
        self._changed = threading.Condition()
        self._demands: list[_Demand] = []
        self._open, self._clock = 0, 0.0
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
        wanted = self._max_batch or engine.preferred_batch
        return min(wanted, engine.max_batch or wanted)

    @contextmanager
    def engine_for(self, model: str, engine: Engine, ticket: Ticket) -> Iterator["SharedEngine"]:
        """The engine as one request may use it while the block lasts. model: what its calls count for."""
        with self._changed:
            self._open += 1
            turn = _Turn(self._clock)
        try:
            yield SharedEngine(self, model, engine, ticket, turn)
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
            for demand in self._demands:
                self._settle(demand, EngineError(_ENDING))
            self._demands = []
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return True
        thread.join(patience_s)
        return not thread.is_alive()

    def submit(self, demand: _Demand) -> None:
        """Line its images up."""
        with self._changed:
            if self._closing:
                raise EngineError(_ENDING)
            # Time spent elsewhere earns no credit.
            demand.turn.served = max(demand.turn.served, self._clock)
            self._demands.append(demand)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="psanet-engine", daemon=True)
                self._thread.start()
            self._changed.notify()

    def drop(self, demand: _Demand) -> None:
        """Take back what is not in a call yet; logits of what is are thrown away."""
        with self._changed:
            if demand in self._demands:
                self._demands.remove(demand)
                self._changed.notify()
            demand.settled.set()

    def _serve(self) -> None:
        while parts := self._next():
            self._call(parts)

    def _next(self) -> list[_Part]:
        """Wait for images and choose those of the next call; none once it is time to end."""
        with self._changed:
            while not self._closing:
                patience_s = self._patience_s()
                if self._demands and patience_s <= 0:
                    return self._choose()
                self._changed.wait(patience_s if self._demands else None)
            return []

    def _patience_s(self) -> float:
        """How long the next call may still wait for more images; 0 where it is full or nobody could come."""
        if not self._max_wait_s or not self._demands:
            return 0.0
        lead = self._lead(self._demands)
        alike = [demand for demand in self._demands if demand.kind == lead.kind]
        gathered = sum(len(demand.images) - demand.taken for demand in alike)
        if gathered >= lead.limit or self._open <= len({id(demand.turn) for demand in self._demands}):
            return 0.0
        return min(demand.since for demand in alike) + self._max_wait_s - time.monotonic()

    def _lead(self, demands: Sequence[_Demand]) -> _Demand:
        """Of the request that has been served least; of several, the one that came first."""
        return min(demands, key=lambda demand: demand.turn.served)

    def _choose(self) -> list[_Part]:
        lead = self._lead(self._demands)
        self._clock = max(self._clock, lead.turn.served)
        alike = [demand for demand in self._demands if demand.kind == lead.kind]
        starts = {id(demand): demand.taken for demand in alike}
        pixels = math.prod(lead.images.shape[2:])
        for _ in range(lead.limit):
            open_ones = [demand for demand in alike if demand.taken < len(demand.images)]
            if not open_ones:
                break
            chosen = self._lead(open_ones)
            chosen.taken += 1
            chosen.turn.served += pixels
        self._demands = [demand for demand in self._demands if demand.taken < len(demand.images)]
        parts = ((demand, starts[id(demand)], demand.taken) for demand in alike)
        return [(demand, start, stop) for demand, start, stop in parts if stop > start]

    def _call(self, parts: list[_Part]) -> None:
        """Run the engine on the parts and hand its logits out."""
        engine, model = parts[0][0].engine, parts[0][0].model
        pieces = [demand.images[start:stop] for demand, start, stop in parts]
        self._started = started = time.monotonic()
        try:
            logits = engine.infer(_joined(pieces))
            ends = list(accumulate(stop - start for _, start, stop in parts))
            shares = [logits[end - len(piece) : end] for end, piece in zip(ends, pieces, strict=True)]
        except Exception as error:  # an engine's library may raise anything
            self._started = None
            self._failed(parts, error)
            return
        with self._changed:
            self._started = None
            self._sizes.setdefault(model, Counter())[ends[-1]] += 1
            self._engine_s[model] = self._engine_s.get(model, 0.0) + time.monotonic() - started
        for (demand, start, stop), share in zip(parts, shares, strict=True):
            demand.pieces.append(share)
            demand.left -= stop - start
            if demand.left == 0:
                demand.settled.set()

    def _failed(self, parts: list[_Part], error: Exception) -> None:
        """Call again for each request alone; of one alone, the error is its own."""
        if len(parts) > 1:
            for part in parts:
                if not part[0].settled.is_set():
                    self._call([part])
            return
        ((demand, _, _),) = parts
        with self._changed:
            if demand in self._demands:
                self._demands.remove(demand)
            self._settle(demand, error)

    def _settle(self, demand: _Demand, error: Exception) -> None:
        demand.error = error
        demand.settled.set()


class SharedEngine:
    """`Engine` for one request: its images go into calls together with those of others."""

    def __init__(self, batcher: Batcher, model: str, engine: Engine, ticket: Ticket, turn: _Turn) -> None:
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
        self._ticket.check()
        demand = _Demand(
            self._model, self._engine, images, self.preferred_batch, self._turn, left=len(images)
        )
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
        if demand.left:  # settled without logits: it was given up
            self._ticket.check()
        return _joined(demand.pieces)

    def close(self) -> None:
        """Nothing: the engine belongs to all requests."""


def _joined(pieces: Sequence[Array]) -> Array:
    """One array of them along the first axis; the piece itself where there is one."""
    if len(pieces) == 1:
        return pieces[0]
    return array_namespace(*pieces).concat(list(pieces), axis=0)
