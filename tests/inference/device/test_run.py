"""The published protocol on torch tensors, with the kernels and without: against the slow oracle."""

import importlib.util
import logging
import os
from typing import Any

import numpy as np
import pytest
import torch

from inference.arrays import Workspace
from inference.device import availability
from inference.device.availability import find_kernels, give_up
from inference.errors import EngineError, PredictionCancelled
from inference.predictor import Prediction, Predictor
from tests.inference.fakes import ConvolutionEngine, made_info
from tests.inference.judging import assert_published
from tests.oracle import published_probabilities

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
NEEDS_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
)

Case = tuple[tuple[int, int], int, tuple[int, int], tuple[float, ...], bool, bool, int]
"""Image, base size, crop, scales, flip, align_corners, classes."""
CASES: list[Case] = [
    ((33, 33), 33, (33, 33), (1.0,), False, True, 5),  # one window
    ((40, 60), 60, (33, 33), (1.0,), True, True, 5),  # no resampling; the last window is pushed back
    ((61, 45), 60, (33, 41), (0.5, 1.3), True, False, 19),  # padded at one scale
    ((9, 13), 60, (33, 33), (0.5, 1.5), False, True, 300),  # far larger; labels of 16 bits
    ((1, 90), 60, (33, 33), (1.0, 0.5), True, True, 5),
]
SMALL: list[Case] = [
    ((10, 15), 15, (9, 9), (0.5, 1.0), True, True, 5),
    ((7, 5), 9, (9, 9), (1.0,), False, False, 300),
]


def predicted(case: Case, *, device: str = "cpu", budget: int = 1 << 30) -> tuple[Prediction, np.ndarray]:
    """By the predictor on torch tensors, and by the oracle."""
    image_hw, base_size, crop_hw, scales, flip, align_corners, classes = case
    predictor = predictor_of(case, device=device, budget=budget)
    image = np.random.default_rng(sum(image_hw)).integers(0, 256, (*image_hw, 3), np.uint8)
    options: dict[str, Any] = {"scales": scales, "flip": flip, "base_size": base_size}
    found = predictor.predict(image, confidence=True, probabilities=True, **options)
    expected = published_probabilities(
        ConvolutionEngine(classes, crop_hw).infer,
        image,
        crop_hw=crop_hw,
        mean_rgb=predictor.info.mean_rgb,
        align_corners=align_corners,
        **options,
    )
    return found, expected


def predictor_of(case: Case, *, device: str = "cpu", budget: int = 1 << 30) -> Predictor:
    _, _, crop_hw, _, _, align_corners, classes = case
    engine = ConvolutionEngine(classes, crop_hw, convert=lambda array: torch.from_numpy(array).to(device))
    info = made_info(classes, crop_hw, align_corners=align_corners)
    return Predictor(info, engine, memory_budget_bytes=budget)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torchs_own_operations_give_the_published_probabilities(case: Case) -> None:
    assert_published(*predicted(case), clear_share=0.98)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("case", [*CASES, *SMALL], ids=str)
