"""Peak memory of 2, 8, 30 and 100 megapixels at six scales with flip: within the budget, never killed.

    python benchmarks/memory.py [--megapixels 2,8,30,100] [--model psanet18_camvid] [--budget-gib 2]
    python benchmarks/memory.py --stitching [--classes 19]   # without a network: minutes instead of hours

Every image is predicted at its own size (base size = its long side) in a process of its own, which looks at
its resident memory all the while. Held is what it had at most above what it had before, with the model loaded
and warm; the plan says beforehand what that will be beside the image and the engine's own memory.
--stitching takes an engine that costs nothing in the network's place, as a network sees a hundred megapixels
for hours on a CPU; what is held is the same, as windows pass the network one by one. Prints a row each, then
one JSON line.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from typing import Any

import numpy as np
from _common import PeakResident, photograph, report, resident_bytes
from _no_network import NoNetwork

from inference.bundle import ModelInfo
from inference.errors import MemoryBudgetError
from inference.plan import MEBIBYTE
from inference.predictor import Predictor
from models.config import ModelConfig
from models.labels import get_label_set

SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
CLOSE = 1.1


def main() -> None:
    args = _arguments()
    if args.one:
        print(json.dumps(one(args, args.megapixels[0])), flush=True)
        return
    rows = []
    for megapixels in args.megapixels:
        command = [sys.executable, *sys.argv, "--one", "--megapixels", f"{megapixels:g}"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        last = run.stdout.strip().rpartition("\n")[2]
        row = json.loads(last) if run.returncode == 0 else {"died": run.returncode, "said": run.stderr[-300:]}
        rows.append({"megapixels": megapixels, **row})
        print(rows[-1], flush=True)
    budget_mib = args.budget_gib * 1024
    report(
        benchmark="memory",
        model=f"an engine that costs nothing, {args.classes} classes" if args.stitching else args.model,
        budget_mib=budget_mib,
        rows=rows,
        met={
            "never_killed": all("died" not in row for row in rows),
            "within_the_budget": all(row.get("held_mib", 0) <= budget_mib for row in rows),
            "as_planned": all(
                row["held_mib"] <= CLOSE * row["plan_mib"] for row in rows if "held_mib" in row
            ),
        },
    )


def one(args: argparse.Namespace, megapixels: float) -> dict[str, Any]:
    """The figures of one size, in this process."""
    budget_bytes = round(args.budget_gib * 1024) * MEBIBYTE
    if args.stitching:
        predictor = Predictor(*stitching_alone(args.classes), memory_budget_bytes=budget_bytes)
    else:
        predictor = Predictor.open(args.model, memory_budget_bytes=budget_bytes)
    height = round(math.sqrt(megapixels * 1e6 * 2 / 3))
    image_hw = height, round(height * 1.5)
    options: dict[str, Any] = {"scales": SIX_SCALES, "flip": True, "base_size": image_hw[1]}
    small = photograph((64, 96))
    predictor.predict(small, scales=SIX_SCALES, flip=True, base_size=96)
    try:
        plan = predictor.plan(image_hw, **options)
    except MemoryBudgetError as error:
        return {"image_hw": image_hw, "refused": str(error)}
    image = np.random.default_rng(1).integers(0, 256, (*image_hw, 3), np.uint8)
    before, started = resident_bytes(), time.perf_counter()
    with PeakResident() as peak:
        prediction = predictor.predict(image, **options)
    return {
        "image_hw": image_hw,
        "windows": prediction.windows,
        "plan_mib": round(plan.peak_bytes / MEBIBYTE, 1),
        "held_mib": round((peak.most - before) / MEBIBYTE, 1),
        "before_mib": round(before / MEBIBYTE, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def stitching_alone(classes: int) -> tuple[ModelInfo, Any]:
    """A model without a network, of ADE20K's kind."""
    labels, config = get_label_set("ade20k"), ModelConfig(depth=50, classes=classes, crop_hw=(465, 465))
    info = ModelInfo(
        name="stitching",
        architecture=config,
        dataset="made",
        class_names=tuple(f"class {index}" for index in range(classes)),
        palette=tuple(labels.palette[index % 150] for index in range(classes)),
        crop_hw=config.crop_hw,
        base_size=labels.base_size,
    )
    return info, NoNetwork(config, "numpy", preferred_batch=1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--megapixels", type=lambda text: [float(part) for part in text.split(",")], default=[2, 8, 30, 100]
    )
    parser.add_argument("--model", default="psanet18_camvid", metavar="BUNDLE|NAME|CKPT")
    parser.add_argument("--stitching", action="store_true", help="an engine that costs nothing")
    parser.add_argument("--classes", type=int, default=19, help="with --stitching (default: 19)")
    parser.add_argument("--budget-gib", type=float, default=2.0)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
