"""The rewritten tail: PSAPairs gives PSAMask's values, one index for both directions is folded at load."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from export.graph import DOMAIN, OPSET, VERSION
from export.rewrite import (
    PAIRS,
    ServingPSA,
    has_psa_pairs,
    psa_pairs,
    psa_pairs_function,
    psa_pairs_schema,
    with_serving_tail,
)
from tests.export.test_graph import SIZES, random_map, session
from tests.export.tiny import tiny_config, tiny_network


def alone(
    mask_hw: tuple[int, int], features_hw: tuple[int, int] | None, nodes: int = 1, dtype: int = 1
) -> onnx.ModelProto:
    """A model of so many PSAPairs nodes and their function; features of any size for None."""
    count, positions = mask_hw[0] * mask_hw[1], features_hw[0] * features_hw[1] if features_hw else "P"
    names = [f"{index}" for index in range(nodes)]
    calls = [
        helper.make_node(
            PAIRS, [f"map{name}", "hw"], [f"pairs{name}"], domain=DOMAIN, mask_h=mask_hw[0], mask_w=mask_hw[1]
        )
        for name in names
    ]
    hw_input = [helper.make_tensor_value_info("hw", TensorProto.INT64, [2])]
    graph = helper.make_graph(
        calls,
        "alone",
        [helper.make_tensor_value_info(f"map{name}", dtype, ["N", positions, count]) for name in names]
        + ([] if features_hw else hw_input),
        [helper.make_tensor_value_info(f"pairs{name}", dtype, ["N", positions, positions]) for name in names],
        [onnx.numpy_helper.from_array(np.array(features_hw), "hw")] if features_hw else [],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, functions=[psa_pairs_function()], ir_version=10)


def slow_pairs(values: np.ndarray, mask_hw: tuple[int, int], features_hw: tuple[int, int]) -> np.ndarray:
    """From a map (N, M, H, W), value by value as the paper's text has it: (N, H * W, H * W)."""
    h, w = features_hw
    pairs = np.zeros((len(values), h * w, h * w), values.dtype)
    for k in range(h):
        for l in range(w):  # noqa: E741 - the paper's letter
            for s in range(h):
                for t in range(w):
                    row = s - k + (mask_hw[0] - 1) // 2
                    column = t - l + (mask_hw[1] - 1) // 2
                    if 0 <= row < mask_hw[0] and 0 <= column < mask_hw[1]:
                        value = values[:, row * mask_hw[1] + column, k, l]
                        pairs[:, k * w + l, s * w + t] = value
    return pairs


def positions_first(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.reshape(*values.shape[:2], -1).transpose(0, 2, 1))


@pytest.mark.parametrize(("mask_hw", "features_hw"), SIZES)
def test_the_function_and_the_torch_op_give_each_pair_its_value(
    mask_hw: tuple[int, int], features_hw: tuple[int, int]
) -> None:
    model = alone(mask_hw, features_hw)
    onnx.checker.check_model(model, full_check=True)
    runtime, reference = session(model), ReferenceEvaluator(model)
    for batch in (1, 3):
        values = random_map(batch, mask_hw, features_hw)
        expected, given = slow_pairs(values, mask_hw, features_hw), positions_first(values)
        np.testing.assert_array_equal(runtime.run(None, {"map0": given})[0], expected)
        if given.shape[2] < 64:  # the reference's GatherElements takes no more
            np.testing.assert_array_equal(reference.run(None, {"map0": given})[0], expected)
        own = psa_pairs(torch.from_numpy(given), *features_hw, *mask_hw)
        np.testing.assert_array_equal(own.numpy(), expected)


def test_one_file_serves_features_of_any_size() -> None:
    runtime = session(alone((5, 7), None))
    for features_hw in ((3, 4), (6, 2), (1, 5)):
        values = random_map(2, (5, 7), features_hw)
        feeds = {"map0": positions_first(values), "hw": np.array(features_hw)}
        np.testing.assert_array_equal(runtime.run(None, feeds)[0], slow_pairs(values, (5, 7), features_hw))


