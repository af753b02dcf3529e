"""Interpolation matrices against torch's and OpenCV's bilinear resampling."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.resample import AxisResampler, Taps
from inference.windows import Axis

SIZES = [(1, 1), (1, 7), (7, 1), (5, 33), (33, 5), (9, 65), (59, 465), (100, 37)]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_either_corner_rule_is_that_of_torch(inputs: int, outputs: int, align_corners: bool) -> None:
    values = np.random.default_rng(0).normal(size=inputs)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None, :, None],
        (outputs, 1),
        mode="bilinear",
        align_corners=align_corners,
    )[0, 0, :, 0]
    matrix = Taps.of(inputs, outputs, align_corners=align_corners).matrix((0, outputs), (0, inputs))
    np.testing.assert_allclose(matrix @ values, expected, atol=1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_half_pixel_centres_are_those_of_opencv(inputs: int, outputs: int) -> None:
    values = np.random.default_rng(0).normal(size=(inputs, 1))
    expected = cv2.resize(values, (1, outputs), interpolation=cv2.INTER_LINEAR)
    matrix = Taps.of(inputs, outputs, align_corners=False).matrix((0, outputs), (0, inputs))
    np.testing.assert_allclose(matrix @ values, expected, atol=1e-5)


@settings(max_examples=60)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 40).map(lambda n: 8 * n + 1), st.data())
def test_a_span_is_the_interval_of_the_whole_and_its_tiles_are_the_span(
    image: int, scaled: int, crop: int, data: st.DataObject
) -> None:
    axis = Axis.lay_out(image, scaled, crop)
    resampler = AxisResampler(axis, (crop - 1) // 8 + 1, align_corners=True)
    start = data.draw(st.integers(0, image - 1))
    stop = data.draw(st.integers(start + 1, image))
    whole, span = resampler.span(0, image), resampler.span(start, stop)
    full = np.zeros((image, scaled), np.float32)
    full[:, slice(*whole.support)] = whole.matrix()
    np.testing.assert_array_equal(span.matrix(), full[start:stop, slice(*span.support)])
    assert not np.delete(full[start:stop], range(*span.support), axis=1).any()
    if span.taps is not None:
        joined = np.zeros_like(span.matrix())
        for outputs, inputs, matrix in span.tiles(16):
            joined[slice(*outputs), slice(*inputs)] = matrix
        np.testing.assert_array_equal(joined, span.matrix())


@settings(max_examples=60)
@given(st.integers(1, 200), st.integers(0, 8).map(lambda n: 8 * n + 1), st.booleans())
def test_windows_of_ones_are_resampled_to_ones(scaled: int, crop: int, align_corners: bool) -> None:
    resampler = AxisResampler(
        Axis.lay_out(77, scaled, crop), (crop - 1) // 8 + 1, align_corners=align_corners
    )
    span = resampler.span(10, 60)
    total = np.zeros(span.length)
    for part in span.parts:
        total[slice(*part.at)] += part.matrix @ np.ones(part.coarse[1] - part.coarse[0])
    np.testing.assert_allclose(span.matrix() @ total, np.ones(50), atol=1e-5)
