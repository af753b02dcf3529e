"""What a point attends to: the network's own weights in the window that sees it, by both protocols."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export.build import build_model
from inference.attention import Point, attention_at, directions_of
from inference.bundle import BUNDLED_ROOT, ModelInfo, write_model_json
from inference.engines import AttentionEngine, open_model
from inference.engines.pytorch import PyTorchEngine
from inference.errors import (
    BundleError,
    EngineError,
    MemoryBudgetError,
    NoAttentionError,
    ParameterError,
    PredictionCancelled,
)
from inference.predictor import Predictor
from models.config import MMSEGMENTATION, Direction, ModelConfig
from models.network import SceneParser
from tests.attention_oracle import slow_attention
from tests.export.tiny import tiny_config, tiny_network
from tests.inference.fakes import ConvolutionEngine, made_info

ROOT = Path(__file__).resolve().parents[2]
IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), np.uint8)
CONFIG = tiny_config(classes=5, crop_hw=(49, 65), head_width=8)
WHOLE = tiny_config(**MMSEGMENTATION, classes=5, crop_hw=(64, 96), mask_hw=(7, 9), head_width=8)


def info_of(config: ModelConfig, **changes: Any) -> ModelInfo:
    values = {"architecture": config, "crop_hw": config.crop_hw, "base_size": 90}
    return made_info(5, **(values | changes))


def whole_info(**changes: Any) -> ModelInfo:
    return info_of(WHOLE, protocol="mmsegmentation", test_mode="whole", align_corners=False, **changes)


@pytest.fixture(scope="module")
def network() -> SceneParser:
    return tiny_network(CONFIG)


@pytest.fixture(scope="module")
def predictor(network: SceneParser) -> Predictor:
    return Predictor(info_of(CONFIG), PyTorchEngine(network))


def window_of(image: NDArray[np.uint8], start: tuple[int, int], hw: tuple[int, int]) -> NDArray[np.float32]:
    """(1, 3, h, w): pixels of the image from `start`, which may lie outside; the mean colour there."""
    out = np.empty((*hw, 3), np.float32)
    out[:] = made_info().mean_rgb
    for row in range(hw[0]):
        for column in range(hw[1]):
            y, x = start[0] + row, start[1] + column
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                out[row, column] = image[y, x]
    return np.ascontiguousarray(out.transpose(2, 0, 1)[None])


def check(found: Any, pixels: NDArray[np.float32], network: SceneParser, grid_hw: tuple[int, int]) -> None:
    row, column = found.position
    for direction, pairs in slow_attention(network, pixels).items():
        weights_ts = pairs[0].reshape(*grid_hw, *grid_hw) * np.prod(grid_hw)
        own = weights_ts[row, column] if direction == "collect" else weights_ts[:, :, row, column]
        np.testing.assert_allclose(found.weights[direction], own, atol=1e-4)


def test_a_point_has_the_weights_of_its_position_in_the_window_that_sees_it_best(
    network: SceneParser, predictor: Predictor
) -> None:
    # At scale 1 windows of 49x65 start at rows 0 and 1, columns 0 and 25; positions lie 16 pixels apart.
    points = [Point(3, 2), Point(70, 44), Point(46, 20)]
    starts, positions = [(0, 0), (1, 25), (0, 25)], [(0, 0), (3, 3), (1, 1)]
    found = attention_at(predictor, IMAGE, points)
    assert found.windows == 3
    assert found.engine_s > 0
    for seen, point, start, position in zip(found.points, points, starts, positions, strict=True):
        assert (seen.point, seen.position) == (point, position)
        assert seen.window == (start[1], start[0], 65, 49)
        assert seen.cells == (start[1] - 7.5, start[0] - 7.5, 80, 64)
        assert list(seen.weights) == ["collect", "distribute"]
        check(seen, window_of(IMAGE, start, (49, 65)), network, (4, 5))
        assert seen.weights["collect"].mean() == pytest.approx(1)


def test_a_small_image_is_seen_with_its_padding(network: SceneParser, predictor: Predictor) -> None:
    image = IMAGE[:30, :40]
    (seen,) = attention_at(predictor, image, [Point(20, 15)], base_size=40).points
    check(seen, window_of(image, (-9, -12), (49, 65)), network, (4, 5))
    assert seen.window == (0, 0, 40, 30)
    assert seen.cells == (-12 - 7.5, -9 - 7.5, 80, 64)
    assert seen.over_image("collect").shape == (30, 40)


def test_the_map_over_the_image_has_the_weights_where_their_positions_are_and_0_outside_the_window(
    predictor: Predictor,
) -> None:
    (seen,) = attention_at(predictor, IMAGE, [Point(70, 44)]).points
    for direction, weights in seen.weights.items():
        over = seen.over_image(direction)
        assert (over.shape, over.dtype) == ((50, 90), np.float32)
        np.testing.assert_allclose(over[1::16, 25::16], weights, atol=1e-5)
        assert not over[0].any()
        assert not over[:, :25].any()
        np.testing.assert_array_equal(seen.over_image(direction, (10, 20)), over[10:20])


def test_scales_show_more_or_less_of_the_image(network: SceneParser, predictor: Predictor) -> None:
    (seen,) = attention_at(predictor, IMAGE, [Point(50, 20)], scale=0.5).points
    assert seen.window == (0, 0, 90, 50)
    small = cv2.resize(IMAGE.astype(np.float32), (45, 25), interpolation=cv2.INTER_LINEAR)
    padded = np.empty((49, 65, 3), np.float32)
    padded[:] = predictor.info.mean_rgb
    padded[12:37, 10:55] = small
    check(seen, np.ascontiguousarray(padded.transpose(2, 0, 1)[None]), network, (4, 5))


def test_whole_images_of_mmsegmentations_networks_are_one_window() -> None:
    network = tiny_network(WHOLE)
    predictor = Predictor(whole_info(), PyTorchEngine(network))
    (seen,) = attention_at(predictor, IMAGE, [Point(60, 30)]).points
    check(seen, window_of(IMAGE, (0, 0), (50, 90)), network, (3, 6))
    assert seen.window == (0, 0, 90, 50)
    larger = cv2.resize(IMAGE, (108, 60), interpolation=cv2.INTER_LINEAR)
    (seen,) = attention_at(predictor, IMAGE, [Point(60, 30)], base_size=108).points
    check(seen, window_of(larger, (0, 0), (60, 108)), network, (4, 7))


def test_mmsegmentations_windows_start_at_the_corner_and_are_cut_or_padded_at_the_end() -> None:
    network = tiny_network(WHOLE)
    sliding = dataclasses.replace(whole_info(), test_mode="sliding", crop_hw=(32, 48))
    (seen,) = attention_at(Predictor(sliding, PyTorchEngine(network)), IMAGE, [Point(85, 45)]).points
    check(seen, window_of(IMAGE, (18, 42), (32, 48)), network, (2, 3))
    engine = PyTorchEngine(network)
    engine.crop_hw = (64, 96)
    padded = Predictor(dataclasses.replace(sliding, crop_hw=(64, 96)), engine)
    (seen,) = attention_at(padded, IMAGE, [Point(85, 45)]).points
    check(seen, window_of(IMAGE, (0, 0), (64, 96)), network, (4, 6))
    assert seen.window == (0, 0, 90, 50)


def test_without_softmax_weights_are_the_networks_own_numbers() -> None:
    config = CONFIG.replace(psa_softmax=False)
    network = tiny_network(config)
    predictor = Predictor(info_of(config), PyTorchEngine(network))
    (seen,) = attention_at(predictor, IMAGE[:49, :65], [Point(0, 0)], base_size=65).points
    pairs = slow_attention(network, window_of(IMAGE, (0, 0), (49, 65)))["collect"][0]
    np.testing.assert_allclose(seen.weights["collect"].ravel(), pairs[0], atol=1e-3)
    assert seen.weights["collect"].min() < 0


class Recording(PyTorchEngine):
    """Keeps how many windows each call had, and what was asked for."""

    def __init__(self, network: SceneParser, batch: int) -> None:
        super().__init__(network)
        self.preferred_batch = batch
        self.asked: list[tuple[int, tuple[str, ...]]] = []

    def attend(self, images: Any, directions: Sequence[Direction]) -> Any:
        self.asked.append((len(images), tuple(directions)))
        return super().attend(images, directions)


def test_points_of_one_window_share_its_run_and_windows_share_calls(network: SceneParser) -> None:
    points = [Point(3, 2), Point(5, 9), Point(85, 45), Point(3, 2), Point(85, 0)]
    single = Predictor(info_of(CONFIG), PyTorchEngine(network))
    alone = [attention_at(single, IMAGE, [point]).points[0] for point in points]
    for batch, sizes in ((1, [1, 1, 1]), (2, [2, 1]), (8, [3])):
        engine = Recording(network, batch)
        found = attention_at(Predictor(info_of(CONFIG), engine), IMAGE, points, directions=["distribute"])
        assert engine.asked == [(size, ("distribute",)) for size in sizes]
        assert [seen.point for seen in found.points] == points
        for seen, expected in zip(found.points, alone, strict=True):
            assert list(seen.weights) == ["distribute"]
            np.testing.assert_allclose(seen.weights["distribute"], expected.weights["distribute"], atol=1e-4)


def test_a_budget_makes_calls_smaller_and_one_that_is_too_small_is_an_error(network: SceneParser) -> None:
    info, points = info_of(CONFIG), [Point(3, 2), Point(85, 45)]
    plan = Predictor(info, Recording(network, 8)).plan(IMAGE.shape[:2])
    window_bytes = 2 * 4 * 20 * 20
    engine = Recording(network, 8)
    enough = Predictor(info, engine, memory_budget_bytes=plan.peak_bytes + 2 * window_bytes)
    attention_at(enough, IMAGE, points)
    assert engine.asked == [(2, ("collect", "distribute"))]
    whole = Predictor(whole_info(base_size=2000), PyTorchEngine(tiny_network(WHOLE)))
    with pytest.raises(MemoryBudgetError, match="attention.*smaller base_size"):
        attention_at(whole, IMAGE, [Point(0, 0)])


def test_it_is_given_up_between_calls(network: SceneParser) -> None:
    engine, calls = Recording(network, 1), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise PredictionCancelled("client")

    with pytest.raises(PredictionCancelled):
        attention_at(Predictor(info_of(CONFIG), engine), IMAGE, [Point(0, 0), Point(89, 49)], check=check)
    assert len(engine.asked) == 1


@pytest.mark.parametrize("point", [(90, 0), (0, 50), (-1, 0), (0, -1)])
def test_a_point_outside_the_image_is_refused(predictor: Predictor, point: tuple[int, int]) -> None:
    with pytest.raises(
        ParameterError, match=r"outside the image of 90x50 pixels: x takes 0 to 89, y 0 to 49"
    ):
        attention_at(predictor, IMAGE, [Point(1, 1), Point(*point)])
    with pytest.raises(ParameterError, match="give at least one"):
        attention_at(predictor, IMAGE, [])


def test_who_cannot_tell_says_so_with_the_mend(predictor: Predictor) -> None:
    ppm = ModelConfig(depth=18, classes=5, crop_hw=(33, 33), context="ppm")
    for info, engine, directions, message in (
        (made_info(architecture=ppm), ConvolutionEngine(), None, "context is 'ppm': choose a PSANet"),
        (made_info(), ConvolutionEngine(), None, "made engine of made gives logits alone: choose --engine"),
        (
            info_of(CONFIG.replace(psa_type="collect")),
            predictor.engine,
            ["distribute"],
            "does not distribute.*ask for collect",
        ),
    ):
        other = Predictor(info, engine)
        with pytest.raises(NoAttentionError, match=message):
            attention_at(other, IMAGE, [Point(0, 0)], directions=directions)  # type: ignore[arg-type]
    assert directions_of(Predictor(made_info(), ConvolutionEngine())) == ()
    assert directions_of(predictor) == ("collect", "distribute")


def write_bundle(folder: Path, model: onnx.ModelProto) -> Path:
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    outputs = tuple(item.name for item in model.graph.output)
    write_model_json(folder, dataclasses.replace(info_of(CONFIG), outputs=outputs))
    return folder


def test_a_bundle_tells_what_pytorch_tells_and_an_old_one_how_to_mend_it(
    network: SceneParser, predictor: Predictor, tmp_path: Path
) -> None:
    model = build_model(network, psa_form="pairs", attention=True)
    new = write_bundle(tmp_path / "new", model)
    points = [Point(3, 2), Point(70, 44)]
    bundle = Predictor.open(new, threads=1)
    assert isinstance(bundle.engine, AttentionEngine)
    assert directions_of(bundle) == ("collect", "distribute")
    own, found = (attention_at(each, IMAGE, points).points for each in (predictor, bundle))
    for seen, expected in zip(found, own, strict=True):
        for direction, weights in expected.weights.items():
            np.testing.assert_allclose(seen.weights[direction], weights, atol=1e-4)
    np.testing.assert_array_equal(bundle.predict(IMAGE).labels, predictor.predict(IMAGE).labels)
    bundle.close()
    with pytest.raises(EngineError, match="closed"):
        attention_at(bundle, IMAGE, points)
    del model.graph.output[1:]
    old = write_bundle(tmp_path / "old", model)
    predictor = Predictor.open(old, threads=1)
    assert predictor.predict(IMAGE).labels.shape == (50, 90)
    assert directions_of(predictor) == ()
    with pytest.raises(NoAttentionError, match=r"logits alone: export the checkpoint anew .*export\.onnx"):
        attention_at(predictor, IMAGE, points)
    write_model_json(old, dataclasses.replace(info_of(CONFIG), outputs=("logits", "attention_collect")))
    with pytest.raises(BundleError, match=r"in place of image and logits, attention_collect: export"):
        open_model(old)


def test_attention_of_other_positions_than_model_json_means_is_an_error(network: SceneParser) -> None:
    other = info_of(CONFIG.replace(crop_hw=(65, 65)), crop_hw=(49, 65))
    object.__setattr__(other, "architecture", CONFIG.replace(shrink_factor=1))
    with pytest.raises(EngineError, match=r"\(1, 20, 20\) where model.json means \(1, 63, 63\)"):
        attention_at(Predictor(other, PyTorchEngine(network)), IMAGE, [Point(0, 0)])


def test_the_bundled_model_tells_without_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None\n"
        "from inference.attention import Point, attention_at\n"
        "from inference.predictor import Predictor\n"
        f"predictor = Predictor.open({str(BUNDLED_ROOT / 'psanet18_camvid')!r}, threads=1)\n"
        "image = np.zeros((360, 480, 3), np.uint8)\n"
        "(seen,) = attention_at(predictor, image, [Point(240, 100)]).points\n"
        "print({name: (each.shape, round(float(each.mean()), 3)) for name, each in seen.weights.items()})\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert "'collect': ((" in run.stdout
    assert "1.0)" in run.stdout
    assert "'distribute'" in run.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 0.01), ("bf16", 0.05)])
def test_a_gpu_tells_what_the_cpu_tells(predictor: Predictor, precision: str, tolerance: float) -> None:
    points = [Point(3, 2), Point(70, 44), Point(46, 24)]
    engine = PyTorchEngine(tiny_network(CONFIG), device="cuda", precision=precision)
    own = attention_at(predictor, IMAGE, points).points
    found = attention_at(Predictor(info_of(CONFIG), engine), IMAGE, points)
    assert found.engine_s > 0
    for seen, expected in zip(found.points, own, strict=True):
        for direction, weights in expected.weights.items():
            assert seen.weights[direction].dtype == np.float32
            assert abs(seen.weights[direction] - weights).mean() < tolerance
