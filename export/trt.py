"""From a checkpoint to a TensorRT engine in a bundle, compared with PyTorch before it is kept.

    python -m export.trt --ckpt psanet101_cityscapes.pth --max-batch 8

The engine is built from an ONNX file whose types are the engine's (`export/half.py` for float16). That file
is always compared with the network, in ONNX Runtime; the engine itself where there is a GPU. In a bundle of
the same network the engine joins what is there; any other folder becomes a new bundle. The last line on
stdout is one JSON object. Exit code 1: what was built is not the network, and was not kept; 2: it cannot be
done, the message has the mend. docs/tensorrt.md has the rest.
"""

import argparse
import dataclasses
import hashlib
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from export import plugin as psa_plugin
from export.build import written_form
from export.command import check_calibration, run
from export.comparison import Comparison
from export.errors import OutputError
from export.onnx import model_info
from export.output import add_plan, check_out, staged_bundle
from export.source import find_source
from export.trt_build import build_plan, plan_facts
from export.trt_models import (
    MAX_BATCH,
    WHOLE_BATCH,
    Wanted,
    make_models,
    shapes_for,
    verify_model,
    verify_plan,
)
from export.trt_sizes import make_profile, parse_sizes
from export.trt_targets import RUNTIMES, Targets, choose_library, choose_targets
from inference.bundle import (
    BUNDLED_ROOT,
    MODEL_JSON,
    MODEL_ONNX,
    Bundle,
    ModelInfo,
    PlanInfo,
    Precision,
    read_bundle,
    resolve_model,
    write_model_json,
)
from inference.cache import Cache, default_folder
from inference.engines.pytorch import describe
from inference.engines.tensorrt import find_gpu
from inference.tensorrt_library import Library, Request
from models.checkpoint import build_from_checkpoint
from models.options import ArchitectureOptions, add_architecture_arguments, options_from_args

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """An engine that was written. comparison: of it, where it was run, else of the file it was built from;
    cached: whether it had been built before; seconds: all in all; memory_bytes: what the engine works in on
    the GPU beside its weights, as the library says, None where it did not."""

    folder: Path
    plan: PlanInfo
    comparison: Comparison
    cached: bool
    seconds: float
    size_bytes: int
    memory_bytes: int | None = None


def export_trt(
    model: str | Path,
    out: str | Path | None = None,
    *,
    wanted: Wanted,
    dataset: str | None = None,
    options: ArchitectureOptions | None = None,
    cache: Cache | None = None,
) -> Exported:
    """Builds the engine of a checkpoint, or of a bundle's checkpoint, and puts it into a bundle.

    out: default the bundle that is given, else a folder named after the checkpoint beside it. Raises
    ExportError, CheckpointError and InferenceError; nothing is left behind then.
    """
    started = time.perf_counter()
    gpu = find_gpu()
    # What can be refused at once is, before a minute goes into the model.
    library = choose_library(wanted.runtime, gpu=gpu, target=wanted.target, plugin=wanted.plugin)
    targets = choose_targets(library, wanted.target, gpu)
    if wanted.plugin:
        psa_plugin.register(library.module)
    source = find_source(model, dataset=dataset, options=options or ArchitectureOptions())
    checkpoint = source.checkpoint
    sizes, max_batch = shapes_for(describe(checkpoint), wanted)
    own = None if out else _own_folder(model)
    folder = Path(out or own or source.default_out)
    check_out(folder, checkpoint.path)
    network = build_from_checkpoint(checkpoint)
    models = make_models(network, describe(checkpoint), wanted)
    form = written_form(models.kept, network.config)
    info = model_info(checkpoint, folder, wanted.precision, form)
    joined = _bundle_of_same_network(folder, info)
    if own is not None and joined is None:
        raise OutputError(
            f"{own} is of another network, or of this one read otherwise, and nobody asked to replace it: "
            "leave out what differs, or name another folder with --out"
        )
    with tempfile.TemporaryDirectory(prefix="psanet-trt-") as scratch:
        comparison = verify_model(Path(scratch), models.typed, info, network, models.images)
        # With a file of its own for the plan, the bundle's must be as good.
        if joined is None and models.kept is not models.typed:
            verify_model(Path(scratch), models.kept, info, network, models.images)
    typed = psa_plugin.prepare(models.typed) if wanted.plugin else models.typed
    content = typed.SerializeToString()
    profile = make_profile(typed, sizes, max_batch)
    built = build_plan(
        library,
        content,
        Request(profile, targets.requested, wanted.plugin),
        cache=cache,
        facts=plan_facts(content, library, targets, profile, wanted, gpu),
    )
    plan = PlanInfo(
        file=_file_name(library, targets, wanted, built.content),
        runtime=library.runtime,
        runtime_version=library.version,
        target=targets.written,
        precision=wanted.precision,
        max_batch=max_batch,
        psa_form="plugin" if wanted.plugin else form,
        sha256=hashlib.sha256(built.content).hexdigest(),
        verified=False,
        sizes=sizes.all if sizes else None,
    )
    if gpu is not None and gpu.target in targets.written.split("+"):
        comparison = verify_plan(info, plan, built.content, network, models.images)
        plan = dataclasses.replace(plan, verified=True)
    if joined is not None:
        add_plan(joined, plan, built.content)
    else:
        with staged_bundle(folder) as staging:
            (staging / MODEL_ONNX).write_bytes(models.kept.SerializeToString())
            (staging / plan.file).write_bytes(built.content)
            write_model_json(staging, dataclasses.replace(info, plans=(plan,)))
    log.info("wrote %s: %s", folder / plan.file, comparison)
    seconds = time.perf_counter() - started
    return Exported(folder, plan, comparison, built.cached, seconds, len(built.content), built.memory_bytes)


