"""Which images are the worst, and what their pictures show."""

import numpy as np
import pytest

from training.ledger import Counts
from training.worst import Worst, choose, picture, score

PALETTE = [(10, 20, 30), (200, 0, 100), (0, 250, 0)]


def test_a_score_is_pixel_accuracy_and_mean_iou_of_present_classes() -> None:
    counts = Counts.of_matrix(np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]]), 0.0, ())
    assert score(counts, 3) == (0.75, pytest.approx((6 / 8 + 0) / 2))
    assert score(Counts.of_matrix(np.zeros((3, 3), np.int64), 0.0, ()), 3) is None


def test_the_lowest_accuracy_comes_first_then_the_first_of_equals() -> None:
    scores = {0: (0.9, 0.0), 1: (0.5, 0.9), 2: None, 3: (0.5, 0.1), 4: (0.7, 0.2)}
    assert choose(scores, 3) == [1, 3, 4]
    assert choose(scores, 9) == [1, 3, 4, 0]
    assert choose(scores, 0) == []


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_kept_of_the_very_images_that_are_chosen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = {index: (float(rng.integers(0, 6)), 0.0) for index in range(20)}
    kept = Worst(4)
    for index in scores:
        kept.offer(index, scores[index], np.full((1, 1), index, np.uint8))
    labels = {index: kept.labels(index) for index in scores}
    assert {index for index, each in labels.items() if each is not None} == set(choose(scores, 4))
    assert all(each is None or each[0, 0] == index for index, each in labels.items())


def test_the_picture_shows_image_truth_prediction_and_errors() -> None:
    image = np.full((4, 6, 3), (100, 150, 200), np.uint8)
    truth = np.zeros((4, 6), np.uint8)
    truth[0] = 255
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 5] = 2
    shown = picture(image, truth, labels, PALETTE)
    assert shown.shape == (4, 24, 3)
    photograph, true, seen, errors = np.split(shown, 4, axis=1)
    assert np.array_equal(photograph, image)
    assert (true[0] == 0).all()
    assert (true[1:] == PALETTE[0]).all()
    assert (seen[1:, 5] == PALETTE[2]).all()
    assert (errors[0] == 0).all()
    assert (errors[1:, 5] == (230, 0, 0)).all()
    grey = errors[1:, :5]
    assert len(np.unique(grey)) == 1
    assert 0 < grey[0, 0, 0] < 128


def test_large_pictures_are_shrunk() -> None:
    side = np.zeros((600, 1000), np.uint8)
    shown = picture(np.zeros((600, 1000, 3), np.uint8), side, side.astype(np.uint16), PALETTE)
    assert shown.shape == (288, 4 * 480, 3)
