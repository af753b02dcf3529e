"""The files of miniature archives in the layouts of the published ones, by data set.

Ids of VOC's: its train is A, B; its val is C, D; SBD has A, C, E, F (E, F in its own val).
"""

import io
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse

from tests.training.prepare.conftest import jpeg, numbers, png, write_tar, write_zip

A, B, C, D, E, F = (f"2008_{number:06d}" for number in range(6))
OWN = numbers(1, [0, 20, 255])
SBD = numbers(2, [0, 3, 19])


def mat(ids: np.ndarray) -> bytes:
    """As SBD's: a struct with sparse boundaries in cells, the map of classes, and what classes occur."""
    boundaries = np.empty((20, 1), dtype=object)
    for index in range(20):
        boundaries[index, 0] = scipy.sparse.csc_array(np.eye(3) * (index == 3))
    buffer = io.BytesIO()
    struct = {"Boundaries": boundaries, "Segmentation": ids, "CategoriesPresent": np.array([[3.0], [19.0]])}
    scipy.io.savemat(buffer, {"GTcls": struct}, do_compression=True)
    return buffer.getvalue()


def voc_files() -> dict[str, bytes]:
    root = "VOCdevkit/VOC2012"
    files = {f"{root}/JPEGImages/{key}.jpg": jpeg(index) for index, key in enumerate((A, B, C, D, E, F))}
    for key in (A, B, C, D):
        files[f"{root}/SegmentationClass/{key}.png"] = png(OWN, palette=True)
        files[f"{root}/SegmentationObject/{key}.png"] = png(OWN, palette=True)
    files[f"{root}/ImageSets/Segmentation/train.txt"] = f"{A}\n{B}\n".encode()
    files[f"{root}/ImageSets/Segmentation/val.txt"] = f"{C}\n{D}\n".encode()
    files[f"{root}/ImageSets/Main/train.txt"] = b"2011_000009\n"
    files["VOCdevkit/VOC2007/ImageSets/Segmentation/train.txt"] = b"000032\n"
    return files


def sbd_files() -> dict[str, bytes]:
    root = "benchmark_RELEASE/dataset"
    files = {f"{root}/cls/{key}.mat": mat(SBD) for key in (A, C, E, F)}
    files |= {f"{root}/inst/{key}.mat": b"instances" for key in (A, C, E, F)}
    files |= {f"{root}/img/{key}.jpg": jpeg(0) for key in (A, C, E, F)}
    files[f"{root}/train.txt"] = f"{A}\n{C}\n".encode()
    files[f"{root}/val.txt"] = f"{E}\n{F}\n".encode()
    return files


def aug_files() -> dict[str, bytes]:
    files = {f"SegmentationClassAug/{key}.png": png(OWN) for key in (A, B, C, D)}
    files |= {f"SegmentationClassAug/{key}.png": png(SBD) for key in (E, F)}
    return files | {f"__MACOSX/SegmentationClassAug/._{key}.png": b"litter" for key in (A, B)}


def ade20k_files(training: int = 3, validation: int = 2) -> dict[str, bytes]:
    files = {
        "ADEChallengeData2016/objectInfo150.txt": b"Idx\tRatio\n",
        "ADEChallengeData2016/sceneCategories.txt": b"ADE_train_00000001 airport_terminal\n",
    }
    for split, short, count in (("training", "train", training), ("validation", "val", validation)):
        for index in range(1, count + 1):
            stem = f"{split}/ADE_{short}_{index:08d}"
            values = numbers(index, [0, 1, 2, 150])
            files[f"ADEChallengeData2016/images/{stem}.jpg"] = jpeg(index)
            files[f"ADEChallengeData2016/annotations/{stem}.png"] = png(values)
    return files


_SPLITS = {"train": ("aachen", "ulm"), "val": ("munster",), "test": ("bonn",), "train_extra": ("troisdorf",)}
PICTURE = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)


def cityscapes_files() -> dict[str, dict[str, bytes]]:
    """Files by archive, as published: labels in four forms, a readme and a licence beside them."""
    names = ("leftImg8bit_trainvaltest", "gtFine_trainvaltest", "leftImg8bit_trainextra", "gtCoarse")
    archives: dict[str, dict[str, bytes]] = {
        f"{name}.zip": {"README": b"see", "license.txt": b"no"} for name in names
    }
    for split, cities in _SPLITS.items():
        extra = split == "train_extra"
        images = archives[f"leftImg8bit_train{'extra' if extra else 'valtest'}.zip"]
        labels = archives["gtCoarse.zip" if extra else "gtFine_trainvaltest.zip"]
        kind = "gtCoarse" if extra else "gtFine"
        for city in cities:
            for index in range(2):
                stem = f"{split}/{city}/{city}_{index:06d}_000019"
                images[f"leftImg8bit/{stem}_leftImg8bit.png"] = png(PICTURE)
                labels[f"{kind}/{stem}_{kind}_labelIds.png"] = png(numbers(index, [0, 7, 33, 255]))
                labels[f"{kind}/{stem}_{kind}_color.png"] = png(PICTURE)
                labels[f"{kind}/{stem}_{kind}_instanceIds.png"] = png(PICTURE[..., 0])
                labels[f"{kind}/{stem}_{kind}_polygons.json"] = b"{}"
    broken = "train_extra/troisdorf/troisdorf_000000_000073"
    extra_images = archives["leftImg8bit_trainextra.zip"]
    extra_images[f"leftImg8bit/{broken}_leftImg8bit.png"] = png(PICTURE * 0)
    archives["gtCoarse.zip"][f"gtCoarse/{broken}_gtCoarse_labelIds.png"] = png(numbers(0, [0]))
    return archives


def write_downloads(dataset: str, folder: Path) -> Path:
    """The archives of "ade20k", "voc2012" or "cityscapes" as they are downloaded, in a new folder."""
    folder.mkdir()
    if dataset == "ade20k":
        write_zip(folder / "ADEChallengeData2016.zip", ade20k_files())
    elif dataset == "voc2012":
        write_tar(folder / "VOCtrainval_11-May-2012.tar", voc_files())
        write_tar(folder / "benchmark.tgz", sbd_files(), "w:gz")
    else:
        for name, files in cityscapes_files().items():
            write_zip(folder / name, files)
    return folder