def test_the_function_keeps_float16() -> None:
    model = alone((3, 3), (3, 3), dtype=TensorProto.FLOAT16)
    onnx.checker.check_model(model, full_check=True)
    values = random_map(1, (3, 3), (3, 3)).astype(np.float16)
    (result,) = ReferenceEvaluator(model).run(None, {"map0": positions_first(values)})
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, slow_pairs(values, (3, 3), (3, 3)))


def test_onnx_runtime_folds_one_index_at_load_for_all_nodes(tmp_path: Path) -> None:
    written = tmp_path / "optimized.onnx"
    session(alone((9, 9), (5, 5), nodes=2), optimized_model_filepath=str(written))
    left = onnx.load(written).graph
    kinds = {node.op_type for node in left.node}
    assert kinds == {"Shape", "Concat", "Expand", "GatherElements", "Where"}
    large = sorted(
        (item.data_type, list(item.dims))
        for item in left.initializer
        if 25 in item.dims or len(item.dims) > 1
    )
    assert large == [(TensorProto.INT32, [25, 25]), (TensorProto.BOOL, [25, 25])]


def test_function_and_schema_agree_and_hold_no_branch_nor_large_constant() -> None:
    function, schema = psa_pairs_function(), psa_pairs_schema()
    assert (function.domain, function.name, function.overload) == (DOMAIN, PAIRS, "")
    assert (schema.domain, schema.name, schema.since_version) == (DOMAIN, PAIRS, VERSION)
    assert [item.name for item in schema.inputs] == list(function.input)
    assert [item.name for item in schema.outputs] == list(function.output)
    assert sorted(schema.attributes) == sorted(function.attribute)
    assert {node.domain for node in function.node} == {""}
    assert not {node.op_type for node in function.node} & {"If", "Loop", "Scan"}
    assert function.ByteSize() < 8192
    assert has_psa_pairs(alone((3, 3), (2, 2)))


@pytest.mark.parametrize(
    "changes",
    [
        {"psa_type": "collect", "mask_hw": (3, 7)},
        {"psa_type": "distribute", "mask_hw": (4, 6), "crop_hw": (49, 65)},
        {"psa_softmax": False, "normalization_factor": 2.0},
        {"compact": True},
        {"compact": True, "psa_type": "distribute"},
    ],
)
def test_a_network_with_the_serving_tail_is_the_same_function(changes: dict[str, object]) -> None:
    network = tiny_network(tiny_config(**changes))
    images = torch.rand(2, 3, *network.config.crop_hw, generator=torch.Generator().manual_seed(1)) * 255
    context, keys = network.context, set(network.state_dict())
    serving = with_serving_tail(network)
    with torch.inference_mode():
        own, other = network.coarse_logits(images), serving.coarse_logits(images)
    torch.testing.assert_close(other, own, atol=1e-4, rtol=1e-4)
    assert isinstance(serving.context, ServingPSA)
    assert network.context is context
    assert set(network.state_dict()) == keys
    first = serving.context.reduce[0].weight  # type: ignore[union-attr, index]
    assert first is network.context.reduce[0].weight  # type: ignore[union-attr, index]


def test_other_networks_stay_as_they_are() -> None:
    network = tiny_network(tiny_config(context="global"))
    assert with_serving_tail(network) is network


def test_a_runtime_with_a_kernel_of_that_name_uses_it() -> None:
    class PSAPairs(OpRun):
        op_domain = DOMAIN

        def _run(self, over_completed, features_hw, mask_h=None, mask_w=None):  # type: ignore[no-untyped-def]
            h, w = features_hw
            values = over_completed.transpose(0, 2, 1).reshape(len(over_completed), -1, h, w)
            return (slow_pairs(values, (mask_h, mask_w), (h, w)) + 1000,)

    values = random_map(2, (3, 5), (4, 4))
    evaluator = ReferenceEvaluator(alone((3, 5), (4, 4)), new_ops=[PSAPairs])
    (result,) = evaluator.run(None, {"map0": positions_first(values)})
    np.testing.assert_array_equal(result, slow_pairs(values, (3, 5), (4, 4)) + 1000)
