"""What one training is: read from YAML, changed by `key.path=value`, validated once, frozen.

Not here: the network's own configuration (`models/config.py`), which is one part of it.

    from training.config import read_config
    config = read_config("training/configs/camvid_psanet18.yaml", ["lr=0.02"])
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from models.config import PRESETS, ConfigError, ModelConfig
from models.labels import UnknownDatasetError, get_label_set


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images are. Lists are official: `image label` a line, relative to `root`.

    dataset: names the classes (`models/labels.py`).
    cache: keep decoded images in memory, for data sets that fit; under torchrun once in each process.
    on_device: keep them on the training's device and augment them there (`device_data.py`), so that no
    processor can starve it; for data sets that fit beside the network.
    """

    dataset: str
    root: str
    train_list: str
    val_list: str
    cache: bool = False
    on_device: bool = False


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The published augmentations (paper 4.1): scale, mirror; rotation and blur for ADE20K and VOC.

    rotate_degrees: half of images are turned by up to this to either side. blur: half are blurred. color, not
    published: brightness, contrast and saturation are each changed by up to this fraction.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    rotate_degrees: float = 0.0
    blur: bool = False
    mirror: bool = True
    color: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.scale
        _require(
            0 < low <= high, f"augment.scale takes two positive numbers, the smaller first, not {self.scale}"
        )
        _require(0 <= self.rotate_degrees < 90, "augment.rotate_degrees lies in [0, 90)")
        _require(0 <= self.color < 1, f"augment.color lies in [0, 1), not {self.color}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training. `model` is the preset with the changes given under `model.`.

    iterations: optimizer steps in all; epochs: the same in passes over the list; give one of them.
    batch: images an optimizer step, over all processes; accumulate: parts that each process takes its images
    in, one after the other (batch statistics are then those of a part). lr: of the backbone; the head learns
    at `head_lr_factor` times it. poly_power: of the learning rate's decay (paper 4.1). ema: decay of the
    weights' and running statistics' moving average, which is then what is evaluated and released; None: none.
    init: a file of backbone weights to start from; start: a checkpoint of the whole network to start from.
    class_balance: exponent of the classes' inverse frequencies in the loss; 0: none, as published; 1: equal
    sums. teacher: a checkpoint whose predictions are learned too, with distill_weight; None: none.
    device: auto is the GPU where there is one. bf16: autocast; None: where it
    pays, on hardware that multiplies in it. compile: torch.compile. deterministic: the same weights from the
    same seed on a GPU too, slower. workers: processes that decode and augment, for each training process;
    prefetch: batches that each keeps ready. save_every, log_every, evaluate_every: in steps; evaluate_every
    None: at the end alone. tensorboard: curves and pictures; None: where it is installed.
    """

    preset: str
    model: ModelConfig
    data: DataConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    out: str = "runs/train"
    iterations: int | None = None
    epochs: float | None = None
    batch: int = 16
    lr: float = 0.01
    head_lr_factor: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    poly_power: float = 0.9
    aux_weight: float = 0.4
    class_balance: float = 0.0
    teacher: str | None = None
    distill_weight: float = 1.0
    accumulate: int = 1
    ema: float | None = None
    init: str | None = None
    start: str | None = None
    device: str = "auto"
    bf16: bool | None = None
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    workers: int = 2
    prefetch: int = 4
    seed: int = 0
    save_every: int = 1000
    log_every: int = 20
    evaluate_every: int | None = None
    tensorboard: bool | None = None

    def __post_init__(self) -> None:
        _require((self.iterations is None) != (self.epochs is None), "give one of iterations and epochs")
        positive = ("batch", "accumulate", "lr", "head_lr_factor", "poly_power")
        for name in (*positive, "prefetch", "save_every", "log_every", "evaluate_every"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} must be above 0, not {value}")
        _require(
            (self.iterations or 1) > 0 and (self.epochs or 1) > 0, "iterations and epochs must be above 0"
        )
        _require(not (self.init and self.start), "give one of init (a backbone) and start (a whole network)")
        _require(self.ema is None or 0 < self.ema < 1, f"ema lies between 0 and 1, not {self.ema}")
        not_negative = ("momentum", "weight_decay", "aux_weight", "class_balance", "distill_weight")
        for name in (*not_negative, "workers", "seed"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, not {getattr(self, name)}")
        _require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            f"device is auto, cpu, cuda or cuda:N, not {self.device!r}",
        )
        try:
            classes = get_label_set(self.data.dataset).classes
        except UnknownDatasetError as error:
            raise ConfigError(f"data.dataset: {error}") from error
        _require(
            classes == self.model.classes,
            f"{self.data.dataset} has {classes} classes, the model {self.model.classes}: "
            f"set model.classes={classes}",
        )

    @property
    def checkpoint(self) -> Path:
        """Where the training saves, and goes on from."""
        return Path(self.out) / "checkpoint.pth"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, resolved: what is printed and saved in the checkpoint."""
        return {**dataclasses.asdict(self), "model": self.model.to_dict(), "augment": _plain(self.augment)}


def read_config(paths: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> TrainingConfig:
    """The training that files and `key.path=value` overrides (values in YAML) describe.

    paths: one file or several, of which a later one changes single keys of those before. Raises ConfigError
    with the mend for a missing file, an unknown key, or a value that does not fit.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    values: dict[str, Any] = {}
    for path in files:
        _merge(values, _read_yaml(path))
    for override in overrides:
        _override(values, override)
    return config_from_dict({"out": "runs/" + "_".join(path.stem for path in files), **values})


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"there is no configuration {path}; those that come along are in training/configs")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    _require(isinstance(values, dict), f"{path} must hold keys and values")
    return dict(values)


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Puts `changes` into `values`, key by key, however deep."""
    for key, change in changes.items():
        if isinstance(change, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], change)
        else:
            values[key] = change


def config_from_dict(values: Mapping[str, Any]) -> TrainingConfig:
    """The training of plain values, `model` being changes to the preset; ConfigError as `read_config`'s."""
    values = dict(values)
    preset, changes = values.get("preset"), values.get("model") or {}
    _require(
        isinstance(preset, str) and preset in PRESETS,
        f"preset {preset!r} is none of {', '.join(sorted(PRESETS))}",
    )
    _require(isinstance(changes, Mapping), f"model must hold keys and values, not {changes!r}")
    _require_known(changes, {item.name for item in dataclasses.fields(ModelConfig)}, "model.")
    values["model"] = PRESETS[str(preset)].replace(**changes)
    config: TrainingConfig = _build(TrainingConfig, values, "")
    return config


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    _require(bool(equals) and bool(key), f"an override reads key.path=value, not {override!r}")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        _require(isinstance(values, dict), f"{key}: {parent} holds no keys")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key} does not take {text!r}, which is not YAML") from error


