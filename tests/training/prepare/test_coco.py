import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.labels import get_label_set
from tests.training.prepare.conftest import jpeg, read_png, write_folder, write_zip
from training.prepare.__main__ import run
from training.prepare.coco import rasterize
from training.prepare.errors import PrepareError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
HW = (40, 60)
VOC = get_label_set("voc2012").class_names
# The 20 that COCO calls by VOC's name or another, with COCO's own numbers, and one that VOC lacks.
CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 9: "boat",
    16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 44: "bottle", 62: "chair",
    63: "couch", 64: "potted plant", 67: "dining table", 72: "tv", 88: "teddy bear",
}  # fmt: skip
BIG = [[0, 0, 60, 0, 60, 20, 0, 20]]  # the upper half, 1,200 pixels


def item(image_id: int, category: int, segmentation: Any, area: float, crowd: int = 0) -> dict[str, Any]:
    return {
        "id": 1,
        "image_id": image_id,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
    }


def instances(count: int) -> bytes:
    """The first image has a big couch, the second a small one, the third a bear, the rest nothing."""
    return json.dumps(
        {
            "images": [
                {"id": image_id, "height": HW[0], "width": HW[1], "file_name": f"{image_id:012d}.jpg"}
                for image_id in range(1, count + 1)
            ],
            "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
            "annotations": [
                item(1, 63, BIG, 1200.0),
                item(2, 63, [[0, 0, 10, 0, 10, 10, 0, 10]], 100.0),
                item(3, 88, BIG, 1200.0),
            ],
        }
    ).encode()


def coco_files(train: int = 4, val: int = 1) -> dict[str, bytes]:
    files = {}
    for split, count in (("train", train), ("val", val)):
        files[f"annotations/instances_{split}2017.json"] = instances(count)
        files[f"annotations/captions_{split}2017.json"] = b"{}"
        files |= {f"{split}2017/{index:012d}.jpg": jpeg(index, HW) for index in range(1, count + 1)}
    return files


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.prepare.coco.EXPECTED", {"train": (4,), "val": (1,)})


@pytest.mark.parametrize("packed", [True, False])
def test_images_with_enough_of_vocs_classes_are_taken(tmp_path: Path, packed: bool) -> None:
    files = coco_files()
    downloads = tmp_path / "downloads"
    if packed:
        downloads.mkdir()
        for archive, part in (
            ("annotations_trainval2017", "annotations/"),
            ("train2017", "train2017/"),
            ("val2017", "val2017/"),
        ):
            write_zip(downloads / f"{archive}.zip", {k: v for k, v in files.items() if k.startswith(part)})
    else:
        write_folder(downloads, files)
    summary = run("coco", [downloads], out=tmp_path / "out")
    assert summary["lists"] == {"train": 1, "val": 1}
    assert (tmp_path / "out/list/train.txt").read_text() == (
        "train2017/000000000001.jpg labels/train2017/000000000001.png\n"
    )
    expected = np.zeros(HW, dtype=np.uint8)
    expected[:20] = VOC.index("sofa")
    np.testing.assert_array_equal(read_png(tmp_path / "out/labels/train2017/000000000001.png"), expected)


def test_the_least_area_can_be_chosen_and_is_part_of_the_result(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", coco_files())
    summary = run("coco", [source], out=tmp_path / "out", options={"min_pixels": 50})
    assert summary["lists"]["train"] == 2
    with pytest.raises(PrepareError, match="prepared in another way"):
        run("coco", [source], out=tmp_path / "out", options={"min_pixels": 60})


def test_missing_images_are_named(tmp_path: Path) -> None:
    files = coco_files()
    del files["train2017/000000000004.jpg"]
    with pytest.raises(
        PrepareError, match=r"3 train images where 4 .* the first train2017/000000000004\.jpg"
    ):
        run("coco", [write_folder(tmp_path / "x", files)], out=tmp_path / "out")


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"images": [], "categories": [], "annotations": []}'])
def test_annotations_of_another_kind_are_refused(tmp_path: Path, data: bytes) -> None:
    files = {**coco_files(), "annotations/instances_train2017.json": data}
    with pytest.raises(PrepareError, match="is not COCO's list of instances"):
        run("coco", [write_folder(tmp_path / "x", files)], out=tmp_path / "out")


def drawn(*objects: tuple[int, Any, float]) -> np.ndarray:
    described = [
        {"class_id": class_id, "segmentation": outline, "area": area} for class_id, outline, area in objects
    ]
    return rasterize(json.dumps({"hw": HW, "objects": described}).encode())


def test_the_smaller_of_two_objects_lies_on_top_in_any_order() -> None:
    small = [[5, 5, 15, 5, 15, 15, 5, 15]]
    expected = np.zeros(HW, dtype=np.uint8)
    expected[:20] = 3
    expected[5:15, 5:15] = 7
    np.testing.assert_array_equal(drawn((3, BIG, 1200), (7, small, 100)), expected)
    np.testing.assert_array_equal(drawn((7, small, 100), (3, BIG, 1200)), expected)


def test_crowds_are_drawn_from_their_runs() -> None:
    # column by column: 40 pixels of background, 80 of the crowd, the rest background
    runs = {"size": list(HW), "counts": [40, 80, HW[0] * HW[1] - 120]}
    expected = np.zeros(HW, dtype=np.uint8)
    expected[:, 1:3] = 15
    np.testing.assert_array_equal(drawn((15, runs, 80)), expected)


def test_an_outline_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="has an outline that cannot be drawn"):
        drawn((3, [["x"]], 1))
