"""The attention outputs of a model: the weights of the equations in every form, and free where served."""

from collections import Counter
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from export.attention import LogitsAndAttention
from export.build import PsaForm, build_model
from export.rewrite import with_serving_tail
from models.config import MMSEGMENTATION
from tests.attention_oracle import slow_attention
from tests.export.test_build import pictures
from tests.export.test_graph import session
from tests.export.tiny import tiny_config, tiny_network


def test_the_served_form_computes_nothing_more_and_the_other_a_transposition_a_branch() -> None:
    """ONNX Runtime computes every output of a file, whichever are asked for."""
    network = tiny_network(tiny_config())
    extra: dict[PsaForm, dict[str, int]] = {"pairs": {}, "function": {"Transpose": 2}}
    for psa_form, expected in extra.items():
        plain, told = (
            Counter(
                node.op_type for node in build_model(network, psa_form=psa_form, attention=wanted).graph.node
            )
            for wanted in (False, True)
        )
        assert dict(told - plain) == expected
        assert not plain - told


@pytest.mark.parametrize(
    "changes",
    [
        {"psa_type": "collect", "mask_hw": (3, 7)},
        {"psa_type": "distribute", "mask_hw": (4, 6), "crop_hw": (49, 65)},
        {"compact": True},
        {"psa_softmax": False, "normalization_factor": 2.0},
    ],
)
@pytest.mark.parametrize("serving", [False, True])
def test_the_module_gives_the_logits_and_the_weights_behind_them(
    changes: dict[str, Any], serving: bool
) -> None:
    network = tiny_network(tiny_config(**changes))
    images = pictures(2, network.config.crop_hw)
    directions = network.config.directions
    module = LogitsAndAttention(with_serving_tail(network) if serving else network, directions)
    with torch.inference_mode():
        logits, *weights = module(torch.from_numpy(images))
        torch.testing.assert_close(
            logits, network.coarse_logits(torch.from_numpy(images)), atol=1e-4, rtol=1e-4
        )
    expected = slow_attention(network, images)
    assert list(expected) == list(directions)
    for found, slow in zip(weights, expected.values(), strict=True):
        np.testing.assert_allclose(found.numpy(), slow, atol=1e-4)


@pytest.mark.parametrize("psa_form", ["pairs", "function"])
def test_whole_images_of_any_size_tell_of_their_attention(psa_form: PsaForm) -> None:
    network = tiny_network(tiny_config(**MMSEGMENTATION, crop_hw=(64, 64), mask_hw=(9, 9)))
    runtime = session(build_model(network, psa_form=psa_form, any_size=True, attention=True))
    for count, size_hw in ((1, (64, 64)), (2, (65, 80)), (1, (97, 41))):
        images = pictures(count, size_hw)
        for direction, expected in slow_attention(network, images).items():
            (weights,) = runtime.run([f"attention_{direction}"], {"image": images})
            np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_an_inlined_model_tells_of_its_attention_in_openvino() -> None:
    network = tiny_network(tiny_config(mask_hw=(3, 7)))
    model = build_model(network, psa_form="pairs", inline=True, attention=True)
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString(), b""), "CPU", settings)
    images = pictures(2, network.config.crop_hw)
    found = compiled({"image": images})
    for direction, expected in slow_attention(network, images).items():
        np.testing.assert_allclose(found[f"attention_{direction}"], expected, atol=1e-5)


def test_exporting_leaves_the_network_as_it_was() -> None:
    network = tiny_network(tiny_config())
    context, attributes = network.context, set(vars(network.context))
    build_model(network, psa_form="pairs", attention=True)
    assert network.context is context
    assert set(vars(context)) == attributes
