"""The contract of engines, and which one to open. Each engine's library is imported only when it is opened.

from inference.engines import open_model
info, engine = open_model("psanet18_camvid", engine="auto", device="cpu")
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from inference.arrays import Array
from inference.bundle import Bundle, ModelInfo, resolve_model
from inference.errors import BundleError, EngineError, ParameterError
from inference.source import source_of
from models.config import Direction
from models.options import ArchitectureOptions

log = logging.getLogger(__name__)

ENGINES = ("auto", "onnxruntime", "torch", "tensorrt")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")

_EXPORTERS = {"onnxruntime": ("ONNX Runtime", "export.onnx"), "tensorrt": ("TensorRT", "export.trt")}

MAX_THREADS = 1024
"""More would take the machine's memory, not its processors."""


class Engine(Protocol):
    """A model that is ready to run. Keeps no state between calls; any thread may call `infer`.

    name: "onnxruntime", "torch" …; device: "cpu", "cuda" or "cuda:N"; crop_hw: size of the images that it
    takes, None for any size, the same within a call; limits_hw: the least and the most that any size may be,
    where the engine has set its memory aside for that, else None; coarse_hw: size of its logits for images of
    `crop_hw`, or of the model's own crop; preferred_batch: images in a call that make it fast; max_batch:
    images in a call that it can take, None for any number.
    """

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def crop_hw(self) -> tuple[int, int] | None: ...
    @property
    def limits_hw(self) -> tuple[tuple[int, int], tuple[int, int]] | None: ...
    @property
    def coarse_hw(self) -> tuple[int, int]: ...
    @property
    def preferred_batch(self) -> int: ...
    @property
    def max_batch(self) -> int | None: ...

    def to_device(self, array: NDArray[Any]) -> Array:
        """The array where `infer` wants it: itself for an engine on the CPU, else a copy on the device."""

    def infer(self, images: Array) -> Array:
        """(N, 3, h, w) float32 RGB in [0, 255] to coarse logits (N, C, h', w') float32; numpy to numpy,
        torch to torch. The arrays given may be written to again once it returns. Raises EngineError."""

    def close(self) -> None:
        """Lets go of the model; no call may be running, none may follow."""


@runtime_checkable
class AttentionEngine(Protocol):
    """What some engines can do beside `Engine`: tell what each position attends to.

    directions: those that it can tell of, perhaps none.
    """

    @property
    def directions(self) -> tuple[Direction, ...]: ...

    def attend(self, images: Array, directions: Sequence[Direction]) -> dict[Direction, Array]:
        """(N, 3, h, w), as `Engine.infer` takes them, to (N, t, s) float32 for each of the directions asked
        for, some of the engine's: what target t takes from source s (docs/onnx.md). Raises EngineError."""


def arrays_of(engine: Engine) -> Array:
    """An array of the kind and on the device that the engine takes."""
    return engine.to_device(np.zeros(1, np.float32))


