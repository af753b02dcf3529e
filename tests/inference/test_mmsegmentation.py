"""MMSegmentation's test protocol against its slow oracle; and what the predictor promises of it besides."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.bundle import ModelInfo
from inference.errors import BundleError, EngineError, MemoryBudgetError, ParameterError, PredictionCancelled
from inference.predictor import Predictor
from models.config import ModelConfig
from tests.inference.fakes import AnySizeEngine, ConvolutionEngine, made_info
from tests.inference.judging import assert_published, traced_peak
from tests.mmseg_oracle import mmsegmentation_probabilities, mmsegmentation_views
from tests.models.mmseg_network import mmseg_config

SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
BOX: dict[str, Any] = {"base_size": 96, "base_short": 48}


def made_image(height: int, width: int) -> NDArray[np.uint8]:
    """Every pixel differs from its neighbours."""
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def whole_info(**changes: Any) -> ModelInfo:
    return made_info(**({"protocol": "mmsegmentation", "test_mode": "whole", **BOX} | changes))


def sliding_info(**changes: Any) -> ModelInfo:
    return whole_info(test_mode="sliding", **changes)


def oracle(engine: Any, info: ModelInfo, image: NDArray[np.uint8], **options: Any) -> list[Any]:
    return mmsegmentation_views(
        engine.infer,
        image,
        long_side=info.base_size,
        short_side=info.base_short,
        crop_hw=None if info.test_mode == "whole" else info.crop_hw,
        align_corners=info.align_corners,
        **options,
    )


def assert_theirs(info: ModelInfo, engine: Any, image: NDArray[np.uint8], **options: Any) -> None:
    """Labels, confidence and probabilities are the oracle's; labels but for its near ties."""
    predictor = Predictor(info, engine)
    found = predictor.predict(image, confidence=True, probabilities=True, **options)
    views = oracle(engine, info, image, **options)
    assert_published(found, mmsegmentation_probabilities(views))
    labels = predictor.predict(image, **options).labels
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, found.labels)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("test_mode", ["whole", "sliding"])
@pytest.mark.parametrize(
    ("image_hw", "options"),
    [
        ((48, 96), {}),  # the image is the picture
        ((40, 60), {}),  # the short side decides
        ((30, 120), {}),  # the long side decides
        ((90, 41), {"flip": True}),  # upright
        ((150, 210), {"scales": (0.5, 1.7), "flip": True}),
        ((37, 64), {"scales": SIX_SCALES, "flip": True}),
        ((11, 9), {"scales": (1.0, 1.0, 0.5)}),  # far smaller; one size twice
        ((300, 350), {}),  # far larger, many blocks
        ((1, 1), {}),
        ((200, 3), {"flip": True}),
    ],
)
def test_predictions_are_those_of_mmsegmentation(
    image_hw: tuple[int, int], options: dict[str, Any], test_mode: str, align_corners: bool
) -> None:
    info = whole_info(test_mode=test_mode, align_corners=align_corners)
    assert_theirs(info, AnySizeEngine(), made_image(*image_hw), **options)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("crop_hw", [(25, 25), (33, 17), (96, 25), (200, 200)])
def test_windows_overlap_and_shrink_to_small_pictures_as_theirs(
    crop_hw: tuple[int, int], align_corners: bool
) -> None:
    info = sliding_info(crop_hw=crop_hw, align_corners=align_corners)
    assert_theirs(info, AnySizeEngine(), made_image(70, 111), flip=True, scales=(0.6, 1.0))


def test_no_short_side_lets_the_long_side_decide() -> None:
    engine = AnySizeEngine()
    assert_theirs(whole_info(base_short=None), engine, made_image(70, 60))
    assert engine.shapes[0] == (1, 3, 96, 82)


def test_coarse_logits_of_any_size_are_resampled() -> None:
    for stride in (1, 5, 16, 1000):
        assert_theirs(whole_info(), AnySizeEngine(stride=stride), made_image(50, 70), flip=True)


