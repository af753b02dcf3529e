"""How a prediction fits its memory: bands, batches, blocks, and the error where nothing fits."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import MemoryBudgetError
from inference.plan import MEBIBYTE, Plan, Request, make_plan
from inference.windows import lay_out

GIBIBYTE = 1 << 30


def made_request(
    image_hw: tuple[int, int] = (300, 400),
    scales: tuple[float, ...] = (1.0,),
    base_size: int = 400,
    **changes: Any,
) -> Request:
    values: dict[str, Any] = {
        "image_hw": image_hw,
        "layouts": lay_out(image_hw, scales, base_size, (65, 65)),
        "crop_hw": (65, 65),
        "coarse_hw": (9, 9),
        "classes": 19,
        "mirrored": False,
        "confidence": False,
        "probabilities": False,
        "batch": 1,
        "block_values": 1 << 15,
        "tile": 32,
    }
    return Request(**(values | changes))


def smallest(request: Request) -> Plan:
    """The plan that no smaller budget allows."""
    budget = make_plan(request, 1 << 50).peak_bytes
    while True:
        try:
            plan = make_plan(request, budget)
        except MemoryBudgetError:
            return plan
        budget = plan.peak_bytes - 1


def test_an_ordinary_image_is_one_band() -> None:
    plan = make_plan(made_request(), GIBIBYTE)
    assert [band.rows for band in plan.bands] == [(0, 300)]
    assert plan.slots == len(list(plan.views(plan.bands[0]))) == 7 * 9


def test_mirrored_windows_follow_their_windows() -> None:
    plan = make_plan(made_request(mirrored=True), GIBIBYTE)
    views = list(plan.views(plan.bands[0]))
    assert plan.slots == len(views) == 2 * 63
    assert all(
        a[:3] == b[:3] and (a[3], b[3]) == (False, True) for a, b in zip(views[::2], views[1::2], strict=True)
    )


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.lists(st.sampled_from([0.2, 0.5, 1.0, 1.7, 3.0]), min_size=1, max_size=4),
    st.booleans(),
    st.floats(0, 1),
)
def test_whatever_the_budget_every_window_runs_once_and_is_there_when_needed(
    image_hw: tuple[int, int], scales: list[float], mirrored: bool, share: float
) -> None:
    request = made_request(image_hw, tuple(scales), 300, mirrored=mirrored)
    most, least = make_plan(request, 1 << 50).peak_bytes, smallest(request).peak_bytes
    plan = make_plan(request, round(least + share * (most - least)))
    assert plan.peak_bytes <= least + share * (most - least) + 1
    assert [band.rows[0] for band in plan.bands[1:]] == [band.rows[1] for band in plan.bands[:-1]]
    assert (plan.bands[0].rows[0], plan.bands[-1].rows[1]) == (0, image_hw[0])
    there: set[tuple[int, int]] = set()
    seen: set[tuple[int, int]] = set()
    for band in plan.bands:
        there = {(scale, row) for scale, row in there if row >= band.needed[scale][0]}
        new = {(scale, row) for scale, row, *_ in plan.views(band)}
        assert not new & seen
        seen |= new
        there |= new
        needed = {(scale, row) for scale, rows in enumerate(band.needed) for row in range(*rows)}
        assert needed <= there
        columns = [len(layout.columns.starts) for layout in request.layouts]
        assert sum(columns[scale] for scale, _ in there) * (1 + mirrored) <= plan.slots


def test_a_smaller_budget_means_more_bands_and_fewer_windows_at_once() -> None:
    request = made_request((2000, 400), (1.0,), 2000)
    whole, tight = make_plan(request, GIBIBYTE), smallest(request)
    assert len(tight.bands) > len(whole.bands) == 1
    assert tight.slots <= 3 * 10 < whole.slots


def test_a_batch_shrinks_where_bands_do_not_help() -> None:
    request = made_request((65, 65), (1.0,), 65, batch=32)
    assert make_plan(request, GIBIBYTE).batch == 32
    assert smallest(request).batch == 1


def test_over_the_budget_names_the_budget_the_need_and_the_mend() -> None:
    request = made_request((3000, 4000), classes=150, probabilities=True)
    with pytest.raises(MemoryBudgetError) as caught:
        make_plan(request, 100 * MEBIBYTE)
    message = str(caught.value)
    assert "100.0 MiB" in message
    assert "4000x3000" in message
    assert "most of it probabilities" in message
    assert "labels alone" in message
    assert "larger memory budget" in message


def test_thirty_megapixels_of_150_classes_fit_4_gib_at_their_own_size_and_at_six_scales() -> None:
    for scales in ((1.0,), (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)):
        request = made_request(
            (4472, 6708),
            layouts=lay_out((4472, 6708), scales, 6708, (465, 465)),
            crop_hw=(465, 465),
            coarse_hw=(59, 59),
            classes=150,
            mirrored=len(scales) > 1,
            confidence=True,
            block_values=1 << 18,
        )
        assert smallest(request).peak_bytes < (0.5 if len(scales) == 1 else 3) * GIBIBYTE


def test_blocks_hold_no_more_than_asked_for_even_where_a_small_image_is_scaled_up() -> None:
    for image_hw in ((5, 7), (1, 5000), (5000, 1), (300, 400)):
        request = made_request(image_hw, (1.0, 3.0), 512, classes=150, block_values=1 << 18)
        block_h, block_w = make_plan(request, GIBIBYTE).block_hw
        supports = [
            layout.rows.widest_support(block_h) * layout.columns.widest_support(block_w)
            for layout in request.layouts
        ]
        assert 150 * max(*supports, block_h * block_w) <= 1 << 18
        assert math.ceil(image_hw[0] / block_h) * math.ceil(image_hw[1] / block_w) < 2000


def test_of_a_few_pixels_that_are_scaled_up_a_hundredfold_little_is_held_at_once() -> None:
    request = made_request((5, 5), (1.0, 1.75), 512, classes=150, block_values=1 << 18, threads=4)
    assert make_plan(request, GIBIBYTE).memory["block"] < 4 * 5 * MEBIBYTE
