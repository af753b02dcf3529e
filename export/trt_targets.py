"""Which TensorRT builds, and for which GPUs: what `--runtime` and `--target` mean on this machine.

library = choose_library("auto", gpu=find_gpu(), target=None, plugin=False)
targets = choose_targets(library, None, find_gpu())
"""

from dataclasses import dataclass

from export.errors import UnavailableError
from inference.bundle import Runtime
from inference.engines.tensorrt import Gpu
from inference.errors import EngineError
from inference.tensorrt_library import TITLES, Library, available, load_library

RUNTIMES = ("auto", *TITLES)
_TURING = "sm75"


@dataclass(frozen=True)
class Targets:
    """requested: of the library, as in `Request`; written: what the plan runs on, as in `PlanInfo`."""

    requested: tuple[str, ...]
    written: str


def choose_library(runtime: str, *, gpu: Gpu | None, target: str | None, plugin: bool) -> Library:
    """The library that is named, or the one that can do what is asked: TensorRT on a GPU, where it is
    installed and no other GPU is meant, else TensorRT for RTX.

    Raises EngineError where it is not installed, UnavailableError for a plugin without TensorRT.
    """
    if plugin and runtime == "tensorrt_rtx":
        raise UnavailableError(
            "plugins need TensorRT proper: leave --plugin out (the engine then holds the function, which "
            "gives the same), or choose --runtime tensorrt"
        )
    if runtime != "auto":
        named: Runtime = "tensorrt" if runtime == "tensorrt" else "tensorrt_rtx"
        return load_library(named)
    if plugin:
        try:
            return load_library("tensorrt")
        except EngineError as error:
            raise type(error)(f"{error}; or leave --plugin out") from error
    found = {library.runtime: library for library in available()}
    here = gpu is not None and target in (None, "current", gpu.target)
    for name in ("tensorrt", "tensorrt_rtx") if here else ("tensorrt_rtx", "tensorrt"):
        if name in found:
            return found[name]
    raise EngineError(
        "neither TensorRT nor TensorRT for RTX is installed: run make setup, or pip install '.[trt]' "
        "(Linux, x86-64); on a machine with an NVIDIA GPU, pip install tensorrt"
    )


def choose_targets(library: Library, target: str | None, gpu: Gpu | None) -> Targets:
    """What a plan is built for. target: "current", "all", "sm89", "sm86+sm89"; None is the GPU that is
    there, else all.

    "all" leaves Turing (sm75) out, which has no float32 products in TensorRT for RTX and slows a plan that
    is for others, too; it can be named. Raises UnavailableError.
    """
    offered = library.capabilities
    if not offered:
        if gpu is None:
            raise UnavailableError(
                f"{library.title} builds on an NVIDIA GPU only, and PyTorch finds none here: check the "
                "driver (nvidia-smi), or choose --runtime tensorrt_rtx, which builds without one"
            )
        if target not in (None, "current", gpu.target):
            raise UnavailableError(
                f"{library.title} builds for the GPU that is there ({gpu.target}), not for {target}: leave "
                "--target out, or choose --runtime tensorrt_rtx"
            )
        return Targets((), gpu.target)
    if target is None:
        target = "all" if gpu is None else "current"
    if target == "all":
        chosen = tuple(name for name in offered if name != _TURING)
        return Targets(chosen, "+".join(chosen))
    if target == "current":
        if gpu is None:
            raise UnavailableError("there is no GPU for --target current: name one, --target sm89, or all")
        return Targets((gpu.target if gpu.target in offered else "current",), gpu.target)
    chosen = tuple(dict.fromkeys(target.lower().split("+")))
    taken = f"--target takes current, all, and one or more of {', '.join(offered)} joined by +"
    for alone in ("all", "current"):
        if alone in chosen:
            raise UnavailableError(f"{alone!r} stands alone, not in {target!r}: {taken}")
    if "" in chosen:
        raise UnavailableError(f"a target is missing in {target!r}: {taken}")
    unknown = [name for name in chosen if name not in offered]
    if unknown:
        raise UnavailableError(f"{library.title} does not build for {'+'.join(unknown)}: {taken}")
    return Targets(chosen, "+".join(chosen))
