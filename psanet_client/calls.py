"""Every question that a service is asked: the request, and how its answer is read. No input, no output.

Not here: sending (`clients.py`), asking again (`retries.py`).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote, unquote

import httpx2
import numpy as np
from httpx2 import Response
from numpy.typing import NDArray

from psanet_client.answers import Attention, Model, Picture, Prediction, Statistics
from psanet_client.errors import NoAnswerError, UnreadableAnswerError, error_of
from psanet_client.images import as_file
from psanet_client.retries import retry_after_s

Output = Literal["labels", "overlay", "color", "confidence"]
Format = Literal["png", "jpeg", "webp"]
Direction = Literal["collect", "distribute"]

_HEAD_BYTES = "Inference-Header-Content-Length"
_KINDS = {"UINT8": "u1", "UINT16": "<u2", "FP32": "<f4"}
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """A request; `read` makes a value of a response with status 200."""

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[Response], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""

    @property
    def parts(self) -> dict[str, Any]:
        """What a client of httpx2 sends beside method and path."""
        return {"params": self.params, "headers": self.headers, "content": self.content or None}

    def finish(self, outcome: Response | httpx2.RequestError) -> T:
        """The value of the last outcome. Raises PSANetError."""
        if isinstance(outcome, httpx2.DecodingError):
            raise UnreadableAnswerError(f"{_address(outcome)} gives a broken answer: {outcome}")
        if isinstance(outcome, httpx2.RequestError):
            raise NoAnswerError(f"{_address(outcome)} gives no answer: {outcome or type(outcome).__name__}")
        if outcome.status_code >= 400:
            raise error_of(outcome, retry_after_s(outcome))
        if outcome.status_code != 200:
            to = outcome.headers.get("Location", "nowhere")
            raise UnreadableAnswerError(f"{outcome.url} answers {outcome.status_code}, and points to {to}")
        try:
            return self.read(outcome)
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableAnswerError(
                f"{outcome.url} gives an answer that no PSANet service does "
                f"({outcome.status_code} {outcome.headers.get('Content-Type', '')}): {error!r}"
            ) from error


def models() -> Call[tuple[Model, ...]]:
    """The models that are served, the default first."""
    return Call(
        method="GET", path="/models", read=lambda response: tuple(map(Model.from_json, response.json()))
    )


def ready() -> Call[None]:
    """Whether work is taken: BusyError where not."""
    return Call(method="GET", path="/readyz", read=lambda response: None)


def predict(
    image: bytes | NDArray[np.uint8], model: str, scales: Iterable[float], flip: bool, confidence: bool
) -> Call[Prediction]:
    """Labels as an array, by the Open Inference Protocol: nothing is encoded that is decoded again."""
    tensor: dict[str, Any] = {"name": "image"}
    if isinstance(image, bytes):
        blob = len(image).to_bytes(4, "little") + image
        tensor |= {"datatype": "BYTES", "shape": [1]}
    else:
        blob = image.tobytes()
        tensor |= {"datatype": "UINT8", "shape": list(image.shape)}
    tensor["parameters"] = {"binary_data_size": len(blob)}
    document = {
        "inputs": [tensor],
        "outputs": [{"name": name} for name in ("labels", "confidence")[: 1 + confidence]],
        "parameters": {"scales": _listed(scales), "flip": flip, "binary_data_output": True},
    }
    head = json.dumps(document).encode()
    return Call(
        method="POST",
        path=f"/v2/models/{quote(model, safe='')}/infer",
        headers={_HEAD_BYTES: str(len(head)), "Content-Type": "application/octet-stream"},
        content=head + blob,
        read=_read_prediction,
    )


def segment(
    image: bytes | NDArray[np.uint8],
    output: Output,
    model: str | None,
    scales: Iterable[float],
    flip: bool,
    alpha: float,
    format: Format,
    classes: Sequence[int | str] | None,
) -> Call[Picture]:
    """Labels, overlay, colours or confidence as an image file."""
    params = {"output": output, "alpha": repr(float(alpha)), "format": format}
    if classes is not None:
        params["classes"] = _listed(classes)
    return _on_image(image, "/segment", params | _labelling(model, scales, flip), _read_picture)


def statistics(
    image: bytes | NDArray[np.uint8], model: str | None, scales: Iterable[float], flip: bool, polygons: bool
) -> Call[Statistics]:
    """Pixels, share and outline of each class."""
    params = {"output": "json", "polygons": _flag(polygons)} | _labelling(model, scales, flip)
    return _on_image(
        image,
        "/segment",
        params,
        lambda response: Statistics.from_json(response.json(), response.headers.get("X-Request-ID")),
    )


def attention(
    image: bytes | NDArray[np.uint8],
    points: Sequence[tuple[int, int]],
    model: str | None,
    direction: Direction | None,
    scale: float,
) -> Call[Attention]:
    """What points, (x, y) in pixels, attend to."""
    params = {
        "x": _listed(x for x, _ in points),
        "y": _listed(y for _, y in points),
        "scale": repr(float(scale)),
    }
    params |= {"direction": direction} if direction else {}
    params |= {"model": model} if model else {}
    return _on_image(
        image,
        "/attention",
        params,
        lambda response: Attention.from_json(response.json(), response.headers.get("X-Request-ID")),
    )


def _on_image(
    image: bytes | NDArray[np.uint8], path: str, params: Mapping[str, str], read: Callable[[Response], T]
) -> Call[T]:
    return Call(
        method="POST",
        path=path,
        params=params,
        headers={"Content-Type": "application/octet-stream"},
        content=as_file(image),
        read=read,
    )


def _labelling(model: str | None, scales: Iterable[float], flip: bool) -> dict[str, str]:
    params = {"scales": _listed(scales), "flip": _flag(flip)}
    return params if model is None else params | {"model": model}


def _read_models(response: Response) -> tuple[Model, ...]:
    return tuple(Model.from_json(each) for each in response.json())


def _read_prediction(response: Response) -> Prediction:
    size = int(response.headers[_HEAD_BYTES])
    document, start = json.loads(response.content[:size]), size
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in document["outputs"]:
        count = tensor["parameters"]["binary_data_size"]
        values = np.frombuffer(response.content[start : start + count], _KINDS[tensor["datatype"]])
        arrays[tensor["name"]] = values.reshape(tensor["shape"]).copy()  # one's own, to be written to
        start += count
    about = _about(response, document["model_name"])
    return Prediction(labels=arrays["labels"], confidence=arrays.get("confidence"), **about)


def _read_picture(response: Response) -> Picture:
    media_type = response.headers["Content-Type"]
    if not media_type.startswith("image/"):
        raise ValueError("no image")
    model = unquote(response.headers["X-Model"])
    return Picture(content=response.content, media_type=media_type, **_about(response, model))


def _about(response: Response, model: str) -> dict[str, Any]:
    timings = {}
    for entry in response.headers["Server-Timing"].split(","):
        name, _, text = entry.strip().partition(";dur=")
        timings[name] = float(text)
    return {"model": model, "timings_ms": timings, "request_id": response.headers.get("X-Request-ID")}


def _address(error: httpx2.RequestError) -> str:
    try:
        return str(error.request.url)
    except RuntimeError:  # it was never sent
        return "The service"


def _listed(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _flag(value: bool) -> str:
    return str(value).lower()
