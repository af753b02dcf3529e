"""Images and their labels: lists and folders, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.errors import ParameterError
from inference.pairs import Pair, pairs_of_folder, pairs_of_list


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of 4 x 6 with labels."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(2):
        Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(np.full((4, 6), index, np.uint8)).save(tmp_path / "labels" / f"{index}.png")
    return tmp_path


def images_of(root: Path) -> list[Path]:
    return sorted((root / "images").iterdir())


def test_a_list_names_pairs_relative_to_its_root(root: Path) -> None:
    (root / "val.txt").write_text("images/0.png labels/0.png\n\nimages/1.png labels/1.png\n")
    pairs = pairs_of_list(root, root / "val.txt")
    assert pairs == [Pair(root / "images/0.png", root / "labels/0.png"), pairs[1]]
    image, labels = pairs[1].read()
    assert image.shape == (4, 6, 3)
    assert labels is not None
    assert (labels == 1).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("images/0.png\n", "line 1: expected `image label`"),
        (
            "images/0.png labels/0.png\nimages/7.png labels/0.png\n",
            r"1 files .*images/7\.png; is .* the folder",
        ),
    ],
)
def test_a_list_that_cannot_be_used_is_an_error(root: Path, text: str, says: str) -> None:
    (root / "val.txt").write_text(text)
    with pytest.raises(ParameterError, match=says):
        pairs_of_list(root, root / "val.txt")


def test_a_list_that_is_missing_or_no_text_is_an_error(root: Path) -> None:
    (root / "odd.txt").write_bytes(b"\xff\xfe\x00")
    for name, says in (("none.txt", "there is no list"), ("odd.txt", "is no text")):
        with pytest.raises(ParameterError, match=says):
            pairs_of_list(root, root / name)


def test_a_folder_of_labels_holds_them_by_name(root: Path) -> None:
    pairs = pairs_of_folder(images_of(root), root / "labels")
    assert [pair.labels for pair in pairs] == [root / "labels/0.png", root / "labels/1.png"]
    (root / "labels/1.png").unlink()
    with pytest.raises(ParameterError, match=r"labels/1\.png: labels have their image's name"):
        pairs_of_folder(images_of(root), root / "labels")
    with pytest.raises(ParameterError, match="is no folder"):
        pairs_of_folder(images_of(root), root / "none")


def test_an_image_may_come_without_labels(root: Path) -> None:
    image, labels = Pair(root / "images/0.png").read()
    assert (image == 9).all()
    assert labels is None


def test_files_that_do_not_fit_are_named(root: Path) -> None:
    picture, labels = root / "images/0.png", root / "labels/0.png"
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(labels)
    with pytest.raises(ParameterError, match=r"is \(4, 6\) but its labels .* are \(4, 5\)"):
        Pair(picture, labels).read()
    with pytest.raises(ParameterError, match="RGB pixels; labels are single-channel"):
        Pair(picture, picture).read()
    labels.write_bytes(b"nothing")
    with pytest.raises(ParameterError, match=r"labels/0\.png cannot be read as a label image"):
        Pair(picture, labels).read()
    with pytest.raises(ParameterError, match="cannot be read as an image"):
        Pair(labels).read()
