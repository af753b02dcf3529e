"""A bundle on disk that ONNX Runtime runs: the fake engine's rule as a one-layer network."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inference.bundle import write_model_json
from tests.service.fakes import tiny_info


def write_tiny_bundle(folder: Path, name: str = "tiny") -> Path:
    """Writes model.json and model.onnx into `folder`, which is returned."""
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[1, 0] = weight[2, 1] = weight[3, 2] = 0.1
    bias = np.asarray([5, 0, 0, 0], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"], strides=[8, 8])],
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 65, 65])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 9, 9])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    write_model_json(folder, tiny_info(name))
    return folder
