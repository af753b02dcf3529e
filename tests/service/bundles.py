"""Bundles on disk that ONNX Runtime runs: the fake engine's rule in one layer, and one with moods."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inference.bundle import write_model_json
from tests.service.fakes import tiny_info

HANGS, STARVES, FAILS = 251, 241, 231
"""From that value of its brightest pixel on, a moody network hangs in an image, wants all memory, fails."""


def write_tiny_bundle(folder: Path, name: str = "tiny", *, strongest: int = 1) -> Path:
    """Writes model.json and model.onnx into `folder`, which is returned. strongest: class of red images."""
    order = [(strongest - 1 + step) % 3 for step in range(3)]
    return _write(folder, name, order, [], "logits")


def write_moody_bundle(folder: Path, name: str = "moody") -> Path:
    """As a tiny one, but it does not survive bright images: see HANGS, STARVES and FAILS."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["brightest"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["brightest", "hangs"], ["hanging"]),
        helper.make_node("Where", ["hanging", "for_ever", "none"], ["turns"]),
        helper.make_node("Loop", ["turns", "always", "zero"], ["nothing"], body=body),
        helper.make_node("GreaterOrEqual", ["brightest", "starves"], ["bright"]),
        helper.make_node("Xor", ["bright", "hanging"], ["starving"]),
        helper.make_node("Where", ["starving", "all_memory", "one_value"], ["room"]),
        helper.make_node("ConstantOfShape", ["room"], ["held"]),
        helper.make_node("ReduceMax", ["held"], ["still_nothing"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["brightest", "fails"], ["light"]),
        helper.make_node("Xor", ["light", "bright"], ["failing"]),
        helper.make_node("Where", ["failing", "two_values", "one_value"], ["shape"]),
        helper.make_node("Reshape", ["still_nothing", "shape"], ["one_nothing"]),
        helper.make_node("Add", ["nothing", "one_nothing"], ["silence"]),
        helper.make_node("Add", ["calm", "silence"], ["logits"]),
    ]
    return _write(folder, name, [0, 1, 2], nodes, "calm")


def _write(
    folder: Path, name: str, order: Sequence[int], nodes: list[onnx.NodeProto], convolved: str
) -> Path:
    weight = np.zeros((4, 3, 1, 1), np.float32)
    for channel, place in enumerate(order):
        weight[place + 1, channel] = 0.1
    constants = {
        "weight": weight,
        "bias": np.asarray([5, 0, 0, 0], np.float32),
        "hangs": np.float32(HANGS),
        "starves": np.float32(STARVES),
        "fails": np.float32(FAILS),
        "for_ever": np.int64(10**15),
        "none": np.int64(0),
        "always": np.bool_(True),
        "zero": np.float32(0),
        "all_memory": np.asarray([10**14], np.int64),
        "one_value": np.asarray([1], np.int64),
        "two_values": np.asarray([2], np.int64),
    }
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], [convolved], strides=[8, 8]), *nodes],
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 65, 65])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 9, 9])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    write_model_json(folder, tiny_info(name))
    return folder
