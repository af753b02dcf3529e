"""What a service answers, as values. Fields that a newer service may add are left out."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ModelClass:
    """A class that a model knows."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is served. crop_hw: pixels that it sees at once; base_size: long side of an image at scale
    1; attention: directions that `attention` can tell of, perhaps none."""

    name: str
    default: bool
    dataset: str
    classes: tuple[ModelClass, ...]
    crop_hw: tuple[int, int]
    base_size: int
    precision: str
    engine: str
    device: str
    attention: tuple[str, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Model":
        """From an entry of /models."""
        return cls(
            name=values["name"],
            default=values["default"],
            dataset=values["dataset"],
            classes=tuple(
                ModelClass(id=each["id"], name=each["name"], color=tuple(each["color"]))
                for each in values["classes"]
            ),
            crop_hw=_pair(values["crop"]),
            base_size=values["base_size"],
            precision=values["precision"],
            engine=values["engine"],
            device=values["device"],
            attention=tuple(values["attention"]),
        )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Labels (H, W), class ids in uint8 or uint16; confidence (H, W) float32 in 0..1, where asked for.
    timings_ms: decode, queue, infer, encode."""

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.float32] | None
    model: str
    timings_ms: Mapping[str, float]
    request_id: str | None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An answer as an image file. timings_ms: decode, queue, infer, encode."""

    content: bytes
    media_type: str
    model: str
    timings_ms: Mapping[str, float]
    request_id: str | None

    def save(self, path: str | Path) -> Path:
        """Write the file; gives its path."""
        path = Path(path)
        path.write_bytes(self.content)
        return path


@dataclass(frozen=True, kw_only=True)
class ClassStatistics:
    """A class that is in an image. share: of its pixels, 0..1; rle: COCO's compressed run lengths, `size` and
    `counts`; polygons: x0, y0, x1, y1, … of each outer border, None unless asked for."""

    id: int
    name: str
    color: tuple[int, int, int]
    pixels: int
    share: float
    rle: Mapping[str, Any]
    polygons: tuple[tuple[int, ...], ...] | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ClassStatistics":
        """From an entry of `classes`."""
        polygons = values.get("polygons")
        return cls(
            id=values["id"],
            name=values["name"],
            color=tuple(values["color"]),
            pixels=values["pixels"],
            share=values["share"],
            rle=values["rle"],
            polygons=None if polygons is None else tuple(map(tuple, polygons)),
        )


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is in an image, by class id."""

    classes: tuple[ClassStatistics, ...]
    image_hw: tuple[int, int]
    model: str
    timings_ms: Mapping[str, float]
    request_id: str | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any], request_id: str | None) -> "Statistics":
        """From the answer of /segment?output=json."""
        return cls(
            classes=tuple(ClassStatistics.from_json(each) for each in values["classes"]),
            image_hw=(values["image"]["height"], values["image"]["width"]),
            model=values["model"],
            timings_ms=values["timings_ms"],
            request_id=request_id,
        )


@dataclass(frozen=True, kw_only=True)
class PointAttention:
    """What a point attends to.

    weights: by direction, (rows, columns) float32, 1 where all positions would get the same; position: row
    and column of the point's own; window, cells: left, top, width, height of what the network saw, and of the
    grid over the image, in pixels.
    """

    x: int
    y: int
    position: tuple[int, int]
    window: tuple[float, ...]
    cells: tuple[float, ...]
    weights: Mapping[str, NDArray[np.float32]]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PointAttention":
        """From an entry of `points`."""
        return cls(
            x=values["x"],
            y=values["y"],
            position=_pair(values["position"]),
            window=tuple(values["window"]),
            cells=tuple(values["cells"]),
            weights={name: _grid(values[name]) for name in ("collect", "distribute") if name in values},
        )


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What points of an image attend to, in the order in which they were asked for."""

    points: tuple[PointAttention, ...]
    image_hw: tuple[int, int]
    model: str
    timings_ms: Mapping[str, float]
    request_id: str | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any], request_id: str | None) -> "Attention":
        """From the answer of /attention."""
        return cls(
            points=tuple(PointAttention.from_json(each) for each in values["points"]),
            image_hw=(values["image"]["height"], values["image"]["width"]),
            model=values["model"],
            timings_ms=values["timings_ms"],
            request_id=request_id,
        )


def _grid(values: Mapping[str, Any]) -> NDArray[np.float32]:
    levels = np.frombuffer(base64.b64decode(values["data"]), np.uint8).reshape(values["size"])
    return np.asarray(values["offset"] + values["scale"] * levels, np.float32)


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
