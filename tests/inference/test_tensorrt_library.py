"""The adapter over both libraries: what it calls exists in each (by record, and in the one that is
installed), and what it says when something is missing."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.errors import EngineError
from inference.tensorrt_library import BuildCancelledError, Library, Profile, Request, available, load_library
from tests.inference.fake_tensorrt import World, fake_module
from tests.inference.tensorrt_record import recorded, take

ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(recorded())
PROFILE = Profile((1, 3, 33, 33), (2, 3, 33, 33), (4, 3, 33, 33))
rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")


def made_library(name: str, world: World) -> Library:
    runtime = name.partition(" ")[0]
    assert runtime in ("tensorrt", "tensorrt_rtx")
    return Library(runtime, fake_module(name, world))  # type: ignore[arg-type]


class Steps:
    """A progress that is written down, and stops where it is told."""

    def __init__(self, stop: bool = False) -> None:
        self.seen: list[Any] = []
        self._stop = stop

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self.seen.append((phase, parent, steps))

    def step(self, phase: str, done: int) -> bool:
        self.seen.append(done)
        return not self._stop

    def finish(self, phase: str) -> None:
        self.seen.append("end")


def test_the_record_is_that_of_the_installed_library() -> None:
    installed = take(rtx)
    version = ".".join(installed["version"].split(".")[:2])
    assert recorded().get(f"tensorrt_rtx {version}") == installed, "take the record anew and run the tests"


def test_both_supported_generations_of_tensorrt_are_on_record() -> None:
    versions = {name: record["version"] for name, record in recorded().items()}
    assert [name.partition(" ")[0] for name in versions] == ["tensorrt", "tensorrt", "tensorrt_rtx"]
    assert [version.partition(".")[0] for version in versions.values()] == ["10", "11", "1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_build_calls_what_is_on_record(name: str) -> None:
    world, steps = World(), Steps()
    library = made_library(name, world)
    on_rtx = library.runtime == "tensorrt_rtx"
    targets = ("sm89", "sm120") if on_rtx else ()
    plan = library.build(b"model", Request(PROFILE, targets, timing_cache=b"earlier"), steps)
    assert plan.content
    (config,) = world.configs
    module = library.module
    assert config._cleared == [module.BuilderFlag.TF32]
    assert steps.seen == [("Building engine", None, 2), 0, 1, "end"]
    if on_rtx:
        kinds = module.ComputeCapability
        assert (config.num_compute_capabilities, config._targets) == (2, {0: kinds.SM89, 1: kinds.SM120})
        assert plan.timing_cache is None
        assert library.capabilities == ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
    else:
        assert plan.timing_cache == b"earlier+"
        assert library.capabilities == ()
    assert library.keeps_kernels is on_rtx


@pytest.mark.parametrize("name", NAMES)
def test_a_build_that_is_stopped_or_fails_says_so(name: str) -> None:
    library = made_library(name, World())
    with pytest.raises(BuildCancelledError):
        library.build(b"model", Request(PROFILE), Steps(stop=True))
    with pytest.raises(EngineError, match="does not take this model: no such op"):
        library.build(b"bad", Request(PROFILE))
    with pytest.raises(EngineError, match=r"could not build an engine: out of everything$"):
        made_library(name, World(fails=True)).build(b"model", Request(PROFILE))


@pytest.mark.parametrize("name", NAMES[:2])
def test_plugins_are_asked_for_ahead_of_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = made_library(name, World())
    taken: list[int] = []
    create = library.module.Builder.create_network

    def noted(self: Any, flags: int) -> Any:
        taken.append(flags)
        return create(self, flags)

    monkeypatch.setattr(library.module.Builder, "create_network", noted)
    library.build(b"model", Request(PROFILE, plugins=True))
    flags = library.module.NetworkDefinitionCreationFlag
    assert taken == [1 << flags.STRONGLY_TYPED | 1 << flags.PREFER_AOT_PYTHON_PLUGINS]


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_that_cannot_be_loaded_says_why(name: str) -> None:
    library = made_library(name, World(refused="the plan is of another world\nthe rest follows"))
    reason = "old cuda driver" if library.runtime == "tensorrt_rtx" else r"of another world\)"
    with pytest.raises(EngineError, match=reason):
        library.deserialize(b"{}")


def test_a_builder_that_cannot_start_asks_for_a_gpu_and_a_driver() -> None:
    library = made_library("tensorrt 10.13", World())

    def refuse(logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library.module.Builder = library.module.Runtime = refuse
    for act in (lambda: library.build(b"model", Request(PROFILE)), lambda: library.deserialize(b"{}")):
        with pytest.raises(EngineError, match=r"cannot start \(pybind11.*NVIDIA GPU and that its driver"):
            act()


def test_what_is_not_installed_or_too_old_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = fake_module("tensorrt 10.13", World())
    old.__version__ = "10.12.0.36"

    def find(name: str) -> Any:
        if name == "tensorrt":
            return old
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", find)
    with pytest.raises(
        EngineError, match=r"TensorRT 10\.12\.0\.36 is too old: pip install tensorrt \(10\.13"
    ):
        load_library("tensorrt")
    with pytest.raises(EngineError, match=r"TensorRT for RTX is not installed: run make setup.*'\.\[trt\]'"):
        load_library("tensorrt_rtx")
    assert available() == ()


def test_a_library_that_does_not_load_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", find)
    with pytest.raises(EngineError, match=r"cannot be loaded \(libnvinfer.so.10"):
        load_library("tensorrt")


def test_the_installed_library_takes_no_garbage() -> None:
    library = load_library("tensorrt_rtx")
    assert library.module.__name__ in ("tensorrt_rtx", "tensorrt_rtx_bindings")
    with pytest.raises(EngineError, match="does not take this model: .*parse the ONNX model"):
        library.build(b"no model", Request(PROFILE))
    with pytest.raises(EngineError, match="cannot use it"):
        library.deserialize(b"no plan")


def test_importing_the_adapter_imports_neither_library() -> None:
    names = "'tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings'"
    code = f"import sys, inference.tensorrt_library; sys.exit(any(name in sys.modules for name in ({names})))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