def open_model(
    model: str | Path,
    *,
    engine: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    dataset: str | None = None,
    options: ArchitectureOptions | None = None,
    precision: str = "auto",
    compiled: bool = False,
) -> tuple[ModelInfo, Engine]:
    """Opens a bundle folder, a bundled model by its name, or a checkpoint file.

    engine: "auto" is PyTorch for checkpoints, and for bundles ONNX Runtime, or on a GPU TensorRT where the
    bundle holds a plan that fits it. device: "cpu", "cuda", "cuda:N".
    threads: of one call on the CPU, None for the library's choice. dataset, options: what a checkpoint cannot
    tell of itself; a bundle knows. precision, compiled: of PyTorch, see `PyTorchEngine`; "auto" is fp32 on a
    CPU and fp16 on a GPU, and other engines run what was exported.
    Raises ModelNotFoundError, BundleError, EngineError (what to install, or why it cannot run here),
    ParameterError, and CheckpointError of `models`.
    """
    if engine not in ENGINES:
        raise ParameterError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ParameterError(f"unknown device {device!r}: choose cpu, cuda, or cuda:N for the GPU number N")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ParameterError(f"threads must be between 1 and {MAX_THREADS}, not {threads}")
    if precision not in PRECISIONS:
        raise ParameterError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    found = resolve_model(model)
    of_pytorch = {"precision": _precision(precision, device), "compiled": compiled}
    if not isinstance(found, Bundle):
        if engine in _EXPORTERS:
            title, exporter = _EXPORTERS[engine]
            raise EngineError(
                f"{found} is a checkpoint, which {title} cannot run: choose --engine torch, "
                f"or export it first with python -m {exporter} --ckpt {found}"
            )
        opened: tuple[ModelInfo, Engine] = _pytorch().open_checkpoint(
            found,
            dataset=dataset,
            options=options or ArchitectureOptions(),
            device=device,
            threads=threads,
            **of_pytorch,
        )
        return opened
    if dataset is not None or options not in (None, ArchitectureOptions()):
        raise ParameterError(
            f"{found.folder} is a bundle, which says by itself what its network is: "
            "leave out the data set and the architecture options, they are for checkpoints"
        )
    if engine == "torch":
        return _open_source(found, device, threads, of_pytorch)
    if precision != "auto" or compiled:
        raise ParameterError(
            f"{found.folder} holds its network at the precision that it was exported with: "
            "leave out precision and compiling, they are for --engine torch"
        )
    if engine == "tensorrt" or (engine == "auto" and _has_plan(found, device)):
        return found.info, _tensorrt().TensorRTEngine(found, device=device)
    try:
        from inference.engines.onnxruntime import OnnxRuntimeEngine
    except ModuleNotFoundError as error:
        raise _missing(error, "onnxruntime", "ONNX Runtime", "cpu") from error
    return found.info, OnnxRuntimeEngine(found, device=device, threads=threads)


def _precision(asked: str, device: str) -> str:
    if asked != "auto":
        return asked
    return "fp32" if device == "cpu" else "fp16"


def _open_source(
    bundle: Bundle, device: str, threads: int | None, of_pytorch: dict[str, Any]
) -> tuple[ModelInfo, Engine]:
    """The checkpoint that a bundle was made from, on PyTorch; EngineError where that cannot be had."""
    library = _pytorch()
    try:
        with source_of(bundle) as source:
            found, engine = library.open_checkpoint(
                source.path, **source.arguments, device=device, threads=threads, **of_pytorch
            )
        source.require_same(found.source_sha256)
    except BundleError as error:
        raise EngineError(f"engine torch: {error}") from error
    return bundle.info, engine


def _pytorch() -> Any:
    try:
        import inference.engines.pytorch
    except ModuleNotFoundError as error:
        raise _missing(error, "torch", "PyTorch", "train") from error
    return inference.engines.pytorch


def _has_plan(bundle: Bundle, device: str) -> bool:
    """Whether a TensorRT engine lies in the bundle and runs here; one that does not is said in the log."""
    if device == "cpu" or not bundle.info.plans:
        return False
    try:
        found: bool = _tensorrt().fits(bundle, device)
    except EngineError as error:
        log.warning("%s", error)
        return False
    return found


def _tensorrt() -> Any:
    try:
        import inference.engines.tensorrt
    except ModuleNotFoundError as error:
        raise _missing(error, "torch", "PyTorch, which TensorRT's engines use", "gpu") from error
    return inference.engines.tensorrt


def _missing(error: ModuleNotFoundError, module: str, title: str, extra: str) -> Exception:
    """What to say of a library that is not installed; `error` itself where something else is missing."""
    if (error.name or "").partition(".")[0] != module:
        return error
    return EngineError(
        f"{title} is not installed: run make setup, or pip install '.[{extra}]' (for a GPU '.[gpu]')"
    )
