"""mIoU and accuracies of a model over an official list, by the published protocol.

Not here: windows, scales and flips (`inference/predictor.py`), the definitions (`inference/metrics.py`), what
happens to each image (`counting.py`).

    python -m training.evaluate --model psanet18_camvid --data-root data/camvid \\
        --list data/camvid/list/val.txt

Prints one JSON line last: {"mIoU": …, "mAcc": …, "allAcc": …, "images": …, "seconds": …, …}, fractions; null
where no labels were given. The table by class goes to stderr.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from inference.budget import add_memory_budget_argument, explained
from inference.bundle import Bundle, resolve_model
from inference.errors import InferenceError, ParameterError
from inference.files import make_output_folder
from inference.pairs import DatasetError, read_list, read_test_list
from inference.predictor import DEFAULT_BUDGET_BYTES, Predictor
from inference.windows import validate_base_size, validate_scales
from models.errors import CheckpointError
from models.options import ArchitectureOptions, add_architecture_arguments, options_from_args
from training.confusion import table
from training.counting import Counter, Job
from training.densecrf import DenseCRFParameters, Refiner, parameters_from_text
from training.identity import identity_of
from training.ledger import Ledger
from training.overlap import overlapped
from training.report import figures, sum_of, write_report
from training.signals import InterruptedTraining, StopSignals
from training.submission import SUBMISSIONS, SubmissionWriter
from training.worst import Worst, score

logger = logging.getLogger(__name__)


def evaluate(
    model: str | Path,
    *,
    root: Path,
    list_path: Path,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    base_size: int | None = None,
    dataset: str | None = None,
    options: ArchitectureOptions | None = None,
    engine: str = "auto",
    device: str = "cpu",
    limit: int | None = None,
    out: Path | None = None,
    workers: int = 2,
    densecrf: DenseCRFParameters | None = None,
    submission: str | None = None,
    worst_count: int = 8,
    restart: bool = False,
    memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
    check: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Segments every image of the list and counts. Flip is on by default, as in the published figures.

    out: a folder for `metrics.json` (figures by class), `confusion.png` and `.csv`, `worst/` (`worst_count`
    pictures), and `progress.jsonl`, from which the same call goes on where another was cut off; `restart`
    drops that. workers: threads that decode, and as many that finish, beside the engine; processes of
    DenseCRF. submission: a test server's files below `out`, of a list whose lines may lack the labels.
    check: called again and again while images are predicted, may raise to give the evaluation up.
    Raises InferenceError, DatasetError and CheckpointError; those of an image name it.
    """
    started = time.monotonic()
    scales = validate_scales(scales)
    base_size = None if base_size is None else validate_base_size(base_size)
    if workers < 0 or worst_count < 0:
        raise ParameterError("workers and worst_count are 0 or more")
    read = read_list if submission is None else read_test_list
    jobs = [Job(index, *pair) for index, pair in enumerate(read(root, list_path)[:limit])]
    if out is not None:
        make_output_folder(out)
    elif submission is not None:
        raise ParameterError("a submission needs a folder for its files: give --out")
    with ExitStack() as stack:
        refiner = None if densecrf is None else stack.enter_context(Refiner(densecrf, workers))
        predictor = Predictor.open(
            str(model),
            engine=engine,
            device=device,
            dataset=dataset,
            options=options,
            # Published figures are those of float32; a bundle has a precision of its own.
            precision="auto" if isinstance(resolve_model(model), Bundle) and engine != "torch" else "fp32",
            memory_budget_bytes=memory_budget_bytes,
        )
        stack.callback(predictor.close)
        writer = None
        if submission is not None and out is not None:
            images = [job.image for job in jobs]
            writer = SubmissionWriter(submission, predictor.info, out / "submission", images)
        counter = Counter(
            predictor=predictor,
            scales=scales,
            flip=flip,
            base_size=base_size,
            refiner=refiner,
            writer=writer,
            check=check,
        )
        protocol = {"scales": list(scales), "flip": flip}
        if base_size is not None:
            protocol["base_size"] = base_size
        if densecrf is not None:
            protocol["densecrf"] = asdict(densecrf)
        ledger = Ledger()
        if out is not None:
            identity = {**identity_of(model, predictor, list_path, dataset, options), **protocol}
            ledger = Ledger(out / "progress.jsonl", identity, restart=restart)
        stack.callback(ledger.close)
        todo = [job for job in jobs if not counter.done(job, ledger.counts.get(job.index))]
        labels = _count(counter, ledger, jobs, todo, workers, worst_count if out is not None else 0)
        counts = [ledger.counts[job.index] for job in jobs]
        confusion = sum_of(counts, predictor.info.classes)
        summary = {
            **figures(confusion),
            "images": len(jobs),
            "seconds": round(time.monotonic() - started, 1),
            "engine_seconds": round(sum(each.engine_s for each in counts), 1),
            "resumed": len(jobs) - len(todo),
            **protocol,
        }
        if confusion.counts.any():
            logger.info("figures by class, in percent:\n%s", table(confusion, predictor.info.class_names))
        if out is not None:
            write_report(out, summary, confusion, counter, jobs, ledger, labels, worst_count)
    return summary


