from pathlib import Path

import numpy as np
import pytest

from inference.pairs import read_label, read_list
from training.balance import class_weights, pixels_of_classes


def test_pixels_are_those_of_the_label_files(miniature: Path) -> None:
    pairs = read_list(miniature, miniature / "list/train.txt")
    found = pixels_of_classes(pairs, 11)
    labels = np.concatenate([read_label(path).ravel() for _, path in pairs])
    assert found.tolist() == [int((labels == number).sum()) for number in range(11)]


@pytest.mark.parametrize(("power", "ratio"), [(0.0, 1.0), (0.5, 3.0), (1.0, 9.0)])
def test_rarer_classes_weigh_more_and_a_pixel_1_on_average(power: float, ratio: float) -> None:
    pixels = np.array([900, 100, 0])
    weights = class_weights(pixels, power)
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert (weights * pixels).sum() / pixels.sum() == pytest.approx(1)
    assert weights[2] == 1


def test_labels_that_ignore_everything_weigh_1() -> None:
    assert class_weights(np.zeros(3, np.int64), 0.5).tolist() == [1, 1, 1]
