"""What an inference request of the Open Inference Protocol asks for, read without touching its tensor.

    {"id": "7", "parameters": {"scales": "0.5,1", "flip": true},
     "inputs": [{"name": "image", "shape": [360, 480, 3], "datatype": "UINT8", "data": [12, 34, …]}],
     "outputs": [{"name": "labels", "parameters": {"binary_data": true}}]}

With the header Inference-Header-Content-Length the JSON has that many bytes, and the tensor's own follow,
`"parameters": {"binary_data_size": 518400}` in place of `data`. The values of `data` are cut out before the
JSON is read: they are many, and a worker's affair (`numerals.py`).

An image file may be sent as it is: datatype BYTES, shape [1], the bytes after four that tell their number.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from inference.image_headers import check_pixels
from service.errors import Problem
from service.json_bodies import read_object
from service.parameters import bad_parameter, read_scales
from service.settings import Settings
from service.tasks import TensorName, TensorOutput, TensorSource, TensorTask

INPUT = "image"
_MOST_HEAD = 1 << 16
_MOST_SIDE = 1 << 32
"""Of an image, so that arithmetic stays arithmetic: JSON's whole numbers have thousands of digits."""
_LENGTH_BYTES = 4
_DATA = re.compile(rb'(?<!\\)"data"\s*:\s*\[')


def read_request(body: bytes, head_bytes: str | None, settings: Settings) -> TensorTask:
    """The task that a request's body asks for. head_bytes: the header Inference-Header-Content-Length.

    Raises Problem 400 (malformed), 422 (a parameter), and ImageTooLargeError.
    """
    size = _head_size(head_bytes, body)
    span = _find_values(body, size)
    head = body[:size] if span is None else body[: span[0]] + b"null" + body[span[1] : size]
    if len(head) > _MOST_HEAD:
        raise _malformed(f"beside its tensor it has {len(head)} bytes, at most {_MOST_HEAD} are read")
    document = read_object(head)
    _only(document, {"id", "parameters", "inputs", "outputs"}, "the request")
    parameters = _parameters(document, {"scales", "flip", "binary_data_output"}, "the request")
    tensor = _one_input(document.get("inputs"))
    image_hw = _image_hw(tensor)
    if image_hw is not None:
        check_pixels(image_hw[1], image_hw[0], settings.max_pixels)
    source, span = _place(tensor, image_hw, span, body, size)
    request_id = document.get("id")
    if not (request_id is None or (isinstance(request_id, str) and _is_unicode(request_id))):
        raise _malformed("id has to be a text")
    return TensorTask(
        scales=_scales(parameters.get("scales", "1"), settings),
        flip=_flag(parameters.get("flip", False), "flip"),
        source=source,
        span=span,
        image_hw=image_hw,
        outputs=_outputs(
            document.get("outputs"), _flag(parameters.get("binary_data_output", False), "binary_data_output")
        ),
        request_id=request_id,
        max_pixels=settings.max_pixels,
    )


def _head_size(text: str | None, body: bytes) -> int:
    if text is None:
        return len(body)
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and 0 < int(text) <= len(body)):
        raise _malformed(
            f"Inference-Header-Content-Length is {text[:20]!r}, but has to be how many of the "
            f"{len(body)} bytes are JSON"
        )
    return int(text)


def _find_values(body: bytes, size: int) -> tuple[int, int] | None:
    """Where the values of `data` lie, brackets and all; None where there are none.

    Numbers and brackets are all that they may be: they end at the latest before the next quote or brace.
    """
    found = _DATA.search(body, 0, min(size, _MOST_HEAD))
    if found is None:
        return None
    start, end = found.end() - 1, size
    for mark in (b'"', b"}"):
        at = body.find(mark, start, end)
        end = at if at >= 0 else end
    if body[start + 1 : end].isspace() or end == start + 1:  # no numbers, but texts
        return None
    return start, start + len(body[start:end].rstrip(b" \t\r\n,"))


def _one_input(inputs: Any) -> dict[str, Any]:
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise _malformed(f"inputs has to hold one tensor, {INPUT}")
    tensor: dict[str, Any] = inputs[0]
    _only(tensor, {"name", "shape", "datatype", "parameters", "data"}, "the input")
    if tensor.get("name") != INPUT:
        raise _malformed(f"there is no input {_shown(tensor.get('name'))}: its name is {INPUT}")
    return tensor


def _image_hw(tensor: Mapping[str, Any]) -> tuple[int, int] | None:
    """Size of the image in the tensor; None for a file."""
    kind, shape = tensor.get("datatype"), tensor.get("shape")
    if kind == "BYTES":
        if shape != [1] or isinstance(shape[0], bool):
            raise _malformed(f"the shape of an image file is [1], not {_shown(shape)}")
        return None
    if kind != "UINT8":
        raise _malformed(f"the input is UINT8, RGB from 0 to 255, or BYTES, a file, not {_shown(kind)}")
    if (
        not isinstance(shape, list)
        or not all(isinstance(side, int) and not isinstance(side, bool) for side in shape)
        or not all(0 < side < _MOST_SIDE for side in shape)
        or len(shape) != 3
        or shape[2] != 3
    ):
        raise _malformed(f"the input's shape is [height, width, 3], not {_shown(shape)}")
    return shape[0], shape[1]


