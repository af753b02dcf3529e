"""Which runs an ablation consists of: a network of a row, trained and evaluated at one seed, in its folder.

Not here: carrying one out (`run.py`), all of them (`schedule.py`), what they add up to (`summary.py`).

    plan = make_plan(Settings(data_root=Path("data/camvid"), out=Path("runs/a"), budget=BUDGETS["full"]))
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from inference.errors import ParameterError
from inference.pairs import DatasetError, read_list
from inference.windows import validate_base_size, validate_scales
from models.config import ConfigError
from training.ablation.rows import BASE, BASELINE, DENSECRF, ROWS, Budget, Row
from training.config import TrainingConfig, config_from_dict, read_config
from training.densecrf import DenseCRFParameters

SPEC: Final = "run.json"
"""In a run's folder: all that carrying it out takes."""
RESULT: Final = "result.json"
"""In a run's folder once it is finished: the figures, and the spec that they were made by."""

PUBLISHED_SCALES: Final = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

# Settings that make no difference to the figures, or stand in a run's identity as what their file holds.
_NEUTRAL: Final = frozenset(
    {
        "out",
        "init",
        "device",
        "workers",
        "prefetch",
        "tensorboard",
        "save_every",
        "log_every",
        "evaluate_every",
    }
)
_NEUTRAL_DATA: Final = frozenset({"root", "train_list", "val_list", "cache"})
_OPTIONS: Final = {
    "data.root": "--data-root",
    "out": "--out",
    "seed": "--seeds",
    "init": "--init",
    "device": "--device",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command asks for. overrides: `key.path=value` for all rows alike; scales: of several scales.

    init: pre-trained weights of the backbone, for all rows. Raises ParameterError for what cannot be.
    """

    data_root: Path
    out: Path
    budget: Budget
    rows: Sequence[str] = tuple(row.name for row in ROWS)
    seeds: Sequence[int] = (0, 1, 2)
    overrides: Sequence[str] = ()
    init: Path | None = None
    device: str = "auto"
    scales: Sequence[float] = PUBLISHED_SCALES

    def __post_init__(self) -> None:
        known = [row.name for row in ROWS]
        unknown = sorted(set(self.rows) - set(known))
        if unknown or not self.rows:
            raise ParameterError(f"rows {unknown} are none of {', '.join(known)}")
        if DENSECRF in self.rows and BASELINE not in self.rows:
            raise ParameterError(
                f"{DENSECRF} post-processes the baseline: name {BASELINE} among the rows too"
            )
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ParameterError(f"seeds are different whole numbers from 0 on, not {list(self.seeds)}")
        if self.budget.every < 1:
            raise ParameterError(f"every takes 1 or more, not {self.budget.every}")
        if self.budget.base_size is not None:
            validate_base_size(self.budget.base_size)
        validate_scales(self.scales)
        for override in self.overrides:
            key = override.partition("=")[0]
            if key in _OPTIONS:
                raise ParameterError(f"{key} is not for an override: give {_OPTIONS[key]}")


class Run(NamedTuple):
    """One network at one seed. `spec` says in plain values all that carrying it out takes.

    source: the run whose weights this one post-processes, or None.
    """

    row: Row
    seed: int
    folder: Path
    spec: Mapping[str, Any]
    source: "Run | None"

    @property
    def name(self) -> str:
        """As in messages: `collect, seed 1`."""
        return f"{self.row.name}, seed {self.seed}"


class Plan(NamedTuple):
    """Runs in the order in which they are started: all rows of a seed before the next seed.

    validation: the list that is evaluated, `image label` a line.
    """

    settings: Settings
    runs: Sequence[Run]
    validation: bytes

    @property
    def config(self) -> TrainingConfig:
        """Of the first run; all share the budget."""
        return config_from_dict(self.runs[0].spec["config"])


def make_plan(settings: Settings) -> Plan:
    """Reads configurations, lists and initial weights. Raises ConfigError, DatasetError, ParameterError."""
    configs = {row.name: _config(row, settings) for row in ROWS if row.name in settings.rows}
    _require_different(configs)
    first = next(iter(configs.values()))
    root = settings.data_root
    train_list, val_list = root / first.data.train_list, root / first.data.val_list
    read_list(root, train_list)
    read_list(root, val_list)
    images = [line for line in val_list.read_text(encoding="utf-8").splitlines() if line.strip()]
    content = "".join(f"{line}\n" for line in images[:: settings.budget.every]).encode()
    files = {
        "training list's sha256": _sha256(train_list.read_bytes()),
        "validation list's sha256": _sha256(content),
        "initial weights' sha256": None if settings.init is None else _sha256(_read(settings.init)),
    }
    evaluation = {
        "scales": {"single": [1.0], "several": list(validate_scales(settings.scales))},
        "flip": True,
        "base_size": settings.budget.base_size,
    }
    spec = {"files": files, "evaluation": evaluation, "list": str(settings.out / "validation.txt")}
    return Plan(settings, tuple(_runs(settings, configs, spec)), content)


def _runs(
    settings: Settings, configs: Mapping[str, TrainingConfig], common: Mapping[str, Any]
) -> Iterator[Run]:
    for seed in settings.seeds:
        baseline: Run | None = None
        for row in (row for row in ROWS if row.name in configs):
            folder = settings.out / row.name / f"seed{seed}"
            config = replace(configs[row.name], seed=seed, out=str(folder))
            spec = {"row": row.name, "seed": seed, "config": config.to_dict(), **common}
            source = baseline if row.name == DENSECRF else None
            if source is not None:
                spec |= {"source": str(source.folder), "densecrf": asdict(DenseCRFParameters())}
            run = Run(row, seed, folder, spec, source)
            baseline = run if row.name == BASELINE else baseline
            yield run


def _config(row: Row, settings: Settings) -> TrainingConfig:
    own = [f"data.root={json.dumps(str(settings.data_root))}", f"device={json.dumps(settings.device)}"]
    if settings.init is not None:
        own.append(f"init={json.dumps(str(settings.init))}")
    return read_config([BASE, row.config, settings.budget.config], [*settings.overrides, *own])


def _require_different(configs: Mapping[str, TrainingConfig]) -> None:
    seen: dict[str, str] = {}
    for name, config in configs.items():
        if name == DENSECRF:
            continue
        other = seen.setdefault(json.dumps(config.model.to_dict()), name)
        if other != name:
            raise ConfigError(
                f"{other} and {name} are one network: leave out the override that makes them so"
            )


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's figures depend on, one level deep; keys that an older version did not write have their
    defaults. Raises ConfigError for a configuration that this version does not know.
    """
    config = config_from_dict(spec["config"]).to_dict()
    for key in _NEUTRAL:
        del config[key]
    for key in _NEUTRAL_DATA:
        del config["data"][key]
    rest = {key: spec.get(key) for key in ("row", "files", "evaluation", "densecrf")}
    return dict(_flat({**rest, **config}, ""))


def differences(found: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How a spec that was found differs from the one that is asked for: `batch: 8, now 16`."""
    try:
        before, after = identity(found), identity(now)
    except (ConfigError, KeyError, TypeError) as error:
        return [f"it cannot be read here ({error!r})"]
    names = dict.fromkeys([*after, *before])
    return [
        f"{name}: {before.get(name)}, now {after.get(name)}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"the initial weights {path} cannot be read: {error.strerror}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
