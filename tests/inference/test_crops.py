"""Pixels of windows: scaled as OpenCV scales the whole image, padded with the mean colour."""

import cv2
import numpy as np
import pytest

from inference.crops import WindowCutter, scaled_rows
from inference.windows import lay_out

MEAN = (123.7, 116.3, 103.5)


def made_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 50), (37, 91), (300, 200), (64, 64)])
@pytest.mark.parametrize("hw", [(1, 1), (20, 30), (64, 64), (128, 128), (333, 97)])
def test_scaled_rows_are_those_of_the_whole_image_scaled_by_opencv(
    image_hw: tuple[int, int], hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.planned_memory.SCALING_VALUES", 5000)
    image = made_image(*image_hw)
    expected = cv2.resize(image.astype(np.float32), hw[::-1], interpolation=cv2.INTER_LINEAR)
    start, stop = hw[0] // 3, hw[0] - hw[0] // 4
    np.testing.assert_allclose(scaled_rows(image, hw, start, stop), expected[start:stop], atol=1e-4)


def test_an_image_of_its_own_size_is_not_copied() -> None:
    image = made_image(40, 50)
    assert np.shares_memory(scaled_rows(image, (40, 50), 10, 30), image)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_windows_are_cut_from_the_scaled_image_padded_with_the_mean(scale: float) -> None:
    image = made_image(60, 90)
    (layout,) = lay_out((60, 90), (scale,), 90, (57, 65))
    scaled = cv2.resize(image.astype(np.float32), layout.hw[::-1], interpolation=cv2.INTER_LINEAR)
    rows, columns = layout.rows, layout.columns
    top, left = rows.before, columns.before
    padded = cv2.copyMakeBorder(
        scaled,
        top,
        rows.padded - rows.scaled - top,
        left,
        columns.padded - columns.scaled - left,
        cv2.BORDER_CONSTANT,
        value=MEAN,
    )
    cutter = WindowCutter(image, (layout,), MEAN)
    for row, y in enumerate(rows.starts):
        for column, x in enumerate(columns.starts):
            found = np.full((3, 57, 65), -1, np.float32)
            cutter.cut(0, row, column, found)
            np.testing.assert_allclose(
                found.transpose(1, 2, 0),
                padded[y : y + 57, x : x + 65],
                atol=1e-4,
                err_msg=f"{row}, {column}",
            )
