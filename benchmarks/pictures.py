"""Decoding, label PNG, colours, blending, statistics and RLE at 2048x1024: ours against other ways to do it.

    python benchmarks/pictures.py [--repeats 15] [--hw 1024,2048]

Every way is an ordinary one of the libraries that are installed (OpenCV, Pillow, numpy, pycocotools); they
take turns on the same photograph and labels, and the least milliseconds of the processor count. `ratio` is
ours over the fastest other way; `same` says whether its result is ours (of pictures, to the pixel). Prints a
row each, then one JSON line.
"""

import argparse
import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from _common import Timer, photograph, report
from PIL import Image
from pycocotools import mask as coco

from inference import render
from inference.images import decode_image
from inference.rle import class_rles
from models.labels import get_label_set

Ways = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--hw", type=lambda text: tuple(int(side) for side in text.split(",")), default=(1024, 2048)
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for what, (read, ways) in tasks(args.hw).items():
        timers = {name: Timer() for name in ways}
        for _ in range(args.repeats + 1):
            for name, way in ways.items():
                with timers[name]:
                    way()
        ms = {name: round(1e3 * min(timer.processor[1:]), 2) for name, timer in timers.items()}
        others = {name: each for name, each in ms.items() if name != "ours"}
        fastest = min(others, key=lambda name: others[name])
        same = bool(np.array_equal(read(ways["ours"]()), read(ways[fastest]())))
        row = {"what": what, "ms": ms, "fastest_other": fastest, "same": same}
        row["ratio"] = round(ms["ours"] / max(others[fastest], 0.01), 2)
        rows.append(row)
        print(row, flush=True)
    report(benchmark="pictures", image_hw=args.hw, rows=rows)


def tasks(hw: tuple[int, int]) -> dict[str, tuple[Callable[[Any], Any], Ways]]:
    """By name: how a result is compared, and the ways."""
    image, labels_of = photograph(hw), get_label_set("cityscapes")
    smooth = cv2.resize(
        np.random.default_rng(0).integers(0, 19, (hw[0] // 32, hw[1] // 32), np.uint8), hw[::-1]
    )
    labels, palette = smooth % 19, labels_of.palette
    jpeg = render.encode_image(image, "jpeg")
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    colours, present = table[labels], np.unique(labels).tolist()

    def pillow_png(**options: Any) -> bytes:
        picture, buffer = Image.fromarray(labels), io.BytesIO()
        picture.putpalette(table.tobytes())
        picture.save(buffer, "PNG", **options)
        return buffer.getvalue()

    def masks_one_by_one() -> dict[int, bytes]:
        return {each: coco.encode(np.asfortranarray(labels == each))["counts"] for each in present}

    return {
        "decode a JPEG": (
            np.asarray,
            {
                "ours": lambda: decode_image(jpeg),
                "opencv": lambda: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB),
                "pillow": lambda: np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")),
            },
        ),
        "label PNG": (
            lambda data: np.asarray(Image.open(io.BytesIO(data))),
            {
                "ours": lambda: render.label_png(labels, palette),
                "pillow, as it comes": pillow_png,
                "opencv, without a palette": lambda: cv2.imencode(
                    ".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1]
                )[1].tobytes(),
            },
        ),
        "colours": (
            np.asarray,
            {
                "ours": lambda: render.colorize(labels, palette),
                "numpy": lambda: table[labels],
                "numpy take": lambda: np.take(table, labels, axis=0),
            },
        ),
        "overlay": (
            np.asarray,
            {
                "ours": lambda: render.overlay(image, labels, palette),
                "numpy": lambda: (0.5 * image + 0.5 * table[labels]).round().astype(np.uint8),
                "pillow": lambda: np.asarray(
                    Image.blend(Image.fromarray(image), Image.fromarray(colours), 0.5)
                ),
            },
        ),
        "pixels of each class": (
            np.asarray,
            {
                "ours": lambda: render.pixel_counts(labels, 19),
                "bincount": lambda: np.bincount(labels.ravel(), minlength=19),
            },
        ),
        "RLE of all classes": (
            lambda found: [found[each] for each in present],
            {
                "ours": lambda: {each: rle["counts"].encode() for each, rle in class_rles(labels).items()},
                "pycocotools": masks_one_by_one,
            },
        ),
    }


if __name__ == "__main__":
    main()
