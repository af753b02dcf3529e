"""Networks with normalisation folded into convolutions give their own logits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inference.engines.folding import Unit, fold, set_fused
from inference.engines.gpu_network import coarse_logits, largest_power_of_two
from models.config import MMSEGMENTATION, ModelConfig
from models.network import SceneParser, build_network

KINDS: list[dict[str, Any]] = [
    {"depth": 18},
    {"depth": 50, "psa_type": "collect"},
    {"depth": 18, "context": "ppm"},
    {"depth": 18, "context": "nonlocal"},
    {"depth": 18, "context": "aspp"},
    {"depth": 18, "mask_hw": (7, 7), "head_width": 8, **MMSEGMENTATION},
]


def made_network(**changes: Any) -> SceneParser:
    """With statistics, scales and shifts unlike those of a fresh network."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(**{"classes": 4, "crop_hw": (33, 33), "head_width": 16} | changes))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def some_images() -> Tensor:
    return torch.rand(2, 3, 33, 33, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_folded_network_gives_the_same_logits_without_normalisation(kind: dict[str, Any]) -> None:
    network = made_network(**kind)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        expected = network.coarse_logits(some_images())
        folded = fold(network)
        found = folded.coarse_logits(some_images())
        again = network.coarse_logits(some_images())
    assert float((found - expected).abs().max() / expected.std()) < 1e-4
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert folded.aux is None
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_all_units_with_a_relu_can_be_fused() -> None:
    folded = fold(made_network(depth=50))
    set_fused(folded, True)
    units = [module for module in folded.modules() if isinstance(module, Unit)]
    assert len(units) > 50
    assert all(unit.fused for unit in units)


def test_lower_precision_normalises_pixels_in_float32() -> None:
    network = made_network(depth=18)
    folded = fold(network).to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    folded.mean, folded.std = network.mean, network.std
    with torch.inference_mode():
        expected = network.coarse_logits(some_images())
        found = coarse_logits(folded, some_images(), torch.bfloat16).float()
    assert float((found - expected).abs().max() / expected.std()) < 0.3
    assert float((found - expected).pow(2).mean().sqrt() / expected.std()) < 0.05


def test_batches_are_split_into_powers_of_two() -> None:
    assert [largest_power_of_two(count) for count in (1, 2, 3, 4, 7, 8, 9)] == [1, 2, 2, 4, 4, 8, 8]
