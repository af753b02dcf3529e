import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference.pairs import DatasetError, load_pair, read_label, read_list, read_test_list
from training.config import AugmentConfig, read_config
from training.dataset import EndlessSampler, SegmentationDataset, training_batches
from training.distributed import Processes
from training.transforms import TrainingTransform


def dataset(root: Path, *, cache: bool = False) -> SegmentationDataset:
    pairs = read_list(root, root / "list/train.txt")
    return SegmentationDataset(
        pairs, TrainingTransform(AugmentConfig(), (33, 33)), classes=11, seed=3, cache=cache
    )


def test_items_are_rgb_in_0_255_and_class_ids(miniature: Path) -> None:
    image, label = dataset(miniature)[0, 0]
    assert (image.shape, image.dtype) == ((3, 33, 33), torch.float32)
    assert (label.shape, label.dtype) == ((33, 33), torch.int64)
    assert image.max() > 1.5
    assert set(label.unique().tolist()) <= {*range(11), 255}


def test_an_item_depends_on_its_position_not_on_the_cache(miniature: Path) -> None:
    plain, cached = dataset(miniature), dataset(miniature, cache=True)
    assert torch.equal(plain[7, 1][0], cached[7, 1][0])
    assert not torch.equal(plain[7, 1][0], plain[8, 1][0])


def test_the_order_is_shuffled_each_epoch_and_goes_on_from_anywhere() -> None:
    whole = list(EndlessSampler(5, seed=1, start=0, stop=20))
    assert list(EndlessSampler(5, seed=1, start=7, stop=20)) == whole[7:]
    epochs = [[index for _, index in whole[start : start + 5]] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert len(EndlessSampler(5, seed=1, start=7, stop=20)) == 13


def test_a_list_with_a_missing_image_names_it(miniature: Path) -> None:
    path = miniature / "list/train.txt"
    path.write_text(path.read_text() + "images/absent.png labels/0.png\n")
    with pytest.raises(DatasetError, match=r"1 files that are not there, the first .*absent\.png"):
        read_list(miniature, path)


@pytest.mark.parametrize(
    ("text", "says"), [("", "is empty"), ("images/0.png\n", "line 1: expected `image label`")]
)
def test_a_list_of_another_form_is_refused(miniature: Path, text: str, says: str) -> None:
    path = miniature / "list/odd.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=says):
        read_list(miniature, path)


def test_a_list_that_is_no_text_is_refused(miniature: Path) -> None:
    path = miniature / "list/odd.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"odd\.txt is no text"):
        read_list(miniature, path)


def test_a_missing_list_is_an_error(miniature: Path) -> None:
    with pytest.raises(DatasetError, match="there is no list"):
        read_list(miniature, miniature / "list/test.txt")


def test_palette_labels_are_read_as_class_ids(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(ids)
    palette = Image.new("P", (4, 3))
    palette.putpalette([7, 8, 9] * 256)
    palette.putdata(ids.ravel().tolist())
    palette.save(tmp_path / "palette.png")
    image.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_label(tmp_path / "palette.png"), ids)
    np.testing.assert_array_equal(read_label(tmp_path / "grey.png"), ids)


def test_wrong_label_files_are_named(miniature: Path) -> None:
    image, label = read_list(miniature, miniature / "list/train.txt")[0]
    with pytest.raises(DatasetError, match=r"holds \d+, which is neither a class id below 2 nor 255"):
        load_pair((image, label), classes=2)
    Image.new("RGB", (80, 60)).save(label)
    with pytest.raises(DatasetError, match="single-channel"):
        load_pair((image, label), classes=11)
    Image.new("L", (10, 10)).save(label)
    with pytest.raises(DatasetError, match=r"\(60, 80\) but its labels"):
        load_pair((image, label), classes=11)
    label.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="cannot be read"):
        load_pair((image, label), classes=11)


def test_an_image_that_cannot_be_decoded_is_named(miniature: Path) -> None:
    image, label = read_list(miniature, miniature / "list/train.txt")[0]
    image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(DatasetError, match=r"0\.png cannot be read as an image: .*truncated"):
        load_pair((image, label), classes=11)


def test_workers_say_what_they_cannot_read_and_end_at_once(miniature: Path) -> None:
    pairs = read_list(miniature, miniature / "list/train.txt")
    Image.new("L", (80, 60), 77).save(pairs[2][1])
    settings = ["model.crop_hw=[33, 33]", "batch=1", "workers=1", "data.cache=false"]
    config = read_config("training/configs/camvid_psanet18.yaml", settings)
    batches = training_batches(pairs, config, Processes(torch.device("cpu")), share=1, start=0, stop=4)
    with pytest.raises(DatasetError, match=r"^\S+ holds 77, which is neither a class id below 11 nor 255$"):
        list(batches)
    # Or they would be waited for at the process's end.
    assert not multiprocessing.active_children()


def test_workers_serve_on_when_their_whole_group_gets_a_signal(miniature: Path) -> None:
    pairs = read_list(miniature, miniature / "list/train.txt")
    settings = ["model.crop_hw=[33, 33]", "batch=1", "workers=1", "prefetch=1"]
    config = read_config("training/configs/camvid_psanet18.yaml", settings)
    batches = training_batches(pairs, config, Processes(torch.device("cpu")), share=1, start=0, stop=8)
    next(batches)
    (worker,) = multiprocessing.active_children()
    for signum in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker.pid or 0, signum)
    assert len(list(batches)) == 7


def test_a_test_list_may_leave_the_labels_out(miniature: Path) -> None:
    path = miniature / "list/test.txt"
    path.write_text("images/0.png\nimages/1.png labels/1.png\n\n")
    assert read_test_list(miniature, path) == [
        (miniature / "images/0.png", None),
        (miniature / "images/1.png", miniature / "labels/1.png"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("images/0.png labels/0.png more", "line 1: expected `image`"),
        ("images/9.png", "names 1 files that are not there"),
        ("", "is empty"),
    ],
)
def test_a_test_list_that_cannot_be_used_is_refused(miniature: Path, text: str, says: str) -> None:
    path = miniature / "list/test.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=says):
        read_test_list(miniature, path)
