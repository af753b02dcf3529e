"""A model bundle: a folder with `model.json` beside `model.onnx`; and how a name becomes a model.

Not here: opening the model (`engines/`), making a bundle (`export/`), torch.

`model.json` is strict: every key of `ModelInfo` and `schema_version` must be there (but for the few that came
later and have defaults), and no other.

    python -c "from inference.bundle import bundled_names; print(bundled_names())"
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import models
from inference.errors import BundleError, ModelNotFoundError
from inference.files import write_atomically
from models.config import MEAN_RGB, STD_RGB, ConfigError, Direction, ModelConfig
from models.protocol import ProtocolName, TestMode

SCHEMA_VERSION = 1
MODEL_JSON = "model.json"
MODEL_ONNX = "model.onnx"
PLAN_SUFFIX = ".plan"
LOGITS = "logits"
"""The output that every model has, the first."""
BUNDLED_ROOT = Path(models.__file__).parent / "bundled"
"""Where the models that come with the project lie, one bundle folder each."""

Precision = Literal["fp32", "fp16", "int8"]
Runtime = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True, kw_only=True)
class PlanInfo:
    """A TensorRT engine beside `model.onnx`, built from it.

    file: its name in the folder; runtime, runtime_version: what built it and alone can run it; target: the
    compute capabilities that it runs on ("sm89"), separated by "+"; precision, max_batch: images in a call
    at most; psa_form: "function" or "plugin"; sha256: of the plan; verified: whether it was run on a GPU and
    compared with the network; sizes: for whole images, the least, the usual and the most height and width,
    None for windows of the crop.
    """

    file: str
    runtime: Runtime
    runtime_version: str
    target: str
    precision: Precision
    max_batch: int
    psa_form: str
    sha256: str
    verified: bool
    sizes: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        inside = Path(self.file).name == self.file and self.file.endswith(PLAN_SUFFIX)
        _require(inside, f"a plan's file {self.file!r} must be a *{PLAN_SUFFIX} in the bundle")
        _require(self.runtime in get_args(Runtime), f"runtime {self.runtime!r} is not known")
        _require(self.precision in get_args(Precision), f"precision {self.precision!r} is not known")
        _require(self.max_batch >= 1, f"max_batch must be 1 or more, not {self.max_batch}")
        sizes = self.sizes
        whole = sizes is None or (len(sizes) == 3 and all(len(hw) == 2 and min(hw) >= 1 for hw in sizes))
        _require(whole, f"a plan's sizes {sizes} are not three of height and width")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What must be known of a model to run it and to name what it sees.

    class_names, palette (RGB in 0..255), label_ids (the data set's own numbers, or None): by class id.
    crop_hw: pixels of one window; base_size: long side in pixels at scale 1.
    align_corners: the rule by which the model's coarse logits are resampled to the window.
    protocol, test_mode, base_short: see `models.protocol`; crop_hw is the training's crop where test_mode is
        "whole".
    mean_rgb, std_rgb: in [0, 255]; the model normalises by itself, `mean_rgb` is also what padding holds.
    psa_form: how the PSA mask is written in the model ("function", "inlined" …).
    source_file, source_sha256: the checkpoint that the model was made from, where it came from one.
    built_with: versions of what built it, by name. plans: TensorRT engines beside the model.
    engine_verified: whether all of them were compared with the network on a GPU; None without any.
    outputs: of `model.onnx`, by name: the logits, then perhaps the attention of branches.
    Raises BundleError where values contradict one another.
    """

    name: str
    architecture: ModelConfig
    dataset: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label_ids: tuple[int, ...] | None = None
    crop_hw: tuple[int, int]
    base_size: int
    align_corners: bool = True
    test_mode: TestMode = "sliding"
    mean_rgb: tuple[float, float, float] = MEAN_RGB
    std_rgb: tuple[float, float, float] = STD_RGB
    precision: Precision = "fp32"
    psa_form: str = "function"
    source_file: str | None = None
    source_sha256: str | None = None
    built_with: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = (LOGITS,)
    protocol: ProtocolName = "published"
    base_short: int | None = None
    plans: tuple[PlanInfo, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.class_names)
        classes = self.architecture.classes
        _require(count == classes, f"{count} class names, but the network has {classes} classes")
        _require(len(self.palette) == count, f"{count} class names but {len(self.palette)} colours")
        _require(
            all(len(color) == 3 and all(0 <= value <= 255 for value in color) for color in self.palette),
            "palette takes three whole numbers in 0..255 for each class",
        )
        ids, crop_hw = self.label_ids, self.crop_hw
        _require(ids is None or len(ids) == count, "label_ids takes one number for each class")
        _require(len(crop_hw) == 2 and min(crop_hw) >= 1, f"crop_hw {crop_hw} is no height and width")
        _require(self.base_size >= 1, f"base_size must be 1 or more, not {self.base_size}")
        _require(len(self.mean_rgb) == len(self.std_rgb) == 3, "mean_rgb and std_rgb take three numbers each")
        _require(min(self.std_rgb) > 0, "std_rgb must be above 0")
        short = self.base_short
        _require(short is None or 1 <= short <= self.base_size, f"base_short {short} is above base_size")
        for key, kind in (("test_mode", TestMode), ("protocol", ProtocolName), ("precision", Precision)):
            value = getattr(self, key)
            _require(value in get_args(kind), f"{key} {value!r} is none of {get_args(kind)}")
        _require(self.outputs[:1] == (LOGITS,), f"outputs must start with 'logits', not {self.outputs}")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Of those attention branches that `model.onnx` has outputs for."""
        return tuple(each for each in self.architecture.directions if attention_output(each) in self.outputs)

    @property
    def engine_verified(self) -> bool | None:
        """Whether every plan was compared with the network on a GPU; None where there is no plan."""
        return all(plan.verified for plan in self.plans) if self.plans else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values as `model.json` holds them; `from_dict` reads them back."""
        values = {key: value for key, value in asdict(self).items() if key != "architecture"}
        return {
            "schema_version": SCHEMA_VERSION,
            **values,
            "architecture": self.architecture.to_dict(),
            "built_with": dict(self.built_with),
            "engine_verified": self.engine_verified,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelInfo":
        """The inverse of `to_dict`; BundleError for another schema, unknown, missing or ill-typed keys."""
        version = values.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise BundleError(
                f"schema_version is {version!r} and only {SCHEMA_VERSION} can be read, "
                "but by the version that wrote it"
            )
        given = set(values) - {"schema_version", "engine_verified"}
        known = {item.name for item in fields(cls)}
        _require(given <= known, f"unknown keys {sorted(given - known)}")
        missing = known - given - _LATER_KEYS
        _require(not missing, f"missing keys {sorted(missing)}")
        try:
            return cls(**{key: _READERS[key](values[key]) for key in given})
        except (TypeError, KeyError, ConfigError) as error:
            raise BundleError(f"a value cannot be used: {error}") from error


def attention_output(direction: Direction) -> str:
    """The name of the output that holds the attention of that branch."""
    return f"attention_{direction}"


@dataclass(frozen=True)
class Bundle:
    """A bundle folder that has been read: what the model is, and where its file lies."""

    info: ModelInfo
    folder: Path

    @property
    def onnx_path(self) -> Path:
        """The model file."""
        return self.folder / MODEL_ONNX


def read_bundle(folder: str | Path) -> Bundle:
    """The bundle in `folder`; BundleError where a file is missing or `model.json` cannot be used."""
    folder = Path(folder)
    path = folder / MODEL_JSON
    for name in (MODEL_JSON, MODEL_ONNX):
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder} is no model bundle: {name} is missing; python -m export.onnx makes one"
            )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        _require(isinstance(values, dict), "it holds no JSON object")
        info = ModelInfo.from_dict(values)
    except (BundleError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be used: {error}; export the checkpoint anew") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    return Bundle(info, folder)


def write_model_json(folder: str | Path, info: ModelInfo) -> Path:
    """Writes `model.json` into `folder`, which exists, at once or not at all; returns its path."""
    path = Path(folder) / MODEL_JSON
    text = json.dumps(info.to_dict(), indent=1, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())
    return path


def bundled_names() -> tuple[str, ...]:
    """Names of the models that come with the project, sorted."""
    if not BUNDLED_ROOT.is_dir():
        return ()
    return tuple(sorted(folder.name for folder in BUNDLED_ROOT.iterdir() if (folder / MODEL_JSON).is_file()))


def resolve_model(model: str | Path) -> Bundle | Path:
    """What `model` names: a bundle folder or a bundled model's name (a Bundle), or a checkpoint (its path).

    What lies at that path goes first; only a text without a path separator can be a bundled model's name.
    Raises ModelNotFoundError, which says what there is, and BundleError for a folder that is no bundle.
    """
    path = Path(os.path.expanduser(model))  # unlike pathlib's, leaves the name of nobody's home alone
    if os.path.isdir(path) and str(model):  # nor do these mind a name that is too long
        return read_bundle(path)
    if os.path.isfile(path):
        if path.name in (MODEL_JSON, MODEL_ONNX) or path.suffix == ".onnx":
            raise BundleError(f"{path} is one file of a bundle: name its folder, {path.parent}")
        return path
    if isinstance(model, str) and model in bundled_names():
        return read_bundle(BUNDLED_ROOT / model)
    names = ", ".join(bundled_names()) or "none"
    raise ModelNotFoundError(
        f"no model {str(model)!r}: neither a bundle folder nor a checkpoint file; bundled models: {names}"
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BundleError(message)


def _typed(kind: type) -> Any:
    def read(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{value!r} is no {kind.__name__}")
        return value

    return read


def _optional(read: Any) -> Any:
    return lambda value: None if value is None else read(value)


def _sequence(read: Any) -> Any:
    return lambda value: tuple(read(item) for item in _typed(list)(value))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _plan(value: Any) -> PlanInfo:
    texts = {"file", "runtime", "runtime_version", "target", "precision", "psa_form", "sha256"}
    sizes = _optional(_sequence(_sequence(_WHOLE)))
    readers = {
        **dict.fromkeys(texts, _TEXT), "max_batch": _WHOLE, "verified": _typed(bool), "sizes": sizes,
    }  # fmt: skip
    given = set(_typed(dict)(value))
    unknown, missing = given - set(readers), set(readers) - given - {"sizes"}
    _require(not unknown, f"plans holds unknown keys {sorted(unknown)}")
    _require(not missing, f"plans lacks {', '.join(sorted(missing))}")
    return PlanInfo(**{key: readers[key](item) for key, item in value.items()})


_TEXT, _WHOLE = _typed(str), _typed(int)
_LATER_KEYS = {"protocol", "base_short", "plans"}
"""Keys that the first bundles lack; their defaults say what those are."""
_READERS: Mapping[str, Any] = {
    "name": _TEXT,
    "architecture": lambda value: ModelConfig.from_dict(_typed(dict)(value)),
    "dataset": _TEXT,
    "class_names": _sequence(_TEXT),
    "palette": _sequence(_sequence(_WHOLE)),
    "label_ids": _optional(_sequence(_WHOLE)),
    "crop_hw": _sequence(_WHOLE),
    "base_size": _WHOLE,
    "align_corners": _typed(bool),
    "test_mode": _TEXT,
    "mean_rgb": _sequence(_number),
    "std_rgb": _sequence(_number),
    "precision": _TEXT,
    "psa_form": _TEXT,
    "source_file": _optional(_TEXT),
    "source_sha256": _optional(_TEXT),
    "built_with": lambda value: {_TEXT(key): _TEXT(item) for key, item in _typed(dict)(value).items()},
    "outputs": _sequence(_TEXT),
    "protocol": _TEXT,
    "base_short": _optional(_WHOLE),
    "plans": _sequence(_plan),
}
"""How each key of `model.json` is read."""
