"""TensorRT as its record says, without TensorRT: what is not in the record cannot be called, nor with other
arguments. Plans are JSON; a context computes made-up logits from the memory that it is given the address of.

    module = fake_module("tensorrt 10.13", World())
"""

import ctypes
import enum
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.inference.tensorrt_record import recorded

STREAM = 7


@dataclass
class World:
    """What happens around the library, and what it was seen to do."""

    refused: str = ""
    """Says why nothing can be loaded."""
    fails: bool = False
    endless: bool = False
    """Builds go on until they are given up."""
    contexts: list[Any] = field(default_factory=list)
    configs: list[Any] = field(default_factory=list)
    kernels_taken: list[bytes] = field(default_factory=list)


def expected_logits(images: NDArray[np.float32], classes: int = 5) -> NDArray[np.float32]:
    """What every plan computes: (N, classes, h', w'), at stride 8."""
    weights = np.linspace(-1, 1, 3 * classes, dtype=np.float32).reshape(classes, 3)
    return np.einsum("kc,nchw->nkhw", weights, images[:, :, ::8, ::8])


def made_plan(
    least: tuple[int, ...], most: tuple[int, ...], *, classes: int = 5, output: str = "logits"
) -> bytes:
    """A plan's content: shapes of `image`."""
    usual = [(least[0] + most[0]) // 2, *most[1:]]
    return json.dumps({"profile": [least, usual, most], "classes": classes, "output": output}).encode()


class HostDevice:
    """The host's memory in place of a GPU's; a graph does what was captured again."""

    def __init__(self, gpu: Any = None) -> None:
        self.captures = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def put(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array.copy())

    @contextmanager
    def working(self) -> Iterator[int]:
        yield STREAM

    def capture(self, work: Any) -> Any:
        self.captures += 1
        work(STREAM)
        return SimpleNamespace(replay=lambda: work(STREAM))


def fake_module(name: str, world: World) -> Any:
    """A library of that record."""
    record = recorded()[name]
    module = SimpleNamespace(__version__=record["version"], __name__=name.partition(" ")[0])
    for enumeration, members in record["enumerations"].items():
        setattr(module, enumeration, enum.IntEnum(enumeration, members))
    for cls, members in record["classes"].items():
        setattr(module, cls, _strict(cls, members, _BEHAVIOURS.get(cls, _Plain)))
        setattr(getattr(module, cls), "_world", world)  # noqa: B010 - for mypy it is a class of any kind
        setattr(getattr(module, cls), "_module", module)  # noqa: B010
    module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR, module.ILogger.WARNING = 0, 1, 2
    return module


def _strict(name: str, members: dict[str, Any], behaviour: type) -> type:
    """A class with the record's members and no other, which does what `behaviour` does."""
    namespace: dict[str, Any] = {}
    for member, signatures in members.items():
        if signatures == "property":
            namespace[member] = getattr(behaviour, f"_{member}", None)
        elif member == "__init__":
            namespace[member] = _checked(name, member, signatures, getattr(behaviour, "_begin", _nothing))
        else:
            namespace[member] = _checked(name, member, signatures, getattr(behaviour, f"_{member}", _nothing))

    def set_attribute(self: Any, key: str, value: Any) -> None:
        known = key.startswith("_") or members.get(key) == "property" or type(self).__name__ != name
        assert known, f"{name} has no property {key}"
        object.__setattr__(self, key, value)

    return type(name, (behaviour,), {**namespace, "__setattr__": set_attribute})


def _checked(cls: str, member: str, signatures: list[str], function: Any) -> Any:
    counts = set()
    for signature in signatures:
        names = signature.split(", ") if signature else []
        least = sum(not item.endswith("?") for item in names)
        counts |= set(range(least, len(names) + 1))

    def call(self: Any, *arguments: Any) -> Any:
        assert len(arguments) in counts, f"{cls}.{member} takes {signatures}, not {len(arguments)} arguments"
        return function(self, *arguments)

    return call


def _nothing(self: Any, *arguments: Any) -> None:
    return None


class _Plain:
    _world: World
    _module: Any


class _Builder(_Plain):
    def _begin(self, logger: Any) -> None:
        self._logger = logger

    def _create_network(self, flags: int = 0) -> Any:
        assert flags >> self._module.NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1
        return self._module.INetworkDefinition()

    def _create_builder_config(self) -> Any:
        config = self._module.IBuilderConfig()
        config._targets, config._cleared, config._profiles = {}, [], []
        self._world.configs.append(config)
        return config

    def _create_optimization_profile(self) -> Any:
        return self._module.IOptimizationProfile()

    def _build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        (profile,) = config._profiles
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
            while self._world.endless and monitor.step_complete("Building engine", 0):
                time.sleep(0.01)
            for step in range(2):
                if not monitor.step_complete("Building engine", step):
                    return None
            monitor.phase_finish("Building engine")
        if self._world.fails:
            self._logger.log(self._module.ILogger.ERROR, "out of everything\nand more")
            return None
        return made_plan(profile._shapes[0], profile._shapes[2])


class _Config(_Plain):
    def _clear_flag(self, flag: Any) -> None:
        self._cleared.append(flag)  # type: ignore[attr-defined]

    def _add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)  # type: ignore[attr-defined]
        return 0

    def _set_compute_capability(self, capability: Any, index: int) -> bool:
        self._targets[index] = capability  # type: ignore[attr-defined]
        return True

    def _create_timing_cache(self, content: bytes) -> Any:
        cache = self._module.ITimingCache()
        cache._content = content
        return cache

    def _set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._cache = cache
        return True

    def _get_timing_cache(self) -> Any:
        return self._cache


