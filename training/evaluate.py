"""mIoU and accuracies of a model over an official list, by the published protocol.

Not here: windows, scales and flips (`inference/predictor.py`) or the definitions (`inference/metrics.py`).

    python -m training.evaluate --model psanet18_camvid --data-root data/camvid \\
        --list data/camvid/list/val.txt

Prints one JSON line last: {"mIoU": …, "mAcc": …, "allAcc": …, "images": …, "seconds": …, …}, fractions.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from inference.errors import InferenceError, ParameterError
from inference.metrics import ConfusionMatrix
from inference.predictor import Predictor
from models.errors import CheckpointError
from models.labels import IGNORE
from models.options import ArchitectureOptions, add_architecture_arguments, options_from_args
from training.dataset import DatasetError, load_pair, read_list


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
) -> dict[str, Any]:
    """Segments every image of the list and counts. Flip is on by default, as in the published figures.

    out: a folder for `metrics.json`, the figures by class. Raises InferenceError, DatasetError and
    CheckpointError.
    """
    started = time.monotonic()
    pairs = read_list(root, list_path)[:limit]
    if out is not None:
        _make_folder(out)
    predictor = Predictor.open(str(model), engine=engine, device=device, dataset=dataset, options=options)
    try:
        info = predictor.info
        confusion = ConfusionMatrix(info.classes)
        engine_s = 0.0
        for pair in tqdm(pairs, desc=f"evaluating {info.name}", mininterval=5):
            image, truth = load_pair(pair, info.classes)
            prediction = predictor.predict(image, scales=scales, flip=flip, base_size=base_size)
            confusion.update(prediction.labels, truth, ignore=IGNORE)
            engine_s += prediction.engine_s
    finally:
        predictor.close()
    summary = {
        "mIoU": round(confusion.mIoU, 5),
        "mIoU_present": round(confusion.mIoU_present, 5),
        "mAcc": round(confusion.mAcc, 5),
        "allAcc": round(confusion.allAcc, 5),
        "images": len(pairs),
        "seconds": round(time.monotonic() - started, 1),
        "engine_seconds": round(engine_s, 1),
        "scales": list(scales),
        "flip": flip,
    }
    if out is not None:
        by_class = dict(zip(info.class_names, (round(float(iou), 5) for iou in confusion.iou), strict=True))
        (out / "metrics.json").write_text(json.dumps({**summary, "iou": by_class}, indent=2) + "\n")
    return summary


def _make_folder(out: Path) -> None:
    """Before the work, so that hours of it are not lost to a folder that cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"--out {out} cannot be made ({error.strerror}): name another folder") from error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, metavar="BUNDLE|NAME|CKPT")
    parser.add_argument("--data-root", type=Path, required=True, help="what the list's paths start from")
    parser.add_argument("--list", type=Path, required=True, dest="list_path", help="`image label` a line")
    parser.add_argument("--scales", default="1.0", help="comma-separated, such as 0.5,0.75,1,1.25,1.5,1.75")
    parser.add_argument("--no-flip", action="store_true", help="leave out the mirrored windows")
    parser.add_argument(
        "--base-size", type=int, help="long side in pixels at scale 1; default: the data set's"
    )
    parser.add_argument("--engine", default="auto", choices=("auto", "torch", "onnxruntime", "tensorrt"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--out", type=Path, help="a folder for the figures by class")
    add_architecture_arguments(parser)
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error("--limit takes 1 or more")
    try:
        scales = [float(scale) for scale in args.scales.split(",")]
    except ValueError:
        parser.error(f"--scales takes numbers with commas between, not {args.scales!r}")
    try:
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
        )
    except (InferenceError, DatasetError, CheckpointError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
