"""Blocks of probabilities: the softmax, ties, and how logits are kept and let go."""

import numpy as np
import pytest

from inference.arrays import Workspace
from inference.errors import EngineError
from inference.plan import Plan, Request, make_plan
from inference.stitch import Stitcher
from inference.window_logits import WindowLogits
from inference.windows import lay_out
from tests.oracle import softmax, upsampled


def made_plan(classes: int = 4, image_hw: tuple[int, int] = (33, 33), budget: int = 1 << 30) -> Plan:
    request = Request(
        image_hw=image_hw,
        layouts=lay_out(image_hw, (1.0,), max(image_hw), (33, 33)),
        crop_hw=(33, 33),
        coarse_hw=(5, 5),
        classes=classes,
        mirrored=False,
        confidence=True,
        probabilities=False,
        batch=1,
        block_values=1 << 18,
        tile=32,
    )
    return make_plan(request, budget)


def made_stitcher(plan: Plan, *, align_corners: bool = True) -> tuple[WindowLogits, Stitcher]:
    work = Workspace(np.zeros(1))
    kept = WindowLogits(plan, work)
    return kept, Stitcher(plan, kept, work, align_corners=align_corners)


def one_window(logits: np.ndarray, *, align_corners: bool = True) -> np.ndarray:
    """The probabilities of an image that is one window."""
    plan = made_plan(logits.shape[0])
    kept, stitcher = made_stitcher(plan, align_corners=align_corners)
    kept.keep(list(plan.views(plan.bands[0])), logits[None])
    return stitcher.block(stitcher.rows((0, 33)), 0, Workspace(logits)).copy()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("gain", [1.0, 20.0, 200.0, 3000.0])
def test_any_range_of_logits_gives_the_softmax(gain: float, align_corners: bool) -> None:
    logits = np.random.default_rng(1).normal(0, gain, (4, 5, 5)).astype(np.float32)
    expected = softmax(upsampled(logits, (33, 33), align_corners=align_corners))
    np.testing.assert_allclose(
        one_window(logits, align_corners=align_corners), expected, atol=1e-6 + 1e-7 * gain
    )


def test_corners_that_disagree_by_as_much_as_is_called_safe_do_not_underflow() -> None:
    logits = np.zeros((4, 5, 5), np.float32)
    for index in range(4):
        logits[index, index % 2 :: 2, index // 2 :: 2] = 59.9
    found = one_window(logits)
    np.testing.assert_allclose(found, softmax(upsampled(logits, (33, 33), align_corners=True)), atol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(wrong: float) -> None:
    logits = np.zeros((4, 5, 5), np.float32)
    logits[2, 3, 1] = wrong
    with pytest.raises(EngineError, match="not finite"):
        one_window(logits)


def test_logits_of_another_shape_are_an_error() -> None:
    plan = made_plan(4)
    kept, _ = made_stitcher(plan)
    with pytest.raises(EngineError, match=r"\(1, 5, 5, 5\).*\(1, 4, 5, 5\)"):
        kept.keep(list(plan.views(plan.bands[0])), np.zeros((1, 5, 5, 5), np.float32))


def test_windows_that_no_band_needs_any_more_give_their_place_to_others() -> None:
    whole = made_plan(4, (330, 33))
    plan = made_plan(4, (330, 33), budget=whole.peak_bytes - whole.memory["window logits"] // 2)
    assert len(plan.bands) > 2
    kept, stitcher = made_stitcher(plan)
    logits = np.zeros((1, 4, 5, 5), np.float32)
    for band in plan.bands:
        kept.release(band)
        for view in plan.views(band):
            kept.keep([view], logits + view[1])
        block = stitcher.block(
            stitcher.rows((band.rows[0], min(band.rows[0] + 16, 330))), 0, Workspace(logits)
        )
        np.testing.assert_allclose(block, 0.25, atol=1e-6)