@pytest.mark.parametrize("test_mode", ["whole", "sliding"])
@pytest.mark.parametrize("options", [{}, {"scales": (0.5, 1.5), "flip": True}])
def test_torch_arrays_give_the_same(options: dict[str, Any], test_mode: str) -> None:
    info, image = whole_info(test_mode=test_mode), made_image(300, 350)
    options = {**options, "confidence": True, "probabilities": True}
    on_numpy = Predictor(info, AnySizeEngine()).predict(image, **options)
    for device in ("cpu", "cuda"):  # a device's blocks are larger
        engine = AnySizeEngine(convert=torch.from_numpy)
        engine.device = device
        on_torch = Predictor(info, engine).predict(image, **options)
        for values in (on_torch.labels, on_torch.confidence, on_torch.probabilities):
            assert isinstance(values, np.ndarray)
        np.testing.assert_allclose(on_torch.probabilities, on_numpy.probabilities, atol=1e-6)
        np.testing.assert_allclose(on_torch.confidence, on_numpy.confidence, atol=1e-6)
        assert (on_torch.labels == on_numpy.labels).mean() > 0.999


def test_logits_of_windows_are_averaged_not_probabilities() -> None:
    info, engine, image = sliding_info(crop_hw=(25, 25)), AnySizeEngine(), made_image(48, 96)
    found = Predictor(info, engine).predict(image, probabilities=True).probabilities
    published = Predictor(
        made_info(crop_hw=(25, 25), base_size=96, align_corners=True), ConvolutionEngine(5, (25, 25))
    )
    assert published.predict(image).windows == Predictor(info, engine).predict(image).windows
    (logits,) = oracle(engine, info, image)
    assert found is not None
    np.testing.assert_allclose(found, torch.from_numpy(logits).softmax(0), atol=1e-5)


