"""Shapes for CVAT: the connected areas of each class of an image, as masks or as polygons.

A mask is what CVAT's serverless functions send: 0 and 1 of the box around an area, row by row, then the box:
left, top, right, bottom, the last two inside. Every area also has its outline, since CVAT makes polygons of
masks by that. Not here: the request (`routes.py`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.errors import ParameterError
from inference.images import decode_image
from inference.predictor import Predictor
from inference.render import outlines, pixel_counts
from service.images import Content, Labelled, bytes_to_label, label
from service.numerals import json_integers
from service.tasks import Answer, ShapesTask
from service.tickets import Ticket

_MOST_BOXES = 6
"""Pixels of all boxes together, as a multiple of the image's."""


@dataclass(frozen=True)
class Area:
    """Connected pixels of one class, corners touching. mask: (h, w) of 0 and 1; left, top: where it lies in
    the image; confidence: the mean."""

    class_id: int
    mask: NDArray[np.uint8]
    left: int
    top: int
    confidence: float


def bytes_of_shapes(task: ShapesTask, image_hw: tuple[int, int], predictor: Predictor) -> int:
    """Memory that `outline` takes at most, about. Raises what `bytes_to_label` raises."""
    pixels = image_hw[0] * image_hw[1]
    text = 2 * 2 * _MOST_BOXES * pixels if task.shape == "mask" else 0
    numbered = 4 * pixels
    return text + numbered + bytes_to_label(task, image_hw, predictor, confidence=True)


def outline(task: ShapesTask, data: bytes, predictor: Predictor, ticket: Ticket, queue_s: float) -> Answer:
    """Find the areas of an image. Raises ParameterError where masks would be too much, and what inference
    raises."""
    return label(
        task,
        predictor,
        ticket,
        queue_s,
        decode=lambda: decode_image(data, max_pixels=task.max_pixels),
        encode=lambda labelled: _content(labelled, task, predictor.info.class_names),
        confidence=True,
    )


def _content(labelled: Labelled, task: ShapesTask, names: tuple[str, ...]) -> Content:
    labels, confidence = labelled.prediction.labels, labelled.prediction.confidence
    assert confidence is not None
    shapes, pixels = [], 0
    for area in areas_of(labels, confidence, task.min_pixels):
        if area.confidence < task.threshold:
            continue
        pixels += area.mask.size
        if task.shape == "mask" and pixels > _MOST_BOXES * labels.size:
            raise ParameterError(
                f"min_pixels: the masks of areas of {task.min_pixels} pixels are too many: "
                f"ask for larger ones, min_pixels={10 * task.min_pixels} say, or for type=polygon"
            )
        shape = _mask_shape(area, names) if task.shape == "mask" else _polygon_shape(area, names)
        if shape is not None:
            shapes.append(shape)
    return Content(b"[%b]" % b",".join(shapes), "application/json")


def areas_of(
    labels: NDArray[np.uint8] | NDArray[np.uint16], confidence: NDArray[np.float32], min_pixels: int
) -> Iterator[Area]:
    """The areas of (H, W) class ids, by class, each class from top to bottom; smaller ones are left out."""
    pixels = pixel_counts(labels, int(labels.max()) + 1)
    for class_id in np.flatnonzero(pixels >= min_pixels).tolist():
        mask = (labels == class_id).view(np.uint8)
        x, y, columns, rows = cv2.boundingRect(mask)  # what is around it takes as long as what is in it
        count, numbers, stats, _ = cv2.connectedComponentsWithStats(
            mask[y : y + rows, x : x + columns], connectivity=8
        )
        for number in range(1, count):
            left, top, width, height, size = (int(value) for value in stats[number])
            if size < min_pixels:
                continue
            inside = (numbers[top : top + height, left : left + width] == number).view(np.uint8)
            left, top = left + x, top + y
            mean, *_ = cv2.mean(confidence[top : top + height, left : left + width], inside)
            yield Area(class_id, inside, left, top, float(mean))


def outline_of(area: Area) -> list[int] | None:
    """Corners x0, y0, x1, y1, … of the outer border; None for what has no inside: a pixel, a line."""
    return next(iter(outlines(area.mask, area.left, area.top)), None)


def _mask_shape(area: Area, names: tuple[str, ...]) -> bytes:
    height, width = area.mask.shape
    box = b"%d,%d,%d,%d" % (area.left, area.top, area.left + width - 1, area.top + height - 1)
    corners = outline_of(area)
    head = _head(area, names, "mask") | ({} if corners is None else {"points": corners})
    return b'%b,"mask":[%b,%b]}' % (_json(head)[:-1], json_integers(area.mask), box)


def _polygon_shape(area: Area, names: tuple[str, ...]) -> bytes | None:
    corners = outline_of(area)
    return None if corners is None else _json(_head(area, names, "polygon") | {"points": corners})


def _head(area: Area, names: tuple[str, ...], kind: str) -> dict[str, object]:
    # CVAT's own functions write the confidence as a text.
    return {"confidence": f"{area.confidence:.4f}", "label": names[area.class_id], "type": kind}


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
