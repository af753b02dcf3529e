"""Tensors of the Open Inference Protocol: from a request's to an answer's, in one thread of a worker.

Not here: what a request has to look like (`requests.py`).
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.images import decode_image
from inference.predictor import Predictor
from service.images import Content, Labelled, Pixels, bytes_to_label, label
from service.numerals import json_fractions, json_integers, read_bytes
from service.tasks import MODEL_VERSION, Answer, TensorTask
from service.tickets import Ticket

_TEXT_BYTES = {"labels": 6, "confidence": 40}
"""Of one value as JSON, at most, while it is made."""


def bytes_of_tensors(task: TensorTask, image_hw: tuple[int, int], predictor: Predictor) -> int:
    """Memory that `infer` takes at most, about. Raises what `bytes_to_label` raises."""
    texts = sum(_TEXT_BYTES[output.name] for output in task.outputs if not output.binary)
    pixels = image_hw[0] * image_hw[1]
    read = 2 * (task.span[1] - task.span[0]) if task.source == "json" else 0
    return read + texts * pixels + bytes_to_label(task, image_hw, predictor, confidence=_confidence(task))


def infer(task: TensorTask, data: bytes, predictor: Predictor, ticket: Ticket, queue_s: float) -> Answer:
    """Label the image in a request's body. Raises ParameterError for values that are none, and what
    inference raises (ImageError for a file)."""
    return label(
        task,
        predictor,
        ticket,
        queue_s,
        decode=lambda: _image(task, data),
        encode=lambda labelled: _content(labelled, task, predictor.info.name),
        confidence=_confidence(task),
    )


def _confidence(task: TensorTask) -> bool:
    return any(output.name == "confidence" for output in task.outputs)


def _image(task: TensorTask, data: bytes) -> Pixels:
    start, end = task.span
    if task.image_hw is None:
        return decode_image(data[start:end], max_pixels=task.max_pixels)
    shape = (*task.image_hw, 3)
    if task.source == "json":
        return read_bytes(data[start:end], shape)
    return np.frombuffer(data, np.uint8, end - start, start).reshape(shape)


def _content(labelled: Labelled, task: TensorTask, model: str) -> Content:
    """The answer: JSON, and after it the tensors that were asked for as bytes."""
    documents, blobs = [], []
    for output in task.outputs:
        prediction = labelled.prediction
        values: NDArray[Any] | None = prediction.labels if output.name == "labels" else prediction.confidence
        assert values is not None
        kind = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32"}[values.dtype.name]
        document: dict[str, Any] = {"name": output.name, "datatype": kind, "shape": list(values.shape)}
        if output.binary:
            blobs.append(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
            document["parameters"] = {"binary_data_size": len(blobs[-1])}
            documents.append(_json(document))
        else:
            text = json_fractions(values) if values.dtype == np.float32 else json_integers(values)
            documents.append(b'%b,"data":[%b]}' % (_json(document)[:-1], text))
    head: dict[str, Any] = {"model_name": model, "model_version": MODEL_VERSION}
    if task.request_id is not None:
        head["id"] = task.request_id
    text = b'%b,"outputs":[%b]}' % (_json(head)[:-1], b",".join(documents))
    if not blobs:
        return Content(text, "application/json")
    return Content(b"".join((text, *blobs)), "application/octet-stream", len(text))


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