def test_pixels_are_resized_as_uint8_by_opencv() -> None:
    class Recorder(AnySizeEngine):
        def infer(self, images: Any) -> Any:
            self.images = images.copy()
            return super().infer(images)

    engine, image = Recorder(), made_image(70, 111)
    Predictor(whole_info(), engine).predict(image, flip=True)
    expected = cv2.resize(image, (76, 48), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
    np.testing.assert_array_equal(engine.images, [expected, expected[..., ::-1]])


def test_both_resampling_steps_are_seen_in_the_answer() -> None:
    info, engine, image = whole_info(), AnySizeEngine(), made_image(21, 29)
    pixels = cv2.resize(image, (66, 48)).astype(np.float32).transpose(2, 0, 1)[None]
    at_once = torch.nn.functional.interpolate(
        torch.from_numpy(engine.infer(pixels)), (21, 29), mode="bilinear", align_corners=True
    )
    found = Predictor(info, engine).predict(image, probabilities=True).probabilities
    assert found is not None
    assert np.abs(found - at_once[0].softmax(0).numpy()).max() > 1e-3


def test_an_engine_of_one_size_sees_small_pictures_padded_at_the_end() -> None:
    """MMSegmentation 0.5.0's rule: the mean colour at the bottom and on the right, logits cut."""
    engine = ConvolutionEngine(5, (65, 65))
    info, image = sliding_info(crop_hw=(65, 65)), made_image(30, 40)
    found = Predictor(info, engine).predict(image, probabilities=True).probabilities
    padded = np.empty((65, 65, 3), np.float32)
    padded[...] = info.mean_rgb
    padded[:48, :64] = cv2.resize(image, (64, 48), interpolation=cv2.INTER_LINEAR)
    coarse = torch.from_numpy(engine.infer(padded.transpose(2, 0, 1)[None].copy())).double()
    resize, options = torch.nn.functional.interpolate, {"mode": "bilinear", "align_corners": True}
    logits = resize(resize(coarse, (65, 65), **options)[:, :, :48, :64], (30, 40), **options)
    np.testing.assert_allclose(found, logits[0].softmax(0), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    image_hw=st.tuples(st.integers(1, 130), st.integers(1, 130)),
    crop_hw=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    box=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    scales=st.lists(st.sampled_from([0.5, 0.7, 1.0, 1.4]), min_size=1, max_size=2),
    flip=st.booleans(),
    whole=st.booleans(),
    align_corners=st.booleans(),
)
def test_any_sizes_give_what_the_oracle_gives(
    image_hw: tuple[int, int],
    crop_hw: tuple[int, int],
    box: tuple[int, int],
    scales: list[float],
    flip: bool,
    whole: bool,
    align_corners: bool,
) -> None:
    info = whole_info(
        test_mode="whole" if whole else "sliding",
        crop_hw=tuple(max(side, 12) for side in crop_hw),
        base_size=max(box),
        base_short=min(box),
        align_corners=align_corners,
    )
    engine, image = AnySizeEngine(), made_image(*image_hw)
    found = Predictor(info, engine).predict(image, scales=scales, flip=flip, probabilities=True)
    expected = mmsegmentation_probabilities(oracle(engine, info, image, scales=scales, flip=flip))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_base_size_takes_the_short_side_along() -> None:
    engine = AnySizeEngine()
    predictor = Predictor(whole_info(), engine)
    predictor.predict(made_image(40, 60), base_size=48)
    predictor.predict(made_image(40, 60), scales=(0.5,))
    predictor.predict(made_image(40, 60), base_size=96)
    predictor.predict(made_image(40, 60))
    assert engine.shapes == [(1, 3, 24, 36), (1, 3, 24, 36), (1, 3, 48, 72), (1, 3, 48, 72)]


def test_mirror_images_share_a_batch_where_the_engine_likes_batches() -> None:
    for preferred, shapes in ((8, [(2, 3, 48, 72)]), (1, [(1, 3, 48, 72)] * 2)):
        engine = AnySizeEngine(preferred_batch=preferred)
        assert Predictor(whole_info(), engine).predict(made_image(40, 60), flip=True).windows == 2
        assert engine.shapes == shapes


def test_labels_above_256_classes_are_uint16() -> None:
    info = whole_info(classes=300)
    prediction = Predictor(info, AnySizeEngine(300)).predict(made_image(40, 40), probabilities=True)
    assert prediction.labels.dtype == np.uint16
    assert prediction.labels.max() > 255


def test_the_image_is_left_as_it_was_and_need_not_be_contiguous() -> None:
    image = made_image(40, 60)
    before = image.copy()
    image.flags.writeable = False
    for info in (whole_info(), sliding_info(crop_hw=(25, 25)), whole_info(base_size=60, base_short=40)):
        predictor = Predictor(info, AnySizeEngine())
        for view in (image, image[:, ::-1], image[::2, ::2], image.transpose(1, 0, 2)):
            expected = predictor.predict(np.ascontiguousarray(view), flip=True).labels
            np.testing.assert_array_equal(predictor.predict(view, flip=True).labels, expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "options",
    [{"scales": (0,)}, {"scales": ()}, {"base_size": 0}, {"scales": (0.01,)}, {"scales": (0.02,)}],
)
def test_parameters_are_refused_before_the_engine_runs(options: dict[str, Any]) -> None:
    engine = AnySizeEngine()
    with pytest.raises(ParameterError):
        Predictor(whole_info(), engine).predict(made_image(40, 60), **options)
    assert not engine.shapes


def test_attention_over_the_budget_is_refused_with_the_mend_before_the_engine_runs() -> None:
    engine = AnySizeEngine()
    info = whole_info(
        architecture=ModelConfig(depth=18, classes=5, crop_hw=(65, 65)), base_size=2048, base_short=1024
    )
    with pytest.raises(MemoryBudgetError, match=r"most of it attention maps.*smaller base_size.*budget"):
        Predictor(info, engine).predict(made_image(100, 200), scales=(3.0,))
    assert not engine.shapes
    Predictor(info, engine, memory_budget_bytes=1 << 40).plan((100, 200), scales=(3.0,))


def test_a_tight_budget_makes_batches_smaller() -> None:
    info, image = whole_info(base_size=400, base_short=400), made_image(40, 60)
    wide = Predictor(info, AnySizeEngine())
    need = wide.plan((40, 60), flip=True)
    engine = AnySizeEngine()
    tight = Predictor(info, engine, memory_budget_bytes=need.peak_bytes - 1)
    found = tight.predict(image, flip=True)
    assert [shape[0] for shape in engine.shapes] == [1, 1]
    np.testing.assert_array_equal(found.labels, wide.predict(image, flip=True).labels)


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_a_check_that_raises_gives_the_work_up(allowed: int) -> None:
    engine, calls = AnySizeEngine(preferred_batch=1), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise PredictionCancelled("nobody waits")

    with pytest.raises(PredictionCancelled):
        Predictor(whole_info(), engine).predict(made_image(40, 600), scales=(0.5, 1.0), check=check)
    assert len(engine.shapes) == min(allowed, 2)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_not_finite_or_of_other_classes_are_engine_errors(wrong: float) -> None:
    class Broken(AnySizeEngine):
        def infer(self, images: Any) -> Any:
            logits = super().infer(images)
            logits[0, 1, 0, 0] = wrong
            return logits

    with pytest.raises(EngineError, match="not finite"):
        Predictor(whole_info(), Broken()).predict(made_image(40, 60))
    with pytest.raises(EngineError, match=r"\(1, 4, 6, 9\).*\(1, 5, h', w'\)"):
        Predictor(whole_info(), AnySizeEngine(4)).predict(made_image(40, 60))


def test_whole_images_need_their_protocol_and_an_engine_of_any_size() -> None:
    with pytest.raises(BundleError, match="--test-mode sliding.*protocol 'mmsegmentation'"):
        Predictor(whole_info(protocol="published"), AnySizeEngine())
    with pytest.raises(BundleError, match="takes 33x33 alone.*--engine onnxruntime or torch"):
        Predictor(whole_info(), ConvolutionEngine())


@pytest.mark.parametrize(
    ("image_hw", "options"),
    [
        ((200, 450), {"base_size": 450, "confidence": True}),
        ((350, 250), {"base_size": 256, "scales": (0.5, 1.5), "flip": True}),
        ((200, 300), {"probabilities": True}),
        ((200, 300), {"crop_hw": (65, 65), "base_size": 300, "flip": True}),
    ],
)
def test_memory_peaks_below_what_the_plan_says(image_hw: tuple[int, int], options: dict[str, Any]) -> None:
    crop_hw = options.pop("crop_hw", None)
    mode: dict[str, Any] = {"test_mode": "sliding", "crop_hw": crop_hw} if crop_hw else {}
    architecture = ModelConfig(depth=18, classes=60, crop_hw=(33, 33), context="none")
    info = whole_info(classes=60, architecture=architecture, base_size=256, base_short=256, **mode)
    predictor = Predictor(info, AnySizeEngine(60, preferred_batch=1))
    image, plan = made_image(*image_hw), predictor.plan(image_hw, **options)
    peak = traced_peak(predictor, image, **options)
    # Python objects come on top; engine calls and blocks take turns, and are planned as if they did not.
    assert 0.4 * plan.peak_bytes <= peak <= plan.peak_bytes + (1 << 17)


def test_a_picture_beyond_an_engines_limits_is_refused_before_any_work() -> None:
    engine = AnySizeEngine()
    engine.limits_hw = (16, 16), (48, 96)
    predictor = Predictor(whole_info(), engine)
    assert predictor.predict(made_image(40, 80)).labels.shape == (40, 80)
    engine.shapes.clear()
    for hw, scale, size in (((80, 40), 1.0, "96x48"), ((40, 80), 1.5, "72x144"), ((40, 80), 0.25, "12x24")):
        with pytest.raises(ParameterError, match=f"has {size} pixels.* takes 16x16 to 48x96: .*--sizes"):
            predictor.predict(made_image(*hw), scales=(1.0, scale))
    assert engine.shapes == []


def test_the_memory_of_an_engine_with_limits_is_its_own() -> None:
    config = mmseg_config()
    engine = AnySizeEngine()
    free = Predictor(whole_info(architecture=config), engine).plan((48, 96))
    engine.limits_hw = (16, 16), (48, 96)
    limited = Predictor(whole_info(architecture=config), engine).plan((48, 96))
    assert free.memory["attention maps"] > 0
    assert limited.memory["attention maps"] == 0
