"""Architectures read from keys and shapes: every published network's, and what only options can tell."""

from collections.abc import Mapping
from typing import Any

import pytest
from torch import Tensor

from models.config import PRESETS, ConfigError, ModelConfig
from models.errors import MismatchError, MissingOptionError
from models.inspection import backbone_keys, configured, infer_config, own_keys
from models.options import ArchitectureOptions
from tests.models.networks import official_keys, shapes_of, tiny_config

PUBLISHED = sorted(name for name in PRESETS if not name.endswith("camvid"))


def inferred(config: ModelConfig, **options: Any) -> ModelConfig:
    """What an official file of that network is taken for."""
    state = official_keys(config, shapes_of(config), prefix="module.")
    return infer_config(own_keys(state), ArchitectureOptions(**options))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_network_is_known_by_its_keys(name: str) -> None:
    assert inferred(PRESETS[name]) == PRESETS[name]


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_depth_is_known(depth: int) -> None:
    config = tiny_config(depth=depth)
    assert inferred(config) == config


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("name", ["psanet50_ade20k", "pspnet50_voc2012"])
def test_the_auxiliary_head_may_be_missing(name: str, aux: bool) -> None:
    config = PRESETS[name].replace(aux=aux)
    assert inferred(config) == config


@pytest.mark.parametrize("psa_type", ["collect", "distribute"])
@pytest.mark.parametrize("compact", [False, True])
def test_one_branch_needs_its_direction(psa_type: str, compact: bool) -> None:
    config = PRESETS["psanet50_voc2012"].replace(psa_type=psa_type, compact=compact)
    assert inferred(config, psa_type=psa_type, compact=compact) == config
    for given in (None, "bidirectional"):
        with pytest.raises(MissingOptionError, match="give --psa-type collect or distribute"):
            inferred(config, psa_type=given, compact=compact)


def test_two_branches_refuse_one_direction() -> None:
    assert inferred(tiny_config(), psa_type="bidirectional") == tiny_config()
    with pytest.raises(MismatchError, match="two attention branches.*leave out --psa-type"):
        inferred(tiny_config(), psa_type="collect")


@pytest.mark.parametrize(("name", "side"), [("psanet50_ade20k", 30), ("psanet50_cityscapes", 45)])
def test_compact_networks_are_known_with_their_option(name: str, side: int) -> None:
    config = PRESETS[name].replace(compact=True)
    assert config.psa_mask_hw == (side, side)
    assert inferred(config, compact=True) == config


@pytest.mark.parametrize("mask_hw", [None, (30, 30)])
def test_an_even_mask_without_compact_asks_for_it(mask_hw: tuple[int, int] | None) -> None:
    config = PRESETS["psanet50_ade20k"].replace(compact=True)
    with pytest.raises(MissingOptionError, match="30x30 has no middle.*give --compact"):
        inferred(config, mask_hw=mask_hw)


def test_a_mask_that_is_not_square_needs_its_size() -> None:
    config = tiny_config(crop_hw=(65, 97))
    assert config.psa_mask_hw == (9, 13)
    with pytest.raises(MissingOptionError, match="117 channels is not square: give --mask HxW"):
        inferred(config)
    assert inferred(config, mask_hw=(9, 13)) == config
    with pytest.raises(MismatchError, match="--mask 9x11 makes 99 channels, it has 117: give its own size"):
        inferred(config, mask_hw=(9, 11))


def test_a_compact_mask_that_is_not_square_needs_its_size() -> None:
    config = tiny_config(crop_hw=(65, 97), compact=True)
    assert inferred(config, mask_hw=(5, 7), compact=True) == config


def test_the_shrink_factor_sets_the_crop() -> None:
    config = tiny_config(shrink_factor=1, crop_hw=(233, 233))
    assert config.psa_mask_hw == (59, 59)
    assert inferred(config, shrink_factor=1) == config
    assert inferred(config) == tiny_config(crop_hw=(465, 465))
    with pytest.raises(ConfigError, match="shrink_factor must be 1 or more, not 0"):
        inferred(config, shrink_factor=0)


def test_the_normalization_factor_is_taken_over_and_checked() -> None:
    assert inferred(tiny_config(), normalization_factor=2.5) == tiny_config(normalization_factor=2.5)
    with pytest.raises(ConfigError, match="normalization_factor must be finite and above 0, not 0"):
        inferred(tiny_config(), normalization_factor=0)


@pytest.mark.parametrize("crop", [241, 465, 705])
def test_the_crop_may_be_smaller_or_larger_than_the_mask_covers(crop: int) -> None:
    config = inferred(PRESETS["psanet50_ade20k"], crop_hw=(crop, crop))
    assert (config.crop_hw, config.psa_mask_hw) == ((crop, crop), (59, 59))
    assert (config == PRESETS["psanet50_ade20k"]) == (crop == 465)


def test_a_crop_that_does_not_fit_says_which_would() -> None:
    with pytest.raises(ConfigError, match="multiple of 16 and above 0; 705 would do"):
        inferred(tiny_config(), crop_hw=(709, 709))