def test_kernels_on_a_gpu_give_the_published_probabilities(case: Case) -> None:
    device = torch.device("cuda", 0)
    assert find_kernels(device) is not None
    found, expected = predicted(case, device="cuda:0")
    assert_published(found, expected, clear_share=0.98)
    predictor = predictor_of(case, device="cuda:0")
    image = np.random.default_rng(sum(case[0])).integers(0, 256, (*case[0], 3), np.uint8)
    alone = predictor.predict(image, base_size=case[1], scales=case[3], flip=case[4])
    np.testing.assert_array_equal(alone.labels, found.labels)
    assert find_kernels(device) is not None, "the kernels failed and others did their work"


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("case", CASES, ids=str)
def test_torchs_own_operations_on_a_gpu_do_too(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "_found", {"cuda:0": None})
    assert_published(*predicted(case, device="cuda:0"), clear_share=0.98)


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("kernels", [True, False])
def test_device_memory_peaks_where_the_plan_says(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case: Case = ((900, 1400), 1400, (257, 257), (0.5, 1.0, 1.5), True, True, 60)
    predictor, options = predictor_of(case, device="cuda:0"), {"scales": case[3], "flip": True}
    if not kernels:
        monkeypatch.setattr(availability, "_found", {"cuda:0": None})
    image = np.random.default_rng(0).integers(0, 256, (*case[0], 3), np.uint8)
    plan = predictor.plan(image.shape[:2], base_size=1400, **options)  # type: ignore[arg-type]
    predictor.predict(image, base_size=1400, **options)  # type: ignore[arg-type]
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    predictor.predict(image, base_size=1400, **options)  # type: ignore[arg-type]
    held = torch.cuda.max_memory_allocated() - before
    # Without kernels blocks may be narrower than planned.
    assert (0.9 if kernels else 0.5) * plan.peak_bytes <= held <= 1.1 * plan.peak_bytes


@NEEDS_TRITON
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels run on the GPU here")
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_kernels_give_the_published_probabilities_in_tritons_interpreter(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = importlib.import_module("inference.device.kernels")
    monkeypatch.setattr(availability, "_found", {"cpu": kernels})
    image_hw, base_size, _, scales, flip, *_ = case
    plan = predictor_of(case).plan(image_hw, base_size=base_size, scales=scales, flip=flip)
    assert plan.request.fused  # type: ignore[union-attr]
    assert_published(*predicted(case), clear_share=0.98)
    assert find_kernels(torch.device("cpu")) is kernels, "the kernels failed and others did their work"


def test_bands_give_what_one_band_gives() -> None:
    case: Case = ((180, 40), 180, (33, 33), (1.0, 0.6), True, True, 5)
    wide, options = predictor_of(case), {"base_size": 180, "flip": True, "scales": case[3]}
    image = np.random.default_rng(0).integers(0, 256, (180, 40, 3), np.uint8)
    plan = wide.plan((180, 40), **options)  # type: ignore[arg-type]
    banded = predictor_of(case, budget=plan.peak_bytes - plan.memory["window logits"] // 5)
    assert len(banded.plan((180, 40), **options).bands) > len(plan.bands) == 1  # type: ignore[union-attr, arg-type]
    np.testing.assert_array_equal(
        banded.predict(image, **options).labels,  # type: ignore[arg-type]
        wide.predict(image, **options).labels,  # type: ignore[arg-type]
    )


def test_images_of_any_strides_and_read_only_ones_are_taken_and_left_as_they_were() -> None:
    predictor = predictor_of(CASES[1])
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    expected = predictor.predict(np.ascontiguousarray(image[::-1, ::2])).labels
    before = image.copy()
    image.flags.writeable = False
    np.testing.assert_array_equal(predictor.predict(image[::-1, ::2]).labels, expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predictor_of(CASES[1])
    infer = predictor.engine.infer

    def spoilt(images: Any) -> Any:
        logits = infer(images)
        logits[-1, 2, 3, 1] = wrong
        return logits

    monkeypatch.setattr(predictor.engine, "infer", spoilt)
    with pytest.raises(EngineError, match="not finite"):
        predictor.predict(np.zeros((40, 60, 3), np.uint8))


def test_a_check_that_raises_gives_the_work_up() -> None:
    predictor, calls = predictor_of(CASES[1]), []

    def check() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise PredictionCancelled("nobody waits")

    with pytest.raises(PredictionCancelled):
        predictor.predict(np.zeros((40, 60, 3), np.uint8), flip=True, check=check)
    assert len(predictor.engine.batches) == 1  # type: ignore[attr-defined]


def test_too_little_memory_is_an_error_that_says_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, empty = predictor_of(CASES[1]), Workspace.empty

    def scarce(work: Workspace, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        if len(shape) == 4:  # the logits of windows
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return empty(work, shape, dtype)

    monkeypatch.setattr(Workspace, "empty", scarce)
    with pytest.raises(EngineError, match="too small for 60x40 pixels.* MiB .*smaller memory budget"):
        predictor.predict(np.zeros((40, 60, 3), np.uint8))


def test_kernels_that_fail_are_said_once_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        class Tile:
            of = staticmethod(lambda classes: None)

        @staticmethod
        def cut(*arguments: Any) -> None:
            raise RuntimeError("no compiler\nand more")

        finish = cut

    monkeypatch.setattr(availability, "_found", {"cpu": Broken})
    predictor = predictor_of(CASES[1])
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    assert predictor.plan((40, 60)).request.fused  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING):
        found = predictor.predict(image, confidence=True)
        give_up(torch.device("cpu"), RuntimeError("again"))
    assert [record.getMessage() for record in caplog.records] == [
        "stitching on cpu without Triton's kernels, which is slower: no compiler"
    ]
    assert find_kernels(torch.device("cpu")) is None
    expected = predictor.predict(image, confidence=True)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.confidence, expected.confidence)
    assert not predictor.plan((40, 60)).request.fused  # type: ignore[union-attr]
