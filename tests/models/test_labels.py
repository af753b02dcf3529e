"""Label sets: the four that come along, one's own from JSON, and which a file name and class count mean."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from models.labels import (
    IGNORE,
    LABEL_SETS,
    LabelSet,
    UnknownDatasetError,
    get_label_set,
    guess_label_set,
    label_set_from_dict,
)

OWN: Mapping[str, Any] = {
    "name": "kitchen",
    "class_names": ["background", "pan", "spoon"],
    "palette": [[0, 0, 0], [255, 0, 0], [0, 255, 0]],
    "base_size": 640,
}


@pytest.mark.parametrize(
    ("name", "classes", "base_size"),
    [("ade20k", 150, 512), ("voc2012", 21, 512), ("cityscapes", 19, 2048), ("camvid", 11, 480)],
)
def test_the_four_data_sets(name: str, classes: int, base_size: int) -> None:
    labels = get_label_set(name)
    assert labels is LABEL_SETS[name]
    assert (labels.name, labels.classes, labels.base_size) == (name, classes, base_size)
    assert len(labels.class_names) == len(labels.palette) == classes
    assert all(text and text == text.strip() for text in labels.class_names)
    assert all(len(color) == 3 and all(0 <= value <= 255 for value in color) for color in labels.palette)
    assert classes <= IGNORE


@pytest.mark.parametrize("name", ["voc2012", "cityscapes", "camvid"])
def test_no_two_classes_share_a_name_or_a_colour(name: str) -> None:
    """ADE20K is left out: it has two classes in one colour, and so have the official files."""
    labels = LABEL_SETS[name]
    assert len(set(labels.class_names)) == len(set(labels.palette)) == labels.classes


@pytest.mark.parametrize(
    ("name", "class_id", "class_name", "color"),
    [
        ("ade20k", 0, "wall", (120, 120, 120)),
        ("ade20k", 12, "person", (150, 5, 61)),
        ("ade20k", 149, "flag", (92, 0, 255)),
        ("voc2012", 0, "background", (0, 0, 0)),
        ("voc2012", 15, "person", (192, 128, 128)),
        ("cityscapes", 0, "road", (128, 64, 128)),
        ("cityscapes", 18, "bicycle", (119, 11, 32)),
        ("camvid", 0, "sky", (128, 128, 128)),
        ("camvid", 8, "car", (64, 0, 128)),
    ],
)
def test_class_ids_are_the_published_ones(
    name: str, class_id: int, class_name: str, color: tuple[int, int, int]
) -> None:
    labels = LABEL_SETS[name]
    assert (labels.class_names[class_id], labels.palette[class_id]) == (class_name, color)


def test_voc_colours_follow_the_bits_of_the_class_id() -> None:
    for class_id, color in enumerate(LABEL_SETS["voc2012"].palette):
        red = green = blue = 0
        for bit, rest in enumerate((class_id, class_id >> 3, class_id >> 6)):
            red |= (rest & 1) << (7 - bit)
            green |= (rest >> 1 & 1) << (7 - bit)
            blue |= (rest >> 2 & 1) << (7 - bit)
        assert color == (red, green, blue)


def test_cityscapes_keeps_the_label_ids_of_its_evaluation() -> None:
    ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    assert LABEL_SETS["cityscapes"].label_ids == ids
    assert all(LABEL_SETS[name].label_ids is None for name in ("ade20k", "voc2012", "camvid"))


def test_label_sets_survive_json() -> None:
    for labels in LABEL_SETS.values():
        assert label_set_from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownDatasetError, match="'coco'; known are ade20k, camvid, cityscapes, voc2012, or"
    ):
        get_label_set("coco")


def test_a_json_file_makes_a_label_set(tmp_path: Path) -> None:
    path = tmp_path / "kitchen.json"
    path.write_text(json.dumps(OWN))
    expected = LabelSet("kitchen", ("background", "pan", "spoon"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), 640)
    assert get_label_set(str(path)) == expected
    path.write_text(json.dumps({**OWN, "label_ids": [0, 7, 9]}))
    assert get_label_set(str(path)).label_ids == (0, 7, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"palette": None}, "palette"),
        ({"palette": [[0, 0, 0], [255, 0, 0]]}, "3 classes but 2 colours"),
        ({"palette": [[0, 0, 0], [256, 0, 0], [1, 1, 1]]}, "three numbers in 0..255"),
        ({"palette": [[0, 0, 0], [255, 0], [1, 1, 1]]}, "three numbers in 0..255|not enough values"),
        ({"class_names": "abc"}, "class_names is a list of names"),
        ({"label_ids": [1, 2]}, "3 classes but 2 label ids"),
        ({"base_size": 0}, "base_size must be 1 or more, not 0"),
        ({"base_size": "large"}, "large"),
        ({"colors": []}, r"unknown keys \['colors'\]"),
    ],
)
def test_a_json_file_that_is_no_label_set_says_what_it_lacks(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "kitchen.json"
    path.write_text(json.dumps({**OWN, **changes}))
    with pytest.raises(UnknownDatasetError, match=message) as caught:
        get_label_set(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"[1, 2]", b"null", b"\xff\xfe", b'{"name": "x"}', b"[" * 100_000],
)
def test_a_broken_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(UnknownDatasetError, match=r"labels\.json"):
        get_label_set(str(path))


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError, match=r"nowhere\.json"):
        get_label_set(str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    ("file_name", "classes", "expected"),
    [
        ("psanet50_ade20k.pth", 150, "ade20k"),
        ("PSANet101_Cityscapes.pth", 19, "cityscapes"),
        ("psanet50_voc2012.pth", 21, "voc2012"),
        ("psanet_voc_aug.pth", 21, "voc2012"),
        ("camvid-best.safetensors", 11, "camvid"),
        ("train_epoch_100.pth", 150, "ade20k"),
        ("train_epoch_100.pth", 21, "voc2012"),
        ("train_epoch_100.pth", 19, "cityscapes"),
        ("train_epoch_100.pth", 11, "camvid"),
        ("psanet_camvid.pth", 19, "camvid"),
    ],
)
def test_the_file_name_tells_the_data_set_before_the_class_count(
    file_name: str, classes: int, expected: str
) -> None:
    assert guess_label_set(file_name, classes).name == expected


def test_when_neither_tells_an_option_is_asked_for() -> None:
    with pytest.raises(UnknownDatasetError, match="no known data set has 7 classes: give --dataset"):
        guess_label_set("train_epoch_100.pth", 7)
