"""From a checkpoint to a bundle: the network as ONNX, compared with PyTorch before it is kept.

    python -m export.onnx --ckpt psanet50_ade20k.pth --out psanet50_ade20k

The file runs in any ONNX runtime (`export/graph.py` says how); its input is pixels, its output the coarse
logits that `model.json` says how to resample. The last line on stdout is one JSON object. Exit code 1: the
file did not give the network's logits and was not kept; 2: it cannot be done, the message has the mend.
"""

import argparse
import dataclasses
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from export.build import PsaForm, build_model, version_of, written_form
from export.calibration import calibration_images
from export.command import check_calibration, run
from export.comparison import (
    Comparison,
    compare_attention,
    require_attention,
    require_near,
    sample_images,
)
from export.output import check_out, staged_bundle
from export.source import find_source, relative_source
from inference.bundle import LOGITS, MODEL_ONNX, ModelInfo, Precision, write_model_json
from inference.engines import AttentionEngine, open_model
from inference.engines.pytorch import describe
from models.checkpoint import Checkpoint, build_from_checkpoint
from models.network import SceneParser
from models.options import ArchitectureOptions, add_architecture_arguments, options_from_args

log = logging.getLogger(__name__)

SERVED_FORM: PsaForm = "pairs"
"""The faster one in ONNX Runtime (benchmarks/serving_graph.py)."""
BUILT_WITH = ("psanet-serving", "torch", "onnx", "onnxscript", "onnxruntime")
"""What `model.json` tells the versions of."""
COMPARED_WINDOWS = 4
"""Of the calibration's images, on which int8 is compared."""


@dataclass(frozen=True)
class Exported:
    """A bundle that was written, and how far it is from the network.

    psa_form: as `model.json` has it; seconds: reading, exporting and comparing; size_bytes: of the ONNX file.
    """

    folder: Path
    comparison: Comparison
    psa_form: str
    seconds: float
    size_bytes: int


def export_onnx(
    model: str | Path,
    out: str | Path | None = None,
    *,
    dataset: str | None = None,
    options: ArchitectureOptions | None = None,
    precision: Precision = "fp32",
    calib: str | Path | None = None,
    psa_form: PsaForm = SERVED_FORM,
    inline: bool = False,
    attention: bool = True,
) -> Exported:
    """Writes the bundle of a checkpoint (or of a bundle's checkpoint) and compares it with the network.

    out: default a folder named after the checkpoint beside it. calib: a folder of images that int8 is
    calibrated on, and compared on, for its ranges are theirs. psa_form, inline, attention: see `build_model`.
    Raises ExportError, CheckpointError and InferenceError; nothing is left behind then.
    """
    started = time.perf_counter()
    source = find_source(model, dataset=dataset, options=options or ArchitectureOptions())
    folder, checkpoint = Path(out or source.default_out), source.checkpoint
    check_out(folder, checkpoint.path)
    log.info("read %s: %s", checkpoint.path, checkpoint.config)
    calibration, images = _calibration(calib, describe(checkpoint))
    network = build_from_checkpoint(checkpoint)
    exported = build_model(
        network,
        precision=precision,
        calibration=calibration,
        psa_form=psa_form,
        inline=inline,
        any_size=checkpoint.protocol.mode == "whole",
        attention=attention,
    )
    form, outputs = written_form(exported, network.config), [item.name for item in exported.graph.output]
    info = model_info(checkpoint, folder, precision, form, outputs)
    with staged_bundle(folder) as staging:
        (staging / MODEL_ONNX).write_bytes(exported.SerializeToString())
        del exported
        write_model_json(staging, info)
        log.info("comparing with PyTorch")
        comparison = verify_onnx(staging, network, images)
        size_bytes = (staging / MODEL_ONNX).stat().st_size
    log.info("wrote %s: %s", folder, comparison)
    return Exported(folder, comparison, form, time.perf_counter() - started, size_bytes)


