"""TensorRT, and TensorRT for RTX: the one module that imports either and knows where they differ.

A `Library` builds engines ("plans") from ONNX files and loads them; both have strongly typed networks only,
so the types in the file are those of the plan. Not here: running a plan (`engines/tensorrt.py`), making the
file or a bundle (`export/trt.py`). Nothing is imported before `load_library` is called.

    library = load_library("auto")
    plan = library.build(Path("model.onnx").read_bytes(), Request(profile, targets=("sm89",)))
"""

import importlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from inference.bundle import Runtime
from inference.errors import EngineError

log = logging.getLogger(__name__)

TITLES: dict[Runtime, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_MODULES: dict[Runtime, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    # The second where the package that is named as the first is not installed beside its bindings.
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_INSTALL: dict[Runtime, str] = {
    "tensorrt": "pip install tensorrt (10.13 or later), on a machine with an NVIDIA GPU",
    "tensorrt_rtx": "run make setup, or pip install '.[trt]' (Linux, x86-64)",
}
_OLDEST = (10, 13)
_KEPT_ERRORS = 4
_MEMORY = re.compile(r"Total Activation Memory: (\d+) bytes")
"""What a build says, at the end, of the memory that the plan will work in."""

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Profile:
    """Shapes (N, 3, h, w) of `image` that a plan takes, and the one it is tuned for."""

    least: Shape
    usual: Shape
    most: Shape


class Progress(Protocol):
    """What a build reports to, from any thread, one call at a time. Phases lie within phases."""

    def start(self, phase: str, parent: str | None, steps: int) -> None: ...
    def step(self, phase: str, done: int) -> bool:
        """Whether to go on; False gives the build up."""

    def finish(self, phase: str) -> None: ...


@dataclass(frozen=True)
class Request:
    """What to build. targets: compute capabilities ("sm89") for TensorRT for RTX, none for the GPU that is
    there; plugins: whether the file's nodes may be ahead-of-time plugins; timing_cache: of earlier builds."""

    profile: Profile
    targets: tuple[str, ...] = ()
    plugins: bool = False
    timing_cache: bytes = b""


@dataclass(frozen=True)
class Plan:
    """What a build gives. timing_cache: to keep for the next build, None where the library has no use for
    one; memory_bytes: what the plan works in on the GPU, beside its weights, None where the library did not
    say."""

    content: bytes
    timing_cache: bytes | None
    memory_bytes: int | None = None


class BuildCancelledError(EngineError):
    """The build was given up because `Progress.step` said so."""


@dataclass(frozen=True)
class Library:
    """One of the two, imported. module: the library itself."""

    runtime: Runtime
    module: Any

    @property
    def title(self) -> str:
        """As it calls itself, with its version."""
        return f"{TITLES[self.runtime]} {self.version}"

    @property
    def version(self) -> str:
        """All of it, "10.13.0.35": plans of any other are not read."""
        return str(self.module.__version__)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that it builds for wherever it runs; none where it needs the GPU."""
        kinds = getattr(self.module, "ComputeCapability", None)
        names = kinds.__members__ if kinds is not None else ()
        return tuple(name.lower() for name in names if name.startswith("SM"))

    @property
    def keeps_kernels(self) -> bool:
        """Whether it compiles kernels when a plan is first run (and can keep them), and has CUDA graphs of
        its own."""
        return hasattr(self.module, "CudaGraphStrategy")

    @property
    def times_kernels(self) -> bool:
        """Whether a build measures kernels on the GPU, which a timing cache saves."""
        return not self.keeps_kernels

    def build(self, model: bytes, request: Request, progress: Progress | None = None) -> Plan:
        """Builds a plan from an ONNX file that is strongly typed; takes seconds to minutes.

        Raises EngineError for a file that it does not take and where there is no GPU for it to build on;
        BuildCancelledError.
        """
        trt, recorder = self.module, _Recorder(self)
        builder = recorder.make(trt.Builder)
        flags = trt.NetworkDefinitionCreationFlag
        wanted = 1 << int(flags.STRONGLY_TYPED)
        if request.plugins:
            wanted |= 1 << int(flags.PREFER_AOT_PYTHON_PLUGINS)
        network = builder.create_network(wanted)
        parser = trt.OnnxParser(network, recorder.logger)
        if not parser.parse(model):
            reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise EngineError(f"{self.title} does not take this model: {reasons or recorder.reason}")
        config = builder.create_builder_config()
        # Its own choice for float32, TF32, has the 10 bits of float16.
        config.clear_flag(trt.BuilderFlag.TF32)
        profile, shapes = builder.create_optimization_profile(), request.profile
        profile.set_shape("image", shapes.least, shapes.usual, shapes.most)
        config.add_optimization_profile(profile)
        self._set_targets(config, request.targets)
        if self.times_kernels:
            cache = config.create_timing_cache(request.timing_cache)
            config.set_timing_cache(cache, False)
        monitor = _monitor(trt, progress) if progress is not None else None
        if monitor is not None:
            config.progress_monitor = monitor
        content = builder.build_serialized_network(network, config)
        if content is None:
            if monitor is not None and monitor.cancelled:
                raise BuildCancelledError("the build was given up")
            raise EngineError(f"{self.title} could not build an engine: {recorder.reason}")
        timings = bytes(config.get_timing_cache().serialize()) if self.times_kernels else None
        return Plan(bytes(content), timings, recorder.memory_bytes)

    def deserialize(self, plan: bytes) -> "Loaded":
        """Loads a plan onto the current GPU. Raises EngineError, which says why it cannot be."""
        recorder = _Recorder(self)
        runtime = recorder.make(self.module.Runtime)
        if hasattr(runtime, "get_engine_validity"):
            validity, bits = runtime.get_engine_validity(plan)
            if validity == self.module.EngineValidity.INVALID:
                kinds = self.module.EngineInvalidityDiagnostics.__members__
                found = [name.lower().replace("_", " ") for name, kind in kinds.items() if bits & int(kind)]
                raise EngineError(f"{self.title} cannot use it ({', '.join(found) or recorder.reason})")
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{self.title} cannot read it ({recorder.reason})")
        return Loaded(engine, runtime, recorder)

    def _set_targets(self, config: Any, targets: tuple[str, ...]) -> None:
        if not targets:
            return
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            capability = getattr(self.module.ComputeCapability, target.upper())
            if not config.set_compute_capability(capability, index):
                raise EngineError(f"{self.title} does not build for {target}: choose another --target")


@dataclass(frozen=True)
class Loaded:
    """An engine on the GPU. runtime, recorder: what it needs to stay alive, and what it said last."""

    engine: Any
    runtime: Any
    recorder: "_Recorder"


def load_library(runtime: Runtime) -> Library:
    """Imports the library; EngineError, which says what to install, where it is missing or too old."""
    for name in _MODULES[runtime]:
        try:
            library = Library(runtime, importlib.import_module(name))
        except ModuleNotFoundError as error:
            # A package that is there but lacks one of its own is another matter.
            if error.name not in _MODULES[runtime]:
                raise EngineError(f"{name} cannot be imported ({error}): {_INSTALL[runtime]}") from error
        except (ImportError, OSError) as error:
            raise EngineError(f"{name} cannot be loaded ({error}): {_INSTALL[runtime]}") from error
        else:
            _require_new(library)
            return library
    raise EngineError(f"{TITLES[runtime]} is not installed: {_INSTALL[runtime]}")


def available() -> tuple[Library, ...]:
    """Those that are installed."""
    found = []
    for runtime in TITLES:
        try:
            found.append(load_library(runtime))
        except EngineError as error:
            log.debug("%s", error)
    return tuple(found)


def _require_new(library: Library) -> None:
    if library.runtime == "tensorrt" and tuple(map(int, library.version.split(".")[:2])) < _OLDEST:
        raise EngineError(f"{library.title} is too old: {_INSTALL['tensorrt']}")


class _Recorder:
    """A logger of the library's own kind that keeps its last error and passes everything to `logging`."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._errors: list[str] = []
        self.memory_bytes: int | None = None
        self.logger = _logger(library.module, self._take)

    @property
    def reason(self) -> str:
        """What it said first of what went wrong; the rest follows from it."""
        return self._errors[0] if self._errors else "it did not say why"

    def forget(self) -> None:
        """Makes `reason` tell of what comes from here on."""
        self._errors.clear()

    def make(self, kind: Callable[[Any], Any]) -> Any:
        """A Builder or Runtime; EngineError where it cannot start, for want of a driver, say."""
        try:
            made = kind(self.logger)
        except (TypeError, RuntimeError) as error:  # the bindings' own words: a factory returned nullptr
            raise EngineError(
                f"{self._library.title} cannot start ({self._errors[0] if self._errors else error}): check "
                "that there is an NVIDIA GPU and that its driver is new enough"
            ) from error
        return made

    def _take(self, is_error: bool, message: str) -> None:
        log.debug("%s: %s", self._library.title, message)
        # There is no call that tells before the plan is loaded, on a GPU.
        if found := _MEMORY.search(message):
            self.memory_bytes = int(found[1])
        # What follows from the first few is of no use to anybody.
        if is_error and len(self._errors) < _KEPT_ERRORS:
            self._errors.append(message.strip().partition("\n")[0])


def _logger(trt: Any, take: Callable[[bool, str], None]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            take(severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR), msg)

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.cancelled = self.cancelled or not progress.step(phase_name, step)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
