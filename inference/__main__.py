"""Label the pixels of images: files, folders and patterns in, label images and what else is asked for out.

    python -m inference photos/ 'extra/*.jpg' --model psanet18_camvid --out results --output labels,overlay

Results go to OUT/labels/<name>.png, OUT/overlay/<name>.png and so on. Images whose results are all there are
skipped, so an interrupted run goes on where it stopped. An image that cannot be read or predicted is reported
and left out. The last line of the output is a JSON object: written, skipped, failed, seconds.

Exit status: 0 all well, 1 some images failed or a result could not be written, 2 wrong arguments (nothing was
done), 130 interrupted.
"""

import argparse
import json
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import get_args

from inference.budget import add_memory_budget_argument, explained
from inference.engines import PRECISIONS
from inference.errors import EngineError, InferenceError, ParameterError
from inference.files import Job, make_output_folder, plan_jobs
from inference.images import MAX_PIXELS
from inference.labelling import OUTPUTS, Options, Summary, label_images
from inference.predictor import Predictor
from inference.render import ImageFormat
from inference.windows import validate_base_size, validate_scales
from models.config import ConfigError
from models.errors import CheckpointError
from models.labels import UnknownDatasetError
from models.options import add_architecture_arguments, options_from_args

DEFAULT_MODEL = "psanet18_camvid"
BASE_SIZE_HELP = "long side in pixels at scale 1; a limit of the short side goes with it (default: model's)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    args = parser.parse_intermixed_args(arguments)  # images may stand on either side of options
    try:
        with _terminate_as_interrupt():
            options = _options(args)
            jobs = plan_jobs(args.images, out=args.out, suffixes=options.suffixes(), recursive=args.recursive)
            predictor = Predictor.open(
                args.model,
                engine=args.engine,
                device=args.device,
                threads=args.threads,
                dataset=args.dataset,
                options=options_from_args(args),
                precision=args.precision,
                compiled=args.compile,
                memory_budget_bytes=args.memory_budget,
            )
            make_output_folder(args.out)
            return _run(parser.prog, predictor, jobs, options)
    except (InferenceError, CheckpointError, ConfigError, UnknownDatasetError) as error:
        print(f"{parser.prog}: error: {explained(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(prog: str, predictor: Predictor, jobs: Sequence[Job], options: Options) -> int:
    summary, status = Summary(), 0
    try:
        label_images(predictor, jobs, options, summary)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the same command goes on from here", file=sys.stderr)
        status = 130
    except (EngineError, OSError) as error:
        print(f"{prog}: stopped: {error}", file=sys.stderr)
        status = 1
    finally:
        predictor.close()
    if summary.failed:
        print(f"{prog}: {summary.failed} of {len(jobs)} images failed", file=sys.stderr)
        status = status or 1
    print(json.dumps(summary.report()), flush=True)
    return status


def _parser() -> argparse.ArgumentParser:
    doc = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m inference",
        description=doc[0],
        epilog=doc[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE|FOLDER|PATTERN", help="what to label")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the results; made where missing")
    add("--output", default="labels", metavar="KIND,…", help=f"any of {', '.join(OUTPUTS)} (default: labels)")
    add("--model", default=DEFAULT_MODEL, metavar="BUNDLE|NAME|CKPT", help=f"default: {DEFAULT_MODEL}")
    add("--scales", default="1", metavar="S,…", help="scales to average over (default: 1)")
    add("--flip", action="store_true", help="average over each image and its mirror image")
    add("--base-size", type=int, metavar="N", help=BASE_SIZE_HELP)
    add("--device", default="cpu", metavar="cpu|cuda", help="where to compute (default: cpu)")
    add("--engine", default="auto", metavar="auto|torch|onnxruntime|tensorrt", help="default: auto")
    add("--threads", type=int, metavar="N", help="CPU threads of the engine (default: its own choice)")
    precision_help = "of PyTorch: auto is fp32 on a CPU and fp16 on a GPU; bundles have their own"
    add("--precision", default="auto", choices=PRECISIONS, help=precision_help)
    add("--compile", action="store_true", help="let torch.compile try too, on a GPU: a minute or more")
    add("--alpha", type=float, default=0.5, help="weight of the colours in overlays, 0 to 1 (default: 0.5)")
    add("--format", default="png", choices=get_args(ImageFormat), help="file type of overlays (default: png)")
    add("--recursive", action="store_true", help="folders with their sub-folders, kept in the results")
    add("--overwrite", action="store_true", help="make all results anew")
    pixels_help = f"larger images fail unread (default: {MAX_PIXELS}; 0: no limit)"
    add("--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help=pixels_help)
    add_memory_budget_argument(parser)
    add_architecture_arguments(parser)
    return parser


def _options(args: argparse.Namespace) -> Options:
    outputs = tuple(dict.fromkeys(kind.strip() for kind in args.output.split(",") if kind.strip()))
    unknown = [kind for kind in outputs if kind not in OUTPUTS]
    if unknown or not outputs:
        raise ParameterError(f"--output takes some of {','.join(OUTPUTS)}, not {args.output!r}")
    if not (math.isfinite(args.alpha) and 0 <= args.alpha <= 1):
        raise ParameterError(f"--alpha takes a number between 0 and 1, not {args.alpha}")
    if args.max_pixels < 0:
        raise ParameterError(
            f"--max-pixels takes a number of pixels, or 0 for no limit, not {args.max_pixels}"
        )
    return Options(
        outputs=outputs,
        scales=validate_scales(args.scales.split(",")),
        flip=args.flip,
        base_size=None if args.base_size is None else validate_base_size(args.base_size),
        alpha=args.alpha,
        overlay_format=args.format,
        max_pixels=args.max_pixels or None,
        overwrite=args.overwrite,
    )


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: with what is done kept, and nothing half-written."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
