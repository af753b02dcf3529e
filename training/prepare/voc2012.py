"""PASCAL VOC 2012 with SBD's labels: train_aug of 10,582 images, val of 1,449.

    VOCdevkit/VOC2012/{JPEGImages/*.jpg, SegmentationClass/*.png,               VOCtrainval_11-May-2012.tar
                       ImageSets/Segmentation/{train,val}.txt}
    benchmark_RELEASE/dataset/{cls/*.mat, train.txt, val.txt}                   benchmark.tgz
    SegmentationClassAug/*.png, in place of SBD                                 SegmentationClassAug.zip

train_aug is what DeepLab made of them: images of SBD's train and val and of VOC's train, less VOC's val.
VOC's own labels win over SBD's, which know no 255 at the borders. All labels are written to
SegmentationClassAug/ as grey PNGs of class ids; VOC's have a palette, which some readers turn into colours.
"""

import importlib.util
import io
import re
from collections.abc import Sequence

import numpy as np

from models.labels import IGNORE, get_label_set
from training.prepare.archives import Member, Source, find
from training.prepare.errors import PrepareError
from training.prepare.labels import Ids, Remap
from training.prepare.plan import Check, Plan, file_pair

ARCHIVES = (
    "VOCtrainval_11-May-2012.tar",
    "benchmark.tgz",
    "SegmentationClassAug.zip",
)
EXPECTED = {"train_aug": (10_582,), "train": (1_464,), "val": (1_449,)}

_CLASSES = get_label_set("voc2012").classes
DECODE = Remap({number: number for number in (*range(_CLASSES), IGNORE)})
_ROOT = r"(?:^|\bVOC2012/)"  # not another year's


def decode_sbd(data: bytes) -> Ids:
    """The class map of one of SBD's MATLAB files (version 5), `GTcls.Segmentation`.

    SciPy reads it: the files hold cells of sparse matrices beside the map, and a reader made here could be
    tested on none of them.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"]["Segmentation"]
        ids = np.asarray(found.item() if found.dtype == object else found)
    except Exception as error:  # SciPy raises nearly anything on damaged input
        raise ValueError(f"is no label file of SBD ({error!r}): download benchmark.tgz again") from error
    if ids.ndim != 2 or ids.size == 0 or ids.min() < 0 or ids.max() >= _CLASSES:
        raise ValueError(f"holds no map of class ids below {_CLASSES}: download benchmark.tgz again")
    return ids.astype(np.uint8)


def plan(sources: Sequence[Source]) -> Plan:
    """Lists `train_aug`, `val`, `train`, and for the test server `trainval` and `trainval_aug`."""
    images = find(sources, re.compile(_ROOT + r"JPEGImages/(\d{4}_\d{6})\.jpg$"))
    own_labels = find(sources, re.compile(_ROOT + r"SegmentationClass/(\d{4}_\d{6})\.png$"))
    own_lists = find(sources, re.compile(_ROOT + r"ImageSets/Segmentation/(train|val)\.txt$"))
    train, val = (_ids(own_lists.get(name)) for name in ("train", "val"))
    more_ids, more_labels = _more(sources)
    train_aug = (train | more_ids) - val
    unpaired: list[str] = []
    by_id = {}
    for key in sorted(train_aug | val):
        from_voc = key in train | val
        label = (own_labels if from_voc else more_labels).get(key)
        image = images.get(key)
        if image is None or label is None:
            unpaired.append(f"{key} (no {'image' if image is None else 'labels'})")
            continue
        decode = decode_sbd if label.name.endswith(".mat") else DECODE
        by_id[key] = file_pair(
            image, f"JPEGImages/{key}.jpg", label, f"SegmentationClassAug/{key}.png", decode
        )
    wanted = {
        "train_aug": train_aug,
        "val": val,
        "train": train,
        "trainval": train | val,
        "trainval_aug": train_aug | val,
    }
    lists = {name: [by_id[key] for key in sorted(ids) if key in by_id] for name, ids in wanted.items()}
    return Plan(
        "voc2012",
        lists,
        [Check(f"images of {name}", len(lists[name]), allowed) for name, allowed in EXPECTED.items()],
        "give VOCtrainval_11-May-2012.tar from host.robots.ox.ac.uk/pascal/VOC/voc2012 and beside it SBD's "
        "benchmark.tgz (or SegmentationClassAug.zip), whole, or the folders that they unpack to, VOC2012/ "
        "and benchmark_RELEASE/",
        unpaired=unpaired,
    )


def _more(sources: Sequence[Source]) -> tuple[set[str], dict[str, Member]]:
    """Ids and labels beyond VOC's own: SBD's, else those of SegmentationClassAug."""
    sbd_lists = find(sources, re.compile(r"(?:^|/)dataset/(train|val)\.txt$"))
    sbd_labels = find(sources, re.compile(r"(?:^|/)dataset/cls/(\d{4}_\d{6})\.mat$"))
    if sbd_lists or sbd_labels:
        if importlib.util.find_spec("scipy") is None:
            raise PrepareError("SBD's .mat files need SciPy: pip install -c constraints.txt '.[train]'")
        return _ids(sbd_lists.get("train")) | _ids(sbd_lists.get("val")), sbd_labels
    labels = find(sources, re.compile(r"(?:^|/)SegmentationClassAug/(\d{4}_\d{6})\.png$"))
    return set(labels), labels


def _ids(member: Member | None) -> set[str]:
    return set() if member is None else set(member.read().decode("ascii", "replace").split())
