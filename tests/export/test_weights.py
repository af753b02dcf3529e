"""Weights stored as float16: half the bytes, and nothing lost that float16 can hold."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.weights import split, store_as_half


def half_values(*shape: int, scale: float = 0.05, seed: int = 0) -> np.ndarray:
    """float32 values that float16 holds exactly."""
    values = np.random.default_rng(seed).normal(0, scale, shape)
    return values.astype(np.float16).astype(np.float32)


def channel(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


def test_float16_weights_keep_all_their_bits_under_batch_norm() -> None:
    own, factor = half_values(4, 8, 3, 3), channel([0.7311, 1.9, -0.03, 12.3])
    half, scale = split(own * factor, own)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(np.float32) * scale, own * factor, rtol=3e-7)


def test_without_the_own_values_rounding_costs_half_a_unit() -> None:
    weight = half_values(4, 8, 3, 3) * channel([0.7311, 1.9, -0.03, 12.3])
    half, scale = split(weight, None)
    error = abs(half.astype(np.float32) * scale - weight) / abs(weight).max((1, 2, 3), keepdims=True)
    assert 0 < error.max() <= 2**-11


@pytest.mark.parametrize("magnitude", [1e-12, 1e-7, 1.0, 6e4, 1e30])
def test_neither_tiny_nor_huge_weights_are_lost(magnitude: float) -> None:
    weight = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32) * np.float32(magnitude)
    for own in (None, weight):
        half, scale = split(weight, own)
        assert np.isfinite(half).all()
        error = abs(half.astype(np.float64) * scale - weight).max()
        assert error <= abs(weight).max() * 2**-11


def test_a_channel_that_batch_norm_or_training_switched_off_stays_off() -> None:
    own = half_values(3, 4, 3, 3)
    own[1] = 0
    factor = channel([1.0, 0.5, 0.0])
    half, scale = split(own * factor, own)
    np.testing.assert_allclose(half.astype(np.float32) * scale, own * factor, rtol=3e-7)


def test_values_that_are_no_multiple_of_the_weight_are_not_taken_for_it() -> None:
    weight = half_values(2, 16, seed=2)
    half, scale = split(weight, half_values(2, 16, seed=3))
    np.testing.assert_array_equal(half.astype(np.float32) * scale, weight)


def small_model(weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "net.w", "net.b"], ["out"], pads=[1, 1, 1, 1])],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", weight.shape[1], 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", weight.shape[0], 8, 8])],
        [numpy_helper.from_array(weight, "net.w"), numpy_helper.from_array(bias, "net.b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def test_a_stored_model_is_half_as_large_and_runs_alike() -> None:
    own = half_values(32, 32, 3, 3)
    weight = own * np.linspace(0.5, 2, 32, dtype=np.float32).reshape(-1, 1, 1, 1)
    model = small_model(weight, np.ones(32, np.float32))
    image = np.random.default_rng(0).normal(size=(1, 32, 8, 8)).astype(np.float32)
    before, size = run(model, image), model.ByteSize()
    store_as_half(model, {"w": torch.from_numpy(own)}, prefix="net.")
    onnx.checker.check_model(model, full_check=True)
    assert model.ByteSize() < 0.52 * size
    np.testing.assert_allclose(run(model, image), before, atol=2e-6)


def test_biases_and_small_weights_stay_as_they_are() -> None:
    model = small_model(half_values(2, 4, 3, 3), np.ones(2, np.float32))
    before = model.SerializeToString()
    store_as_half(model, {}, prefix="net.")
    assert model.SerializeToString() == before
