"""Predictions for Label Studio: labels of an image as its brush paints them, in its own run-length encoding.

    header: values (32 bits), bits of a value - 1 (5), four lengths of a count - 1 (4 each)
    run:    1, which of the four lengths (2), count - 1 (as many bits), value
    value:  RGBA of each pixel, row by row, all four 0 or 255

Source: the decoder of Label Studio's SDK, against which the tests hold it, and @thi.ng/rle-pack, whose format
it is. Not here: COCO's encoding (`inference/rle.py`), projects (`config.py`).
"""

import hashlib
import json
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.images import decode_image
from inference.predictor import Predictor
from service.images import Content, Labelled, bytes_to_label, label
from service.numerals import json_integers
from service.tasks import Answer, BrushTask
from service.tickets import Ticket

_CHANNELS = 4
_COUNT_BITS = (3, 4, 8, 16)
_VALUE_BITS = 8
_RUNS = 1 << 15
"""Written at a time."""
_RLE_BYTES = 16
"""Of a pixel, while runs are written of an image in which every fourth one begins a new run."""


def bytes_of_brush(task: BrushTask, image_hw: tuple[int, int], predictor: Predictor) -> int:
    """Memory that `paint` takes at most, about. Raises what `bytes_to_label` raises."""
    pixels = image_hw[0] * image_hw[1]
    return _RLE_BYTES * pixels + bytes_to_label(task, image_hw, predictor, confidence=True)


def paint(task: BrushTask, data: bytes, predictor: Predictor, ticket: Ticket, queue_s: float) -> Answer:
    """Make a prediction of an image. Raises what inference raises."""
    return label(
        task,
        predictor,
        ticket,
        queue_s,
        decode=lambda: decode_image(data, max_pixels=task.max_pixels),
        encode=lambda labelled: _content(labelled, task),
        confidence=True,
    )


def _content(labelled: Labelled, task: BrushTask) -> Content:
    """A prediction as Label Studio reads it. score: mean confidence, of the image and of each label."""
    labels, confidence = labelled.prediction.labels, labelled.prediction.confidence
    assert confidence is not None
    regions = []
    for name, class_ids in task.labels:
        mask = mask_of(labels, class_ids)
        if mask.any():
            score = float(cv2.mean(confidence, mask)[0])
            regions.append(_region(name, mask, score, task))
    head: dict[str, Any] = {"model_version": task.version, "score": round(float(confidence.mean()), 6)}
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    return Content(b'%b,"result":[%b]}' % (text[:-1], b",".join(regions)), "application/json")


def mask_of(labels: NDArray[Any], class_ids: tuple[int, ...]) -> NDArray[np.uint8]:
    """255 where a pixel is of one of the classes."""
    table = np.zeros(np.iinfo(labels.dtype).max + 1, np.uint8)
    table[list(class_ids)] = 255
    if labels.dtype == np.uint8:  # OpenCV looks bytes up several times as fast
        return np.asarray(cv2.LUT(labels, table), np.uint8)
    return np.asarray(table[labels], np.uint8)


def _region(name: str, mask: NDArray[np.uint8], score: float, task: BrushTask) -> bytes:
    height, width = mask.shape
    value = {"format": "rle", "brushlabels": [name]}
    region = {
        # The same image gets the same prediction, to the last letter.
        "id": hashlib.sha256(name.encode()).hexdigest()[:10],
        "type": "brushlabels",
        "from_name": task.from_name,
        "to_name": task.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(score, 6),
    }
    rest, text = (json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in (region, value))
    runs = json_integers(np.frombuffer(brush_rle(mask), np.uint8))
    return b'%b,"value":%b,"rle":[%b]}}' % (rest[:-1].encode(), text[:-1].encode(), runs)


def brush_rle(mask: NDArray[np.uint8]) -> bytes:
    """(H, W) of 0 and 255 in Label Studio's encoding."""
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    counts, values = _split(np.diff(ends, prepend=0) * _CHANNELS, flat[ends - 1], 1 << _COUNT_BITS[-1])
    pieces, left = [], _header_bits(flat.size * _CHANNELS)
    for start in range(0, len(counts), _RUNS):
        bits = np.append(left, _run_bits(counts[start : start + _RUNS], values[start : start + _RUNS]))
        whole = len(bits) // 8 * 8
        pieces.append(np.packbits(bits[:whole]).tobytes())
        left = bits[whole:]
    return b"".join((*pieces, np.packbits(left).tobytes()))


def _run_bits(counts: NDArray[np.int64], values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each run as one number of as many bits as it has: 1, its kind, its count - 1, its value."""
    kinds = np.searchsorted([1 << bits for bits in _COUNT_BITS], counts)
    lengths = np.array(_COUNT_BITS)[kinds]
    runs = ((4 + kinds << lengths | counts - 1) << _VALUE_BITS) | values
    return _bits(runs, 3 + lengths + _VALUE_BITS)


def _split(
    counts: NDArray[np.int64], values: NDArray[np.uint8], most: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Runs of more than `most` as several."""
    parts = -(-counts // most)
    first = np.cumsum(parts) - parts
    split = np.full(int(parts.sum()), most, np.int64)
    split[first] = counts - (parts - 1) * most
    return split, np.repeat(values, parts)


def _bits(numbers: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The last `lengths` bits of each number, the highest first, one after another."""
    ends = np.cumsum(lengths)
    below = np.repeat(ends, lengths) - 1 - np.arange(ends[-1])
    return (np.repeat(numbers, lengths) >> below & 1).astype(np.uint8)


def _header_bits(values: int) -> NDArray[np.uint8]:
    numbers = (values, _VALUE_BITS - 1, *(bits - 1 for bits in _COUNT_BITS))
    lengths = (32, 5, *(4 for _ in _COUNT_BITS))
    return _bits(np.array(numbers), np.array(lengths))
