"""ADE20K as the scene parsing challenge published it: ADEChallengeData2016.zip, 20,210 and 2,000 images.

    ADEChallengeData2016/images/{training,validation}/ADE_{train,val}_########.jpg
    ADEChallengeData2016/annotations/{training,validation}/ADE_{train,val}_########.png

Labels are numbers of 0..150, where 0 is none of the 150 classes: they become 255 and 0..149.
"""

import re
from collections.abc import Sequence

from models.labels import IGNORE
from training.prepare.archives import Source, find
from training.prepare.labels import Remap
from training.prepare.plan import Check, Plan, file_pair, match

ARCHIVES = ("ADEChallengeData2016.zip",)
EXPECTED = {"training": (20_210,), "validation": (2_000,)}
CLASSES = 150

DECODE = Remap({0: IGNORE, **{number: number - 1 for number in range(1, CLASSES + 1)}})


def plan(sources: Sequence[Source]) -> Plan:
    """Lists `training` and `validation`; names and folders stay as they were."""
    lists, unpaired = {}, []
    for split in EXPECTED:
        images = find(sources, re.compile(rf"(?:^|/)images/{split}/(ADE_\w+)\.jpg$"))
        labels = find(sources, re.compile(rf"(?:^|/)annotations/{split}/(ADE_\w+)\.png$"))
        both, alone = match(images, labels)
        lists[split] = [
            file_pair(image, f"images/{split}/{key}.jpg", label, f"annotations/{split}/{key}.png", DECODE)
            for key, image, label in both
        ]
        unpaired += alone
    return Plan(
        "ade20k",
        lists,
        [Check(f"{split} images", len(lists[split]), allowed) for split, allowed in EXPECTED.items()],
        "give ADEChallengeData2016.zip as sceneparsing.csail.mit.edu offers it (not the full ADE20K), whole, "
        "or the folder that it unpacks to, with images/ and annotations/",
        unpaired=unpaired,
    )
