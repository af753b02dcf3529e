"""A network as an ONNX model: both forms of the PSA mask, standard ops alone, whole images of any size."""

from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray

from export.build import PsaForm, build_model, written_form
from models.config import MMSEGMENTATION
from models.network import SceneParser
from tests.export.test_graph import session
from tests.export.test_rewrite import alone
from tests.export.tiny import tiny_config, tiny_network

SMALL_MASK = {"mask_hw": (3, 7)}
EVEN_MASK = {"psa_type": "distribute", "mask_hw": (4, 6), "crop_hw": (49, 65)}
NO_SOFTMAX = {"shrink_factor": 1, "crop_hw": (41, 33), "normalization_factor": 2.0, "psa_softmax": False}


def pictures(count: int, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 255, (count, 3, *size_hw)).astype(np.float32)


def own_logits(network: SceneParser, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = network.coarse_logits(torch.from_numpy(images)).numpy()
    return logits


@pytest.mark.parametrize(
    ("changes", "kinds"), [(EVEN_MASK, [1]), ({**NO_SOFTMAX, "psa_type": "collect"}, [0])]
)
def test_the_function_form_holds_the_op_and_gives_the_networks_logits(
    changes: dict[str, Any], kinds: list[int]
) -> None:
    network = tiny_network(tiny_config(**changes))
    model = build_model(network, psa_form="function")
    nodes = [node for node in model.graph.node if (node.domain, node.op_type) == ("psanet", "PSAMask")]
    mask_h, mask_w = network.config.psa_mask_hw
    assert [{item.name: item.i for item in node.attribute} for node in nodes] == [
        {"mask_h": mask_h, "mask_w": mask_w, "type": kind} for kind in kinds
    ]
    assert [function.name for function in model.functions] == ["PSAMask"]
    assert written_form(model, network.config) == "function"
    images = pictures(3, network.config.crop_hw)
    (logits,) = session(model).run(["logits"], {"image": images})
    np.testing.assert_allclose(logits, own_logits(network, images), atol=1e-4)


@pytest.mark.parametrize("psa_form", ["pairs", "function"])
def test_an_inlined_model_runs_in_openvino_and_gives_what_onnx_runtime_and_pytorch_give(
    psa_form: PsaForm,
) -> None:
    network = tiny_network(tiny_config(**SMALL_MASK))
    model = build_model(network, psa_form=psa_form, inline=True)
    assert not model.functions
    assert (
        {node.domain for node in model.graph.node} == {opset.domain for opset in model.opset_import} == {""}
    )
    assert not {node.op_type for node in model.graph.node} & {"If", "Loop", "Scan"}
    assert written_form(model, network.config) == "inlined"
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString(), b""), "CPU", settings)
    images = pictures(2, network.config.crop_hw)
    runtime, expected = session(model), own_logits(network, images)
    for batch in (images, images[1:]):
        own = expected[-len(batch) :]
        np.testing.assert_allclose(compiled({"image": batch})["logits"], own, atol=1e-4)
        np.testing.assert_allclose(runtime.run(["logits"], {"image": batch})[0], own, atol=1e-4)


def test_a_model_with_local_functions_is_not_for_openvino() -> None:
    """Else `--inline` would be of no use."""
    model = alone((3, 3), (2, 2))
    with pytest.raises(RuntimeError, match=r"psanet\.PSAPairs"):
        openvino.Core().read_model(model.SerializeToString(), b"")


@pytest.mark.parametrize("psa_form", ["pairs", "function"])
def test_a_network_for_whole_images_takes_any_size(psa_form: PsaForm) -> None:
    network = tiny_network(tiny_config(**MMSEGMENTATION, crop_hw=(64, 64), mask_hw=(9, 9)))
    model = build_model(network, psa_form=psa_form, any_size=True)
    sides = [side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["N", 3, "height", "width"]
    runtime = session(model)
    for count, size_hw in ((1, (64, 64)), (2, (65, 65)), (1, (63, 80)), (3, (97, 41))):
        images = pictures(count, size_hw)
        (logits,) = runtime.run(["logits"], {"image": images})
        np.testing.assert_allclose(logits, own_logits(network, images), atol=1e-4)


def test_a_file_holds_the_weights_and_little_else() -> None:
    """An index or a mask of all pairs would take megabytes: 47 * 47 positions are 4.9 million pairs."""
    network = tiny_network(tiny_config(crop_hw=(737, 737)))
    weights = sum(4 * value.numel() for value in network.state_dict().values())
    model = build_model(network, psa_form="pairs")
    assert model.ByteSize() < weights + 100_000
    large = [item for item in model.graph.initializer if item.data_type != onnx.TensorProto.FLOAT]
    assert sum(len(item.raw_data) for item in large) < 1000
