"""ONNX Runtime against eager PyTorch on the CPU: PSANet50 at 465x465, 21 classes, one image, same threads.

    python benchmarks/engines.py [--repeats 10] [--threads N] [--depth 50] [--precision fp32|fp16]

Both run in this process, in turn: the bundle that `export.onnx` makes, and the network that it is made of in
float32, contiguous. The weights are random, which cost what trained ones do. Prints one JSON line last.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch
from _common import Timer, make_checkpoint, report

from export.comparison import sample_images
from export.onnx import export_onnx
from inference.engines import open_model
from models.config import ModelConfig

AT_LEAST, LOGIT_TOLERANCE = 1.25, 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--depth", type=int, default=50, choices=(18, 34, 50, 101, 152))
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    args = parser.parse_args()
    config = ModelConfig(depth=args.depth, classes=21, crop_hw=(465, 465))
    # Noise and a smooth picture; the time does not depend on which.
    images = sample_images(config.crop_hw)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(config, "voc2012", Path(folder))
        exported = export_onnx(checkpoint, Path(folder) / "bundle", precision=args.precision)
        runtime = open_model(exported.folder, engine="onnxruntime", threads=args.threads)[1]
        eager = open_model(checkpoint, engine="torch", threads=args.threads)[1]
        assert torch.get_num_threads() == args.threads, "both sides get the same threads"
        runtime.infer(images[:1]), eager.infer(images[:1])
        ours, theirs = Timer(), Timer()
        for index in range(args.repeats):
            image = images[index % 2 : index % 2 + 1]
            with ours:
                runtime.infer(image)
            with theirs:
                eager.infer(image)
    ratio = theirs.summary()["median"] / ours.summary()["median"]
    comparison = exported.comparison
    report(
        benchmark="engines",
        model=f"PSANet{args.depth}, 21 classes, 465x465, random weights, one image",
        precision=args.precision,
        threads=args.threads,
        repeats=args.repeats,
        onnxruntime_s=ours.summary(),
        eager_s=theirs.summary(),
        ratio_median=round(ratio, 3),
        ratio_min=round(theirs.summary()["min"] / ours.summary()["min"], 3),
        max_logit_error=comparison.max_logit_error,
        mean_logit_error=comparison.mean_logit_error,
        label_agreement=comparison.label_agreement,
        logit_deviation=round(comparison.deviation, 3),
        bytes=exported.size_bytes,
        at_least=AT_LEAST,
        met=ratio >= AT_LEAST and (args.precision != "fp32" or comparison.max_logit_error <= LOGIT_TOLERANCE),
    )


if __name__ == "__main__":
    main()
