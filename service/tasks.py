"""What a worker may be asked to do, and what comes back. Plain values: they travel between processes.

Not here: doing it (`workbench.py`, `images.py`), what a query has to look like (`parameters.py`).
"""

from dataclasses import asdict, dataclass
from typing import Literal

from models.config import Direction

Output = Literal["labels", "overlay", "color", "confidence", "json"]
ImageFormat = Literal["png", "jpeg", "webp"]
Shape = Literal["mask", "polygon"]
TensorName = Literal["labels", "confidence"]
TensorSource = Literal["json", "bytes", "file"]
MODEL_VERSION = "1"
"""In the Open Inference Protocol, of every model: bundles have none."""


@dataclass(frozen=True, kw_only=True)
class SegmentTask:
    """Label an image file's content. Scales lie inside the limits, classes are ids of the model."""

    output: Output
    scales: tuple[float, ...]
    flip: bool
    alpha: float
    format: ImageFormat
    classes: frozenset[int] | None
    polygons: bool
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class AttentionTask:
    """Tell what points, (x, y) in pixels, attend to; they may lie outside the image, which nobody has seen
    yet. directions: some of the model's."""

    points: tuple[tuple[int, int], ...]
    directions: tuple[Direction, ...]
    overlay: bool
    scale: float
    alpha: float
    format: ImageFormat
    max_pixels: int


@dataclass(frozen=True)
class TensorOutput:
    """A tensor that is asked for, as bytes or as JSON."""

    name: TensorName
    binary: bool


@dataclass(frozen=True, kw_only=True)
class TensorTask:
    """Label an image that lies in a request of the Open Inference Protocol.

    source: as a tensor (height, width, 3) of uint8 in JSON or in bytes, or as an image file; span: where in
    the request (of JSON its values, brackets and all); image_hw: of a tensor, None for a file, whose header
    tells; request_id: the client's own, which it gets back.
    """

    scales: tuple[float, ...]
    flip: bool
    source: TensorSource
    span: tuple[int, int]
    image_hw: tuple[int, int] | None
    outputs: tuple[TensorOutput, ...]
    request_id: str | None
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class BrushTask:
    """Paint the labels of a Label Studio project over an image. labels: each with the classes that it stands
    for; from_name, to_name: the tags of the project's interface; version: what predictions are filed as."""

    scales: tuple[float, ...]
    flip: bool
    labels: tuple[tuple[str, tuple[int, ...]], ...]
    from_name: str
    to_name: str
    version: str
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class ShapesTask:
    """Outline the areas of an image for CVAT: those of min_pixels or more, with a mean confidence of
    `threshold` or more."""

    scales: tuple[float, ...]
    flip: bool
    shape: Shape
    min_pixels: int
    threshold: float
    max_pixels: int


ImageTask = SegmentTask | AttentionTask | BrushTask | ShapesTask
"""What is done on an image file."""
Task = ImageTask | TensorTask
"""Everything that `workbench.py` knows how to do: another task is one more class, joined here by `|`."""


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a worker is to be. models … memory_budget: see `Predictor.open`, by the settings' names;
    workers: requests that it works on at the same time, None for what its batches need."""

    models: tuple[str, ...]
    engine: str
    device: str
    threads: int | None
    checkpoint_options: str
    memory_budget: int
    max_batch: int | None
    max_wait_s: float
    workers: int | None
    log_level: str
    log_format: Literal["auto", "text", "json"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A task for a model. data: the image file; image_hw: size of its picture, upright, by its header;
    windows: how much work it is, in windows of the model."""

    model: str
    task: Task
    data: bytes
    image_hw: tuple[int, int] = (1, 1)
    windows: int = 1
    request_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """An order in a worker's hands. number: unique in the service; remaining_s: until its deadline;
    queue_s: that it has waited."""

    number: int
    order: Order
    remaining_s: float
    queue_s: float


@dataclass(frozen=True)
class Cancel:
    """The job of that number is to be given up."""

    number: int


class MissingModelError(Exception):
    """A job for a model that is not there any more: models were exchanged since it was accepted."""


@dataclass(frozen=True)
class Timings:
    """How long the parts of a request took, in seconds."""

    decode: float
    queue: float
    infer: float
    encode: float

    def header(self) -> str:
        """As the value of Server-Timing, in milliseconds."""
        return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in asdict(self).items())


@dataclass(frozen=True)
class Answer:
    """A finished job. windows: how many windows the engine saw; head_bytes: how much of the content is JSON
    where bytes follow it."""

    content: bytes
    media_type: str
    timings: Timings
    windows: int
    head_bytes: int | None = None


@dataclass(frozen=True)
class EngineUse:
    """What the engine did for one model. sizes: calls by the number of images in them; engine_s: of all."""

    sizes: dict[int, int]
    engine_s: float


Uses = dict[str, EngineUse]
"""By the model's name."""
