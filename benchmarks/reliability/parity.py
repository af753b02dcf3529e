"""CamVid's validation images through HTTP, the command line and the evaluator: same labels, same mIoU.

    python benchmarks/reliability/parity.py --data-root data/camvid [--images 50] [--model psanet18_camvid]

Labels of `POST /segment` have to equal those of `python -m inference` in every pixel, asked from four clients
at once, so that windows of different images share calls; and the mIoU counted from what came through HTTP has
to equal that which `python -m training.evaluate` prints for the same images, to its five digits. The first
`--scaled` images also with three scales and the mirror image. Some minutes. Prints one JSON line last; exits
with 1 where anything differs.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import _paths
import numpy as np
from _common import report
from _serving import serving
from numpy.typing import NDArray
from PIL import Image

from inference.metrics import ConfusionMatrix
from inference.pairs import read_label, read_list

CLIENTS = 4
DIGITS = 5
"""Of the evaluator's figures."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True, help="a folder as training.prepare makes it")
    parser.add_argument("--list", type=Path, help="image and label a line; default: DATA_ROOT/list/val.txt")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--scaled", type=int, default=10, help="of them, with scales and mirror image too")
    parser.add_argument("--model", default="psanet18_camvid", help="a bundle or a bundled name")
    args = parser.parse_args()
    listing = args.list or args.data_root / "list" / "val.txt"
    pairs = read_list(args.data_root, listing)
    figures = {}
    for name, count, scales, flip in (
        ("single scale", args.images, "1", False),
        ("three scales, mirrored", args.scaled, "0.75,1,1.25", True),
    ):
        figures[name] = compare(args, listing, pairs[:count], scales, flip)
        print(f"{name}: {json.dumps(figures[name])}", flush=True)
    met = all(
        each["differing_pixels"] == 0 and each["miou_http"] == each["miou_evaluator"]
        for each in figures.values()
    )
    report(benchmark="parity", model=args.model, figures=figures, met=met)
    return 0 if met else 1


def compare(
    args: argparse.Namespace, listing: Path, pairs: list[tuple[Path, Path]], scales: str, flip: bool
) -> dict[str, Any]:
    """What differs by one protocol."""
    images = [image for image, _ in pairs]
    through_http, classes = ask(args.model, images, scales, flip)
    by_command = label(args.model, images, scales, flip)
    matrix, differing = ConfusionMatrix(classes), 0
    for ours, theirs, (_, truth) in zip(through_http, by_command, pairs, strict=True):
        differing += int((ours != theirs).sum())
        matrix.update(ours, read_label(truth))
    return {
        "images": len(pairs),
        "pixels": sum(labels.size for labels in through_http),
        "differing_pixels": differing,
        "miou_http": round(matrix.mIoU, DIGITS),
        "miou_evaluator": evaluate(args, listing, len(pairs), scales, flip),
    }


def ask(model: str, images: list[Path], scales: str, flip: bool) -> tuple[list[NDArray[Any]], int]:
    """Labels of the images through HTTP, in their order; how many classes the model has."""
    with serving(variables={"PSANET_MODELS": model}) as running, ThreadPoolExecutor(CLIENTS) as pool:

        def one(image: Path) -> NDArray[Any]:
            connection = HTTPConnection("127.0.0.1", running.port, timeout=300)
            query = f"/segment?scales={scales}&flip={str(flip).lower()}"
            connection.request("POST", query, image.read_bytes(), {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if response.status != 200:
                raise RuntimeError(f"{image.name}: {response.status} {content[:200]!r}")
            return _pixels(content)

        labels = list(pool.map(one, images))
        connection = HTTPConnection("127.0.0.1", running.port, timeout=30)
        connection.request("GET", "/models")
        classes = len(json.loads(connection.getresponse().read())[0]["classes"])
        connection.close()
    return labels, classes


def label(model: str, images: list[Path], scales: str, flip: bool) -> list[NDArray[Any]]:
    """Labels of the images by the command line, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--model", model, "--scales", scales, "--out", folder, *(["--flip"] if flip else [])]
        _command("inference", *map(str, images), *words)
        return [_pixels((Path(folder) / "labels" / f"{image.stem}.png").read_bytes()) for image in images]


def evaluate(args: argparse.Namespace, listing: Path, count: int, scales: str, flip: bool) -> float:
    """The evaluator's mIoU of the first images."""
    words = ["--model", args.model, "--data-root", str(args.data_root), "--list", str(listing)]
    words += ["--limit", str(count), "--scales", scales, *([] if flip else ["--no-flip"])]
    return float(json.loads(_command("training.evaluate", *words).splitlines()[-1])["mIoU"])


def _command(module: str, *words: str) -> str:
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=_paths.ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"python -m {module} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _pixels(content: bytes) -> NDArray[Any]:
    """Of a label image; palette indices stay indices."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


if __name__ == "__main__":
    sys.exit(main())
