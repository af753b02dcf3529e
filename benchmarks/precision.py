"""fp32, fp16 and int8 of one checkpoint in ONNX Runtime: mIoU, labels that agree with fp32, time, size.

    python benchmarks/precision.py --ckpt psanet18_camvid --data-root data/camvid \\
        --list data/camvid/list/val.txt --calib data/camvid/images/train [--limit 20] [--flip] [--threads 2]

Exports three bundles (into --bundles, where those that are there are taken as they are) and gives each image
to all of them in turn, in this process, by the model's own protocol. Times are the engines', of an image: the
minimum and the median, and of the processor, which other programs disturb less. Prints a table, then one JSON
line.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from _common import Timer, report

from export.onnx import export_onnx
from inference.bundle import MODEL_JSON, Precision
from inference.engines import Engine, open_model
from inference.metrics import ConfusionMatrix
from inference.pairs import pairs_of_list
from inference.predictor import Predictor


class Watched:
    """An engine around an engine, which counts the processor's seconds in it."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.seconds = engine, 0.0

    def infer(self, images: Any) -> Any:
        started = time.process_time()
        logits = self._engine.infer(images)
        self.seconds += time.process_time() - started
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Side:
    """One precision: its predictor, its confusion with the truth and with fp32's labels, its seconds."""

    def __init__(self, precision: Precision, bundle: Path, threads: int) -> None:
        self.precision, self.bytes = precision, (bundle / "model.onnx").stat().st_size
        info, engine = open_model(bundle, threads=threads)
        self.watched = Watched(engine)
        self.predictor = Predictor(info, cast(Engine, self.watched))
        self.truth, self.reference = (ConfusionMatrix(self.predictor.info.classes) for _ in range(2))
        self.engine, self.processor = Timer(), Timer()

    def figures(self, first: "Side") -> dict[str, object]:
        engine, processor = self.engine.summary(), self.processor.summary()
        return {
            "mIoU": round(100 * self.truth.mIoU, 2),
            "allAcc": round(100 * self.truth.allAcc, 2),
            "agreement": round(100 * self.reference.allAcc, 2),
            "engine_s": engine,
            "processor_s": processor,
            "speed": round(first.engine.summary()["min"] / engine["min"], 2),
            "speed_processor": round(first.processor.summary()["min"] / processor["min"], 2),
            "MB": round(self.bytes / 1e6, 1),
        }


def main() -> None:
    args = _arguments()
    if args.data_root is None or args.list_path is None or args.calib is None:
        print("skipped: needs labelled images, name them with --data-root, --list and --calib")
        return
    pairs = pairs_of_list(args.data_root, args.list_path)[:: args.every][: args.limit]
    scales = [float(scale) for scale in args.scales.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.bundles or Path(scratch)
        sides = [Side(kind, _bundle(args, folder, kind), args.threads) for kind in get_args(Precision)]
        size_hw = sides[0].predictor.info.crop_hw
        for side in sides:
            side.predictor.engine.infer(np.zeros((1, 3, *size_hw), np.float32))
        for pair in pairs:
            image, truth = pair.read()
            assert truth is not None, "a list names labels"
            labels = None
            for side in sides:
                side.watched.seconds = 0.0
                prediction = side.predictor.predict(image, scales=scales, flip=args.flip)
                side.processor.add(side.watched.seconds)
                side.engine.add(prediction.engine_s)
                side.truth.update(prediction.labels, truth)
                labels = prediction.labels if labels is None else labels
                side.reference.update(prediction.labels, labels)
    figures = {side.precision: side.figures(sides[0]) for side in sides}
    print("| | mIoU | pixel accuracy | labels as in fp32 | engine, s an image | times as fast | MB |")
    print("|---|---|---|---|---|---|---|")
    for kind, row in figures.items():
        print(
            f"| {kind} | {row['mIoU']} | {row['allAcc']} | {row['agreement']} | "
            f"{row['engine_s']['min']} | {row['speed']} | {row['MB']} |"  # type: ignore[index]
        )
    report(
        benchmark="precision",
        ckpt=str(args.ckpt),
        images=len(pairs),
        scales=scales,
        flip=args.flip,
        threads=args.threads,
        figures=figures,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", default="psanet18_camvid", metavar="FILE|BUNDLE|NAME")
    parser.add_argument("--data-root", type=Path, help="what the list's paths start from")
    parser.add_argument("--list", type=Path, dest="list_path", help="`image label` a line")
    parser.add_argument("--calib", type=Path, help="images that are not in the list")
    parser.add_argument("--bundles", type=Path, help="keeps the bundles here, and takes those that are")
    parser.add_argument("--scales", default="1.0")
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth image")
    parser.add_argument("--limit", type=int, help="only so many images")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def _bundle(args: argparse.Namespace, folder: Path, precision: Precision) -> Path:
    out: Path = folder / precision
    if not (out / MODEL_JSON).is_file():
        calib = args.calib if precision == "int8" else None
        export_onnx(args.ckpt, out, precision=precision, calib=calib)
    return out


if __name__ == "__main__":
    main()
