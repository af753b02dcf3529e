"""Strict float16: which values keep float32, that the result is the network, and what float16 cannot hold."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper, parser

from export.build import build_model
from export.errors import UnavailableError
from export.half import FLOAT16_LARGEST, largest_activation, to_half
from tests.export.tiny import tiny_config, tiny_network

HEAD = '<ir_version: 10, opset_import: ["" : 18]>\n'
CONVOLUTION = "weights = Constant <value: tensor = float[2, 3, 1, 1] {1, 2, 3, 4, 5, 6}> ()\n"


def made(body: str, weights: str = CONVOLUTION) -> onnx.ModelProto:
    """A model of one function body; `weights` fits a convolution of the image."""
    text = f"{HEAD}made (float[N, 3, 4, 4] image) => (float[N, C, H, W] logits) {{ {weights} {body} }}"
    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value."""
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*typed.input, *typed.value_info, *typed.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(["logits"], {"image": images})[0]
    return logits


def some_images(count: int, height: int = 4, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, 3, height, width)).astype(np.float32)


def test_the_network_comes_out_in_float16() -> None:
    network = tiny_network(tiny_config())
    model = build_model(network)
    before = model.SerializeToString()
    half = to_half(model)
    assert model.SerializeToString() == before, "the model that is given stays as it is"
    onnx.checker.check_model(half, full_check=True)
    graph = half.graph
    assert [graph.input[0].type.tensor_type.elem_type, graph.output[0].type.tensor_type.elem_type] == [1, 1]
    large = [item for item in graph.initializer if len(item.dims) == 4 and np.prod(item.dims) > 3]
    assert len(large) > 30
    assert {item.data_type for item in large} == {TensorProto.FLOAT16}
    assert len(half.SerializeToString()) < 0.52 * len(before)
    kinds = types(half)
    nodes = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Softmax":
            assert [kinds[node.input[0]], kinds[node.output[0]]] == [TensorProto.FLOAT] * 2
        if node.op_type in ("Conv", "MatMul", "Resize"):
            assert kinds[node.output[0]] == TensorProto.FLOAT16
    (first,) = (node for node in graph.node if "image" in node.input)
    assert kinds[first.output[0]] == TensorProto.FLOAT, "pixels are normalised in float32"
    assert nodes["logits"].op_type == "Cast"
    images = some_images(3, 65, 65)
    with torch.inference_mode():
        own = network.coarse_logits(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(half, images), own, atol=2e-2)
    assert (run(half, images).argmax(1) == own.argmax(1)).mean() > 0.99
    assert 1 < largest_activation(model, images) < FLOAT16_LARGEST


def test_averages_and_products_of_activations_are_float32() -> None:
    model = made(
        """x = Conv(image, weights)
        mean = GlobalAveragePool(x)
        both = Mul(x, mean)
        shape = Constant <value: tensor = int64[3] {0, 2, -1}> ()
        rows = Reshape(both, shape)
        columns = Transpose <perm = [0, 2, 1]> (rows)
        products = MatMul(rows, columns)
        soft = Softmax <axis = -1> (products)
        mixed = MatMul(soft, rows)
        full = Constant <value: tensor = int64[4] {0, 2, 4, 4}> ()
        logits = Reshape(mixed, full)"""
    )
    half = to_half(model)
    kinds = types(half)
    wide = {name for name in ("mean", "products", "soft") if kinds[name] == TensorProto.FLOAT}
    assert wide == {"mean", "products", "soft"}
    assert {kinds[name] for name in ("x", "both", "rows", "mixed")} == {TensorProto.FLOAT16}
    images = some_images(2) / 2000
    np.testing.assert_allclose(run(half, images), run(model, images), rtol=5e-3)


def test_a_constant_that_two_types_need_is_there_in_both() -> None:
    model = made(
        """two = Constant <value_float = 2.0> ()
        scaled = Div(image, two)
        x = Conv(scaled, weights)
        logits = Mul(x, two)"""
    )
    half = to_half(model)
    assert [numpy_helper.to_array(item).dtype for item in half.graph.initializer if "two" in item.name] == [
        np.float32,
        np.float16,
    ]
    images = some_images(1)
    np.testing.assert_allclose(run(half, images), run(model, images), rtol=2e-3)


def test_what_is_quantized_stays_in_float32() -> None:
    model = made(
        """scale = Constant <value: tensor = float {1.0}> ()
        zero = Constant <value: tensor = int8 {0}> ()
        y = QuantizeLinear(image, scale, zero)
        back = DequantizeLinear(y, scale, zero)
        x = Conv(back, weights)
        more = Constant <value: tensor = float[2, 2, 1, 1] {1, 0, 0, 1}> ()
        logits = Conv(x, more)"""
    )
    half = to_half(model)
    kinds = types(half)
    assert [kinds["back"], kinds["x"]] == [TensorProto.FLOAT] * 2
    assert kinds["logits_half"] == TensorProto.FLOAT16
    images = some_images(1)
    np.testing.assert_allclose(run(half, images), run(model, images), rtol=2e-3)


def test_the_largest_activation_is_that_of_what_becomes_float16() -> None:
    model = made(
        """thousand = Constant <value: tensor = float {1000.0}> ()
        x = Conv(image, weights)
        large = Mul(x, thousand)
        logits = Div(large, thousand)"""
    )
    images = np.full((1, 3, 4, 4), 10, np.float32)
    assert largest_activation(model, images) == pytest.approx((4 + 5 + 6) * 10 * 1000)
    assert largest_activation(model, images) > FLOAT16_LARGEST


def test_weights_beyond_float16_and_branches_are_refused_with_the_mend() -> None:
    large = "weights = Constant <value: tensor = float[2, 3, 1, 1] {1, 2, 3, 4, 5, 70000}> ()"
    with pytest.raises(UnavailableError, match=r"7e\+04, and float16 ends at 65504: choose --precision fp32"):
        to_half(made("logits = Conv(image, weights)", large))
    branch = made(
        """yes = Constant <value: tensor = bool {1}> ()
        x = Conv(image, weights)
        logits = If (yes) <then_branch = a () => (float[N, C, H, W] p) { p = Identity(x) },
                           else_branch = b () => (float[N, C, H, W] q) { q = Neg(x) }>"""
    )
    with pytest.raises(UnavailableError, match="branch"):
        to_half(branch)
