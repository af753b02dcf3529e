"""Sizes and windows of MMSegmentation's protocol, against loops and against what it publishes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import ParameterError
from inference.mmseg_layout import Box, WindowAxis, box_of, fitted_hw, lay_out_pictures
from tests.inference.fakes import made_info


def laid_out(image_hw: tuple[int, int], scales: Any, box: Box, **changes: Any) -> Any:
    values: dict[str, Any] = {"crop_hw": None, "padded": False, "coarse_of": lambda window_hw: (1, 1)}
    return lay_out_pictures(image_hw, scales, box, **(values | changes))


@pytest.mark.parametrize(
    ("image_hw", "box", "expected"),
    [
        ((1024, 2048), (2048, 1024), (1024, 2048)),  # Cityscapes
        ((1024, 2048), (2049, 1025), (1025, 2049)),
        ((512, 683), (2048, 512), (512, 683)),  # ADE20K: the short side decides
        ((683, 512), (2048, 512), (683, 512)),
        ((375, 500), (2048, 512), (512, 683)),  # VOC
        ((100, 2000), (2048, 512), (102, 2048)),  # the long side decides
        ((333, 500), (512, None), (341, 512)),
        ((1, 9), (4, None), (1, 4)),  # 0.44 pixels are still one
        ((3, 4), (2, 2), (2, 2)),  # 1.5 is 2: halves up
    ],
)
def test_images_are_made_as_large_as_fits_the_box(
    image_hw: tuple[int, int], box: Box, expected: tuple[int, int]
) -> None:
    assert fitted_hw(image_hw, box) == expected


@given(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), st.integers(1, 3000), st.integers(1, 3000))
def test_pictures_fit_their_box_and_touch_it(image_hw: tuple[int, int], first: int, second: int) -> None:
    box = max(first, second), min(first, second)
    height, width = fitted_hw(image_hw, box)
    assert max(height, width) <= box[0]
    assert min(height, width) <= box[1]
    assert max(height, width) == box[0] or min(height, width) == box[1]


def test_multi_scale_sides_are_cut_off_before_the_image_is_fitted() -> None:
    """0.x: (int(2049 * 0.75), int(1025 * 0.75)) = (1536, 768)."""
    (picture,) = laid_out((1024, 2048), (0.75,), (2049, 1025))
    assert picture.hw == (768, 1536)


def test_scales_of_one_size_are_one_picture() -> None:
    first, second = laid_out((30, 40), (1.0, 0.5, 1.0, 1.001), (40, 30))
    assert (first.hw, second.hw) == ((30, 40), (15, 20))
    assert (first.weight, second.weight) == (0.75, 0.25)


@pytest.mark.parametrize(("scales", "box"), [((0.01,), (60, 40)), ((0.02,), (60, 40)), ((10,), (7000, None))])
def test_scales_that_leave_nothing_or_too_much_are_refused(scales: Any, box: Box) -> None:
    with pytest.raises(ParameterError, match="choose them for 1 to 65536"):
        laid_out((30, 40), scales, box)


def test_base_size_scales_both_sides_of_the_box() -> None:
    info = made_info(base_size=2048, base_short=512)
    assert box_of(info, None) == box_of(info, 2048) == (2048, 512)
    assert box_of(info, 1024) == (1024, 256)
    assert box_of(info, 2) == (2, 1)
    assert box_of(made_info(base_size=512), 300) == (300, None)
    with pytest.raises(ParameterError, match="base_size"):
        box_of(info, 0)


def test_769_windows_lie_where_mmsegmentation_has_them() -> None:
    axis = WindowAxis.lay_out(2048, 2049, 769, padded=False)
    assert axis.starts == (0, 513, 1026, 1280)
    assert WindowAxis.lay_out(1024, 1025, 769, padded=False).starts == (0, 256)


@given(st.integers(1, 400), st.integers(1, 100), st.booleans())
def test_windows_cover_the_picture_and_stay_inside(resized: int, crop: int, padded: bool) -> None:
    axis = WindowAxis.lay_out(50, resized, crop, padded=padded)
    covered = np.zeros(resized, int)
    for start in axis.starts:
        assert start >= 0
        assert start + axis.content <= resized
        covered[start : start + axis.content] += 1
    assert covered.min() >= 1
    assert axis.window == (crop if padded or resized > crop else resized)
    assert axis.content == min(crop, resized)


def test_whole_pictures_are_one_window() -> None:
    axis = WindowAxis.lay_out(50, 400, None, padded=False)
    assert (axis.window, axis.content, axis.starts) == (400, 400, (0,))
