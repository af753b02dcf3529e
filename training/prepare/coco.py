"""COCO 2017 with VOC's 21 classes, to train on before VOC as the paper does for its test figure (4.3).

    train2017/*.jpg, val2017/*.jpg                                              train2017.zip, val2017.zip
    annotations/instances_{train,val}2017.json                                  annotations_trainval2017.zip

The paper says that it follows others, and of those DeepLabv3 says how: images whose objects of VOC's
classes cover more than 1,000 pixels, all other classes background. Where objects overlap, the smaller one
lies on top. Train with VOC's configuration and

    data.root=data/coco data.train_list=list/train.txt data.val_list=list/val.txt
"""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from models.labels import get_label_set
from training.prepare.archives import Member, Source, find
from training.prepare.errors import PrepareError
from training.prepare.labels import Ids
from training.prepare.plan import Check, Pair, Plan

ARCHIVES = ("annotations_trainval2017.zip", "train2017.zip", "val2017.zip")
EXPECTED = {"train": (118_287,), "val": (5_000,)}
MIN_PIXELS = 1_000

_MAX_JSON_BYTES = 2 << 30
_LABEL_BYTES = 10_000  # about what a label PNG takes
_VOC_NAMES = {
    "airplane": "aeroplane",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "tv": "tvmonitor",
}
_CLASS_IDS = {name: class_id for class_id, name in enumerate(get_label_set("voc2012").class_names)}


def plan(sources: Sequence[Source], *, min_pixels: int = MIN_PIXELS) -> Plan:
    """Lists `train` and `val`, of the images where VOC's classes cover more than `min_pixels`."""
    if importlib.util.find_spec("pycocotools") is None:
        raise PrepareError("COCO's outlines need pycocotools: pip install -c constraints.txt '.[train]'")
    lists: dict[str, list[Pair]] = {}
    checks, notes = [], []
    unpaired: list[str] = []
    for split, allowed in EXPECTED.items():
        images = find(sources, re.compile(rf"(?:^|/){split}2017/(\d{{12}})\.jpg$"))
        annotations = find(sources, re.compile(rf"(?:^|/)(annotations/instances_{split}2017)\.json$"))
        if not annotations:
            unpaired += [f"instances_{split}2017.json"]
            lists[split], found = [], 0
        else:
            lists[split], missing, found = _split(split, images, next(iter(annotations.values())), min_pixels)
            unpaired += missing
        checks.append(Check(f"{split} images", found, allowed))
        notes.append(
            f"{split}: VOC's classes cover more than {min_pixels} pixels of {len(lists[split]):,} images"
        )
    return Plan(
        "coco",
        lists,
        checks,
        "give annotations_trainval2017.zip, train2017.zip and val2017.zip from cocodataset.org, whole, or "
        "the folder that they unpack to, with annotations/, train2017/ and val2017/",
        unpaired=unpaired,
        notes=notes,
        options={"min_pixels": min_pixels},
    )


def rasterize(data: bytes) -> Ids:
    """(H, W) class ids of the objects that `data`, JSON of `hw` and `objects`, describes."""
    from pycocotools import mask as coco

    described = json.loads(data)
    height, width = described["hw"]
    ids = np.zeros((height, width), dtype=np.uint8)
    for item in sorted(described["objects"], key=lambda item: -item["area"]):
        outline = item["segmentation"]
        try:
            if isinstance(outline, list):
                rle = coco.merge(coco.frPyObjects(outline, height, width))
            elif isinstance(outline["counts"], list):
                rle = coco.frPyObjects(outline, height, width)
            else:
                rle = outline
            ids[coco.decode(rle).astype(bool)] = item["class_id"]
        except Exception as error:  # pycocotools raises nearly anything on malformed outlines
            raise ValueError(f"has an outline that cannot be drawn ({error!r})") from error
    return ids


def _split(
    split: str, images: Mapping[str, Member], annotations: Member, min_pixels: int
) -> tuple[list[Pair], list[str], int]:
    """Pairs, what has no image, and how many images the annotations and the folder have in common."""
    try:
        content = json.loads(annotations.read(_MAX_JSON_BYTES))
        objects = _objects_by_image(content)
        sizes = {int(image["id"]): (image["height"], image["width"]) for image in content["images"]}
    except (ValueError, KeyError, TypeError) as error:
        raise PrepareError(
            f"{annotations} is not COCO's list of instances ({error!r}): download "
            "annotations_trainval2017.zip again"
        ) from error
    pairs, missing = [], []
    for image_id, hw in sorted(sizes.items()):
        key = f"{image_id:012d}"
        if key not in images:
            missing.append(f"{split}2017/{key}.jpg")
        elif sum(item["area"] for item in objects.get(image_id, ())) > min_pixels:
            described = {"hw": hw, "objects": objects[image_id]}
            pairs.append(
                Pair(
                    images[key],
                    f"{split}2017/{key}.jpg",
                    f"labels/{split}2017/{key}.png",
                    f"{annotations}, image {image_id},",
                    partial(_encode, described),
                    rasterize,
                    _LABEL_BYTES,
                    images[key].order,
                )
            )
    return pairs, missing, len(sizes) - len(missing)


def _objects_by_image(content: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Objects of VOC's classes; regions that hold a crowd of one class count as that class."""
    class_ids = {}
    for category in content["categories"]:
        name = _VOC_NAMES.get(category["name"], category["name"])
        if name in _CLASS_IDS:
            class_ids[category["id"]] = _CLASS_IDS[name]
    if len(class_ids) != len(_CLASS_IDS) - 1:
        raise KeyError("not all of VOC's 20 classes are among the categories")
    objects: dict[int, list[dict[str, Any]]] = {}
    for item in content["annotations"]:
        if item["category_id"] in class_ids:
            objects.setdefault(int(item["image_id"]), []).append(
                {
                    "class_id": class_ids[item["category_id"]],
                    "area": float(item["area"]),
                    "segmentation": item["segmentation"],
                }
            )
    return objects


def _encode(described: Mapping[str, Any]) -> bytes:
    return json.dumps(described).encode()