def _build(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """A dataclass from plain values, nested ones too; ConfigError for unknown or missing keys."""
    _require(isinstance(values, Mapping), f"{prefix.rstrip('.')} must hold keys and values, not {values!r}")
    hints = typing.get_type_hints(cls)
    _require_known(values, hints, prefix)
    built = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and not dataclasses.is_dataclass(value):
            value = _build(hint, value or {}, f"{prefix}{key}.")
        built[key] = _converted(prefix + key, hint, value)
    missing = [
        prefix + f.name
        for f in dataclasses.fields(cls)
        if f.name not in built
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    _require(not missing, f"missing keys {missing}")
    return cls(**built)


def _require_known(values: Mapping[Any, Any], known: Collection[str], prefix: str) -> None:
    unknown = [f"{prefix}{key}" for key in values if key not in known]
    _require(not unknown, f"unknown keys {sorted(unknown)}; known are {sorted(known)}")


def _converted(key: str, hint: Any, value: Any) -> Any:
    """`value` as the annotation wants it; YAML reads 1e-4 as text and lists for tuples."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            kinds = typing.get_args(option)
            _require(len(value) == len(kinds), f"{key} takes {len(kinds)} values, not {value!r}")
            return tuple(_converted(key, kind, item) for kind, item in zip(kinds, value, strict=True))
        if dataclasses.is_dataclass(option) and dataclasses.is_dataclass(value):
            return value
        if option is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            with suppress(ValueError):
                if math.isfinite(number := float(value)):
                    return number
            continue
        if (
            isinstance(option, type)
            and isinstance(value, option)
            and isinstance(value, bool) == (option is bool)
        ):
            return value
    raise ConfigError(f"{key} does not take {value!r}")


def _plain(config: Any) -> dict[str, Any]:
    return {
        key: list(item) if isinstance(item, tuple) else item
        for key, item in dataclasses.asdict(config).items()
    }


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