def _count(
    counter: Counter, ledger: Ledger, jobs: Sequence[Job], todo: Sequence[Job], workers: int, worst_count: int
) -> Worst:
    """Enters what is still to do into the ledger; returns the labels of the worst of those images."""
    kept = Worst(worst_count)
    info = counter.predictor.info
    bar = tqdm(
        desc=f"evaluating {info.name}",
        total=len(jobs),
        initial=len(jobs) - len(todo),
        mininterval=5,
        unit="image",
    )
    steps = overlapped(todo, counter.load, counter.predict, counter.finish, workers=workers)
    with bar, closing(steps):
        for job, (counts, labels) in steps:
            ledger.add(job.index, counts)
            kept.offer(job.index, score(counts, info.classes), labels)
            bar.update()
    return kept


def main() -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error("--limit takes 1 or more")
    if min(args.workers, args.worst) < 0:
        parser.error("--workers and --worst take 0 or more")
    try:
        scales = [float(scale) for scale in args.scales.split(",")]
    except ValueError:
        parser.error(f"--scales takes numbers with commas between, not {args.scales!r}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    told = "what was counted is kept, and the same command goes on from there"
    try:
        with StopSignals() as stop:

            def check() -> None:
                if stop.received:
                    raise InterruptedTraining(
                        stop.received, told if args.out else "nothing is kept without --out"
                    )

            summary = evaluate(
                args.model,
                root=args.data_root,
                list_path=args.list_path,
                scales=scales,
                flip=not args.no_flip,
                base_size=args.base_size,
                dataset=args.dataset,
                options=options_from_args(args),
                engine=args.engine,
                device=args.device,
                limit=args.limit,
                out=args.out,
                workers=args.workers,
                densecrf=None if args.densecrf is None else parameters_from_text(args.densecrf),
                submission=args.submission,
                worst_count=args.worst,
                restart=args.restart,
                memory_budget_bytes=args.memory_budget,
                check=check,
            )
    except InterruptedTraining as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:  # a second Ctrl-C
        parser.exit(130)
    except (InferenceError, DatasetError, CheckpointError) as error:
        parser.exit(2, f"{parser.prog}: error: {explained(error)}\n")
    print(json.dumps(summary))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--model", required=True, metavar="BUNDLE|NAME|CKPT")
    add("--data-root", type=Path, required=True, help="what the list's paths start from")
    add("--list", type=Path, required=True, dest="list_path", help="`image label` a line")
    add("--scales", default="1.0", help="comma-separated, such as 0.5,0.75,1,1.25,1.5,1.75")
    add("--no-flip", action="store_true", help="leave out the mirrored windows")
    add("--base-size", type=int, help="long side in pixels at scale 1; default: the data set's")
    add("--engine", default="auto", choices=("auto", "torch", "onnxruntime", "tensorrt"))
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--limit", type=int, help="only the first N images")
    add("--workers", type=int, default=2, metavar="N", help="threads that read and write beside the engine")
    add("--out", type=Path, metavar="DIR", help="folder for figures, pictures, and to go on from")
    add("--restart", action="store_true", help="drop what an earlier run has counted in --out")
    add("--worst", type=int, default=8, metavar="K", help="pictures of the K worst images below --out")
    add(
        "--densecrf",
        nargs="?",
        const="",
        metavar="NAME=VALUE,…",
        help="refine the labels by DenseCRF; the paper's bi_w=3.5,bi_xy_std=55,bi_rgb_std=3,pos_w=2,"
        "pos_xy_std=1,iterations=10 where not given",
    )
    submission_help = "also write the files for that test server; lines of --list may lack the labels"
    add("--submission", choices=tuple(SUBMISSIONS), help=submission_help)
    add_memory_budget_argument(parser)
    add_architecture_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
