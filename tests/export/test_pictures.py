"""Pictures of where labels differ: the worst are kept, and no differing pixel gets lost."""

import numpy as np
import pytest

from export.pictures import LONGEST_SIDE, Worst

Labels = np.ndarray


def labels_with(differing: int, size_hw: tuple[int, int] = (10, 10)) -> tuple[Labels, Labels]:
    """A reference of zeros, and labels of which the first `differing` are 1."""
    labels = np.zeros(size_hw, np.uint8)
    labels.reshape(-1)[:differing] = 1
    return np.zeros_like(labels), labels


def image_of(size_hw: tuple[int, int]) -> np.ndarray:
    return np.full((*size_hw, 3), 50, np.uint8)


def test_the_worst_images_are_kept_in_order_and_those_without_differences_are_not() -> None:
    worst = Worst(kept=3)
    for count in (5, 0, 20, 1, 10, 7):
        worst.add(f"{count}", image_of((10, 10)), *labels_with(count))
    assert [(picture.name, picture.share) for picture in worst.pictures] == [
        ("20", 0.2),
        ("10", 0.1),
        ("7", 0.07),
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_image_is_scaled_down_and_one_differing_pixel_still_shows(dtype: type) -> None:
    size_hw = (900, 1500)
    reference, labels = (values.astype(dtype) for values in labels_with(0, size_hw))
    labels[777, 888] = 3
    worst = Worst()
    worst.add("large", image_of(size_hw), reference, labels)
    (picture,) = worst.pictures
    assert picture.image.shape == (288, LONGEST_SIDE, 3)
    assert picture.labels.shape == picture.reference.shape == picture.differs.shape == (288, LONGEST_SIDE)
    assert picture.labels.dtype == dtype
    assert 1 <= picture.differs.sum() <= 4
    row, column = np.argwhere(picture.differs).mean(0)
    assert abs(row - 777 * 288 / 900) < 2
    assert abs(column - 888 * 480 / 1500) < 2


def test_differences_are_red_on_a_pale_image() -> None:
    reference, labels = labels_with(0, (30, 40))
    labels[20, 10] = 1
    worst = Worst()
    worst.add("one", image_of((30, 40)), reference, labels)
    difference = worst.pictures[0].difference()
    red = (difference[..., 0] > 200) & (difference[..., 1] < 50)
    assert {tuple(place) for place in np.argwhere(red)} == {
        (row, column) for row in (19, 20, 21) for column in (9, 10, 11)
    }
    others = difference[~red]
    assert (others == others[0]).all()
    assert others[0].min() > 150


def test_an_image_one_pixel_wide_has_a_picture() -> None:
    worst = Worst()
    worst.add("thin", image_of((2000, 1)), *labels_with(2000, (2000, 1)))
    assert worst.pictures[0].differs.shape == (LONGEST_SIDE, 1)
