"""How far a bundle's engines are from the network: figures, and a report that shows where labels differ.

    python -m export.verify psanet18_camvid --list data/camvid/list/val.txt --data-root data/camvid

Every engine that the bundle offers here (ONNX Runtime; TensorRT's plans where there is a GPU) runs beside
PyTorch, which takes the checkpoint that the bundle was made from. Without images, noise and a smooth picture
are made up, which say less. The last line on stdout is one JSON object. Exit code 1: an engine is too far
from the network (the report is written all the same); 2: it cannot be done, the message has the mend. In
fp16 and int8 a tenth of the labels may differ: `suspect_classes` names the classes that this hits hard.

Not here: comparing logits, as exporters do (`export/comparison.py`).
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np

from export.comparison import sample_images
from export.report import ReportFormat, write_report
from export.runs import EngineResult
from export.verification import Subject, Verification, verify_bundle
from inference.budget import add_memory_budget_argument, explained
from inference.bundle import Bundle, resolve_model
from inference.errors import InferenceError, ParameterError
from inference.files import plan_jobs
from inference.pairs import Pair, pairs_of_folder, pairs_of_list
from models.checkpoint import CheckpointError

LIMIT = 50
"""Images, unless more are asked for: an engine and PyTorch on each can take ten seconds and more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    _check(parser, args)
    logging.basicConfig(format="export.verify: %(message)s", stream=sys.stderr)
    try:
        bundle = _bundle(args.bundle)
        subjects = _subjects(args, bundle)
        # A name may hold anything, and a bundle may come from anyone: in this folder it stays.
        usual = Path(f"{Path(bundle.info.name).name}-verification")
        with _folder(args.out or usual) as out:
            verification = verify_bundle(
                bundle,
                subjects,
                checkpoint=args.ckpt,
                device=args.device,
                threads=args.threads,
                memory_budget_bytes=args.memory_budget,
            )
            report = write_report(verification, out, args.format)
    except KeyboardInterrupt:
        print("export.verify: interrupted; no report was written", file=sys.stderr)
        return 130
    except (InferenceError, CheckpointError, OSError) as error:
        print(f"export.verify: {explained(error)}", file=sys.stderr)
        return 2
    print(json.dumps(_figures(args.bundle, verification, report)), flush=True)
    return 0 if verification.passed else 1


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.list is not None and (args.images or args.labels):
        parser.error("--list names images and labels: leave out --images and --labels")
    if (args.list is None) != (args.data_root is None):
        parser.error("--list and --data-root go together: the list's paths start from the root")
    if args.labels and not args.images:
        parser.error("--labels go with --images FOLDER, whose images they belong to")
    if args.limit < 1:
        parser.error("--limit takes 1 or more")


def _bundle(text: str) -> Bundle:
    found = resolve_model(text)
    if isinstance(found, Bundle):
        return found
    raise ParameterError(
        f"{found} is a checkpoint, not a bundle: make one with python -m export.onnx --ckpt {found}"
    )


def _subjects(args: argparse.Namespace, bundle: Bundle) -> list[Subject]:
    """What to verify on, at most `--limit` images. Raises ParameterError."""
    if args.list is not None:
        pairs = pairs_of_list(args.data_root, args.list)
    elif args.images:
        images = [job.source for job in plan_jobs([args.images], out=Path(), suffixes={})]
        pairs = pairs_of_folder(images, args.labels) if args.labels else [Pair(image) for image in images]
    else:
        pictures = np.rint(sample_images(bundle.info.crop_hw)).astype(np.uint8).transpose(0, 2, 3, 1)
        names = ("noise", "smooth picture")
        return [Subject(name, picture) for name, picture in zip(names, pictures, strict=True)][: args.limit]
    if len(pairs) > args.limit:
        print(
            f"export.verify: the first {args.limit} of {len(pairs)} images; --limit takes more",
            file=sys.stderr,
        )
    # A list says what counts; a folder may hold anything.
    return [Subject(pair.image.name, pair, optional=args.list is None) for pair in pairs[: args.limit]]


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """Makes it before the work, which is not lost so to a folder that cannot be; none stays empty behind."""
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"--out {out} cannot be made ({error.strerror}): name another folder") from error
    try:
        yield out
    finally:
        if new and not any(out.iterdir()):
            out.rmdir()


def _figures(bundle: str, verification: Verification, report: Path) -> dict[str, Any]:
    return {
        "bundle": bundle,
        "passed": verification.passed,
        "images": verification.images,
        "windows": verification.windows,
        "reference": _of_engine(verification, verification.reference),
        "engines": [_of_engine(verification, result) for result in verification.engines],
        "report": str(report),
        "seconds": round(verification.seconds, 1),
    }


def _of_engine(verification: Verification, result: EngineResult) -> dict[str, Any]:
    figures: dict[str, Any] = {"name": result.name, "device": result.device, "precision": result.precision}
    figures |= {key: text for key, text in (("note", result.note), ("failure", result.failure)) if text}
    if not result.image_s:
        return figures
    for ending, comparison in (("", result.logits), ("_float64", result.exact)):
        if comparison is not None and comparison.finite:
            figures[f"max_logit_error{ending}"] = float(f"{comparison.max_logit_error:.3g}")
            figures[f"mean_logit_error{ending}"] = float(f"{comparison.mean_logit_error:.3g}")
    figures["label_agreement"] = round(result.agreement, 6)
    if result.suspects:
        figures["suspect_classes"] = [verification.info.class_names[index] for index in result.suspects]
    if verification.labelled:
        figures |= {"mIoU": round(result.truth.mIoU, 5), "allAcc": round(result.truth.allAcc, 5)}
    for key, seconds in (("window_ms", result.window_s), ("image_ms", result.image_s)):
        figures[key] = round(1000 * float(np.median(seconds)), 1)
    return figures


def _parser() -> argparse.ArgumentParser:
    doc = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m export.verify",
        description=doc[0],
        epilog=doc[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE|NAME", help="a bundle folder, or a bundled model's name")
    add("--images", metavar="FOLDER", help="images to verify on")
    add("--labels", type=Path, metavar="FOLDER", help="their labels: class ids in <image's name>.png")
    add("--list", type=Path, metavar="FILE", help="images and labels instead: `image label` a line")
    add("--data-root", type=Path, metavar="ROOT", help="what the list's paths start from")
    add("--ckpt", type=Path, help="the checkpoint of the bundle (default: the one that it was made from)")
    add("--out", type=Path, metavar="DIR", help="for the report (default: <the bundle's name>-verification)")
    add("--format", choices=get_args(ReportFormat), default="html", help="default: html")
    add("--limit", type=int, default=LIMIT, metavar="N", help=f"images at most (default: {LIMIT})")
    add("--device", default="cpu", metavar="cpu|cuda", help="of PyTorch and ONNX Runtime (default: cpu)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: the engines' own choice)")
    add_memory_budget_argument(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
