"""Images per second of `python -m inference` over a folder, against the sum of its engine's times.

    python benchmarks/throughput.py [--images 200] [--model psanet18_camvid] [--hw 360,480] [--device cpu]

Decoding, encoding and writing go on beside the engine, so that the folder should take little more than the
engine alone: the target is 0.9 of it. Runs the command itself in a process of its own, on made-up photographs
(JPEG), with labels and JSON as outputs: each JSON file holds its image's seconds in the engine. Starting
Python and opening the model are not counted. Prints one JSON line last.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import photograph, report

from inference.render import encode_image

AT_LEAST, KINDS = 0.9, 8


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        photos, out = Path(scratch) / "photos", Path(scratch) / "out"
        photos.mkdir()
        kinds = [encode_image(photograph(args.hw, seed), "jpeg") for seed in range(KINDS)]
        for number in range(args.images):
            (photos / f"{number:04}.jpg").write_bytes(kinds[number % KINDS])
        command = [sys.executable, "-m", "inference", str(photos), "--model", args.model, "--out", str(out)]
        command += ["--output", "labels,json", "--device", args.device, "--engine", args.engine]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            sys.exit(f"python -m inference failed: {run.stderr.strip()}")
        summary = json.loads(run.stdout.strip().rpartition("\n")[2])
        timings = [json.loads(path.read_text())["timings_ms"] for path in (out / "json").glob("*.json")]
    engine_s, infer_s = (sum(timing[name] for timing in timings) / 1000 for name in ("engine", "infer"))
    share = engine_s / summary["seconds"]
    report(
        benchmark="throughput",
        model=args.model,
        engine=args.engine,
        device=args.device,
        image_hw=args.hw,
        images=summary["written"],
        seconds=summary["seconds"],
        images_per_s=round(summary["written"] / summary["seconds"], 2),
        engine_s=round(engine_s, 3),
        predict_s=round(infer_s, 3),
        share=round(share, 4),
        target=AT_LEAST,
        met=share >= AT_LEAST,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--model", default="psanet18_camvid", metavar="BUNDLE|NAME|CKPT")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--hw", type=lambda text: tuple(int(side) for side in text.split(",")), default=(360, 480)
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
