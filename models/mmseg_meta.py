"""What an MMSegmentation checkpoint says of itself: classes, colours, and its training's configuration.

Both forms are read, `CLASSES`, `PALETTE` and `config` of 0.x and `dataset_meta` and `cfg` of 1.x. The
configuration is Python text: it is parsed, never run, and what is no plain value in it is left out.

Not here: what follows for the network (`models/mmseg.py`). Free of torch.

    config_values("test_cfg = dict(mode='slide', crop_size=(769, 769))")["test_cfg"]["mode"]
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.labels import LABEL_SETS, Color, LabelSet, guess_label_set

_LONGEST_TEXT = 1 << 20
"""Characters; published ones have 5,000, and a parser's depth and memory are bounded so."""
_MOST_VALUES = 1 << 15
"""In all assignments, counting what names stand for; published ones have 500. A name of names may double what
the one before stands for, line by line."""


@dataclass(frozen=True)
class Meta:
    """class_names, palette: by class id, None where the file does not say; values: of the configuration."""

    class_names: tuple[str, ...] | None = None
    palette: tuple[Color, ...] | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def section(self, *names: str) -> Mapping[str, Any]:
        """The mapping at that place of the configuration, empty where there is none."""
        found: Any = self.values
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    @property
    def test_cfg(self) -> Mapping[str, Any]:
        """How the network is tested; of the model, in the files of 2020 beside it."""
        return self.section("model", "test_cfg") or self.section("test_cfg")

    @property
    def data_set(self) -> str | None:
        """Name of the class that reads the data set, `CityscapesDataset` say."""
        found = self.values.get("dataset_type")
        return found if isinstance(found, str) else None

    @property
    def crop_hw(self) -> tuple[int, int] | None:
        """Height and width that the network was trained at."""
        for step in self._steps("train"):
            if step.get("type") == "RandomCrop" and (found := _pair(step.get("crop_size"))):
                return found
        return _pair(self.values.get("crop_size"))

    @property
    def window_hw(self) -> tuple[int, int] | None:
        """Height and width of the windows that it is tested on, where it is."""
        return _pair(self.test_cfg.get("crop_size")) if self.test_cfg.get("mode") == "slide" else None

    @property
    def stride_hw(self) -> tuple[int, int] | None:
        """Pixels from one of these windows to the next."""
        return _pair(self.test_cfg.get("stride"))

    @property
    def mask_hw(self) -> tuple[int, int] | None:
        """Size of the map that attention is predicted as."""
        return _pair(self.section("model", "decode_head").get("mask_size"))

    @property
    def test_scale(self) -> tuple[int, int] | None:
        """Long and short side in pixels that images are scaled to fit into, at scale 1."""
        for step in self._steps("test"):
            for key in ("img_scale", "scale"):
                found = step.get(key)
                first = found[0] if isinstance(found, list) and found and _pair(found[0]) else found
                if pair := _pair(first):
                    return max(pair), min(pair)
        return None

    def _steps(self, split: str) -> Iterator[Mapping[str, Any]]:
        """Of the pipelines that images of that split pass through, most particular first."""
        places = (
            self.section("data", split).get("pipeline"),
            self.section(f"{split}_dataloader", "dataset").get("pipeline"),
            self.values.get(f"{split}_pipeline"),
        )
        for pipeline in places:
            if isinstance(pipeline, Sequence):
                yield from (step for step in pipeline if isinstance(step, Mapping))


