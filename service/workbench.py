"""Where jobs are done: the predictors of one device, and the batcher that all their engine calls go through.

Any number of threads may call `do`. It lies in a worker process (`worker.py`), or for tests and notebooks in
the service's own (`local.py`). Not here: queues, deadlines, HTTP.
"""

import logging
import re
import time
from collections.abc import Mapping

from inference.engines import AttentionEngine, Engine
from inference.errors import EngineError
from inference.predictor import Predictor
from models.config import Direction
from service.attention import attend, bytes_of_attention
from service.batching import Batcher
from service.cvat.shapes import bytes_of_shapes, outline
from service.hosted import HostedModel
from service.hosting import HostingError, open_predictors, warm_up
from service.images import bytes_of, segment
from service.labelstudio.brush import bytes_of_brush, paint
from service.oip.tensors import bytes_of_tensors, infer
from service.room import Room
from service.tasks import (
    Answer,
    AttentionTask,
    BrushTask,
    Job,
    MissingModelError,
    SegmentTask,
    ShapesTask,
    TensorTask,
    Uses,
    WorkerSpec,
)
from service.tickets import Ticket

logger = logging.getLogger(__name__)

FEWEST_AT_ONCE = 4
"""Requests worked on at the same time where nothing is set: one decodes and one encodes while others wait for
the engine, and half of the places are kept from long requests (`dispatch.py`)."""
_FAILURES = 3
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|bad allocation|allocate memory|out of memory|memory is too small", re.I
)
"""As ONNX Runtime, CUDA and our own engines put it."""


class Workbench:
    """predictors: by name, the first is the default; window_s: of each, seconds that a window takes."""

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        *,
        max_batch: int | None = None,
        max_wait_s: float = 0.0,
        window_s: Mapping[str, float] | None = None,
    ) -> None:
        self._predictors = dict(predictors)
        self._batcher = Batcher(max_batch=max_batch, max_wait_s=max_wait_s)
        self._room = Room(max(predictor.memory_budget_bytes for predictor in predictors.values()))
        self._window_s = dict(window_s or {})
        self._failures = 0

    @classmethod
    def open(cls, spec: WorkerSpec) -> "Workbench":
        """Open and warm up what `spec` names. Takes seconds. Raises HostingError."""
        predictors = open_predictors(spec)
        bench = cls(predictors, max_batch=spec.max_batch, max_wait_s=spec.max_wait_s)
        for name, predictor in predictors.items():
            try:
                bench._window_s[name] = warm_up(predictor, bench._batcher.limit(predictor.engine))
            except Exception as error:
                raise HostingError(f"cannot serve {name}: {error}") from error
        return bench

    @property
    def models(self) -> tuple[HostedModel, ...]:
        """What is here, the default first."""
        return tuple(
            HostedModel(
                info=predictor.info,
                engine=predictor.engine.name,
                device=predictor.engine.device,
                one_size=predictor.engine.crop_hw is not None,
                directions=_directions(predictor.engine),
                batch=self._batcher.limit(predictor.engine),
                window_s=self._window_s.get(name, 0.0),
            )
            for name, predictor in self._predictors.items()
        )

    @property
    def at_once(self) -> int:
        """How many jobs keep its engines busy: a batch in the making while another one runs."""
        return max([FEWEST_AT_ONCE, *(2 * model.batch for model in self.models)])

    @property
    def call_s(self) -> float:
        """For how long the present engine call has been running."""
        return self._batcher.call_s

    @property
    def broken(self) -> bool:
        """Whether job after job has failed by its engine, as they do for good after some errors of a GPU."""
        return self._failures >= _FAILURES

    def do(self, job: Job, ticket: Ticket) -> Answer:
        """Do a job in the calling thread.

        Raises what its task raises, PredictionCancelled among it; MemoryError where an engine had too little;
        MissingModelError.
        """
        order = job.order
        predictor = self._predictors.get(order.model)
        if predictor is None:
            raise MissingModelError(order.model)
        try:
            with self._batcher.engine_for(order.model, predictor.engine, ticket) as engine:
                shared = Predictor(predictor.info, engine, memory_budget_bytes=predictor.memory_budget_bytes)
                answer = self._perform(job, shared, ticket)
        except EngineError as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(str(error)) from error
            self._failures += 1
            raise
        self._failures = 0
        return answer

    def _perform(self, job: Job, predictor: Predictor, ticket: Ticket) -> Answer:
        task, order, began = job.order.task, job.order, time.monotonic()

        def queue_s() -> float:
            return job.queue_s + time.monotonic() - began

        match task:
            case SegmentTask():
                with self._room.share(bytes_of(task, order.image_hw, predictor), ticket):
                    return segment(task, order.data, predictor, ticket, queue_s())
            case AttentionTask():
                with self._room.share(bytes_of_attention(task, order.image_hw, predictor), ticket):
                    return attend(task, order.data, predictor, ticket, queue_s())
            case TensorTask():
                with self._room.share(bytes_of_tensors(task, order.image_hw, predictor), ticket):
                    return infer(task, order.data, predictor, ticket, queue_s())
            case BrushTask():
                with self._room.share(bytes_of_brush(task, order.image_hw, predictor), ticket):
                    return paint(task, order.data, predictor, ticket, queue_s())
            case ShapesTask():
                with self._room.share(bytes_of_shapes(task, order.image_hw, predictor), ticket):
                    return outline(task, order.data, predictor, ticket, queue_s())

    def take_uses(self) -> Uses:
        """What the engines did since this was asked last."""
        return self._batcher.take_uses()

    def close(self) -> None:
        """Release the engines, unless one is still inside a call: it must not be pulled from under it."""
        if not self._batcher.close():
            logger.warning("an engine call did not end: its engine is left as it is")
            return
        for predictor in self._predictors.values():
            predictor.close()


def _directions(engine: Engine) -> tuple[Direction, ...] | None:
    return tuple(engine.directions) if isinstance(engine, AttentionEngine) else None
