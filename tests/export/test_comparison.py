"""The comparison of logits finds what is wrong with an engine, and lets pass what is right."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.comparison import Comparison, compare, require, sample_images
from export.errors import VerificationError

SIZE_HW, COARSE_HW = (33, 41), (5, 6)
GOOD = Comparison(1e-4, 1e-5, 1.0, 5.0, True)


class Network(nn.Module):
    """Three classes at stride 8, corners aligned."""

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(
            self.coarse_logits(images), images.shape[2:], mode="bilinear", align_corners=True
        )

    def coarse_logits(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, COARSE_HW) * torch.tensor([0.01, 0.02, -0.03]).view(1, 3, 1, 1)


class FakeEngine:
    """The network's own logits, spoilt by `change`."""

    name, device, crop_hw, coarse_hw, preferred_batch = "fake", "cpu", SIZE_HW, COARSE_HW, 1
    limits_hw = None

    def __init__(self, change: Any = lambda logits: logits, max_batch: int | None = None) -> None:
        self.change, self.max_batch = change, max_batch
        self.batches: list[int] = []

    def to_device(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        return array

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        logits: NDArray[np.float32] = self.change(Network().coarse_logits(torch.from_numpy(images)).numpy())
        return logits

    def close(self) -> None:
        pass


def compared(engine: FakeEngine, *, align_corners: bool = True) -> Comparison:
    return compare(engine, Network(), sample_images(SIZE_HW), align_corners=align_corners)


def test_an_engine_that_is_the_network_passes() -> None:
    engine = FakeEngine()
    comparison = compared(engine)
    assert comparison.max_logit_error < 1e-6
    assert comparison.label_agreement == 1
    assert comparison.finite
    assert comparison.deviation > 0.1
    assert sorted(engine.batches) == [1, 1, 2]
    require(comparison, "fp32")


def test_an_engine_that_takes_one_image_at_a_time_is_given_one() -> None:
    engine = FakeEngine(max_batch=1)
    require(compared(engine), "fp32")
    assert set(engine.batches) == {1}


def test_the_largest_and_the_mean_error_are_told() -> None:
    def change(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = logits.copy()
        logits[:, 0] += 0.25
        return logits

    comparison = compared(FakeEngine(change))
    assert comparison.max_logit_error == pytest.approx(0.25, rel=1e-4)
    assert comparison.mean_logit_error == pytest.approx(0.25 / 3, rel=1e-4)
    with pytest.raises(VerificationError, match="in fp32"):
        require(comparison, "fp32")


def test_an_engine_that_mixes_images_of_a_batch_is_found_out() -> None:
    comparison = compared(FakeEngine(lambda logits: logits[::-1].copy()))
    with pytest.raises(VerificationError):
        require(comparison, "fp32")


def test_the_wrong_corner_rule_is_found_out() -> None:
    with pytest.raises(VerificationError):
        require(compared(FakeEngine(), align_corners=False), "fp32")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_values_that_are_not_finite_fail_in_every_precision(value: float, precision: Any) -> None:
    def change(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = logits.copy()
        logits[-1, 1, 2, 3] = value
        return logits

    comparison = compared(FakeEngine(change))
    assert not comparison.finite
    with pytest.raises(VerificationError, match="finite"):
        require(comparison, precision)


def test_swapped_classes_fail_in_every_precision() -> None:
    comparison = compared(FakeEngine(lambda logits: np.roll(logits, 1, axis=1)))
    assert comparison.label_agreement < 0.5
    with pytest.raises(VerificationError, match="90.0000% of labels must agree in fp16"):
        require(comparison, "fp16")


@pytest.mark.parametrize("change", [lambda logits: logits[:, :2], lambda logits: logits[0]])
def test_logits_of_another_shape_are_refused(change: Any) -> None:
    with pytest.raises(VerificationError, match="shape"):
        compared(FakeEngine(lambda logits: change(logits)))


def test_the_tolerances_are_those_promised() -> None:
    require(replace(GOOD, max_logit_error=1.99e-3, label_agreement=0.99991), "fp32")
    for beyond in (replace(GOOD, max_logit_error=2.01e-3), replace(GOOD, label_agreement=0.99989)):
        with pytest.raises(VerificationError):
            require(beyond, "fp32")
        require(beyond, "fp16")
    require(replace(GOOD, max_logit_error=3.0, label_agreement=0.901), "int8")
    for precision in ("fp16", "int8"):
        with pytest.raises(VerificationError):
            require(replace(GOOD, label_agreement=0.899), precision)  # type: ignore[arg-type]


def test_logits_of_thousands_are_held_to_what_float32_resolves() -> None:
    require(replace(GOOD, max_logit_error=0.9, deviation=5000.0), "fp32")
    with pytest.raises(VerificationError):
        require(replace(GOOD, max_logit_error=1.1, deviation=5000.0), "fp32")


def test_sample_images_are_noise_and_a_smooth_picture_the_same_every_time() -> None:
    images = sample_images(SIZE_HW)
    assert (images.shape, images.dtype) == ((2, 3, *SIZE_HW), np.float32)
    assert images.min() >= 0
    assert images.max() <= 255
    assert images[1].max() - images[1].min() > 250
    steps = abs(np.diff(images, axis=3)).mean((1, 2, 3))
    assert steps[1] < steps[0] / 4
    np.testing.assert_array_equal(images, sample_images(SIZE_HW))
