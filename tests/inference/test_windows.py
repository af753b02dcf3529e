"""Where windows lie: sizes, padding, stride, the last window, and what an interval of the image needs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InferenceError, ParameterError
from inference.windows import Axis, lay_out, scaled_hw, validate_base_size, validate_scales

axes = st.builds(
    Axis.lay_out, st.integers(1, 300), st.integers(1, 300), st.integers(1, 90).map(lambda n: 2 * n + 1)
)


@pytest.mark.parametrize(
    ("image_hw", "scale", "base_size", "expected"),
    [
        ((1024, 2048), 1.0, 2048, (1024, 2048)),
        ((683, 512), 1.0, 512, (512, 384)),
        ((500, 500), 0.5, 513, (256, 256)),  # 256.5: halves go to even
        ((500, 500), 0.5, 515, (258, 258)),  # 257.5
        ((1, 5000), 1.0, 512, (1, 512)),  # the published tool would make it 0
        ((5000, 1), 0.5, 512, (256, 1)),
        ((1, 1), 1.75, 480, (840, 840)),
    ],
)
def test_the_long_side_is_the_rounded_scale_of_the_base_size(
    image_hw: tuple[int, int], scale: float, base_size: int, expected: tuple[int, int]
) -> None:
    assert scaled_hw(image_hw, scale, base_size) == expected


@pytest.mark.parametrize(
    "scales", [[], [0], [-1.0], [math.nan], [math.inf], [100], [1.0, 0.0], ["a"], 1.0, None]
)
def test_scales_that_cannot_be_are_refused_with_the_mend(scales: object) -> None:
    with pytest.raises(ParameterError, match=r"give|takes"):
        validate_scales(scales)  # type: ignore[arg-type]


def test_a_parameter_error_is_both_ours_and_a_value_error() -> None:
    assert issubclass(ParameterError, InferenceError)
    assert issubclass(ParameterError, ValueError)


@pytest.mark.parametrize("base_size", [0, -1, 1.5, True, "512", 1 << 17])
def test_base_sizes_that_cannot_be_are_refused(base_size: object) -> None:
    with pytest.raises(ParameterError, match="base_size"):
        validate_base_size(base_size)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scale", "base_size"), [(0.001, 100), (10.0, 60_000)])
def test_a_scaled_side_of_nothing_or_of_too_much_is_refused(scale: float, base_size: int) -> None:
    with pytest.raises(ParameterError, match="long side"):
        scaled_hw((100, 100), scale, base_size)


def test_padding_goes_on_both_sides_with_the_smaller_half_first() -> None:
    axis = Axis.lay_out(100, 40, 65)
    assert (axis.before, axis.padded, axis.starts) == (12, 65, (0,))


@pytest.mark.parametrize(("crop", "stride"), [(465, 310), (705, 470), (241, 161), (353, 236)])
def test_windows_overlap_by_a_third_and_the_last_is_flush(crop: int, stride: int) -> None:
    axis = Axis.lay_out(2048, 2048, crop)
    assert axis.starts[1] == stride
    assert axis.starts[-1] == 2048 - crop
    assert len(axis.starts) == math.ceil((2048 - crop) / stride) + 1


@given(axes)
def test_windows_cover_every_pixel_and_ascend(axis: Axis) -> None:
    covered = np.zeros(axis.padded, int)
    for start in axis.starts:
        assert 0 <= start <= axis.padded - axis.crop
        covered[start : start + axis.crop] += 1
    assert covered.min() >= 1
    assert all(a < b for a, b in zip(axis.starts, axis.starts[1:], strict=False))
    assert all(
        b - a <= math.ceil(axis.crop * 2 / 3) for a, b in zip(axis.starts, axis.starts[1:], strict=False)
    )
    assert axis.padded == max(axis.scaled, axis.crop)


@given(axes)
def test_no_window_is_nothing_but_padding(axis: Axis) -> None:
    for start in axis.starts:
        assert start < axis.before + axis.scaled
        assert start + axis.crop > axis.before


@given(axes)
def test_the_most_windows_over_a_pixel_are_counted(axis: Axis) -> None:
    covered = np.zeros(axis.padded, int)
    for start in axis.starts:
        covered[start : start + axis.crop] += 1
    assert axis.most_windows == covered.max()


@given(axes, st.data())
def test_the_windows_of_an_interval_are_those_that_overlap_it(axis: Axis, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, axis.image - 1))
    stop = data.draw(st.integers(start + 1, axis.image))
    low, high = axis.support(start, stop)
    assert 0 <= low < high <= axis.scaled
    assert high - low <= axis.widest_support(stop - start)
    overlapping = [
        index
        for index, at in enumerate(axis.starts)
        if at < high + axis.before and at + axis.crop > low + axis.before
    ]
    assert list(range(*axis.touched(low, high))) == overlapping


@given(axes, st.data())
def test_the_widest_support_is_hardly_more_than_there_is(axis: Axis, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, axis.image))
    supports = [axis.support(start, start + length) for start in range(axis.image - length + 1)]
    widest = max(high - low for low, high in supports)
    assert widest <= axis.widest_support(length) <= widest + 1


@given(axes)
def test_the_support_of_a_pixel_holds_both_its_neighbours(axis: Axis) -> None:
    for index in range(axis.image):
        low, high = axis.support(index, index + 1)
        position = min(max((index + 0.5) * axis.scaled / axis.image - 0.5, 0), axis.scaled - 1)
        assert low <= position + 1e-9
        assert position <= high - 1 + 1e-9


def test_scales_of_one_size_are_laid_out_once_with_their_weights() -> None:
    layouts = lay_out((100, 200), (1.0, 0.5, 1.0, 1.001), 200, (65, 65))
    assert [layout.hw for layout in layouts] == [(100, 200), (50, 100)]
    assert [layout.weight for layout in layouts] == pytest.approx([0.75, 0.25])
    assert [layout.same for layout in layouts] == [True, False]
