"""Cityscapes: fine labels of 2,975, 500 and 1,525 images, coarse ones of 19,998 more.

    leftImg8bit/{train,val,test}/<city>/<city>_######_######_leftImg8bit.png    leftImg8bit_trainvaltest.zip
    leftImg8bit/train_extra/…                                                   leftImg8bit_trainextra.zip
    gtFine/{train,val,test}/<city>/<city>_######_######_gtFine_labelIds.png     gtFine_trainvaltest.zip
    gtCoarse/train_extra/…_gtCoarse_labelIds.png                                gtCoarse.zip

Label ids become the 19 class ids under the name that the authors' own tools give them, `…_labelTrainIds.png`.
Labels of the test images are blanks that the authors put there; the list of them serves to write submissions.
The paper (4.4) rounds the coarse images to 20,000; the archives hold 19,998. One of those,
troisdorf_000000_000073, was published as a black picture: it is left out unless it was replaced since.
"""

import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from models.labels import IGNORE, get_label_set
from training.prepare.archives import Member, Source, find
from training.prepare.errors import PrepareError
from training.prepare.labels import Remap
from training.prepare.plan import Check, Pair, Plan, file_pair, match

ARCHIVES = (
    "leftImg8bit_trainvaltest.zip",
    "gtFine_trainvaltest.zip",
    "gtCoarse.zip",
    "leftImg8bit_trainextra.zip",
)
EXPECTED = {"train": (2_975,), "val": (500,), "test": (1_525,), "train_extra": (19_998, 20_000)}
BROKEN = "troisdorf_000000_000073"
_LABEL_IDS = 34  # 0..33; licence plates, -1, are 255 in a file of 8 bits

_class_of = dict(enumerate(get_label_set("cityscapes").label_ids or ()))
DECODE = Remap(
    {label_id: IGNORE for label_id in (*range(_LABEL_IDS), IGNORE)}
    | {label_id: class_id for class_id, label_id in _class_of.items()}
)


def plan(sources: Sequence[Source], *, fine: bool = False) -> Plan:
    """Lists `fine_{train,val,trainval}`, `fine_test` where it is there, and with the coarse labels
    `coarse_train`, `fine_coarse_train` and `fine_coarse_trainval`.

    fine: without the coarse labels, whether they are there or not. Raises PrepareError where coarse labels
    are there without their images.
    """
    pairs, unpaired, left_out = {}, [], []
    for split in EXPECTED:
        if split == "train_extra" and fine:
            continue
        pairs[split], alone, broken = _split(sources, split)
        unpaired += alone
        left_out += broken
    lists: dict[str, Sequence[Pair]] = {
        "fine_train": pairs["train"],
        "fine_val": pairs["val"],
        "fine_trainval": [*pairs["train"], *pairs["val"]],
    }
    notes = []
    counted = {"train": len(pairs["train"]), "val": len(pairs["val"])}
    if pairs["test"]:
        lists["fine_test"] = pairs["test"]
        counted["test"] = len(pairs["test"])
    if coarse := pairs.get("train_extra"):
        lists["coarse_train"] = coarse
        lists["fine_coarse_train"] = [*pairs["train"], *coarse]
        lists["fine_coarse_trainval"] = [*lists["fine_trainval"], *coarse]
        counted["train_extra"] = len(coarse) + len(left_out)
        notes.append(f"{counted['train_extra']:,} coarsely labelled images; the paper rounds to 20,000")
    return Plan(
        "cityscapes",
        lists,
        [Check(f"{split} images", count, EXPECTED[split]) for split, count in counted.items()],
        "give leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from cityscapes-dataset.com, and for "
        "the coarse labels leftImg8bit_trainextra.zip and gtCoarse.zip, whole, or the folder that they "
        "unpack to, with leftImg8bit/ and gtFine/",
        unpaired=unpaired,
        left_out=left_out,
        notes=notes,
        options={"fine": fine},
    )


def _split(sources: Sequence[Source], split: str) -> tuple[list[Pair], list[str], list[str]]:
    """Pairs, files without a partner, and what is known to be broken."""
    kind = "gtCoarse" if split == "train_extra" else "gtFine"
    image_name = rf"(?:^|/)leftImg8bit/{split}/(\w+/\w+)_leftImg8bit\.png$"
    images = find(sources, re.compile(image_name))
    labels = find(sources, re.compile(rf"(?:^|/){kind}/{split}/(\w+/\w+)_{kind}_labelIds\.png$"))
    if split == "train_extra" and bool(images) != bool(labels):
        there, missing = (
            ("gtCoarse.zip", "leftImg8bit_trainextra.zip")
            if labels
            else ("leftImg8bit_trainextra.zip", "gtCoarse.zip")
        )
        raise PrepareError(
            f"cityscapes: {there} is there and {missing} is not: give it too, or --fine for the fine labels "
            "alone"
        )
    both, alone = match(images, labels)
    broken = [key for key, image, _ in both if key.endswith(BROKEN) and _is_blank(image)]
    pairs = [
        file_pair(
            image,
            f"leftImg8bit/{split}/{key}_leftImg8bit.png",
            label,
            f"{kind}/{split}/{key}_{kind}_labelTrainIds.png",
            DECODE,
        )
        for key, image, label in both
        if key not in broken
    ]
    return pairs, alone, [f"{key}_leftImg8bit.png is blank, as it was published" for key in broken]


def _is_blank(image: Member) -> bool:
    try:
        with Image.open(io.BytesIO(image.read())) as picture:
            pixels = np.array(picture)
    except Exception:  # Pillow raises nearly anything on damaged input
        return True
    return bool((pixels == pixels.flat[0]).all())
