"""The network at MMSegmentation's settings against theirs, written out; and that each difference shows."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import MMSEGMENTATION, ConfigError
from models.network import SceneParser, build_network
from models.resample import resize
from tests.models.mmseg_network import MISTAKES, mmseg_config, mmseg_keys, their_logits
from tests.models.networks import fill, some_images, tiny_network

SIZES = [(40, 56), (48, 64), (41, 64), (37, 53), (33, 9)]
"""Features of 5 x 7, 6 x 8, 6 x 8, 5 x 7 and 5 x 2."""


@pytest.fixture(scope="module")
def network() -> SceneParser:
    return at(mmseg_config(aux=False))


def at(config: Any) -> SceneParser:
    network = build_network(config)
    fill(network)
    return network.double().eval()


def theirs(network: SceneParser) -> Mapping[str, Tensor]:
    return mmseg_keys(network.state_dict())


def logits(network: SceneParser, size_hw: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        result: Tensor = network(some_images(1, size_hw).double())
    return result


def difference(network: SceneParser, size_hw: tuple[int, int], **options: Any) -> float:
    """Largest, in deviations of the logits."""
    own = logits(network, size_hw)
    with torch.no_grad():
        other = their_logits(theirs(network), some_images(1, size_hw).double(), **options)
    assert own.shape == other.shape == (1, 5, *size_hw)
    return float((own - other).abs().max() / own.std())


@pytest.mark.parametrize("size_hw", SIZES)
def test_logits_are_theirs_at_any_size(network: SceneParser, size_hw: tuple[int, int]) -> None:
    assert difference(network, size_hw) < 1e-6


@pytest.mark.parametrize("wrong", MISTAKES)
@pytest.mark.parametrize("size_hw", [(40, 56), (48, 64)], ids=["odd", "even"])
def test_a_mistake_in_any_detail_would_show(
    network: SceneParser, wrong: str, size_hw: tuple[int, int]
) -> None:
    assert difference(network, size_hw, wrong=wrong) > 1e-3


@pytest.mark.parametrize(
    "setting",
    [
        {"contract_dilation": False},
        {"proj_padding": 0},
        {"shrink_rule": "aligned"},
        {"align_corners": True},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_every_setting_of_theirs_matters(network: SceneParser, setting: dict[str, Any]) -> None:
    config = network.config.replace(**setting)
    with torch.device("meta"):
        changed = build_network(config)
    changed.load_state_dict(network.state_dict(), assign=True)
    changed.mean, changed.std = network.mean, network.std
    assert difference(changed.eval(), (48, 64)) > 1e-3


@pytest.mark.parametrize("changes", [{"mask_hw": (5, 5)}, {"mask_hw": (13, 13)}, {"shrink_factor": 3}])
def test_other_masks_and_factors(changes: dict[str, Any]) -> None:
    network = at(mmseg_config(aux=False, align_corners=True, **changes))
    factor = changes.get("shrink_factor", 2)
    for size_hw in ((40, 56), (41, 70)):
        assert difference(network, size_hw, align_corners=True, shrink_factor=factor) < 1e-6


@pytest.mark.parametrize("align_corners", [True, False])
def test_features_that_are_not_shrunk_follow_the_last_corner_rule(align_corners: bool) -> None:
    network = at(mmseg_config(aux=False, shrink_factor=1, align_corners=align_corners))
    assert difference(network, (25, 36), align_corners=align_corners, shrink_factor=1) < 1e-6
    assert (
        difference(network, (25, 36), align_corners=align_corners, shrink_factor=1, wrong="no padding") > 1e-3
    )


def test_sizes_of_features_are_told_for_any_image(network: SceneParser) -> None:
    config = network.config
    for size_hw in (*SIZES, (8, 8), (1, 1), (512, 683)):
        height, width = (-(-side // 8) for side in size_hw)
        assert config.feature_hw_of(size_hw) == (height, width)
        both_odd = bool(height % 2 and width % 2)
        shrunk = ((height + 1) // 2, (width + 1) // 2) if both_odd else (height // 2, width // 2)
        assert config.attention_hw_of(size_hw) == shrunk
    with torch.no_grad():
        for size_hw in SIZES:
            coarse = network.coarse_logits(some_images(1, size_hw).double())
            assert coarse.shape[2:] == config.feature_hw_of(size_hw)


def test_one_feature_beside_an_even_number_of_them_is_refused(network: SceneParser) -> None:
    assert difference(network, (8, 8)) < 1e-6
    for size_hw in ((8, 9), (64, 5)):
        with pytest.raises(ValueError, match=r"features of \(\d, \d\) shrink to nothing by 2: give larger"):
            logits(network, size_hw)
        with pytest.raises(ConfigError, match="too small.*give them sides above 8"):
            network.config.attention_hw_of(size_hw)


def test_training_reaches_every_parameter_at_any_size() -> None:
    values = {key: value for key, value in MMSEGMENTATION.items() if key != "crop_hw"}
    network = tiny_network(**values, crop_hw=(48, 40), mask_hw=(4, 4)).train()
    outputs = network(some_images(2, (41, 56)))
    (outputs.main.square().mean() + outputs.aux.square().mean()).backward()
    assert outputs.main.shape == outputs.aux.shape == (2, 5, 41, 56)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize(
    ("old", "new"), [((5, 7), (3, 4)), ((6, 7), (3, 3)), ((4, 3), (9, 1)), ((1, 2), (3, 2))]
)
def test_resampling_by_products_is_either_rule(
    aligned: int, old: tuple[int, int], new: tuple[int, int]
) -> None:
    x = torch.rand(2, 3, *old, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.nn.functional.interpolate(x, new, mode="bilinear", align_corners=bool(aligned))
    assert torch.allclose(resize(x, new, aligned=aligned), expected, atol=1e-12)
    assert resize(x.bfloat16(), new, aligned=aligned).dtype == torch.bfloat16


def test_published_networks_keep_their_settings() -> None:
    """What `MMSEGMENTATION` changes is all that was not there before."""
    fields = {field.name for field in dataclasses.fields(tiny_network().config)}
    assert set(MMSEGMENTATION) <= fields
    config = tiny_network().config
    assert all(getattr(config, key) != value for key, value in MMSEGMENTATION.items())
    assert not config.any_size
    assert mmseg_config().any_size
