"""What everything but the engine costs on a CPU: 19 and 150 classes, 0.5, 2 and 8 megapixels.

    python benchmarks/postprocess.py [--repeats 3] [--threads N] [--megapixels 0.5,2,8]

PSANet50 at 465, ONNX Runtime in float32, at the image's own size (base size = its long side), single scale,
no flip: decoded pixels to labels. The engine's time is that of its calls inside the predictor; to leave the
machine's other work out, the rest is also measured alone, with an engine that costs nothing. Weights are
random, which cost what trained ones do. Prints a row each, then one JSON line.
"""

import argparse
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import Timer, make_checkpoint, photograph, report
from _no_network import NoNetwork

from export.onnx import export_onnx
from inference.predictor import Predictor
from models.config import ModelConfig

AT_MOST = {19: 0.10, 150: 0.15}
LINEAR = 1.3
"""Of the least cost of a megapixel, the most that it may cost at another size."""
DATASETS = {19: "cityscapes", 150: "ade20k"}


def main() -> None:
    args = _arguments()
    rows: list[dict[str, Any]] = []
    for classes, dataset in DATASETS.items():
        config = ModelConfig(depth=50, classes=classes, crop_hw=(465, 465), aux=False)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = make_checkpoint(config, dataset, Path(folder))
            with_network = Predictor.open(
                export_onnx(checkpoint, Path(folder) / "bundle").folder, threads=args.threads
            )
            without = Predictor(with_network.info, NoNetwork(config, "numpy", preferred_batch=1))
            without.engine.threads = args.threads  # type: ignore[attr-defined]
            for megapixels in args.megapixels:
                row = measured(with_network, without, megapixels, args.repeats)
                rows.append({"classes": classes, "megapixels": megapixels, **row})
                print(rows[-1], flush=True)
            with_network.close()
    linear = {classes: _growth([row for row in rows if row["classes"] == classes]) for classes in DATASETS}
    report(
        benchmark="postprocess",
        model="PSANet50, crop 465, random weights",
        engine="ONNX Runtime fp32",
        threads=args.threads,
        rows=rows,
        dearest_megapixel=linear,
        targets={"share": AT_MOST, "dearest_megapixel": LINEAR},
        met={
            "share": all(row["share"] <= AT_MOST[row["classes"]] for row in rows),
            "linear": all(growth <= LINEAR for growth in linear.values()),
        },
    )


def measured(with_network: Predictor, without: Predictor, megapixels: float, repeats: int) -> dict[str, Any]:
    """Of an image twice as wide as high."""
    height = round(math.sqrt(megapixels * 1e6 / 2))
    image = photograph((height, 2 * height))
    options = {"base_size": 2 * height}
    whole, alone, engine = Timer(), Timer(), []
    without.predict(image, **options)  # type: ignore[arg-type]
    for _ in range(repeats):
        with alone:
            without.predict(image, **options)  # type: ignore[arg-type]
    for _ in range(max(1, round(repeats / max(megapixels, 1)))):
        with whole:
            found = with_network.predict(image, **options)  # type: ignore[arg-type]
        engine.append(found.engine_s)
    least = int(np.argmin(whole.seconds))
    return {
        "windows": found.windows,
        "whole_s": round(whole.seconds[least], 3),
        "engine_s": round(engine[least], 3),
        "rest_s": round(whole.seconds[least] - engine[least], 3),
        "rest_alone_s": round(min(alone.seconds), 3),
        "rest_alone_processor_s": round(min(alone.processor), 3),
        "share": round(1 - engine[least] / whole.seconds[least], 4),
    }


def _growth(rows: list[dict[str, Any]]) -> float:
    """The dearest megapixel over the cheapest, of the rest alone in the processor's seconds."""
    costs = [row["rest_alone_processor_s"] / row["megapixels"] for row in rows]
    return round(max(costs) / min(costs), 3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--megapixels", type=lambda text: [float(part) for part in text.split(",")], default=[0.5, 2.0, 8.0]
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
