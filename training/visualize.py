"""The learned masks as in the paper's Fig. 6: what points of an image collect from and distribute to.

Not here: the weights (`inference/attention.py`), how they are drawn over an image (`inference/heatmap.py`).

    python -m training.visualize --model psanet18_camvid street.jpg --points 240,60 240,300 --out masks.png

A row for each point, x from the left and y from the top: the image, what it collects from, what it
distributes to, the labels. Prints one JSON line last. Exit code 2: it cannot be done, the message has the
mend.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inference.attention import Point, PointAttention, attention_at
from inference.budget import add_memory_budget_argument, explained
from inference.errors import InferenceError
from inference.files import write_atomically
from inference.heatmap import MARKS, draw_attention, mark_point
from inference.images import read_image
from inference.predictor import Predictor
from inference.render import ImageFormat, Labels, Palette, Pixels, encode_image, overlay
from models.config import Direction
from models.errors import CheckpointError
from models.options import add_architecture_arguments, options_from_args

CAPTIONS: Final[dict[Direction, str]] = {"collect": "collects from", "distribute": "distributes to"}
FORMATS: Final[dict[str, ImageFormat]] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""By the ending of the picture's name."""
_PANEL_SIDE: Final = 480
"""Of each panel's long side in pixels, at most."""
_GAP: Final = 4
_CAPTION: Final = 24


def visualize(
    predictor: Predictor,
    image: Pixels,
    points: Sequence[Point],
    *,
    scale: float = 1.0,
    base_size: int | None = None,
) -> tuple[Pixels, tuple[PointAttention, ...]]:
    """The picture, (h, w, 3) RGB, and what it shows. Raises as `attention_at` and `Predictor.predict` do."""
    seen = attention_at(predictor, image, points, scale=scale, base_size=base_size).points
    labels = predictor.predict(image, scales=(scale,), base_size=base_size).labels
    palette = predictor.info.palette
    rows = [_row(image, labels, palette, each, MARKS[at % len(MARKS)]) for at, each in enumerate(seen)]
    captions = ["image", *(CAPTIONS[direction] for direction in seen[0].weights), "labels"]
    return _framed(rows, captions), seen


def _row(
    image: Pixels, labels: Labels, palette: Palette, seen: PointAttention, color: tuple[int, int, int]
) -> list[Pixels]:
    own, classes = image.copy(), overlay(image, labels, palette, alpha=0.6)
    for panel in (own, classes):
        mark_point(panel, seen.point, color)
    heats = [draw_attention(image, seen, direction, color=color) for direction in seen.weights]
    return [_small(panel) for panel in (own, *heats, classes)]


def _small(panel: Pixels) -> Pixels:
    height, width = panel.shape[:2]
    factor = min(1.0, _PANEL_SIDE / max(height, width))
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return np.asarray(cv2.resize(panel, size, interpolation=cv2.INTER_AREA), np.uint8)


def _framed(rows: Sequence[Sequence[Pixels]], captions: Sequence[str]) -> Pixels:
    """Panels of one size in rows, with a caption above each column, on white."""
    height, width = rows[0][0].shape[:2]
    canvas = Image.new(
        "RGB",
        (len(captions) * (width + _GAP) - _GAP, _CAPTION + len(rows) * (height + _GAP) - _GAP),
        "white",
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for column, caption in enumerate(captions):
        left = column * (width + _GAP)
        draw.text((left + width / 2, _CAPTION / 2), caption, fill="black", font=font, anchor="mm")
        for row, panels in enumerate(rows):
            canvas.paste(Image.fromarray(panels[column]), (left, _CAPTION + row * (height + _GAP)))
    return np.asarray(canvas, np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    kind = FORMATS.get(args.out.suffix.lower())
    if kind is None:
        parser.error(f"--out takes a name that ends with {', '.join(FORMATS)}, not {args.out.name!r}")
    if args.out.resolve() == args.image.resolve():
        parser.error("--out is the image itself: name another file")
    try:
        predictor = Predictor.open(
            args.model,
            engine=args.engine,
            device=args.device,
            dataset=args.dataset,
            options=options_from_args(args),
            memory_budget_bytes=args.memory_budget,
        )
        with closing(predictor):
            image = read_image(args.image)
            picture, seen = visualize(
                predictor, image, args.points, scale=args.scale, base_size=args.base_size
            )
        write_atomically(args.out, encode_image(picture, kind))
    except (InferenceError, CheckpointError) as error:
        print(f"training.visualize: {explained(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"training.visualize: {error.filename}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(json.dumps({"picture": str(args.out), "points": [_told(each) for each in seen]}))
    return 0


def _told(seen: PointAttention) -> dict[str, Any]:
    """largest: weight of a position, in units of even attention."""
    largest = {direction: round(float(each.max()), 3) for direction, each in seen.weights.items()}
    window = [round(value, 1) for value in seen.window]
    return {"point": list(seen.point), "position": list(seen.position), "window": window, "largest": largest}


def _point(text: str) -> Point:
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"takes points such as 240,60, x and y in pixels, not {text!r}")
    return Point(int(found[1]), int(found[2]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.visualize",
        description="Draws what points of an image collect from and distribute to.",
    )
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE")
    add("--model", required=True, metavar="BUNDLE|NAME|CKPT")
    add("--points", required=True, nargs="+", type=_point, metavar="X,Y", help="pixels of the image")
    add("--out", required=True, type=Path, metavar="FILE", help=f"the picture: {', '.join(FORMATS)}")
    add("--scale", type=float, default=1.0, help="of the image; a smaller one shows more of it in a window")
    add("--base-size", type=int, help="long side in pixels at scale 1; default: the model's")
    add("--engine", default="auto", choices=("auto", "torch", "onnxruntime"))
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add_memory_budget_argument(parser)
    add_architecture_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