class _TimingCache(_Plain):
    def _serialize(self) -> bytes:
        return bytes(self._content) + b"+"  # type: ignore[attr-defined]


class _Profile(_Plain):
    def _set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        assert name == "image"
        self._shapes = (least, usual, most)


class _Parser(_Plain):
    _num_errors = 1

    def _begin(self, network: Any, logger: Any) -> None:
        pass

    def _parse(self, model: bytes, path: Any = None) -> bool:
        return model != b"bad"

    def _get_error(self, index: int) -> Any:
        return self._module.ParserError()


class _Error(_Plain):
    def _desc(self) -> str:
        return "no such op"


class _Runtime(_Plain):
    def _begin(self, logger: Any) -> None:
        self._logger = logger

    def _get_engine_validity(self, content: bytes) -> tuple[Any, int]:
        kinds = self._module.EngineValidity
        if self._world.refused:
            return kinds.INVALID, int(self._module.EngineInvalidityDiagnostics.OLD_CUDA_DRIVER)
        return kinds.VALID, 0

    def _deserialize_cuda_engine(self, content: bytes) -> Any:
        if self._world.refused:
            self._logger.log(self._module.ILogger.ERROR, self._world.refused)
            return None
        engine = self._module.ICudaEngine()
        engine._plan = json.loads(content)
        return engine


class _Engine(_Plain):
    _plan: dict[str, Any]
    _num_io_tensors = 2
    _device_memory_size_v2 = 512

    def _get_tensor_name(self, index: int) -> str:
        return str(("image", self._plan["output"])[index])

    def _get_tensor_mode(self, name: str) -> Any:
        modes = self._module.TensorIOMode
        return modes.INPUT if name == "image" else modes.OUTPUT

    def _get_tensor_dtype(self, name: str) -> Any:
        return self._module.DataType.FLOAT

    def _get_tensor_shape(self, name: str) -> list[int]:
        least, _, most = self._plan["profile"]
        return [low if low == high else -1 for low, high in zip(least, most, strict=True)]

    def _get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        shapes: list[list[int]] = self._plan["profile"]
        return shapes

    def _create_execution_context(self, argument: Any = None) -> Any:
        context = self._module.IExecutionContext()
        context._plan, context._argument, context._places = self._plan, argument, {}
        context._runs, context._changed = 0, 0
        self._world.contexts.append(context)
        return context

    def _create_runtime_config(self) -> Any:
        return self._module.IRuntimeConfig()


class _Context(_Plain):
    _plan: dict[str, Any]
    _places: dict[str, int]
    _runs: int
    _changed: int

    def _set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        self._shape = tuple(shape)
        self._changed += 1
        return True

    def _get_tensor_shape(self, name: str) -> tuple[int, ...]:
        count, _, height, width = self._shape
        return (count, self._plan["classes"], (height - 1) // 8 + 1, (width - 1) // 8 + 1)

    def _set_tensor_address(self, name: str, address: int) -> bool:
        self._places[name] = address
        return True

    def _set_device_memory(self, address: int, size: int) -> None:
        assert size == 512
        self._memory = address

    def _execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM
        if self._world.fails:
            return False
        self._runs += 1
        images = _at(self._places["image"], self._shape)
        _at(self._places["logits"], self._get_tensor_shape("logits"))[:] = expected_logits(
            images, self._plan["classes"]
        )
        return True


class _RuntimeConfig(_Plain):
    def _create_runtime_cache(self) -> Any:
        return self._module.IRuntimeCache()


class _RuntimeCache(_Plain):
    def _deserialize(self, content: bytes) -> bool:
        self._world.kernels_taken.append(content)
        return True

    def _serialize(self) -> bytes:
        return b"kernels"


_BEHAVIOURS: dict[str, type] = {
    "Builder": _Builder, "IBuilderConfig": _Config, "ITimingCache": _TimingCache, "OnnxParser": _Parser,
    "ParserError": _Error, "IOptimizationProfile": _Profile, "Runtime": _Runtime, "ICudaEngine": _Engine,
    "IExecutionContext": _Context, "IRuntimeConfig": _RuntimeConfig, "IRuntimeCache": _RuntimeCache,
}  # fmt: skip


def _at(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The float32 values that lie at an address of this process."""
    size = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)
