"""Class names, palettes and label ids of the data sets that PSANet is trained on.

`class_id` is 0..C-1 in the network's order; `label_id` is a data set's own number for a class.

    python -c "from models.labels import get_label_set; print(get_label_set('camvid').class_names)"
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from models.ade20k import ADE20K

IGNORE = 255
"""Class id of pixels that count in no loss and no metric."""

Color = tuple[int, int, int]


class UnknownDatasetError(ValueError):
    """No label set of that name, or none that can be read; the message says what would do."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of one data set.

    class_names, palette: by class id; colours are RGB in 0..255.
    label_ids: the data set's own number of each class, or None where that is the class id.
    base_size: long side in pixels that an image is scaled to at scale 1 (published protocol).
    """

    name: str
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    base_size: int
    label_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.base_size < 1:
            raise ValueError(f"{self.name}: base_size must be 1 or more, not {self.base_size}")
        if len(self.palette) != len(self.class_names):
            raise ValueError(f"{self.name}: {len(self.class_names)} classes but {len(self.palette)} colours")
        if self.label_ids is not None and len(self.label_ids) != len(self.class_names):
            raise ValueError(
                f"{self.name}: {len(self.class_names)} classes but {len(self.label_ids)} label ids"
            )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `label_set_from_dict` reads them back."""
        return asdict(self)


def _label_set(name: str, base_size: int, rows: tuple[tuple[Color, str], ...]) -> LabelSet:
    palette, class_names = zip(*rows, strict=True)
    return LabelSet(name, class_names, palette, base_size)


_VOC2012 = (
    ((0, 0, 0), "background"),
    ((128, 0, 0), "aeroplane"),
    ((0, 128, 0), "bicycle"),
    ((128, 128, 0), "bird"),
    ((0, 0, 128), "boat"),
    ((128, 0, 128), "bottle"),
    ((0, 128, 128), "bus"),
    ((128, 128, 128), "car"),
    ((64, 0, 0), "cat"),
    ((192, 0, 0), "chair"),
    ((64, 128, 0), "cow"),
    ((192, 128, 0), "diningtable"),
    ((64, 0, 128), "dog"),
    ((192, 0, 128), "horse"),
    ((64, 128, 128), "motorbike"),
    ((192, 128, 128), "person"),
    ((0, 64, 0), "pottedplant"),
    ((128, 64, 0), "sheep"),
    ((0, 192, 0), "sofa"),
    ((128, 192, 0), "train"),
    ((0, 64, 128), "tvmonitor"),
)

# label id, colour, name
_CITYSCAPES = (
    (7, (128, 64, 128), "road"),
    (8, (244, 35, 232), "sidewalk"),
    (11, (70, 70, 70), "building"),
    (12, (102, 102, 156), "wall"),
    (13, (190, 153, 153), "fence"),
    (17, (153, 153, 153), "pole"),
    (19, (250, 170, 30), "traffic light"),
    (20, (220, 220, 0), "traffic sign"),
    (21, (107, 142, 35), "vegetation"),
    (22, (152, 251, 152), "terrain"),
    (23, (70, 130, 180), "sky"),
    (24, (220, 20, 60), "person"),
    (25, (255, 0, 0), "rider"),
    (26, (0, 0, 142), "car"),
    (27, (0, 0, 70), "truck"),
    (28, (0, 60, 100), "bus"),
    (31, (0, 80, 100), "train"),
    (32, (0, 0, 230), "motorcycle"),
    (33, (119, 11, 32), "bicycle"),
)

_CAMVID = (
    ((128, 128, 128), "sky"),
    ((128, 0, 0), "building"),
    ((192, 192, 128), "pole"),
    ((128, 64, 128), "road"),
    ((60, 40, 222), "pavement"),
    ((128, 128, 0), "tree"),
    ((192, 128, 128), "sign symbol"),
    ((64, 64, 128), "fence"),
    ((64, 0, 128), "car"),
    ((64, 64, 0), "pedestrian"),
    ((0, 128, 192), "bicyclist"),
)

LABEL_SETS: Mapping[str, LabelSet] = MappingProxyType(
    {
        "ade20k": _label_set("ade20k", 512, ADE20K),
        "voc2012": _label_set("voc2012", 512, _VOC2012),
        "cityscapes": LabelSet(
            "cityscapes",
            tuple(name for _, _, name in _CITYSCAPES),
            tuple(color for _, color, _ in _CITYSCAPES),
            2048,
            tuple(label_id for label_id, _, _ in _CITYSCAPES),
        ),
        "camvid": _label_set("camvid", 480, _CAMVID),
    }
)


def get_label_set(name: str) -> LabelSet:
    """The classes of a known data set, or of one's own: the path of a JSON file with LabelSet's fields.

    Raises UnknownDatasetError, which lists the known ones or says what the file lacks.
    """
    if name in LABEL_SETS:
        return LABEL_SETS[name]
    if not name.endswith(".json"):
        raise UnknownDatasetError(
            f"unknown data set {name!r}; known are {', '.join(sorted(LABEL_SETS))}, "
            "or give a .json file with name, class_names, palette and base_size"
        )
    try:
        return label_set_from_dict(json.loads(Path(name).read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise UnknownDatasetError(f"{name}: {error}") from error


def label_set_from_dict(values: Mapping[str, Any]) -> LabelSet:
    """The label set that `LabelSet.to_dict` wrote. Raises UnknownDatasetError for anything else."""
    try:
        if unknown := sorted(set(values) - {field.name for field in fields(LabelSet)}):
            raise ValueError(f"unknown keys {unknown}")
        if isinstance(values["class_names"], str):
            raise TypeError("class_names is a list of names")
        label_ids = values.get("label_ids")
        return LabelSet(
            str(values["name"]),
            tuple(str(name) for name in values["class_names"]),
            tuple(_color(color) for color in values["palette"]),
            int(values["base_size"]),
            None if label_ids is None else tuple(int(label_id) for label_id in label_ids),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnknownDatasetError(
            f"no label set: {error!r}; it takes name, class_names, palette, base_size and perhaps label_ids"
        ) from error


def guess_label_set(file_name: str, classes: int) -> LabelSet:
    """The data set that a checkpoint's file name holds, else the one of so many classes.

    Raises UnknownDatasetError when neither tells.
    """
    for part, labels in (*LABEL_SETS.items(), ("voc", LABEL_SETS["voc2012"])):
        if part in file_name.lower():
            return labels
    for labels in LABEL_SETS.values():
        if labels.classes == classes:
            return labels
    raise UnknownDatasetError(f"no known data set has {classes} classes: give --dataset")


def _color(values: Any) -> Color:
    red, green, blue = (int(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"a colour is three numbers in 0..255, not {values!r}")
    return red, green, blue