def verify_onnx(folder: Path, network: SceneParser, images: NDArray[np.float32] | None = None) -> Comparison:
    """The bundle's ONNX file against the network, in ONNX Runtime, at the crop and, if any will do, one other
    size: the comparison that is farther off. VerificationError where the file is not the network.

    images: (N, 3, *crop_hw) to compare on at the crop, in place of `sample_images`. Where the file gives
    attention, that is compared, too.
    """
    info, engine = open_model(folder, engine="onnxruntime")
    subjects = [sample_images(info.crop_hw) if images is None else images]
    if info.test_mode == "whole":
        height, width = info.crop_hw
        subjects.append(sample_images((height * 3 // 4 + 1, width * 5 // 4)))
    try:
        comparison = require_near(engine, network, subjects, info.precision, align_corners=info.align_corners)
        if not isinstance(engine, AttentionEngine) or not engine.directions:
            return comparison
        error, deviation = compare_attention(engine, network, subjects)
        require_attention(error, deviation, info.precision)
        return dataclasses.replace(comparison, max_attention_error=error)
    finally:
        engine.close()


def _calibration(
    calib: str | Path | None, info: ModelInfo
) -> tuple[Iterator[NDArray[np.float32]] | None, NDArray[np.float32] | None]:
    """What to calibrate on, and the few windows of those images that the outcome is compared on."""
    if calib is None:
        return None, None
    few = calibration_images(Path(calib), info, most=COMPARED_WINDOWS)
    return calibration_images(Path(calib), info), np.concatenate(list(few))


def model_info(
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    psa_form: str,
    outputs: Sequence[str] = (LOGITS,),
) -> ModelInfo:
    """What `model.json` in `folder` says of a model made from a checkpoint."""
    return dataclasses.replace(
        describe(checkpoint),
        name=folder.resolve().name,
        architecture=checkpoint.config.replace(aux=False),
        precision=precision,
        psa_form=psa_form,
        outputs=tuple(outputs),
        source_file=relative_source(checkpoint.path, folder),
        built_with={name: version_of(name) for name in BUILT_WITH},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    check_calibration(parser, args)
    if args.calib is None and args.precision == "int8":
        parser.error("--precision int8 needs images to calibrate with: --calib FOLDER")
    return run("export.onnx", args.ckpt, "exported", lambda: _figures(_exported(args), args.precision))


def _exported(args: argparse.Namespace) -> Exported:
    return export_onnx(
        args.ckpt,
        args.out,
        dataset=args.dataset,
        options=options_from_args(args),
        precision=args.precision,
        calib=args.calib,
        psa_form=args.psa_form,
        inline=args.inline,
        attention=args.attention,
    )


def _figures(exported: Exported, precision: Precision) -> dict[str, object]:
    comparison = exported.comparison
    attention_error = comparison.max_attention_error
    return {
        "bundle": str(exported.folder),
        "precision": precision,
        "psa_form": exported.psa_form,
        "max_logit_error": _rounded(comparison.max_logit_error),
        "mean_logit_error": _rounded(comparison.mean_logit_error),
        "label_agreement": comparison.label_agreement,
        "max_attention_error": None if attention_error is None else _rounded(attention_error),
        "seconds": round(exported.seconds, 2),
        "bytes": exported.size_bytes,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.onnx", description="Exports a checkpoint as a bundle."
    )
    parser.add_argument(
        "--ckpt", required=True, metavar="FILE|BUNDLE|NAME", help="a checkpoint, or a bundle made of one"
    )
    parser.add_argument("--out", metavar="DIR", help="default: named after the checkpoint, beside it")
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="fp32", help="fp16: of the stored weights"
    )
    parser.add_argument(
        "--calib", metavar="DIR", help="images for --precision int8: a few dozen of what it will see"
    )
    parser.add_argument(
        "--psa-form",
        choices=get_args(PsaForm),
        default=SERVED_FORM,
        help="pairs: the op PSAPairs in a tail laid out for speed; function: the op PSAMask; each with its "
        "function in standard ops (default: %(default)s)",
    )
    parser.add_argument(
        "--inline", action="store_true", help="standard ops alone, for runtimes that know no local functions"
    )
    parser.add_argument(
        "--no-attention",
        dest="attention",
        action="store_false",
        help="logits alone, without the outputs that say what each position attends to",
    )
    add_architecture_arguments(parser)
    return parser


def _rounded(value: float) -> float:
    """Three digits that count."""
    return value if value == 0 else round(value, 2 - math.floor(math.log10(abs(value))))


if __name__ == "__main__":
    sys.exit(main())
