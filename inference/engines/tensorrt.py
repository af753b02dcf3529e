"""TensorRT and TensorRT for RTX on an NVIDIA GPU: runs the plans that lie in a bundle.

python -m inference photo.jpg --model BUNDLE --device cuda --engine tensorrt --out out

A plan runs on the library's version that built it and on the GPUs that it was built for; any other is
refused with the command that builds one. Not here: building (`export/trt.py`).
"""

import hashlib
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle import Bundle, PlanInfo
from inference.cache import Cache, default_folder
from inference.engines.graphs import BuiltInGraphs, CapturedGraphs
from inference.errors import BundleError, EngineError
from inference.tensorrt_library import Library, Loaded, load_library

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One GPU. target: its compute capability as plans have it, "sm89"."""

    index: int
    name: str
    target: str
    memory_bytes: int


def find_gpu(device: str = "cuda") -> Gpu | None:
    """What "cuda" or "cuda:N" names; None where there is no such GPU, or no driver."""
    index = int(device.partition(":")[2] or 0)
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return None
    properties = torch.cuda.get_device_properties(index)
    target = f"sm{properties.major}{properties.minor}"
    return Gpu(index, properties.name, target, properties.total_memory)


class CudaDevice:
    """What the engine needs of a GPU, by torch."""

    def __init__(self, gpu: Gpu) -> None:
        self._device = torch.device("cuda", gpu.index)
        self._stream = torch.cuda.Stream(self._device)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes it the GPU that libraries use."""
        with torch.cuda.device(self._device):
            yield

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Uninitialised memory of the caller's stream."""
        return torch.empty(shape, dtype=dtype, device=self._device)

    def put(self, array: NDArray[Any]) -> torch.Tensor:
        """A copy on the GPU."""
        return torch.from_numpy(array).to(self._device)

    @contextmanager
    def working(self) -> Iterator[int]:
        """A stream of the engine's own, by its handle: after all that the caller's stream has been given, and
        before all that it is given later. The host waits for nothing: it makes the next images ready."""
        with torch.cuda.device(self._device):
            caller = torch.cuda.current_stream()
            self._stream.wait_stream(caller)
            try:
                with torch.cuda.stream(self._stream):
                    yield self._stream.cuda_stream
            except BaseException:
                # Whatever went wrong, nothing reads the caller's memory any more.
                self._stream.synchronize()
                raise
            caller.wait_stream(self._stream)

    def capture(self, work: Any) -> Any:
        """What `work(stream)` gives the GPU to do, as a graph to `replay()` within `working`."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU in the meantime.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work(self._stream.cuda_stream)
        return graph


class TensorRTEngine:
    """The plan of a bundle that fits the GPU; calls wait for one another, as the GPU is one.

    Takes numpy arrays or torch tensors and gives the same kind. Raises EngineError where no plan fits (the
    message has the command that builds one), BundleError for a plan that is not what `model.json` says.
    """

    name = "tensorrt"

    def __init__(self, bundle: Bundle, *, device: str = "cuda") -> None:
        gpu = _require_gpu(device)
        self.plan, library = choose_plan(bundle, gpu)
        content = _read(bundle, self.plan)
        on_gpu = CudaDevice(gpu)
        with on_gpu.current():
            loaded = _load(library, content, bundle)
            self._start(bundle, loaded, library, on_gpu, gpu)
        self.device = device

    def _start(self, bundle: Bundle, loaded: Loaded, library: Library, device: Any, gpu: Gpu) -> None:
        """Checks what was loaded against model.json, and sets up buffers."""
        engine, info = loaded.engine, bundle.info
        _check_tensors(library, engine, bundle)
        least, usual, most = (tuple(shape) for shape in engine.get_tensor_profile_shape("image", 0))
        self._least, self._most = least, most
        one_size = least[2:] == most[2:] and info.test_mode != "whole"
        self.crop_hw: tuple[int, int] | None = info.crop_hw if one_size else None
        limits = (least[2], least[3]), (most[2], most[3])
        self.limits_hw: tuple[tuple[int, int], tuple[int, int]] | None = None if one_size else limits
        self.max_batch: int | None = most[0]
        self.preferred_batch = usual[0]
        self._lock, self._device = threading.Lock(), device
        self._loaded: Loaded | None = loaded
        runner = BuiltInGraphs if library.keeps_kernels else CapturedGraphs
        kernels = Cache(default_folder()), {
            "plan": self.plan.sha256, "library": library.title, "gpu": gpu.name, "target": gpu.target,
            "cuda": torch.version.cuda,
        }  # fmt: skip
        self._runner: Any = runner(library, loaded, device, kernels)
        self._pixels = device.empty((math.prod(most),))
        shape = self._runner.logits_shape(most)
        self._logits = device.empty((math.prod(shape),))
        # Of a plan for any size, what the architecture says: nothing relies on it.
        fixed = self.crop_hw is not None
        self.coarse_hw = (shape[2], shape[3]) if fixed else info.architecture.feature_hw
        if shape[1] != info.classes:
            raise BundleError(
                f"{self.plan.file} gives {shape[1]} classes and model.json says {info.classes}: they belong "
                f"to different models; {_command(bundle)}"
            )

    def to_device(self, array: NDArray[Any]) -> torch.Tensor:
        """See `Engine.to_device`."""
        tensor: torch.Tensor = self._device.put(array)
        return tensor

    def infer(self, images: NDArray[np.float32] | torch.Tensor) -> NDArray[np.float32] | torch.Tensor:
        """See `Engine.infer`."""
        tensor = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        shape = tuple(tensor.shape)
        self._require_fit(shape, tensor.dtype)
        try:
            with self._lock, self._device.current():
                logits = self._run(tensor, shape)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"the GPU's memory is too small for {shape}: free some, or choose --device cpu"
            ) from error
        except RuntimeError as error:  # what CUDA says, in torch's words
            raise EngineError(f"the GPU failed on {shape}: {str(error).partition(chr(10))[0]}") from error
        return logits.numpy(force=True) if isinstance(images, np.ndarray) else logits

    def close(self) -> None:
        """Lets go of the plan and its memory; keeps the kernels that were compiled for the next time."""
        with self._lock, self._device.current():
            if self._runner is not None:
                self._runner.close()
            self._runner = self._loaded = self._pixels = self._logits = None

    def _run(self, images: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        if self._runner is None:
            raise EngineError("this engine was closed: open the model again")
        logits_shape = self._runner.logits_shape(shape)
        pixels = self._pixels[: math.prod(shape)].view(shape)
        logits = self._logits[: math.prod(logits_shape)].view(logits_shape)
        # Made before the engine's stream takes over: it is the caller's to use and to free.
        result: torch.Tensor = self._device.empty(logits_shape)
        with self._device.working() as stream:
            pixels.copy_(images)
            self._runner.run(shape, pixels.data_ptr(), logits.data_ptr(), stream)
            result.copy_(logits)
        return result

    def _require_fit(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        limits = (self._least, self._most)
        inside = len(shape) == 4 and all(
            low <= side <= high for low, side, high in zip(self._least, shape, self._most, strict=True)
        )
        if not inside or dtype != torch.float32:
            raise EngineError(
                f"{self.plan.file} takes float32 images of {limits[0]} to {limits[1]}, not {dtype} {shape}: "
                "build it for others (python -m export.trt --max-batch N, and for whole images "
                "--sizes LEAST,USUAL,MOST)"
            )


def choose_plan(bundle: Bundle, gpu: Gpu) -> tuple[PlanInfo, Library]:
    """The plan of a bundle that was built last of those that run here; EngineError where none does."""
    reasons = []
    for plan in reversed(bundle.info.plans):
        if gpu.target not in plan.target.split("+"):
            reasons.append(f"{plan.file} is for {plan.target} and {gpu.name} is {gpu.target}")
            continue
        try:
            library = load_library(plan.runtime)
        except EngineError as error:
            reasons.append(f"{plan.file}: {error}")
            continue
        if library.version != plan.runtime_version:
            reasons.append(
                f"{plan.file} was built by version {plan.runtime_version} and {library.title} is installed"
            )
            continue
        return plan, library
    said = "; ".join(reasons) or "it holds none"
    raise EngineError(
        f"no TensorRT engine of {bundle.folder} runs on this machine ({said}): {_command(bundle)}"
    )


def fits(bundle: Bundle, device: str) -> bool:
    """Whether `TensorRTEngine` would find a plan to run on that device."""
    gpu = find_gpu(device)
    if gpu is None or not bundle.info.plans:
        return False
    try:
        choose_plan(bundle, gpu)
    except EngineError as error:
        log.warning("%s", error)
        return False
    return True


def _require_gpu(device: str) -> Gpu:
    if device == "cpu":
        raise EngineError("TensorRT runs on an NVIDIA GPU: choose --device cuda, or another --engine")
    gpu = find_gpu(device)
    if gpu is None:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise EngineError(
            f"there are {count} GPUs that PyTorch can use, so {device} cannot be: check the driver "
            "(nvidia-smi) and that torch is a CUDA build, or choose --device cpu"
        )
    return gpu


def _command(bundle: Bundle) -> str:
    return f"build one with python -m export.trt --ckpt {bundle.folder}"


def _read(bundle: Bundle, plan: PlanInfo) -> bytes:
    """The plan's content, which is what model.json says."""
    path = bundle.folder / plan.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror or error}): {_command(bundle)}") from error
    if hashlib.sha256(content).hexdigest() != plan.sha256:
        raise BundleError(
            f"{path} is not the engine that model.json describes, or was cut short (its sha256 differs): "
            f"{_command(bundle)}"
        )
    return content


def _load(library: Library, content: bytes, bundle: Bundle) -> Loaded:
    try:
        return library.deserialize(content)
    except EngineError as error:
        raise EngineError(
            f"the engine in {bundle.folder} does not run here: {error}; {_command(bundle)}"
        ) from error


def _check_tensors(library: Library, engine: Any, bundle: Bundle) -> None:
    """Holds the plan's inputs and outputs against the contract."""
    modes, kinds = library.module.TensorIOMode, library.module.DataType
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
    if found != {"image": (modes.INPUT, kinds.FLOAT), "logits": (modes.OUTPUT, kinds.FLOAT)}:
        raise BundleError(f"the engine in {bundle.folder} has other inputs and outputs: {_command(bundle)}")
    sides, crop_hw = tuple(engine.get_tensor_shape("image"))[2:], bundle.info.crop_hw
    if sides != crop_hw and -1 not in sides and bundle.info.test_mode != "whole":
        raise BundleError(
            f"the engine in {bundle.folder} takes images of {sides} and model.json says {crop_hw}: they "
            f"belong to different models; {_command(bundle)}"
        )
