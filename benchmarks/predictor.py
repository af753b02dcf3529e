"""What `Predictor` costs above its engine calls: PSANet50, 19 classes, crop 465, ONNX Runtime, 2048x1024.

    python benchmarks/predictor.py [--repeats 3] [--depth 50]

Scale 1, no flip. Both sides come from the same calls: the predictor reports the seconds that it spent inside
the engine. The network has random weights, which cost what trained ones do. Prints one JSON line last.
"""

import argparse
import tempfile
from pathlib import Path

from _common import Timer, make_checkpoint, photograph, report

from export.onnx import export_onnx
from inference.predictor import Predictor
from models.config import ModelConfig

IMAGE_HW = (1024, 2048)
LIMIT = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--depth", type=int, default=50, choices=(18, 34, 50, 101, 152))
    args = parser.parse_args()
    config = ModelConfig(depth=args.depth, classes=19, crop_hw=(465, 465))
    image = photograph(IMAGE_HW)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(config, "cityscapes", Path(folder))
        bundle = export_onnx(checkpoint, Path(folder) / "bundle").folder
        predictor = Predictor.open(bundle)
        predictor.predict(image[:465, :465])
        whole, engine = Timer(), Timer()
        for _ in range(args.repeats):
            with whole:
                prediction = predictor.predict(image)
            engine.add(prediction.engine_s)
        predictor.close()
    above = [a / b - 1 for a, b in zip(whole.seconds, engine.seconds, strict=True)]
    report(
        benchmark="predictor",
        model=f"PSANet{args.depth}, 19 classes, crop 465, random weights, ONNX Runtime fp32",
        image="2048x1024, scale 1, no flip",
        windows=prediction.windows,
        engine_s=engine.summary(),
        predictor_s=whole.summary(),
        above_engine=round(sorted(above)[len(above) // 2], 4),
        limit=LIMIT,
        met=sorted(above)[len(above) // 2] <= LIMIT,
    )


if __name__ == "__main__":
    main()
