"""The confusion matrix as a table, a file and a picture."""

import csv

import numpy as np
import pytest

from inference.metrics import ConfusionMatrix
from training.confusion import as_csv, picture, table


def confusion_of(counts: list[list[int]]) -> ConfusionMatrix:
    confusion = ConfusionMatrix(len(counts))
    confusion.counts[:] = counts
    return confusion


THREE = confusion_of([[8, 2, 0], [0, 6, 0], [0, 0, 0]])
NAMES = ("sky", "a long name", "nowhere")


def test_the_table_gives_percent_and_dashes_for_a_class_that_is_nowhere() -> None:
    lines = table(THREE, NAMES).splitlines()
    rows = {line[:23].strip(): line[23:].split() for line in lines}
    assert rows["sky"] == ["80.00", "80.00", "62.50"]
    assert rows["a long name"] == ["75.00", "100.00", "37.50"]
    assert rows["nowhere"] == ["-", "-", "0.00"]
    assert rows["mean (official)"] == ["51.67", "60.00"]
    assert rows["mean of present classes"] == ["77.50"]
    assert rows["pixel accuracy"] == ["87.50"]
    assert len({len(line) for line in lines[:4]}) == 1


def test_the_file_holds_pixels_by_name() -> None:
    rows = list(csv.reader(as_csv(THREE, NAMES).splitlines()))
    assert rows[0][1:] == list(NAMES)
    assert [row[0] for row in rows[1:]] == list(NAMES)
    assert [[int(value) for value in row[1:]] for row in rows[1:]] == THREE.counts.tolist()


def cells(pixels: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes, 3): a pixel near each cell's corner, where no number is."""
    size = 44  # pixels a cell of small matrices
    start = pixels.shape[0] - 8 - classes * size
    at = start + np.arange(classes) * size + 4
    return pixels[at][:, at]


def test_cells_are_the_darker_the_larger_their_share_of_the_row() -> None:
    shown = cells(picture(confusion_of([[10, 0, 30], [0, 5, 0], [0, 0, 0]]), NAMES), 3).astype(int)
    assert (shown[0, 1] == 255).all()
    assert shown[1, 1].tolist() == [8, 48, 107]  # all of the row
    for channel, dark in enumerate((8, 48, 107)):
        assert shown[0, 0, channel] == round(255 + 0.25 * (dark - 255))
        assert shown[0, 2, channel] == round(255 + 0.75 * (dark - 255))


def test_a_row_without_true_pixels_is_grey() -> None:
    assert (cells(picture(THREE, NAMES), 3)[2] == 225).all()


@pytest.mark.parametrize("classes", [1, 2, 19, 150])
def test_any_number_of_classes_can_be_drawn(classes: int) -> None:
    names = [f"class {index}" for index in range(classes)]
    pixels = picture(confusion_of(np.eye(classes, dtype=int).tolist()), names)
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] == pixels.shape[1] < 2500
    assert (pixels.max(-1) < 80).any(), "names are written in black"
