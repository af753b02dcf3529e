"""int8: the structure of the file, how near it is, on every processor, in ONNX Runtime and TensorRT."""

import copy
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from export.build import to_onnx
from export.comparison import sample_images
from export.errors import CalibrationError, UnavailableError
from export.quantize import WEIGHT_LEVELS, quantize, round_weight, to_symmetric
from tests.export.tiny import tiny_config, tiny_network

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    """Smooth pictures, (4, 3, 65, 65)."""
    return np.concatenate([sample_images((65, 65), seed=seed)[1:] for seed in range(4)])


@pytest.fixture(scope="module")
def plain() -> ModelProto:
    """A tiny bidirectional PSANet in float32."""
    return to_onnx(tiny_network(tiny_config()))


@pytest.fixture(scope="module")
def small(plain: ModelProto, images: NDArray[np.float32]) -> ModelProto:
    """The same in int8."""
    before = plain.SerializeToString()
    quantized = quantize(plain, [images])
    assert plain.SerializeToString() == before, "the float32 model stays as it is"
    return quantized


def run(model: ModelProto, images: NDArray[np.float32], *names: str) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs: list[NDArray[np.float32]] = session.run(list(names) or ["logits"], {"image": images})
    return outputs


def constants(model: ModelProto) -> Arrays:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def made_by(model: ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def convolutions(model: ModelProto) -> dict[str, onnx.NodeProto]:
    """By the name of the layer that the weight is of."""
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            name = node.input[1].removesuffix("_dequantized").removeprefix("network.")
            found[name.removesuffix(".weight")] = node
    return found


def test_the_file_is_a_checked_model_without_functions(small: ModelProto) -> None:
    onnx.checker.check_model(small, full_check=True)
    assert not small.functions
    assert {node.domain for node in small.graph.node} == {""}


def test_every_rectified_convolution_but_the_first_is_on_integers(small: ModelProto) -> None:
    makers, layers = made_by(small), convolutions(small)
    stays = {name for name, node in layers.items() if makers.get(node.input[1]) is None}
    assert stays == {"backbone.layer0.0", "context.attention.3", "context.attention_p.3", "cls.4"}
    for name in layers.keys() - stays:
        for source in layers[name].input[:2]:
            assert makers[source].op_type == "DequantizeLinear", name


def test_attention_and_resampling_take_no_rounded_logits(small: ModelProto) -> None:
    makers = made_by(small)
    kinds = {
        node.op_type: {makers[name].op_type for name in node.input if name in makers}
        for node in small.graph.node
        if node.op_type in ("Softmax", "Where", "Sub")
    }
    assert all("DequantizeLinear" not in found for found in kinds.values())


def test_weights_are_symmetric_by_channel_and_biases_are_float(small: ModelProto) -> None:
    stored, makers = constants(small), made_by(small)
    dequantized = 0
    for node in convolutions(small).values():
        if len(node.input) > 2:
            assert stored[node.input[2]].dtype == np.float32
        maker = makers.get(node.input[1])
        if maker is None:
            continue
        dequantized += 1
        weight, scale, zero = (stored[name] for name in maker.input)
        assert weight.dtype == zero.dtype == np.int8
        assert scale.shape == zero.shape == weight.shape[:1]
        assert not zero.any()
        assert abs(weight.astype(int)).max() == WEIGHT_LEVELS
        assert [item.i for item in maker.attribute if item.name == "axis"] == [0]
    assert dequantized > 20


def test_no_sum_of_two_products_leaves_16_bits(small: ModelProto) -> None:
    """What processors without VNNI add up before it is widened: activations are 0..255 there."""
    for values in constants(small).values():
        if values.dtype == np.int8:
            assert 2 * 255 * abs(values.astype(int)).max(initial=0) < 2**15


def test_activations_are_uint8_and_pooling_changes_no_scale(small: ModelProto) -> None:
    stored, makers = constants(small), made_by(small)
    scales = {}
    for node in small.graph.node:
        if node.op_type == "QuantizeLinear":
            size, zero = (stored[name] for name in node.input[1:])
            assert (size.dtype.name, zero.dtype.name, size.shape) == ("float32", "uint8", ())
            scales[node.input[0]] = float(size), int(zero)
    for node in small.graph.node:
        if node.op_type == "MaxPool":
            source = makers[node.input[0]]
            assert source.op_type == "DequantizeLinear"
            assert (float(stored[source.input[1]]), 0) == scales[node.output[0]]
    rectified = [scales[name][1] for name in scales if makers[name].op_type == "Relu"]
    assert len(rectified) > 15
    assert not any(rectified)


def test_onnx_runtime_computes_convolutions_sums_and_pooling_in_integers(
    small: ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("optimized") / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(path)
    onnxruntime.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    integers = sum(item.data_type == TensorProto.INT8 for item in small.graph.initializer) // 2
    assert kinds["QLinearConv"] == integers
    assert kinds["Conv"] + kinds["FusedConv"] == 4
    assert kinds["QLinearAdd"] == 8
    assert kinds["MaxPool"] == 0
    assert kinds["NhwcMaxPool"] == 1
    assert kinds["Relu"] == 0


def test_logits_are_near_those_in_float32(
    plain: ModelProto, small: ModelProto, images: NDArray[np.float32]
) -> None:
    (own,), (other,) = run(plain, images), run(small, images)
    assert 0 < abs(other - own).mean() < 0.05 * own.std()
    assert (own.argmax(1) == other.argmax(1)).mean() > 0.93
    (alone,) = run(small, images[:1])
    assert abs(alone - other[:1]).mean() < 0.01 * own.std(), "any number of images"


def test_attention_still_sums_to_1(small: ModelProto, images: NDArray[np.float32]) -> None:
    watched = copy.deepcopy(small)
    weights = [node.output[0] for node in watched.graph.node if node.op_type == "Softmax"]
    assert len(weights) == 2
    for name in weights:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    for attention in run(watched, images, *weights):
        axis = 1 if abs(attention.sum(1) - 1).max() < 1e-5 else 2
        np.testing.assert_allclose(attention.sum(axis), 1, atol=1e-5)
        assert attention.std() > 0


def test_the_same_images_give_the_same_file(
    plain: ModelProto, small: ModelProto, images: NDArray[np.float32]
) -> None:
    again = quantize(plain, iter([images]))
    assert again.SerializeToString(deterministic=True) == small.SerializeToString(deterministic=True)


def test_symmetric_is_the_same_network_around_0(
    plain: ModelProto, small: ModelProto, images: NDArray[np.float32]
) -> None:
    symmetric = to_symmetric(small)
    onnx.checker.check_model(symmetric, full_check=True)
    stored, before = constants(symmetric), constants(small)
    pairs = [tuple(node.input[1:]) for node in symmetric.graph.node if node.op_type == "QuantizeLinear"]
    assert pairs
    for size, zero in pairs:
        assert (stored[zero].dtype.name, int(stored[zero])) == ("int8", 0)
        low, high = (before[size] * (end - int(before[zero])) for end in (0, 255))
        assert stored[size] * 127 == pytest.approx(max(-low, high))
    assert all(values.dtype != np.uint8 for values in stored.values())
    (own,), (other,) = run(plain, images), run(symmetric, images)
    assert (own.argmax(1) == other.argmax(1)).mean() > 0.9
    assert to_symmetric(symmetric) == symmetric


def test_tensorrt_builds_an_engine_of_the_symmetric_form(small: ModelProto) -> None:
    tensorrt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    assert parser.parse(to_symmetric(small).SerializeToString()), parser.get_error(0)
    configuration, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("image", (1, 3, 65, 65), (1, 3, 65, 65), (2, 3, 65, 65))
    configuration.add_optimization_profile(profile)
    configuration.num_compute_capabilities = 1
    configuration.set_compute_capability(tensorrt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, configuration) is not None


def test_a_channel_without_weights_keeps_its_bias() -> None:
    """Its scale must not be so small that the bias leaves int32: ONNX Runtime would wrap it."""
    weight = np.zeros((2, 1, 1, 1), np.float32)
    weight[0] = 0.5
    integers, sizes = round_weight(weight, np.array([0, 3], np.float32), 0.01)
    assert integers.ravel().tolist() == [WEIGHT_LEVELS, 0]
    assert sizes[0] == pytest.approx(0.5 / WEIGHT_LEVELS)
    assert 3 / (0.01 * float(sizes[1])) < 2**31
    assert round_weight(weight, None, 0.01)[1][1] == 1


def test_an_opset_without_scales_by_channel_is_refused(
    plain: ModelProto, images: NDArray[np.float32]
) -> None:
    old = copy.deepcopy(plain)
    next(item for item in old.opset_import if not item.domain).version = 12
    with pytest.raises(UnavailableError, match="opset 13 or later.*has 12.*--precision fp16"):
        quantize(old, [images])


def test_a_model_without_such_convolutions_is_refused(small: ModelProto, images: NDArray[np.float32]) -> None:
    with pytest.raises(UnavailableError, match="this model has none: choose --precision"):
        quantize(small, [images])


def test_no_images_is_an_error(plain: ModelProto) -> None:
    with pytest.raises(CalibrationError, match="on no images"):
        quantize(plain, [])


@pytest.mark.parametrize(
    "changes",
    [
        {"psa_type": "collect", "mask_hw": (3, 7)},
        {"compact": True},
        {"shrink_factor": 1, "crop_hw": (41, 33), "psa_softmax": False},
        {"context": "ppm", "crop_hw": (57, 65)},
        {"context": "nonlocal"},
        {"context": "global"},
        {"depth": 50},
    ],
    ids=str,
)
def test_other_networks_too(changes: dict[str, Any]) -> None:
    network = tiny_network(tiny_config(**changes))
    images = np.concatenate([sample_images(network.config.crop_hw, seed=seed)[1:] for seed in range(3)])
    plain = to_onnx(network)
    quantized = quantize(plain, [images])
    onnx.checker.check_model(quantized, full_check=True)
    (own,), (other,) = run(plain, images), run(quantized, images)
    assert 0 < abs(other - own).mean() < 0.1 * own.std()
