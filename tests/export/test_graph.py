"""The op PSAMask: its function gives what the torch op gives, in one body, its index folded at load."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from export.graph import (
    COLLECT,
    DISTRIBUTE,
    DOMAIN,
    OP_NAME,
    OPSET,
    VERSION,
    psa_mask_function,
    psa_mask_schema,
    translation_table,
)

# mask, features: full, square or not; smaller than the pairs need; even sides; larger than needed; one value.
SIZES = [
    ((9, 9), (5, 5)),
    ((5, 9), (3, 5)),
    ((3, 3), (5, 5)),
    ((3, 7), (5, 4)),
    ((1, 5), (4, 4)),
    ((4, 6), (5, 4)),
    ((2, 2), (3, 6)),
    ((8, 5), (2, 3)),
    ((1, 1), (3, 2)),
    ((1, 1), (1, 1)),
]


def alone(
    mask_hw: tuple[int, int], features_hw: tuple[int, int] | None, kind: int, dtype: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """A model of one PSAMask node and its function; features of any size for None."""
    h, w = features_hw or ("H", "W")
    node = helper.make_node(
        OP_NAME, ["map"], ["attention"], domain=DOMAIN, mask_h=mask_hw[0], mask_w=mask_hw[1], type=kind
    )
    graph = helper.make_graph(
        [node],
        "alone",
        [helper.make_tensor_value_info("map", dtype, ["N", mask_hw[0] * mask_hw[1], h, w])],
        [helper.make_tensor_value_info("attention", dtype, ["N", None, h, w])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, functions=[psa_mask_function()], ir_version=10)


def session(model: onnx.ModelProto, **options: Any) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    for key, value in options.items():
        setattr(settings, key, value)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def random_map(batch: int, mask_hw: tuple[int, int], features_hw: tuple[int, int]) -> NDArray[np.float32]:
    shape = (batch, mask_hw[0] * mask_hw[1], *features_hw)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def torch_op(values: NDArray[Any], mask_hw: tuple[int, int], kind: int) -> NDArray[Any]:
    result: NDArray[Any] = torch.ops.psanet.psa_mask(
        torch.from_numpy(values), *mask_hw, kind == DISTRIBUTE
    ).numpy()
    return result


@pytest.mark.parametrize("kind", [COLLECT, DISTRIBUTE])
@pytest.mark.parametrize(("mask_hw", "features_hw"), SIZES)
def test_the_function_gives_what_the_torch_op_gives(
    mask_hw: tuple[int, int], features_hw: tuple[int, int], kind: int
) -> None:
    model = alone(mask_hw, features_hw, kind)
    onnx.checker.check_model(model, full_check=True)
    runtime, reference = session(model), ReferenceEvaluator(model)
    for batch in (1, 3):
        values = random_map(batch, mask_hw, features_hw)
        expected = torch_op(values, mask_hw, kind)
        np.testing.assert_array_equal(runtime.run(None, {"map": values})[0], expected)
        np.testing.assert_array_equal(reference.run(None, {"map": values})[0], expected)


@pytest.mark.parametrize("kind", [COLLECT, DISTRIBUTE])
def test_one_file_serves_features_of_any_size(kind: int) -> None:
    runtime = session(alone((5, 7), None, kind))
    for features_hw in ((3, 4), (6, 2), (1, 5)):
        values = random_map(2, (5, 7), features_hw)
        np.testing.assert_array_equal(runtime.run(None, {"map": values})[0], torch_op(values, (5, 7), kind))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_the_function_keeps_other_floating_point_types(dtype: int) -> None:
    model = alone((3, 3), (3, 3), DISTRIBUTE, dtype)
    onnx.checker.check_model(model, full_check=True)
    values = random_map(1, (3, 3), (3, 3)).astype(helper.tensor_dtype_to_np_dtype(dtype))
    result = ReferenceEvaluator(model).run(None, {"map": values})[0]
    assert result.dtype == values.dtype
    np.testing.assert_array_equal(result, torch_op(values, (3, 3), DISTRIBUTE))


def test_collect_and_distribute_differ_and_are_transposes_of_each_other() -> None:
    values = random_map(1, (5, 5), (3, 3))
    both = [
        session(alone((5, 5), (3, 3), kind)).run(None, {"map": values})[0] for kind in (COLLECT, DISTRIBUTE)
    ]
    collect_st, distribute_st = (result.reshape(9, 9) for result in both)
    assert not np.array_equal(collect_st, distribute_st)
    np.testing.assert_array_equal(collect_st, distribute_st.T)


def test_the_function_is_one_body_of_standard_ops_without_branches() -> None:
    function = psa_mask_function()
    assert (function.domain, function.name, function.overload) == (DOMAIN, OP_NAME, "")
    assert {node.domain for node in function.node} == {""}
    assert not {node.op_type for node in function.node} & {"If", "Loop", "Scan"}
    assert sorted(function.attribute) == ["mask_h", "mask_w", "type"]


def test_function_and_schema_agree() -> None:
    function, schema = psa_mask_function(), psa_mask_schema()
    assert (schema.domain, schema.name, schema.since_version) == (DOMAIN, OP_NAME, VERSION)
    assert [item.name for item in schema.inputs] == list(function.input)
    assert [item.name for item in schema.outputs] == list(function.output)
    assert sorted(schema.attributes) == sorted(function.attribute)


def test_the_torch_op_has_a_translation() -> None:
    assert list(translation_table()) == [torch.ops.psanet.psa_mask.default]


def test_onnx_runtime_folds_the_index_at_load(tmp_path: Path) -> None:
    """What remains to run is a gather; sizes known, N free."""
    written = tmp_path / "optimized.onnx"
    session(alone((9, 9), (5, 5), COLLECT), optimized_model_filepath=str(written))
    left = onnx.load(written).graph
    kinds = [node.op_type for node in left.node]
    assert sorted(kinds) == ["Flatten", "Gather", "Reshape", "Where"]
    index = next(
        item
        for item in left.initializer
        if list(item.dims) == [25, 25] and item.data_type != TensorProto.BOOL
    )
    assert index.data_type == TensorProto.INT32


def test_the_function_holds_no_large_constants() -> None:
    assert psa_mask_function().ByteSize() < 8192
