"""The predictor against the published protocol, written slowly; and what it promises besides."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import BundleError, MemoryBudgetError, ParameterError, PredictionCancelled
from inference.predictor import Predictor
from tests.inference.fakes import ConvolutionEngine, made_info
from tests.inference.judging import assert_published, traced_peak
from tests.oracle import published_probabilities

SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def made_image(height: int, width: int) -> np.ndarray:
    """Smooth enough that scaling it means something, rough enough that places differ."""
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def predictor_of(
    engine: ConvolutionEngine, *, align_corners: bool = True, budget: int = 1 << 30
) -> Predictor:
    info = made_info(len(engine._weights), engine.crop_hw, align_corners=align_corners)
    return Predictor(info, engine, memory_budget_bytes=budget)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("image_hw", "base_size", "crop_hw", "scales", "align_corners"),
    [
        ((40, 60), 60, (33, 33), (1.0,), True),  # no resampling, four windows
        ((40, 60), 60, (33, 33), (1.0,), False),
        ((33, 33), 33, (33, 33), (1.0,), True),  # one window
        ((61, 45), 60, (33, 41), (0.5, 1.3), True),  # upright; padded at one scale
        ((30, 40), 40, (33, 33), SIX_SCALES, True),
        ((30, 70), 60, (25, 33), (1.0, 1.0, 0.5), True),  # one size twice
        ((200, 150), 40, (33, 33), (1.0,), True),  # far smaller
        ((9, 13), 60, (33, 33), (0.5, 1.5), False),  # far larger
        ((1, 1), 40, (33, 33), (1.0,), True),
        ((1, 300), 60, (33, 33), (1.0, 0.5), True),
        ((300, 1), 60, (33, 33), (1.0,), True),
    ],
)
def test_probabilities_are_those_of_the_published_protocol(
    image_hw: tuple[int, int],
    base_size: int,
    crop_hw: tuple[int, int],
    scales: tuple[float, ...],
    align_corners: bool,
    flip: bool,
) -> None:
    engine = ConvolutionEngine(5, crop_hw)
    predictor, image = predictor_of(engine, align_corners=align_corners), made_image(*image_hw)
    found = predictor.predict(
        image, scales=scales, flip=flip, base_size=base_size, confidence=True, probabilities=True
    )
    expected = published_probabilities(
        engine.infer,
        image,
        crop_hw=crop_hw,
        base_size=base_size,
        mean_rgb=predictor.info.mean_rgb,
        scales=scales,
        flip=flip,
        align_corners=align_corners,
    )
    assert_published(found, expected)


@pytest.mark.parametrize("align_corners", [True, False])
def test_labels_alone_of_one_window_are_those_that_come_with_confidence(align_corners: bool) -> None:
    engine, image = ConvolutionEngine(19, (65, 41)), made_image(65, 41)
    predictor = predictor_of(engine, align_corners=align_corners)
    assert predictor.plan((65, 41), base_size=65).alone  # type: ignore[union-attr]
    for options in ({"confidence": True}, {"flip": True}, {"scales": (1.0, 0.5)}, {"probabilities": True}):
        assert not predictor.plan((65, 41), base_size=65, **options).alone  # type: ignore[arg-type, union-attr]
    alone = predictor.predict(image, base_size=65).labels
    np.testing.assert_array_equal(alone, predictor.predict(image, base_size=65, confidence=True).labels)
    assert len(np.unique(alone)) > 5


def test_ties_of_one_window_go_to_the_lowest_class_with_and_without_softmax() -> None:
    engine = ConvolutionEngine(6, (33, 33))
    engine._places[3:] = engine._places[:3]
    engine._weights[3:] = engine._weights[:3]
    predictor, image = predictor_of(engine), made_image(33, 33)
    alone = predictor.predict(image, base_size=33).labels
    assert alone.max() < 3
    np.testing.assert_array_equal(alone, predictor.predict(image, base_size=33, confidence=True).labels)


def test_averaging_logits_would_be_noticed() -> None:
    engine = ConvolutionEngine(5)
    predictor, image = predictor_of(engine), made_image(33, 33)
    found = predictor.predict(image, base_size=33, flip=True, probabilities=True).probabilities
    pixels = image.astype(np.float32).transpose(2, 0, 1)[None]
    both = engine.infer(pixels) + engine.infer(pixels[..., ::-1])[..., ::-1]
    scores = np.exp(both[0] / 2)
    assert found is not None
    assert np.abs(found[:, ::8, ::8] - scores / scores.sum(0)).max() > 1e-3


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.lists(st.sampled_from([0.3, 0.7, 1.0, 1.4, 2.0]), min_size=1, max_size=3),
    st.booleans(),
    st.floats(0, 1),
    st.integers(1, 5),
)
def test_neither_the_budget_nor_the_batch_changes_the_answer(
    image_hw: tuple[int, int], scales: list[float], flip: bool, share: float, batch: int
) -> None:
    image, options = (
        made_image(*image_hw),
        {"scales": scales, "flip": flip, "base_size": 90, "probabilities": True},
    )
    wide = predictor_of(ConvolutionEngine(5))
    expected = wide.predict(image, **options)  # type: ignore[arg-type]
    need = wide.plan(image_hw, **options).peak_bytes  # type: ignore[arg-type]
    tight = predictor_of(
        ConvolutionEngine(5, preferred_batch=batch), budget=round(need * (0.7 + 0.3 * share))
    )
    try:
        found = tight.predict(image, **options)  # type: ignore[arg-type]
    except MemoryBudgetError:
        return
    assert found.windows == expected.windows
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


def test_many_bands_give_what_one_gives() -> None:
    image, engine = made_image(400, 60), ConvolutionEngine(5)
    options: dict[str, Any] = {"base_size": 400, "flip": True, "confidence": True, "scales": (1.0, 0.6)}
    wide = predictor_of(engine)
    whole, plan = wide.predict(image, **options), wide.plan((400, 60), **options)
    banded = predictor_of(engine, budget=plan.peak_bytes - plan.memory["window logits"] * 3 // 5)
    assert len(plan.bands) == 1
    assert len(banded.plan((400, 60), **options).bands) > 3
    found = banded.predict(image, **options)
    assert found.windows == whole.windows
    np.testing.assert_array_equal(found.labels, whole.labels)
    np.testing.assert_allclose(found.confidence, whole.confidence, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"scales": (0.5, 1.5), "flip": True}])
def test_torch_arrays_give_what_numpy_arrays_give(options: dict[str, Any]) -> None:
    image = made_image(50, 70)
    on_numpy = predictor_of(ConvolutionEngine(5)).predict(
        image, confidence=True, probabilities=True, **options
    )
    on_torch = predictor_of(ConvolutionEngine(5, convert=torch.from_numpy)).predict(
        image, confidence=True, probabilities=True, **options
    )
    for found in (on_torch.labels, on_torch.confidence, on_torch.probabilities):
        assert isinstance(found, np.ndarray)
    assert on_torch.labels.dtype == np.uint8
    np.testing.assert_allclose(on_torch.probabilities, on_numpy.probabilities, atol=1e-6)
    np.testing.assert_allclose(on_torch.confidence, on_numpy.confidence, atol=1e-6)
    assert (on_torch.labels == on_numpy.labels).mean() > 0.999


def test_labels_above_256_classes_are_uint16() -> None:
    engine = ConvolutionEngine(300)
    prediction = predictor_of(engine).predict(made_image(40, 40), probabilities=True)
    assert prediction.labels.dtype == np.uint16
    assert prediction.labels.max() > 255
    np.testing.assert_array_equal(prediction.labels, prediction.probabilities.argmax(0))  # type: ignore[union-attr]


def test_only_what_is_asked_for_is_returned_and_the_engine_is_timed() -> None:
    prediction = predictor_of(ConvolutionEngine(5)).predict(made_image(40, 60))
    assert prediction.labels.shape == (40, 60)
    assert prediction.confidence is None
    assert prediction.probabilities is None
    assert prediction.engine_s > 0
    assert prediction.windows == 2 * 3


def test_windows_of_all_scales_and_mirrors_fill_batches() -> None:
    engine = ConvolutionEngine(5, preferred_batch=7)
    prediction = predictor_of(engine).predict(made_image(40, 60), scales=(0.5, 1.0, 1.5), flip=True)
    assert sum(engine.batches) == prediction.windows
    assert set(engine.batches[:-1]) == {7}


def test_the_image_is_left_as_it_was() -> None:
    image = made_image(40, 60)
    before = image.copy()
    image.flags.writeable = False
    predictor_of(ConvolutionEngine(5)).predict(image, scales=(0.5, 1.0), flip=True)
    np.testing.assert_array_equal(image, before)


def test_views_of_images_that_are_not_contiguous_work() -> None:
    image, predictor = made_image(40, 60), predictor_of(ConvolutionEngine(5))
    for view in (image[:, ::-1], image[::2, ::2], image.transpose(1, 0, 2), image[..., ::-1]):
        expected = predictor.predict(np.ascontiguousarray(view), scales=(1.0, 0.7))
        np.testing.assert_array_equal(predictor.predict(view, scales=(1.0, 0.7)).labels, expected.labels)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        [[[1, 2, 3]]],
    ],
)
def test_what_is_no_rgb_image_is_refused(image: Any) -> None:
    with pytest.raises(ParameterError, match="image takes"):
        predictor_of(ConvolutionEngine(5)).predict(image)


@pytest.mark.parametrize("options", [{"scales": (0,)}, {"scales": ()}, {"base_size": 0}, {"scales": (100,)}])
def test_parameters_are_refused_before_the_engine_runs(options: dict[str, Any]) -> None:
    engine = ConvolutionEngine(5)
    with pytest.raises(ParameterError):
        predictor_of(engine).predict(made_image(40, 60), **options)
    assert not engine.batches


def test_an_image_over_the_budget_is_refused_before_the_engine_runs() -> None:
    engine = ConvolutionEngine(5)
    with pytest.raises(MemoryBudgetError, match=r"1\.0 MiB"):
        predictor_of(engine, budget=1 << 20).predict(made_image(400, 600))
    assert not engine.batches


def test_whole_image_models_are_refused_with_the_mend() -> None:
    with pytest.raises(BundleError, match="sliding"):
        Predictor(made_info(test_mode="whole"), ConvolutionEngine(5))


@pytest.mark.parametrize("allowed", [0, 1, 5])
def test_a_check_that_raises_gives_the_work_up(allowed: int) -> None:
    engine, calls = ConvolutionEngine(5, preferred_batch=1), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise PredictionCancelled("nobody waits")

    with pytest.raises(PredictionCancelled):
        predictor_of(engine).predict(made_image(40, 60), check=check)
    assert len(engine.batches) == allowed


def test_the_check_is_called_while_stitching_too() -> None:
    engine, calls = ConvolutionEngine(5), []
    predictor_of(engine).predict(
        made_image(40, 600), base_size=600, check=lambda: calls.append(len(engine.batches))
    )
    assert calls.count(len(engine.batches)) >= 3


def test_threads_may_share_a_predictor() -> None:
    predictor = predictor_of(ConvolutionEngine(5))
    images = [made_image(30 + index, 50) for index in range(6)]
    expected = [predictor.predict(image, flip=True).labels for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: predictor.predict(image, flip=True).labels, images * 3))
    for index, labels in enumerate(found):
        np.testing.assert_array_equal(labels, expected[index % 6])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_that_stitch_give_the_same(threads: int) -> None:
    image, engine = made_image(300, 70), ConvolutionEngine(5)
    engine.threads = threads
    predictor = predictor_of(engine)
    options: dict[str, Any] = {"base_size": 300, "flip": True, "scales": (1.0, 0.6), "confidence": True}
    plan = predictor.plan((300, 70), **options)
    assert plan.threads == threads  # type: ignore[union-attr]
    engine.threads = 1
    alone = predictor.plan((300, 70), **options)
    assert plan.memory["block"] == threads * alone.memory["block"]
    expected = predictor.predict(image, **options)
    engine.threads = threads
    found = predictor.predict(image, **options)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.confidence, expected.confidence)


@pytest.mark.parametrize(
    ("image_hw", "options"),
    [
        ((200, 450), {"base_size": 450, "confidence": True}),
        ((350, 250), {"base_size": 256, "scales": (0.5, 1.5), "flip": True}),
        ((200, 300), {"probabilities": True}),
    ],
)
def test_memory_peaks_where_the_plan_says(image_hw: tuple[int, int], options: dict[str, Any]) -> None:
    predictor = predictor_of(ConvolutionEngine(60, (65, 65), preferred_batch=1))
    predictor.engine.threads = 1  # type: ignore[attr-defined]
    image, plan = made_image(*image_hw), predictor.plan(image_hw, **options)
    peak = traced_peak(predictor, image, **options)
    # Python objects come on top; blocks may be narrower than planned; scaling and stitching take turns.
    assert 0.9 * plan.peak_bytes <= peak <= plan.peak_bytes + (1 << 17)


def test_mirroring_a_window_takes_no_memory_of_its_own() -> None:
    predictor = predictor_of(ConvolutionEngine(2, (465, 465), preferred_batch=1))
    image = made_image(30, 60)
    plan = predictor.plan((30, 60), flip=True)
    assert plan.memory["engine batch"] > 0.8 * plan.peak_bytes
    peak = traced_peak(predictor, image, flip=True)
    assert peak <= 1.1 * plan.peak_bytes
