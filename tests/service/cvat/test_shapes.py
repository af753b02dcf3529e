"""Areas: every pixel of a class lies in exactly one, whatever the labels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.cvat.shapes import areas_of, outline_of

LABELS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))


def flooded(labels: Any) -> list[set[tuple[int, int]]]:
    """Areas of touching pixels of one class, corners too, found step by step."""
    left = set(np.ndindex(labels.shape))
    areas = []
    while left:
        area, edge = set(), [min(left)]
        while edge:
            row, column = edge.pop()
            if (row, column) not in left:
                continue
            left.remove((row, column))
            area.add((row, column))
            around = [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
            edge += [at for at in around if at in left and labels[at] == labels[row, column]]
        areas.append(area)
    return areas


@given(LABELS, st.integers(1, 5))
def test_areas_are_the_touching_pixels_of_a_class(labels: Any, min_pixels: int) -> None:
    confidence = np.linspace(0, 1, labels.size, dtype=np.float32).reshape(labels.shape)
    found = []
    for area in areas_of(labels, confidence, min_pixels):
        places = np.argwhere(area.mask) + (area.top, area.left)
        pixels = {(row, column) for row, column in places.tolist()}
        assert {int(labels[at]) for at in pixels} == {area.class_id}
        assert area.mask.any(axis=0)[[0, -1]].all()
        assert area.mask.any(axis=1)[[0, -1]].all()
        assert area.confidence == pytest.approx(np.mean([confidence[at] for at in pixels]), abs=1e-6)
        found.append(pixels)
    expected = [area for area in flooded(labels) if len(area) >= min_pixels]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_an_outline_lies_where_the_area_does() -> None:
    labels = np.zeros((10, 12), np.uint8)
    labels[3:7, 5:11] = 1
    (area,) = (each for each in areas_of(labels, np.ones(labels.shape, np.float32), 1) if each.class_id == 1)
    corners = outline_of(area)
    assert corners is not None
    points = set(zip(corners[::2], corners[1::2], strict=True))
    assert points == {(5, 3), (5, 6), (10, 6), (10, 3)}


def test_pixels_and_lines_have_no_outline() -> None:
    for size in ((1, 1), (1, 4)):
        (area,) = areas_of(np.zeros(size, np.uint8), np.ones(size, np.float32), 1)
        assert outline_of(area) is None
