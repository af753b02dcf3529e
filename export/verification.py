"""Runs every engine of a bundle beside PyTorch, on images and on windows of them, and says how they differ.

PyTorch in float32 is what engines are held against; PyTorch in float64, on the same few windows, says how far
float32 itself is from the truth. Not here: the tolerances (`export/comparison.py`), the command line
(`export/verify.py`), what the outcome looks like (`export/report.py`).

    verification = verify_bundle(read_bundle("psanet50_ade20k"), subjects)
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from export.comparison import LABEL_TOLERANCE, require
from export.errors import VerificationError
from export.runs import EngineResult, Recorder, Runner, WindowComparison
from inference.bundle import Bundle, ModelInfo
from inference.engines import Engine, open_model
from inference.engines.pytorch import PyTorchEngine
from inference.errors import BundleError, EngineError, ParameterError
from inference.pairs import Pair, UnreadableImageError
from inference.predictor import DEFAULT_BUDGET_BYTES
from inference.source import source_of
from models.checkpoint import Checkpoint, CheckpointError, build_from_checkpoint, load_checkpoint

log = logging.getLogger(__name__)

WINDOWS = 8
"""Windows on which logits are compared, in all: float64 takes several times as long as float32."""
_MEND = "verifying needs the checkpoint, name it with --ckpt"


@dataclass(frozen=True)
class Subject:
    """An image to verify on: a file with or without labels, or pixels (H, W, 3) uint8 RGB.
    optional: left out with a warning where the image cannot be read."""

    name: str
    source: Pair | NDArray[np.uint8]
    optional: bool = False

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """(H, W, 3) uint8 RGB and (H, W) class ids or None. Raises ParameterError that names the file."""
        return self.source.read() if isinstance(self.source, Pair) else (self.source, None)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The outcome. reference: PyTorch in float32; windows: on which logits were compared; labelled: whether
    the images came with labels; same_checkpoint: whether it is the file that the bundle was made from."""

    info: ModelInfo
    checkpoint: Path
    same_checkpoint: bool
    reference: EngineResult
    engines: tuple[EngineResult, ...]
    images: int
    windows: int
    labelled: bool
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether something ran, and nothing that ran is too far from the network."""
        return any(result.ran for result in self.engines) and not any(item.failure for item in self.engines)


def find_checkpoint(bundle: Bundle, path: Path | None) -> Checkpoint:
    """The checkpoint at `path`, or the one that the bundle was made from where it still lies.

    Raises BundleError where there is none, or where its network or classes are not the bundle's, and what
    `load_checkpoint` raises.
    """
    info, meant = bundle.info, bundle
    if path is not None:
        if not path.is_file():
            raise ParameterError(
                f"--ckpt {path} is no file: name the checkpoint that the bundle was made from"
            )
        meant = Bundle(replace(info, source_file=str(path.resolve()), source_sha256=None), bundle.folder)
    try:
        with source_of(meant, mend=_MEND) as source:
            checkpoint = load_checkpoint(source.path, **source.arguments)
        source.require_same(checkpoint.sha256, mend=_MEND)
    except CheckpointError as error:
        if path is None:
            raise
        raise BundleError(f"{path} does not fit {bundle.folder}: {error}") from error
    if checkpoint.config.replace(aux=False) != info.architecture.replace(aux=False):
        raise BundleError(
            f"{checkpoint.path} does not fit {bundle.folder}: it holds {checkpoint.config}, and the bundle "
            f"{info.architecture}; name the right one with --ckpt"
        )
    return checkpoint


def verify_bundle(
    bundle: Bundle,
    subjects: Sequence[Subject],
    *,
    checkpoint: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> Verification:
    """Verifies all engines on all subjects. device, threads: as `open_model` takes them;
    memory_budget_bytes: as `Predictor` does.

    Raises ParameterError, BundleError, EngineError (PyTorch's own), CheckpointError. An engine that cannot
    run here is left out with a note, one that is wrong has a `failure`.
    """
    started = time.perf_counter()
    info, found = bundle.info, find_checkpoint(bundle, checkpoint)
    network = build_from_checkpoint(found)
    with ExitStack() as stack:
        runners: list[Runner] = []
        results: list[EngineResult] = []
        for result, engine in _engines(bundle, device, threads):
            results.append(result)
            if engine is not None:
                stack.callback(engine.close)
                runners.append(Runner(info, engine, result, memory_budget_bytes=memory_budget_bytes))
        # On a GPU the network moves there; the logits of windows are compared on the CPU.
        moved = network if device == "cpu" else build_from_checkpoint(found)
        # Smaller pictures are padded for engines of one size: it must see the same.
        crop_hw = next((runner.engine.crop_hw for runner in runners if runner.engine.crop_hw), None)
        recorder = Recorder(PyTorchEngine(moved, device=device, threads=threads), crop_hw=crop_hw)
        own = EngineResult("PyTorch", device, "fp32", info.classes)
        reference = Runner(info, recorder.engine, own, memory_budget_bytes=memory_budget_bytes)
        windows, labelled = WindowComparison(info, network, reference, runners), False
        progress = tqdm(subjects, desc="verifying", unit="image", disable=None)
        images = share = 0
        for subject, count in zip(progress, _shares(len(subjects)), strict=True):
            share += count
            try:
                image, truth = subject.read()
            except UnreadableImageError as error:
                if not subject.optional:
                    raise
                log.warning("left out: %s", error)
                continue
            recorder.start(share)
            images, share = images + 1, 0
            _run_all(subject.name, reference, runners, image, truth)
            windows.add(recorder.windows)
            labelled |= truth is not None
    if not images:
        raise ParameterError(f"none of the {len(subjects)} images can be read: name others")
    _judge(results)
    return Verification(
        info=info,
        checkpoint=found.path,
        same_checkpoint=info.source_sha256 in (None, found.sha256),
        reference=reference.result,
        engines=tuple(results),
        images=images,
        windows=windows.count,
        labelled=labelled,
        seconds=time.perf_counter() - started,
    )


def _engines(
    bundle: Bundle, device: str, threads: int | None
) -> Iterator[tuple[EngineResult, Engine | None]]:
    """Every engine that the bundle offers; None where it cannot run here."""
    info = bundle.info
    result = EngineResult("ONNX Runtime", device, info.precision, info.classes)
    try:
        _, opened = open_model(bundle.folder, engine="onnxruntime", device=device, threads=threads)
    except EngineError as error:
        if device == "cpu":
            raise
        result.device, result.note = "cpu", f"on the CPU: {error}"
        _, opened = open_model(bundle.folder, engine="onnxruntime", threads=threads)
    yield result, opened
    if info.plans:
        yield from _plans(bundle, device if device != "cpu" else "cuda")


def _plans(bundle: Bundle, device: str) -> Iterator[tuple[EngineResult, Engine | None]]:
    """The TensorRT plan that fits this GPU, and the others, which are not run."""
    opened: Engine | None = None
    reason = "no GPU"
    if torch.cuda.is_available():
        try:
            _, opened = open_model(bundle.folder, engine="tensorrt", device=device)
        except EngineError as error:
            reason = str(error)
    chosen = getattr(opened, "plan", None)
    for plan in bundle.info.plans:
        result = EngineResult(f"TensorRT, {plan.file}", device, plan.precision, bundle.info.classes)
        if plan == chosen:
            yield result, opened
            continue
        result.ran = False
        built = f"built by {plan.runtime} {plan.runtime_version} for {plan.target}"
        result.note = f"not run: {reason if opened is None else built}"
        yield result, None


def _run_all(
    name: str,
    reference: Runner,
    runners: Sequence[Runner],
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8] | None,
) -> None:
    """One image on PyTorch and then on every engine."""
    own = reference.predict(image)
    if own is None:
        raise EngineError(f"PyTorch failed on {name}: {reference.result.failure}")
    for runner in (reference, *runners):
        labels = own if runner is reference else runner.predict(image)
        if labels is None:
            continue
        runner.result.confusion.update(labels, own, ignore=-1)
        runner.result.worst.add(name, image, own, labels)
        if truth is not None:
            try:
                runner.result.truth.update(labels, truth)
            except ParameterError as error:
                raise ParameterError(f"{name}: {error}") from error


def _judge(results: Sequence[EngineResult]) -> None:
    for result in results:
        if not result.ran or result.failure:
            continue
        try:
            assert result.logits is not None, "the first image has windows, and every engine saw them"
            require(result.logits, result.precision)
            if result.agreement < LABEL_TOLERANCE[result.precision]:
                raise VerificationError(
                    f"{result.agreement:.4%} of the images' labels agree; at least "
                    f"{LABEL_TOLERANCE[result.precision]:.4%} must in {result.precision}"
                )
        except VerificationError as error:
            result.failure = str(error)


def _shares(images: int) -> list[int]:
    """How many windows of each image are compared: WINDOWS in all, or as many as there may be."""
    if images <= WINDOWS:
        return [WINDOWS // images] * images
    chosen = {index * images // WINDOWS for index in range(WINDOWS)}
    return [int(index in chosen) for index in range(images)]
