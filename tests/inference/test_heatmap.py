"""Attention as a picture: grey where there is none, bright where there is most, and the point."""

import cv2
import numpy as np
import pytest

from inference.attention import Box, Point, PointAttention
from inference.errors import ParameterError
from inference.heatmap import MARKS, draw_attention, mark_point


def seen_of(weights: np.ndarray, hw: tuple[int, int], point: Point) -> PointAttention:
    """Weights on a grid whose cells tile the image."""
    rows, columns = (
        np.repeat(np.eye(n, dtype=np.float32), side // n, 0)
        for n, side in zip(weights.shape, hw, strict=True)
    )
    box = Box(0, 0, hw[1], hw[0])
    return PointAttention(point, (0, 0), {"collect": weights.astype(np.float32)}, box, box, rows, columns)


IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
WEIGHTS = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 0.0]])


def test_the_image_stays_in_grey_where_there_is_no_weight_and_shines_where_there_is_most() -> None:
    picture = draw_attention(IMAGE, seen_of(WEIGHTS, (60, 90), Point(75, 45)), "collect", alpha=1.0)
    assert (picture.shape, picture.dtype) == (IMAGE.shape, np.uint8)
    grey = cv2.cvtColor(IMAGE, cv2.COLOR_RGB2GRAY)
    nothing = picture[:30, :30].astype(int)
    assert np.ptp(nothing, axis=2).max() == 0
    assert abs(nothing[..., 0] - 0.7 * grey[:30, :30]).max() <= 1
    red, green, blue = picture[40, 35]
    assert (red > 245, green > 245, 100 < blue < 200) == (True, True, True)
    brightness = [picture[10, column].astype(int).sum() for column in (45, 75)]
    assert brightness == sorted(brightness)


def test_the_point_is_marked_in_its_color() -> None:
    for color in MARKS[:2]:
        seen = seen_of(WEIGHTS, (60, 90), Point(75, 45))
        picture = draw_attention(IMAGE, seen, "collect", color=color)
        assert tuple(picture[45, 75]) == color
    large = np.zeros((900, 1800, 3), np.uint8)
    mark_point(large, Point(100, 200), MARKS[1])
    assert tuple(large[200, 110]) == MARKS[1]
    assert tuple(large[200, 140]) == (0, 0, 0)


def test_one_large_weight_does_not_leave_the_rest_in_the_dark() -> None:
    weights = np.ones((20, 30))
    weights[3, 4] = 1000
    picture = draw_attention(IMAGE, seen_of(weights, (60, 90), Point(75, 45)), "collect", alpha=1.0)
    assert picture[20, 20].astype(int).sum() > 550


def test_a_large_image_is_drawn_in_parts_that_are_one_picture() -> None:
    image = np.full((1200, 900, 3), 100, np.uint8)
    seen = seen_of(WEIGHTS, (1200, 900), Point(0, 0))
    picture = draw_attention(image, seen, "collect")
    small = draw_attention(image[:60, :90].copy(), seen_of(WEIGHTS, (60, 90), Point(0, 0)), "collect")
    np.testing.assert_array_equal(picture[300::600, 150::300], small[15::30, 15::30])


def test_even_and_negative_weights_can_be_drawn() -> None:
    for weights in (np.zeros((2, 3)), WEIGHTS - 2):
        picture = draw_attention(IMAGE, seen_of(weights, (60, 90), Point(0, 0)), "collect")
        assert picture.shape == IMAGE.shape


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_that_cannot_be_is_refused(alpha: float) -> None:
    with pytest.raises(ParameterError, match="between 0 and 1"):
        draw_attention(IMAGE, seen_of(WEIGHTS, (60, 90), Point(0, 0)), "collect", alpha=alpha)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"\(59, 90\) and its attention \(60, 90\)"):
        draw_attention(IMAGE[1:], seen_of(WEIGHTS, (60, 90), Point(0, 0)), "collect")