def read_meta(content: Mapping[str, Any]) -> Meta:
    """Of the mapping that a checkpoint file holds; what is missing or of another kind is left out."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return Meta()
    data_set = meta.get("dataset_meta")
    later = data_set if isinstance(data_set, Mapping) else {}
    names = later.get("classes", meta.get("CLASSES"))
    class_names = tuple(map(str, names)) if isinstance(names, list | tuple) and names else None
    text = meta.get("cfg", meta.get("config"))
    values = config_values(text) if isinstance(text, str) else {}
    return Meta(class_names, _palette(later.get("palette", meta.get("PALETTE"))), values)


def labels_of(meta: Meta, file_name: str, *, classes: int, crop_hw: tuple[int, int]) -> LabelSet:
    """The classes and colours that the meta holds, else of the data set that the file's name or count tells.

    Raises UnknownDatasetError where nothing tells.
    """
    names = meta.class_names
    if names is None:
        return guess_label_set(file_name, classes)
    known = _known_labels(meta, file_name, names)
    palette = meta.palette or (known.palette if known else None)
    if palette is None or len(palette) != len(names):
        palette = _spread_palette(len(names))
    long_side = meta.test_scale[0] if meta.test_scale else None
    if known is None:
        return LabelSet(meta.data_set or "custom", names, palette, long_side or max(crop_hw))
    label_ids = known.label_ids if known.class_names == names else None
    return LabelSet(known.name, names, palette, long_side or known.base_size, label_ids)


def config_values(text: str) -> dict[str, Any]:
    """The plain values that a configuration assigns, by name; nothing of a text that is no Python
    or stands for too much.

    Early releases stored the files that a configuration is made of one after another, each headed by its
    path: a later one's mappings are merged into those before.
    """
    values: dict[str, Any] = {}
    if len(text) > _LONGEST_TEXT:
        return values
    left = _MOST_VALUES
    for part in re.split(r"^\S+\.py[ \t]*$", text, flags=re.MULTILINE):
        try:
            statements = ast.parse(part).body
            for statement in statements:
                if isinstance(statement, ast.Assign):
                    value = _value(statement.value, values)
                    left -= _count(value, left)
                    if left < 0:
                        return {}
                    for target in statement.targets:
                        if isinstance(target, ast.Name):
                            values[target.id] = _merged(values.get(target.id), value)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return values


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What an expression of literals, `dict(...)` and names assigned before stands for; else None."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id)
        case ast.Tuple():
            return tuple(_value(item, names) for item in node.elts)
        case ast.List():
            return [_value(item, names) for item in node.elts]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {key.value: _value(value, names) for key, value in pairs if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict")):
            return {word.arg: _value(word.value, names) for word in node.keywords if word.arg is not None}
    return None


def _count(value: Any, most: int) -> int:
    """How many values it stands for, itself and those inside; where that is more than `most`, a few more."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    total = 1
    for item in inside:
        if total > most:
            break
        total += _count(item, most - total)
    return total


def _merged(before: Any, after: Any) -> Any:
    if not isinstance(after, dict):
        return after
    kept = before if isinstance(before, dict) and after.get("_delete_") is not True else {}
    changed = {key: _merged(kept.get(key), value) for key, value in after.items() if key != "_delete_"}
    return {**kept, **changed}


def _palette(values: Any) -> tuple[Color, ...] | None:
    """RGB triples in 0..255, or None."""
    try:
        colors = tuple((int(red), int(green), int(blue)) for red, green, blue in values)
    except (TypeError, ValueError):
        return None
    return colors if all(0 <= part <= 255 for color in colors for part in color) else None


def _pair(value: Any) -> tuple[int, int] | None:
    """Two positive whole numbers; one stands for both."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair):
        return None
    return pair[0], pair[1]


def _known_labels(meta: Meta, file_name: str, names: tuple[str, ...]) -> LabelSet | None:
    """The data set of these classes, or of so many that the meta or the file's name speaks of."""
    spoken = f"{meta.data_set or ''} {file_name}".lower()
    for part, labels in (*LABEL_SETS.items(), ("ade", LABEL_SETS["ade20k"]), ("voc", LABEL_SETS["voc2012"])):
        if labels.class_names == names or (part in spoken and labels.classes == len(names)):
            return labels
    return None


def _spread_palette(classes: int) -> tuple[Color, ...]:
    """Colours for classes that come with none, each unlike the others: Pascal VOC's, bit by bit."""
    colors = []
    for class_id in range(classes):
        red, green, blue = (
            sum(((class_id >> (3 * bit + part)) & 1) << (7 - bit) for bit in range(8)) for part in range(3)
        )
        colors.append((red, green, blue))
    return tuple(colors)