@pytest.mark.parametrize(
    ("context", "classes", "crop"),
    [("ppm", 150, 473), ("ppm", 19, 713), ("none", 21, 465), ("none", 19, 705)],
)
def test_networks_without_a_mask_have_the_published_crop(context: str, classes: int, crop: int) -> None:
    config = tiny_config(context=context, classes=classes, crop_hw=(crop, crop))
    assert inferred(config) == config


def test_networks_without_a_mask_and_of_unpublished_classes_need_a_crop() -> None:
    config = tiny_config(context="ppm")
    with pytest.raises(MissingOptionError, match="5 classes has no published crop: give --crop HxW"):
        inferred(config)
    assert inferred(config, crop_hw=(65, 65)) == config


@pytest.mark.parametrize("context", ["ppm", "none"])
def test_options_of_attention_are_refused_without_it(context: str) -> None:
    config = tiny_config(context=context)
    with pytest.raises(MismatchError, match="no attention: leave out --psa-type, --compact, --mask"):
        inferred(config, crop_hw=(65, 65), psa_type="collect", compact=True, mask_hw=(3, 3))
    with pytest.raises(MismatchError, match="no attention: leave out --normalization-factor"):
        configured(config, ArchitectureOptions(normalization_factor=0))


def test_an_own_configuration_takes_options_that_repeat_it_and_no_others() -> None:
    config = tiny_config(psa_type="collect", crop_hw=(65, 97))
    same = ArchitectureOptions(psa_type="collect", mask_hw=(9, 13), shrink_factor=2, crop_hw=(65, 97))
    assert configured(config, same) == config
    others: list[tuple[Mapping[str, Any], str]] = [
        ({"psa_type": "distribute"}, "trained with psa_type collect: leave out --psa-type"),
        ({"compact": True}, "trained with compact False: leave out --compact"),
        ({"mask_hw": (9, 9)}, r"trained with mask_hw \(9, 13\): leave out --mask"),
        ({"shrink_factor": 1}, "trained with shrink_factor 2: leave out --shrink-factor"),
        (
            {"normalization_factor": 2.0},
            "trained with normalization_factor 1.0: leave out --normalization-factor",
        ),
    ]
    for options, message in others:
        with pytest.raises(MismatchError, match=message):
            configured(config, ArchitectureOptions(**options))


def test_an_own_network_keeps_its_mask_at_another_crop() -> None:
    at_another = configured(tiny_config(), ArchitectureOptions(crop_hw=(129, 129)))
    assert (at_another.crop_hw, at_another.psa_mask_hw) == ((129, 129), (9, 9))
    assert configured(tiny_config(), ArchitectureOptions(crop_hw=(65, 65))).mask_hw is None
    pyramid = configured(tiny_config(context="ppm"), ArchitectureOptions(crop_hw=(73, 73)))
    assert pyramid == tiny_config(context="ppm", crop_hw=(73, 73))
    with pytest.raises(ConfigError, match="a compact mask is as large"):
        configured(tiny_config(compact=True), ArchitectureOptions(crop_hw=(129, 129)))


def without(state: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(keys)}


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        (("cls.4.",), "lacks the convolution cls.4.weight"),
        (("backbone.layer0.0",), "lacks the convolution backbone.layer0.0.weight"),
        (("context.attention.3",), "lacks the convolution context.attention.3.weight"),
        (("backbone.layer3.1",), "1 blocks in stage 4 are those of no known ResNet"),
        (("context.",), "classifier's inputs fit neither PSANet, PSPNet nor a baseline"),
    ],
)
def test_what_is_no_known_network_is_refused(lacking: tuple[str, ...], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        infer_config(without(shapes_of(tiny_config()), *lacking), ArchitectureOptions())


def test_a_linear_layer_by_a_convolution_s_name_is_refused() -> None:
    state = shapes_of(tiny_config())
    with pytest.raises(MismatchError, match="lacks the convolution cls.0.weight"):
        infer_config({**state, "cls.0.weight": state["cls.0.weight"][:, :, 0, 0]}, ArchitectureOptions())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("context", ["psa", "ppm"])
def test_official_names_become_own_ones(context: str, prefix: str) -> None:
    config = tiny_config(context=context)
    state = shapes_of(config)
    official = official_keys(config, state, prefix=prefix)
    assert f"{prefix}layer0.0.weight" in official
    assert any(key.startswith(f"{prefix}{'psa' if context == 'psa' else 'ppm'}.") for key in official)
    assert list(own_keys(official)) == list(state)


def test_a_classifier_s_names_become_the_backbone_s() -> None:
    names = ("conv1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "conv3.weight", "bn3.running_mean")
    state = dict.fromkeys(
        (*names, "layer1.0.conv1.weight", "module.layer4.0.bn1.bias", "fc.weight", "fc.bias")
    )
    assert list(backbone_keys(state)) == [  # type: ignore[arg-type]
        *("layer0.0.weight", "layer0.1.bias", "layer0.3.weight", "layer0.4.weight"),
        *("layer0.6.weight", "layer0.7.running_mean", "layer1.0.conv1.weight", "layer4.0.bn1.bias"),
    ]
