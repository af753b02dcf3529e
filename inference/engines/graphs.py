"""How a plan is run at one shape after another: with CUDA graphs of ours (TensorRT), or of the library's own.

A graph spares the launching of some hundred kernels one by one. It holds for one shape and for the addresses
it was captured with, so images and logits must always lie in the same places. Not for several threads.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch

from inference.cache import Cache, Facts
from inference.errors import EngineError
from inference.tensorrt_library import Library, Loaded

log = logging.getLogger(__name__)

Kernels = tuple[Cache, Facts]
"""Where compiled kernels are kept, and what they depend on."""

Shape = tuple[int, ...]

MAX_GRAPHS = 8
"""Shapes that keep an execution context and a graph; the one that was used longest ago makes room."""


@dataclass
class _Prepared:
    """A context that is set to one shape, its graph once captured, and the addresses that both know."""

    context: Any
    addresses: tuple[int, int]
    graph: Any = None
    calls: int = 0


class CapturedGraphs:
    """TensorRT: the second call with a shape captures a graph, in a context of its own, as the documentation
    advises; the contexts share their working memory, which is right as they never run at once."""

    def __init__(self, library: Library, loaded: Loaded, device: Any, kernels: Kernels) -> None:
        self._loaded, self._device = loaded, device
        self._strategy = library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self._memory_bytes = loaded.engine.device_memory_size_v2
        self._memory = device.empty((max(self._memory_bytes, 1),), torch.uint8)
        self._prepared: dict[Shape, _Prepared] = {}
        self._spare = self._context()
        self._shapes = _LogitsShapes(self._spare, loaded)

    def logits_shape(self, shape: Shape) -> Shape:
        """Of the logits for images of `shape`."""
        return self._shapes.of(shape)

    def run(self, shape: Shape, images: int, logits: int, stream: int) -> None:
        """Runs on the stream. images, logits: addresses on the GPU."""
        prepared = self._prepared.pop(shape, None)
        if prepared is None:
            full = len(self._prepared) >= MAX_GRAPHS
            context = self._prepared.pop(next(iter(self._prepared))).context if full else self._context()
            prepared = _Prepared(context, (images, logits))
            _bind(prepared.context, shape, images, logits, self._loaded)
        self._prepared[shape] = prepared  # the last of them
        assert prepared.addresses == (images, logits), "buffers stay where they are"
        prepared.calls += 1
        # A context that was given a new shape must run once before it can be captured.
        if prepared.calls == 2:
            self._capture(prepared)
        if prepared.graph is not None:
            prepared.graph.replay()
        else:
            _enqueue(prepared.context, stream, self._loaded)

    def close(self) -> None:
        """Lets go of everything."""
        self._prepared.clear()
        self._spare = self._shapes = self._memory = None  # type: ignore[assignment]

    def _capture(self, prepared: _Prepared) -> None:
        try:
            prepared.graph = self._device.capture(
                lambda stream: _enqueue(prepared.context, stream, self._loaded)
            )
        except (EngineError, RuntimeError) as error:
            log.warning("running without a CUDA graph: %s", error)

    def _context(self) -> Any:
        context = self._loaded.engine.create_execution_context(self._strategy)
        if context is None:
            raise EngineError(
                f"the GPU's memory is too small for the engine ({self._loaded.recorder.reason})"
            )
        context.set_device_memory(self._memory.data_ptr(), self._memory_bytes)
        return context


class BuiltInGraphs:
    """TensorRT for RTX: compiles kernels when a shape is first seen and captures graphs by itself. The
    kernels are kept for the next time the plan is opened on this GPU."""

    def __init__(self, library: Library, loaded: Loaded, device: Any, kernels: Kernels) -> None:
        self._loaded, (self._cache, self._facts) = loaded, kernels
        config = loaded.engine.create_runtime_config()
        config.cuda_graph_strategy = library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._kernels = config.create_runtime_cache()
        kept = self._cache.load("kernels", self._facts)
        if kept is not None and not self._kernels.deserialize(kept):
            log.warning("the kernels that were kept for this engine do not fit it; they are compiled anew")
        config.set_runtime_cache(self._kernels)
        self._config = config
        self._context = loaded.engine.create_execution_context(config)
        if self._context is None:
            raise EngineError(f"the GPU's memory is too small for the engine ({loaded.recorder.reason})")
        self._bound: tuple[Shape, int, int] | None = None
        self._shapes = _LogitsShapes(self._context, loaded)

    def logits_shape(self, shape: Shape) -> Shape:
        """Of the logits for images of `shape`."""
        if shape not in self._shapes.known:
            self._bound = None
        return self._shapes.of(shape)

    def run(self, shape: Shape, images: int, logits: int, stream: int) -> None:
        """Runs on the stream. images, logits: addresses on the GPU."""
        if self._bound != (shape, images, logits):
            _bind(self._context, shape, images, logits, self._loaded)
            self._bound = (shape, images, logits)
        _enqueue(self._context, stream, self._loaded)

    def close(self) -> None:
        """Keeps the kernels and lets go of everything."""
        compiled = self._kernels.serialize()
        if compiled is not None:
            self._cache.store("kernels", self._facts, bytes(compiled))
        self._context = self._shapes = self._kernels = self._config = None  # type: ignore[assignment]


class _LogitsShapes:
    """Shapes of logits by those of images, asked of a context once; that context is left at the last one."""

    def __init__(self, context: Any, loaded: Loaded) -> None:
        self._context, self._loaded = context, loaded
        self.known: dict[Shape, Shape] = {}

    def of(self, shape: Shape) -> Shape:
        if shape not in self.known:
            self._loaded.recorder.forget()
            taken = self._context.set_input_shape("image", shape)
            logits = tuple(self._context.get_tensor_shape("logits")) if taken else ()
            if not logits or min(logits) < 1:
                raise EngineError(
                    f"the engine does not take images of {shape} ({self._loaded.recorder.reason})"
                )
            self.known[shape] = logits
        return self.known[shape]


def _bind(context: Any, shape: Shape, images: int, logits: int, loaded: Loaded) -> None:
    loaded.recorder.forget()
    taken = (
        context.set_input_shape("image", shape),
        context.set_tensor_address("image", images),
        context.set_tensor_address("logits", logits),
    )
    if not all(taken):
        raise EngineError(f"the engine does not take images of {shape} ({loaded.recorder.reason})")


def _enqueue(context: Any, stream: int, loaded: Loaded) -> None:
    loaded.recorder.forget()
    if not context.execute_async_v3(stream):
        raise EngineError(f"the engine failed ({loaded.recorder.reason})")
