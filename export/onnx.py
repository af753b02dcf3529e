"""From a checkpoint to a bundle: the network as ONNX, compared with PyTorch before it is kept.

    python -m export.onnx --ckpt psanet50_ade20k.pth --out psanet50_ade20k

The file runs in any ONNX runtime (`export/graph.py` says how); its input is pixels, its output the coarse
logits that `model.json` says how to resample. The last line on stdout is one JSON object. Exit code 1: the
file did not give the network's logits and was not kept; 2: it cannot be done, the message has the mend.
"""

import argparse
import dataclasses
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import onnx
import torch
from torch import Tensor, nn

from export.errors import ExportError, UnavailableError, VerificationError
from export.graph import OPSET, add_psa_mask_function, has_psa_mask, strip_provenance, translation_table
from export.output import check_out, staged_bundle
from export.source import find_source, relative_source
from export.verify import Comparison, compare, require, sample_images
from export.weights import store_as_half
from inference.bundle import MODEL_ONNX, ModelInfo, Precision, write_model_json
from inference.engines import open_model
from inference.engines.pytorch import describe
from inference.errors import InferenceError
from models.checkpoint import Checkpoint, CheckpointError, build_from_checkpoint
from models.network import SceneParser
from models.options import ArchitectureOptions, add_architecture_arguments, options_from_args

log = logging.getLogger(__name__)

_BUILT_WITH = ("psanet-serving", "torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """A bundle that was written, and how far it is from the network.

    seconds: reading, exporting and comparing; size_bytes: of the ONNX file.
    """

    folder: Path
    comparison: Comparison
    seconds: float
    size_bytes: int


class CoarseLogits(nn.Module):
    """What an engine computes, as a module: (N, 3, H, W) RGB in [0, 255] to coarse logits (N, C, H', W')."""

    def __init__(self, network: SceneParser) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """See `SceneParser.coarse_logits`."""
        return self.network.coarse_logits(image)


def export_onnx(
    model: str | Path,
    out: str | Path | None = None,
    *,
    dataset: str | None = None,
    options: ArchitectureOptions | None = None,
    precision: Precision = "fp32",
) -> Exported:
    """Writes the bundle of a checkpoint (or of a bundle's checkpoint) and compares it with the network.

    out: default a folder named after the checkpoint beside it. Raises ExportError, CheckpointError and
    InferenceError; nothing is left behind then.
    """
    started = time.perf_counter()
    if precision == "int8":
        raise UnavailableError("int8 is not available yet: choose --precision fp16 or fp32")
    source = find_source(model, dataset=dataset, options=options or ArchitectureOptions())
    folder, checkpoint = Path(out or source.default_out), source.checkpoint
    check_out(folder, checkpoint.path)
    log.info("read %s: %s", checkpoint.path, checkpoint.config)
    network = build_from_checkpoint(checkpoint)
    exported = to_onnx(network)
    if precision == "fp16":
        store_as_half(exported, network.state_dict(), prefix="network.")
    onnx.checker.check_model(exported, full_check=True)
    psa_form = "function" if has_psa_mask(exported) else "none"
    info = _model_info(checkpoint, folder, precision, psa_form)
    with staged_bundle(folder) as staging:
        (staging / MODEL_ONNX).write_bytes(exported.SerializeToString())
        del exported
        write_model_json(staging, info)
        log.info("comparing with PyTorch")
        comparison = _verify(staging, network)
        size_bytes = (staging / MODEL_ONNX).stat().st_size
    log.info("wrote %s: %s", folder, comparison)
    return Exported(folder, comparison, time.perf_counter() - started, size_bytes)


def to_onnx(network: SceneParser) -> onnx.ModelProto:
    """The network in float32, batch norm folded: `image` (N, 3, *crop_hw) to `logits`, for any N."""
    log.info("exporting")
    # Two images: torch.export takes a size of 1 for a constant.
    images = torch.zeros(1, 3, *network.config.crop_hw).expand(2, -1, -1, -1)
    with _quiet():
        program = torch.onnx.export(
            CoarseLogits(network),
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": {0: torch.export.Dim("N", min=1)}},
            custom_translation_table=translation_table(),
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns a program"
    model = program.model_proto
    model.producer_name, model.producer_version = "psanet-serving", _version("psanet-serving")
    strip_provenance(model)
    add_psa_mask_function(model)
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.calib is not None and args.precision != "int8":
        parser.error("--calib goes with --precision int8: leave it out")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        exported = export_onnx(
            args.ckpt,
            args.out,
            dataset=args.dataset,
            options=options_from_args(args),
            precision=args.precision,
        )
    except VerificationError as error:
        print(f"export.onnx: {args.ckpt} was exported but the result was not kept: {error}", file=sys.stderr)
        return 1
    except (ExportError, CheckpointError, InferenceError, OSError) as error:
        print(f"export.onnx: {error}", file=sys.stderr)
        return 2
    comparison = exported.comparison
    figures = {
        "bundle": str(exported.folder),
        "precision": args.precision,
        "max_logit_error": _rounded(comparison.max_logit_error),
        "mean_logit_error": _rounded(comparison.mean_logit_error),
        "label_agreement": comparison.label_agreement,
        "seconds": round(exported.seconds, 2),
        "bytes": exported.size_bytes,
    }
    print(json.dumps(figures), flush=True)
    return 0


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
    parser.add_argument("--calib", metavar="DIR", help="images for --precision int8")
    add_architecture_arguments(parser)
    return parser


def _verify(folder: Path, network: SceneParser) -> Comparison:
    info, engine = open_model(folder, engine="onnxruntime")
    try:
        comparison = compare(engine, network, sample_images(info.crop_hw), align_corners=info.align_corners)
    finally:
        engine.close()
    require(comparison, info.precision)
    return comparison


def _model_info(checkpoint: Checkpoint, folder: Path, precision: Precision, psa_form: str) -> ModelInfo:
    return dataclasses.replace(
        describe(checkpoint),
        name=folder.resolve().name,
        architecture=checkpoint.config.replace(aux=False),
        precision=precision,
        psa_form=psa_form,
        source_file=relative_source(checkpoint.path, folder),
        built_with={name: _version(name) for name in _BUILT_WITH},
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _rounded(value: float) -> float:
    """Three digits that count."""
    return value if value == 0 else round(value, 2 - math.floor(math.log10(abs(value))))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps stdout for the JSON line, and the exporter's remarks on torchvision and torch's code unsaid."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning
            )
            yield
    finally:
        registration.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