def _own_folder(model: str | Path) -> Path | None:
    """The bundle that is meant by its folder: the engine belongs there. Bundled ones stay as they are."""
    found = resolve_model(model)
    own = isinstance(found, Bundle) and found.folder.resolve().parent != BUNDLED_ROOT.resolve()
    return found.folder if isinstance(found, Bundle) and own else None


def _bundle_of_same_network(folder: Path, info: ModelInfo) -> Bundle | None:
    """The bundle in `folder` where the engine may join it: made of the same checkpoint, read the same way."""
    if not (folder / MODEL_JSON).is_file():
        return None
    bundle = read_bundle(folder)
    ours, theirs = (
        dataclasses.replace(
            item,
            name="",
            precision="fp32",
            psa_form="",
            source_file=None,
            built_with={},
            plans=(),
            outputs=("logits",),
        )
        for item in (info, bundle.info)
    )
    return bundle if ours == theirs else None


def _file_name(library: Library, targets: Targets, wanted: Wanted, content: bytes) -> str:
    """Another for every plan: one that replaces another never lies under a name that model.json describes
    otherwise."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    return f"{wanted.precision}-{targets.written}-{library.runtime}-{digest}.plan"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    check_calibration(parser, args)
    return run("export.trt", args.ckpt, "built", lambda: _figures(_exported(args)))


def _exported(args: argparse.Namespace) -> Exported:
    sizes = None if args.sizes is None else parse_sizes(args.sizes)
    return export_trt(
        args.ckpt,
        args.out,
        wanted=Wanted(
            args.precision, args.max_batch, args.runtime, args.target, args.plugin, args.calib, sizes
        ),
        dataset=args.dataset,
        options=options_from_args(args),
        cache=None if args.no_cache else Cache(args.cache or default_folder()),
    )


def _figures(exported: Exported) -> dict[str, object]:
    plan, comparison = exported.plan, exported.comparison
    return {
        "bundle": str(exported.folder),
        "plan": plan.file,
        "runtime": plan.runtime,
        "runtime_version": plan.runtime_version,
        "target": plan.target,
        "precision": plan.precision,
        "max_batch": plan.max_batch,
        "sizes": plan.sizes,
        "psa_form": plan.psa_form,
        "compared": "engine" if plan.verified else "onnx",
        "max_logit_error": float(np.format_float_scientific(comparison.max_logit_error, 2)),
        "mean_logit_error": float(np.format_float_scientific(comparison.mean_logit_error, 2)),
        "label_agreement": comparison.label_agreement,
        "engine_verified": plan.verified,
        "cached": exported.cached,
        "seconds": round(exported.seconds, 2),
        "bytes": exported.size_bytes,
        "device_memory_bytes": exported.memory_bytes,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.trt", description="Builds the TensorRT engine of a checkpoint, in a bundle."
    )
    parser.add_argument(
        "--ckpt", required=True, metavar="FILE|BUNDLE|NAME", help="a checkpoint, or a bundle made of one"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="default: the bundle, or named after the checkpoint, beside it"
    )
    parser.add_argument("--precision", choices=get_args(Precision), default="fp16")
    parser.add_argument("--calib", type=Path, metavar="DIR", help="images for --precision int8")
    parser.add_argument(
        "--max-batch",
        type=int,
        metavar="N",
        help=f"images in a call at most; default {MAX_BATCH}, and {WHOLE_BATCH} for whole images",
    )
    parser.add_argument(
        "--sizes",
        metavar="LEAST,USUAL,MOST",
        help="for networks tested on whole images: sizes that the engine takes and is tuned for, "
        "HEIGHTxWIDTH each; default: what the test protocol makes of pictures like the training's crops",
    )
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="auto", help="which TensorRT builds and runs it"
    )
    parser.add_argument(
        "--target",
        metavar="current|all|sm89[+sm120]",
        help="GPUs by compute capability; default: the one that is there, else all (of Ampere and later)",
    )
    parser.add_argument("--plugin", action="store_true", help="the PSA mask as a plugin (TensorRT proper)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: $XDG_CACHE_HOME/psanet-serving")
    parser.add_argument("--no-cache", action="store_true", help="build anew, and keep nothing for later")
    add_architecture_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