def _place(
    tensor: Mapping[str, Any],
    image_hw: tuple[int, int] | None,
    values: tuple[int, int] | None,
    body: bytes,
    size: int,
) -> tuple[TensorSource, tuple[int, int]]:
    """What the image is sent as, and where it lies. values: where those of `data` do; size: of the JSON."""
    sent = _parameters(tensor, {"binary_data_size"}, "the input").get("binary_data_size")
    if sent is not None:
        if values is not None or tensor.get("data") is not None:
            raise _malformed("the input has both data and binary_data_size")
        if image_hw is None:
            return "file", _file(sent, body, size)
        return "bytes", _values(sent, image_hw, size, len(body))
    if image_hw is None:
        raise _malformed("an image file has to be sent as bytes after the JSON, with binary_data_size")
    if tensor.get("data") is not None:
        raise _malformed("data of the input has to be one list of numbers")
    if values is None:
        raise _malformed("the input has neither data nor binary_data_size")
    if size < len(body):
        raise _malformed(f"{len(body) - size} bytes follow the JSON, and no input says that they are its own")
    count = image_hw[0] * image_hw[1] * 3
    if values[1] - values[0] < 2 * count + 1:  # a worker makes memory for as many as the shape says
        raise bad_parameter("data", f"has to hold {count} whole numbers, as the input's shape says")
    return "json", values


def _values(sent: Any, image_hw: tuple[int, int], size: int, length: int) -> tuple[int, int]:
    wanted, there = image_hw[0] * image_hw[1] * 3, length - size
    if sent != wanted or isinstance(sent, bool) or there != wanted:
        raise _malformed(
            f"a tensor of {image_hw[0]}x{image_hw[1]}x3 has {wanted} bytes; binary_data_size says "
            f"{_shown(sent)}, and {there} follow the JSON (Inference-Header-Content-Length)"
        )
    return size, length


def _file(sent: Any, body: bytes, size: int) -> tuple[int, int]:
    there, start = len(body) - size, size + _LENGTH_BYTES
    told = int.from_bytes(body[size:start], "little")
    if sent != there or isinstance(sent, bool) or there <= _LENGTH_BYTES or told != len(body) - start:
        raise _malformed(
            f"an image file is sent as {_LENGTH_BYTES} bytes, its length, the lowest first, and its own; "
            f"binary_data_size says {_shown(sent)}, the length is {told}, and {there} bytes follow the JSON "
            "(Inference-Header-Content-Length)"
        )
    return start, len(body)


def _outputs(asked: Any, binary: bool) -> tuple[TensorOutput, ...]:
    """The tensors to answer with: the labels where none are named."""
    if asked is None or asked == []:
        return (TensorOutput("labels", binary),)
    if not (isinstance(asked, list) and all(isinstance(each, dict) for each in asked)):
        raise _malformed("outputs has to hold objects with a name")
    outputs = []
    for each in asked[: len(get_args(TensorName)) + 1]:
        _only(each, {"name", "parameters"}, "an output")
        name = each.get("name")
        if name not in get_args(TensorName):
            raise _malformed(
                f"there is no output {_shown(name)}: there are {', '.join(get_args(TensorName))}"
            )
        parameters = _parameters(each, {"binary_data"}, f"the output {name}")
        outputs.append(TensorOutput(name, _flag(parameters.get("binary_data", binary), "binary_data")))
    if len({output.name for output in outputs}) < len(outputs):
        raise _malformed("an output is named twice")
    return tuple(outputs)


def _scales(value: Any, settings: Settings) -> tuple[float, ...]:
    """From "0.5,1", which is all that the protocol's parameters can hold, and from what JSON can."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, int | float | str) and not isinstance(each, bool) for each in values):
        raise bad_parameter("scales", 'write "0.5,1,1.5"')
    return read_scales(",".join(str(each) for each in values), settings)


def _flag(value: Any, name: str) -> bool:
    texts = {"true": True, "false": False}
    flag = texts.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise bad_parameter(name, f"true or false, not {_shown(value)}")
    return flag


def _parameters(holder: Mapping[str, Any], known: set[str], whose: str) -> dict[str, Any]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _malformed(f"parameters of {whose} have to be an object")
    for name in sorted(parameters.keys() - known):
        raise bad_parameter(name[:64], f"{whose} has no such parameter: there is {', '.join(sorted(known))}")
    return parameters


def _only(holder: Mapping[str, Any], known: set[str], whose: str) -> None:
    for name in sorted(holder.keys() - known):
        raise _malformed(f"{whose} has no {_shown(name)}: there is {', '.join(sorted(known))}")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 64 else f"{text[:64]}…"


def _malformed(reason: str) -> Problem:
    detail = f"The inference request cannot be used: {reason}."
    return Problem(400, "malformed_request", detail, title="Malformed request")
