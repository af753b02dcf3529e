"""Metrics against counts made pixel by pixel, and the official conventions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.errors import ParameterError
from inference.metrics import ConfusionMatrix

CLASSES = 4
maps = arrays(np.uint8, (5, 6), elements=st.integers(0, CLASSES - 1))
truths = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, 255]))


def filled(*pairs: tuple[np.ndarray, np.ndarray]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(CLASSES)
    for labels, truth in pairs:
        matrix.update(labels, truth)
    return matrix


@given(maps, truths)
def test_every_figure_is_what_counting_gives(labels: np.ndarray, truth: np.ndarray) -> None:
    matrix, counted = filled((labels, truth)), truth != 255
    iou, accuracy, present = [], [], []
    for index in range(CLASSES):
        found, true = (labels == index) & counted, truth == index
        union = (found | true).sum()
        iou.append((found & true).sum() / union if union else 0.0)
        accuracy.append((found & true).sum() / true.sum() if true.any() else 0.0)
        present += [iou[-1]] if union else []
    np.testing.assert_allclose(matrix.iou, iou)
    np.testing.assert_allclose(matrix.accuracy, accuracy)
    assert matrix.mIoU == pytest.approx(np.mean(iou))
    assert matrix.mAcc == pytest.approx(np.mean(accuracy))
    assert matrix.mIoU_present == pytest.approx(np.mean(present) if present else 0.0)
    assert matrix.allAcc == pytest.approx(((labels == truth) & counted).sum() / max(counted.sum(), 1))


@given(maps, truths, maps, truths)
def test_merging_is_seeing_both_images(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> None:
    first, second = filled((a, b)), filled((c, d))
    first.merge(second)
    np.testing.assert_array_equal(first.counts, filled((a, b), (c, d)).counts)


def test_a_class_that_is_nowhere_counts_as_nothing_in_the_official_mean_alone() -> None:
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    matrix = filled((labels, labels))
    assert matrix.mIoU == matrix.mAcc == 0.5
    assert matrix.mIoU_present == matrix.allAcc == 1.0


def test_predictions_on_ignored_pixels_count_nowhere() -> None:
    matrix = filled((np.array([[3, 0]], np.uint8), np.array([[255, 0]], np.uint8)))
    assert matrix.counts.sum() == 1
    assert matrix.union[3] == 0


@pytest.mark.parametrize("value", [CLASSES, CLASSES + 1, 254])
def test_a_truth_beyond_the_classes_is_an_error_not_the_last_class(value: int) -> None:
    matrix = ConfusionMatrix(CLASSES)
    with pytest.raises(ParameterError, match=f"class id {value}.*0..3, 255 is left out"):
        matrix.update(np.zeros((2, 2), np.uint8), np.array([[0, 1], [value, 255]], np.uint8))
    assert not matrix.counts.any()


def test_labels_beyond_the_classes_are_an_error() -> None:
    with pytest.raises(ParameterError, match="labels holds class id 9"):
        ConfusionMatrix(CLASSES).update(np.full((2, 2), 9, np.uint8), np.zeros((2, 2), np.uint8))


def test_negative_truths_are_an_error() -> None:
    with pytest.raises(ParameterError, match="class id -1"):
        ConfusionMatrix(CLASSES).update(np.zeros((2, 2), np.int64), np.full((2, 2), -1))


def test_sizes_and_class_counts_must_agree() -> None:
    with pytest.raises(ParameterError, match="one size"):
        ConfusionMatrix(CLASSES).update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ParameterError, match="join"):
        ConfusionMatrix(CLASSES).merge(ConfusionMatrix(5))


def test_nothing_counted_is_no_division_by_zero() -> None:
    matrix = filled((np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)))
    assert matrix.mIoU == matrix.mIoU_present == matrix.mAcc == matrix.allAcc == 0.0


def test_labels_of_16_bits_are_counted_without_overflow() -> None:
    matrix = ConfusionMatrix(700)
    ids = np.arange(700, dtype=np.uint16)[None]
    matrix.update(ids, ids, ignore=65535)
    assert matrix.mIoU == 1.0
