"""Peak memory of stitching 30 megapixels with 150 classes, with an engine that costs nothing. JSON last.

Prints what the plan said, and what the process held at most above what it held before.

    python benchmarks/memory_30mp.py --scales 0.5,0.75,1,1.25,1.5,1.75 --flip --base-size 2048
"""

import argparse
import resource
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import report
from numpy.typing import NDArray

from inference.bundle import ModelInfo
from inference.plan import MEBIBYTE
from inference.predictor import Predictor
from models.config import PRESETS
from models.labels import get_label_set

IMAGE_HW = (4472, 6708)
MODEL = "psanet50_ade20k"
LIMIT_MIB = 4096


class NoNetwork:
    """Gives the same logits for every window."""

    name, device, preferred_batch, max_batch, limits_hw = "none", "cpu", 1, None, None
    crop_hw, coarse_hw = PRESETS[MODEL].crop_hw, PRESETS[MODEL].feature_hw

    def __init__(self) -> None:
        shape = (1, PRESETS[MODEL].classes, *self.coarse_hw)
        self._logits = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)

    def to_device(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._logits.copy()

    def close(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scales", default="1")
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--base-size", type=int, default=max(IMAGE_HW))
    parser.add_argument("--budget-mib", type=int, default=2048)
    args = parser.parse_args()
    scales = [float(scale) for scale in args.scales.split(",")]
    labels, config = get_label_set("ade20k"), PRESETS[MODEL]
    info = ModelInfo(
        name=MODEL,
        architecture=config,
        dataset=labels.name,
        class_names=labels.class_names,
        palette=labels.palette,
        crop_hw=config.crop_hw,
        base_size=labels.base_size,
    )
    predictor = Predictor(info, NoNetwork(), memory_budget_bytes=args.budget_mib * MEBIBYTE)
    options: dict[str, Any] = {
        "scales": scales,
        "flip": args.flip,
        "base_size": args.base_size,
        "confidence": True,
    }
    predictor.predict(np.zeros((64, 64, 3), np.uint8), scales=(1.0, 0.5), base_size=64)
    plan = predictor.plan(IMAGE_HW, **options)
    image = np.random.default_rng(1).integers(0, 256, (*IMAGE_HW, 3), np.uint8)
    before, started, cpu = resident_bytes(), time.perf_counter(), time.process_time()
    with PeakResident() as peak:
        prediction = predictor.predict(image, **options)
    held_mib = (peak.most - before) / MEBIBYTE
    result: dict[str, Any] = {
        "image_hw": IMAGE_HW,
        "classes": config.classes,
        "scales": scales,
        "flip": args.flip,
        "base_size": args.base_size,
        "windows": prediction.windows,
        "bands": len(plan.bands),
        "plan_mib": round(plan.peak_bytes / MEBIBYTE, 1),
        "held_mib": round(held_mib, 1),
        "process_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "budget_mib": args.budget_mib,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "limit_mib": LIMIT_MIB,
        "met": held_mib <= LIMIT_MIB,
    }
    report(benchmark="memory_30mp", **result)


class PeakResident:
    """The most memory that the process held inside the block, sampled."""

    def __enter__(self) -> "PeakResident":
        self.most, self._done = resident_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, resident_bytes())


def resident_bytes() -> int:
    """What the process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
