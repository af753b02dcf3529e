"""What test servers get, read back from the files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.bundle import ModelInfo, resolve_model
from inference.errors import ParameterError
from models.labels import get_label_set
from training.submission import SUBMISSIONS, SubmissionWriter


def info_of(dataset: str) -> ModelInfo:
    labels = get_label_set(dataset)
    bundled = resolve_model("psanet18_camvid").info
    return replace(
        bundled,
        architecture=replace(bundled.architecture, classes=labels.classes),
        dataset=dataset,
        class_names=labels.class_names,
        palette=labels.palette,
        label_ids=labels.label_ids,
    )


def every_class(dataset: str) -> np.ndarray:
    classes = get_label_set(dataset).classes
    return np.resize(np.arange(classes, dtype=np.uint8), (15, 12))


def written(dataset: str, image: Path, out: Path) -> Image.Image:
    writer = SubmissionWriter(dataset, info_of(dataset), out, [image])
    writer.write(image, every_class(dataset))
    found = Image.open(writer.target(image))
    found.load()
    return found


def test_cityscapes_gets_its_label_ids_under_the_images_own_name(tmp_path: Path) -> None:
    image = Path("leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png")
    found = written("cityscapes", image, tmp_path)
    assert found.filename == str(tmp_path / "cityscapes/berlin_000000_000019_leftImg8bit.png")
    assert found.mode == "L"
    ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    slow = [[ids[class_id] for class_id in row] for row in every_class("cityscapes")]
    assert np.array_equal(np.array(found), slow)


def test_voc_gets_palette_files_where_its_server_looks(tmp_path: Path) -> None:
    found = written("voc2012", Path("JPEGImages/2008_000006.jpg"), tmp_path)
    assert found.filename == str(tmp_path / "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png")
    assert found.mode == "P"
    assert np.array_equal(np.array(found), every_class("voc2012"))
    assert found.getpalette()[: 3 * 21] == [
        value for color in get_label_set("voc2012").palette for value in color
    ]


def test_ade20k_counts_from_1(tmp_path: Path) -> None:
    found = written("ade20k", Path("ADE_test_00000001.jpg"), tmp_path)
    assert found.filename == str(tmp_path / "ade20k/ADE_test_00000001.png")
    assert found.mode == "L"
    assert np.array_equal(np.array(found), every_class("ade20k") + 1)
    assert np.array(found).min() == 1
    assert np.array(found).max() == 150


@pytest.mark.parametrize("dataset", SUBMISSIONS)
def test_every_class_has_a_value(dataset: str) -> None:
    assert len(SUBMISSIONS[dataset].values) == get_label_set(dataset).classes


@pytest.mark.parametrize(("dataset", "other"), [("cityscapes", "camvid"), ("ade20k", "voc2012")])
def test_a_model_of_another_data_set_is_refused(tmp_path: Path, dataset: str, other: str) -> None:
    with pytest.raises(ParameterError, match=f"classes of {other}: a submission to {dataset} takes"):
        SubmissionWriter(dataset, info_of(other), tmp_path, [])


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    images = [Path("a/1.png"), Path("b/1.jpg")]
    with pytest.raises(ParameterError, match=r"a/1.png and b/1.jpg would both be"):
        SubmissionWriter("ade20k", info_of("ade20k"), tmp_path, images)


def test_an_unknown_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cityscapes, voc2012, ade20k, not 'camvid'"):
        SubmissionWriter("camvid", info_of("camvid"), tmp_path, [])
