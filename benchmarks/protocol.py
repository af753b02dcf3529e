"""Our predictor against the straightforward protocol, on a CPU: the whole way of a photograph to its labels.

    python benchmarks/protocol.py [--repeats 5] [--six-repeats 1] [--threads N] [--depth 50]
    python benchmarks/protocol.py --data-root data/camvid --list data/camvid/list/val.txt [--limit 20]

1. PSANet50 at 465, 21 classes, base size 512, in float32 on both sides: what `export.onnx` writes, by the
   predictor, against eager PyTorch window by window with canvases of numpy (`_straightforward.py`). Single
   scale, and six scales with flip; random weights, which cost what trained ones do.
2. The bundled model: its int8 bundle by the predictor against its source by the straightforward protocol,
   single scale with flip; with --data-root and --list on those images, mIoU of both sides.

The two sides take turns in this process, with the same threads; times are minima. Prints one JSON line last.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _common import Timer, make_checkpoint, make_network, photograph, report
from _straightforward import Straightforward

from export.onnx import export_onnx
from inference.images import read_image
from inference.metrics import ConfusionMatrix
from inference.pairs import pairs_of_list
from inference.predictor import Predictor
from models.checkpoint import build_from_checkpoint, load_checkpoint
from models.config import ModelConfig

SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
PROTOCOLS: dict[str, dict[str, Any]] = {
    "single": {"scales": (1.0,), "flip": False},
    "six": {"scales": SIX_SCALES, "flip": True},
}
BUNDLED = "psanet18_camvid"
FP32_TIMES, FP32_AGREEMENT, INT8_TIMES, INT8_POINTS = 1.45, 0.9999, 3.5, 0.5


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {"threads": args.threads, "targets": {}, "met": {}}
    if "fp32" in args.parts:
        rows = float32(args)
        found["fp32"] = {"model": f"PSANet{args.depth}, 21 classes, crop 465, random weights", **rows}
        found["targets"] |= {"fp32_times": FP32_TIMES, "fp32_agreement": FP32_AGREEMENT}
        found["met"]["fp32"] = all(
            row["times"] >= FP32_TIMES and row["agreement"] >= FP32_AGREEMENT for row in rows.values()
        )
    if "int8" in args.parts:
        int8 = bundled(args)
        found["int8"] = {"model": BUNDLED, **int8}
        found["targets"] |= {"int8_times": INT8_TIMES, "int8_points": INT8_POINTS}
        found["met"]["int8_times"] = int8["times"] >= INT8_TIMES
        if "points" in int8:
            found["met"]["int8_mIoU"] = abs(int8["points"]) <= INT8_POINTS
    report(benchmark="protocol", **found)


def float32(args: argparse.Namespace) -> dict[str, Any]:
    """Rows by protocol."""
    config = ModelConfig(depth=args.depth, classes=21, crop_hw=(465, 465), aux=False)
    image, base_size, rows = _image(args.image), 512, {}
    with tempfile.TemporaryDirectory() as folder:
        network = make_network(config)
        checkpoint = make_checkpoint(config, "voc2012", Path(folder), network=network)
        bundle = export_onnx(checkpoint, Path(folder) / "bundle").folder
        predictor = Predictor.open(bundle, threads=args.threads)
        for name, options in PROTOCOLS.items():
            straight = Straightforward(network, "cpu", base_size=base_size, **options)
            repeats = args.repeats if name == "single" else args.six_repeats
            ours, theirs, over_engine = Timer(), Timer(), []
            for index in range(repeats + (name == "single")):
                timed = index > 0 or name != "single"  # the first warms both sides up
                with ours if timed else Timer():
                    found = predictor.predict(image, base_size=base_size, **options)
                with theirs if timed else Timer():
                    expected = straight.run(image).labels
                if timed:
                    over_engine.append(ours.seconds[-1] / found.engine_s)
            rows[name] = {
                "windows": found.windows,
                "ours_s": ours.summary(),
                "straightforward_s": theirs.summary(),
                "times": round(min(theirs.seconds) / min(ours.seconds), 3),
                "times_processor": round(min(theirs.processor) / min(ours.processor), 3),
                "over_engine": round(min(over_engine), 3),
                "agreement": round(float((found.labels == expected).mean()), 6),
            }
            print(name, rows[name], flush=True)
        predictor.close()
    return rows


def bundled(args: argparse.Namespace) -> dict[str, Any]:
    """The bundled model's int8 against its source, eagerly in float32."""
    checkpoint = load_checkpoint(
        Path(__file__).resolve().parents[1] / "models" / "bundled" / BUNDLED / f"{BUNDLED}.safetensors"
    )
    predictor = Predictor.open(BUNDLED, threads=args.threads)
    base_size = predictor.info.base_size
    straight = Straightforward(
        build_from_checkpoint(checkpoint).eval(), "cpu", base_size=base_size, scales=(1.0,), flip=True
    )
    labelled = args.data_root is not None and args.list_path is not None
    if labelled:
        pairs = pairs_of_list(args.data_root, args.list_path)[: args.limit]
        images = (pair.read() for pair in pairs)
    else:
        print("mIoU skipped: it needs labelled images, name them with --data-root and --list")
        images = iter([(photograph((360, 480)), None)] * args.repeats)
    ours, theirs = Timer(), Timer()
    our_truth, their_truth, agreement = (ConfusionMatrix(predictor.info.classes) for _ in range(3))
    ratios = []
    predictor.predict(photograph((360, 480))), straight.run(photograph((360, 480)))
    for image, truth in images:
        with ours:
            found = predictor.predict(image, flip=True).labels
        with theirs:
            expected = straight.run(image).labels
        assert expected is not None
        ratios.append(theirs.seconds[-1] / ours.seconds[-1])
        agreement.update(found, expected.astype(np.uint8))
        if truth is not None:
            our_truth.update(found, truth)
            their_truth.update(expected.astype(np.uint8), truth)
    result: dict[str, Any] = {
        "images": len(ratios),
        "ours_s": ours.summary(),
        "straightforward_s": theirs.summary(),
        "times": round(min(theirs.seconds) / min(ours.seconds), 3),
        "times_median": round(sorted(ratios)[len(ratios) // 2], 3),
        "times_processor": round(min(theirs.processor) / min(ours.processor), 3),
        "agreement": round(agreement.allAcc, 5),
    }
    if labelled:
        ours_miou, theirs_miou = 100 * our_truth.mIoU, 100 * their_truth.mIoU
        result |= {
            "mIoU": round(ours_miou, 2),
            "straightforward_mIoU": round(theirs_miou, 2),
            "points": round(ours_miou - theirs_miou, 2),
        }
    print("int8", result, flush=True)
    return result


def _image(path: Path | None) -> np.ndarray:
    """480x640, unless one is given."""
    return photograph((480, 640)) if path is None else read_image(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="fp32,int8", help="of the two above (default: fp32,int8)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--six-repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--depth", type=int, default=50, choices=(18, 34, 50, 101, 152))
    parser.add_argument("--image", type=Path, help="a photograph (default: a made-up one of 480x640)")
    parser.add_argument("--data-root", type=Path, help="what the list's paths start from")
    parser.add_argument("--list", type=Path, dest="list_path", help="`image label` a line, of CamVid")
    parser.add_argument("--limit", type=int, help="only so many images of the list")
    return parser.parse_args()


if __name__ == "__main__":
    cv2.setNumThreads(0)
    main()
