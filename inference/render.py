"""What a prediction looks like and what it says: label PNG, colours, overlay, confidence, statistics.

Takes and gives plain arrays and bytes; knows neither models nor files nor HTTP.

    labels = predictor.predict(image).labels
    Path("labels.png").write_bytes(label_png(labels, predictor.info.palette))
    Path("overlay.jpg").write_bytes(encode_image(overlay(image, labels, predictor.info.palette), "jpeg"))

The way to each picture is the fastest of those measured at 2048x1024, in milliseconds: label PNG by Pillow 4
(OpenCV 10); colours by `cv2.applyColorMap` 2 (numpy indexing 17); RGB PNG by OpenCV with run-length strategy
84 (its default 122, Pillow 110); WebP by Pillow with method 0 53 (OpenCV 186).
"""

import io
from collections.abc import Collection, Sequence
from typing import Any, Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from inference.bundle import ModelInfo
from inference.errors import ParameterError
from inference.rle import class_rles

ImageFormat = Literal["png", "jpeg", "webp"]
Palette = Sequence[tuple[int, int, int]]
Labels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Pixels = npt.NDArray[np.uint8]

_MAX_SIDE: Final[dict[str, int]] = {"png": 1_000_000, "jpeg": 65_500, "webp": 16_383}
_QUALITY: Final = 90


def label_png(labels: Labels, palette: Palette) -> bytes:
    """(H, W) class ids as a PNG of the same size: uint8 with the palette, uint16 as 16-bit without one."""
    picture = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        # All 256 entries, so that every pixel value has a colour (black where it is no class).
        picture.putpalette(_color_table(palette)[:256].tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def colorize(labels: Labels, palette: Palette) -> Pixels:
    """(H, W) class ids to (H, W, 3) RGB; ids without a colour become black."""
    table = _color_table(palette)
    if labels.dtype == np.uint8:
        # The table is RGB and stays so: OpenCV copies its rows, whatever they mean.
        return np.asarray(cv2.applyColorMap(labels, table[:256, None]), np.uint8)
    return table[np.minimum(labels, len(table) - 1)]


def overlay(
    image: Pixels,
    labels: Labels,
    palette: Palette,
    *,
    alpha: float = 0.5,
    classes: Collection[int] | None = None,
) -> Pixels:
    """The photograph (H, W, 3) RGB under the colours of its labels (H, W), as a new array.

    alpha: weight of the colours, 0 (photograph) to 1 (colours). classes: ids to colour, all where None;
    pixels of other classes stay the photograph's.
    Raises ParameterError for an alpha outside 0..1, an unknown class id, or sizes that differ.
    """
    if not 0.0 <= alpha <= 1.0:  # also turns away nan
        raise ParameterError(f"alpha is the weight of the colours and lies between 0 and 1, not {alpha}")
    if image.shape[:2] != labels.shape:
        raise ParameterError(
            f"the image is {image.shape[:2]} and its labels are {labels.shape}: pass labels of the same image"
        )
    blended = np.asarray(cv2.addWeighted(image, 1.0 - alpha, colorize(labels, palette), alpha, 0.0), np.uint8)
    if classes is None:
        return blended
    chosen = _membership(classes, len(palette))
    inside = cv2.LUT(labels, chosen) if labels.dtype == np.uint8 else chosen[labels]
    return np.asarray(cv2.copyTo(blended, inside, image.copy()), np.uint8)


def confidence_image(confidence: npt.NDArray[np.float32]) -> Pixels:
    """(H, W) confidence in 0..1 to (H, W) grey in 0..255, rounded."""
    return np.asarray(cv2.convertScaleAbs(confidence, alpha=255.0), np.uint8)


def encode_image(pixels: Pixels, format: ImageFormat) -> bytes:
    """(H, W, 3) RGB or (H, W) grey as a file of that format; JPEG and WebP at quality 90.

    Raises ParameterError for an unknown format, and where the format cannot hold so long a side.
    """
    if format not in get_args(ImageFormat):
        raise ParameterError(f"format {format!r} is none of {', '.join(get_args(ImageFormat))}")
    if max(pixels.shape[:2]) > _MAX_SIDE[format]:
        others = [name for name, side in _MAX_SIDE.items() if side >= max(pixels.shape[:2])]
        mend = f"ask for {' or '.join(others)}" if others else "send a smaller image"
        raise ParameterError(
            f"{format} holds at most {_MAX_SIDE[format]} pixels a side and the image has "
            f"{pixels.shape[1]}x{pixels.shape[0]}: {mend}"
        )
    if format == "webp":
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", quality=_QUALITY, method=0)
        return buffer.getvalue()
    ordered = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    if format == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    else:
        options = [
            *(cv2.IMWRITE_PNG_COMPRESSION, 1),
            *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
        ]
    return cv2.imencode(f".{format}", ordered, options)[1].tobytes()


def statistics(
    labels: Labels, info: ModelInfo, *, rle: bool = True, polygons: bool = False
) -> list[dict[str, Any]]:
    """One entry per class that is present, by class id; ready for JSON.

    Each has `id`, `name`, `color` [r, g, b], `pixels`, `share` of the image, and where asked for `rle` (COCO:
    `size` [h, w], `counts` as text) and `polygons` (COCO: flat lists x0, y0, x1, y1, …).

    Polygons are outer contours through the centres of the border pixels: holes are filled, and areas of fewer
    than three corners (single pixels, straight lines) have none. The RLE is exact.
    """
    counts = pixel_counts(labels, info.classes)
    rles = class_rles(labels) if rle else {}
    entries = []
    for class_id in np.flatnonzero(counts).tolist():
        entry: dict[str, Any] = {
            "id": class_id,
            "name": info.class_names[class_id],
            "color": list(info.palette[class_id]),
            "pixels": int(counts[class_id]),
            "share": float(counts[class_id] / labels.size),
        }
        if rle:
            entry["rle"] = rles[class_id]
        if polygons:
            entry["polygons"] = outlines((labels == class_id).view(np.uint8))
        entries.append(entry)
    return entries


def outlines(mask: Pixels, left: int = 0, top: int = 0) -> list[list[int]]:
    """Outer borders of the areas of a mask (h, w), 0 outside them: corners x0, y0, x1, y1, … each.

    Areas without an inside, a pixel or a line, have none; holes are not told of.

    left, top: where the mask lies in the image that the corners are of.
    """
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    return [contour.ravel().astype(np.int64).tolist() for contour in contours if len(contour) >= 3]


def pixel_counts(labels: Labels, classes: int) -> npt.NDArray[np.int64]:
    """(classes,) pixels of each class id; other ids are left out. Several times as fast as `np.bincount`."""
    counts = np.zeros(classes, np.int64)
    rows = max(1, 2**24 // labels.shape[1])  # OpenCV counts in float32, which is exact up to there
    for top in range(0, labels.shape[0], rows):
        block = labels[top : top + rows]
        counts += cv2.calcHist([block], [0], None, [classes], [0, classes]).ravel().astype(np.int64)
    return counts


def _color_table(palette: Palette) -> Pixels:
    """(256 or more, 3): the palette, then black. At least one black row stands for ids without a colour."""
    table = np.zeros((max(256, len(palette) + 1), 3), np.uint8)
    table[: len(palette)] = palette
    return table


def _membership(classes: Collection[int], count: int) -> Pixels:
    unknown = sorted(class_id for class_id in set(classes) if not 0 <= class_id < count)
    if unknown:
        raise ParameterError(f"class ids {unknown} are unknown: this model has 0 to {count - 1}")
    chosen = np.zeros(max(256, count), np.uint8)
    chosen[list(classes)] = 255
    return chosen
