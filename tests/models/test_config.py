"""ModelConfig: what it refuses, what it derives, the presets, and that it needs no library."""

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from models.config import MMSEGMENTATION, PRESETS, ConfigError, ModelConfig
from tests.models.networks import tiny_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 20}, "depth 20 is none of 18, 34, 50, 101, 152"),
        ({"depth": 50.0}, "depth takes a whole number, not 50.0"),
        ({"depth": True}, "depth takes a whole number, not True"),
        ({"classes": 1}, "classes must be 2 or more, not 1"),
        ({"classes": 19.5}, "classes takes a whole number, not 19.5"),
        ({"classes": "19"}, "classes takes a whole number, not '19'"),
        ({"context": "pspnet"}, "context 'pspnet' is none of psa, none, global, aspp, nonlocal, ppm"),
        ({"psa_type": 2}, "psa_type 2 is none of collect, distribute, bidirectional"),
        ({"compact": "false"}, "compact takes true or false, not 'false'"),
        ({"aux": 1}, "aux takes true or false, not 1"),
        ({"shrink_factor": 0}, "shrink_factor must be 1 or more, not 0"),
        ({"normalization_factor": 0}, "normalization_factor must be finite and above 0, not 0"),
        ({"normalization_factor": math.nan}, "normalization_factor must be finite and above 0, not nan"),
        ({"normalization_factor": math.inf}, "normalization_factor must be finite and above 0, not inf"),
        ({"normalization_factor": None}, "normalization_factor takes a number, not None"),
        ({"head_width": 0}, "head_width must be 1 or more, not 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), not 1.0"),
        ({"dropout": math.nan}, r"dropout must lie in \[0, 1\), not nan"),
        ({"stage_dilations": (2, 3)}, "stage_dilations take 1, 2 or 4"),
        ({"crop_hw": (512, 512)}, "must be a multiple of 16 and above 0; 513 would do"),
        ({"crop_hw": (709, 709)}, "must be a multiple of 16 and above 0; 705 would do"),
        ({"crop_hw": (465, 473)}, "must be a multiple of 16 and above 0; (465|481) would do"),
        ({"crop_hw": (1, 1)}, "must be a multiple of 16 and above 0; 17 would do"),
        ({"crop_hw": (-15, 65)}, "must be a multiple of 16 and above 0; 17 would do"),
        ({"crop_hw": 465}, "crop_hw takes two whole numbers, not 465"),
        ({"crop_hw": None}, "crop_hw takes two whole numbers, not None"),
        ({"crop_hw": (65.5, 65)}, "crop_hw takes two whole numbers"),
        ({"crop_hw": (math.inf, 65)}, "crop_hw takes two whole numbers"),
        ({"crop_hw": (65, 65, 3)}, "crop_hw takes two whole numbers"),
        ({"crop_hw": "65"}, "crop_hw takes two whole numbers, not '65'"),
        ({"mask_hw": (0, 5)}, "each side must be 1 or more"),
        ({"stem_width": 63}, "stem_width must be even, not 63"),
        ({"stem_width": 0}, "stem_width must be 2 or more, not 0"),
        ({"contract_dilation": 1}, "contract_dilation takes true or false, not 1"),
        ({"proj_padding": -1}, "proj_padding must be 0 or more, not -1"),
        ({"shrink_rule": "floor"}, "shrink_rule 'floor' is none of aligned, adaptive"),
        ({"aligned_sides": None}, "aligned_sides takes true or false, not None"),
        ({"align_corners": "no"}, "align_corners takes true or false, not 'no'"),
        ({"aligned_sides": False, "context": "ppm"}, "aligned_sides may be false with context psa alone"),
        ({"aligned_sides": False, "crop_hw": (0, 64)}, r"images of \(0, 64\): each side must be 1 or more"),
        ({**MMSEGMENTATION, "crop_hw": (8, 64)}, "shrink to nothing: give them sides above 8"),
        ({"mask_hw": (9, 9), "compact": True}, r"as large as the shrunk features, \(5, 5\), not \(9, 9\)"),
    ],
)
def test_values_that_no_network_can_have_are_refused_with_what_would_do(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


def test_only_attention_asks_the_shrink_factor_of_the_crop() -> None:
    assert tiny_config(context="ppm", crop_hw=(473, 713)).feature_hw == (60, 90)
    assert tiny_config(shrink_factor=1, crop_hw=(473, 713)).attention_hw == (60, 90)
    with pytest.raises(ConfigError, match="multiple of 16"):
        tiny_config(crop_hw=(473, 713))


def test_sizes_derive_from_the_crop() -> None:
    config = tiny_config(crop_hw=(465, 705))
    assert (config.output_stride, config.feature_hw, config.attention_hw) == (8, (59, 89), (30, 45))
    assert config.psa_mask_hw == (59, 89)
    assert config.replace(compact=True).psa_mask_hw == (30, 45)
    assert config.replace(mask_hw=(29, 31)).psa_mask_hw == (29, 31)
    coarse = tiny_config(crop_hw=(449, 449), stage_dilations=(1, 1), shrink_factor=1)
    assert (coarse.output_stride, coarse.feature_hw) == (32, (15, 15))


def test_masks_may_be_even_or_larger_than_the_crop_needs() -> None:
    """Even: MMSegmentation's 66. Larger: a network trained at 465 that runs at 241."""
    assert tiny_config(crop_hw=(241, 241), mask_hw=(59, 59)).psa_mask_hw == (59, 59)
    assert tiny_config(crop_hw=(513, 513), mask_hw=(66, 66)).psa_mask_hw == (66, 66)


def test_settings_that_came_later_may_be_missing_and_are_then_the_published_network_s() -> None:
    config = tiny_config()
    older = {key: value for key, value in config.to_dict().items() if key not in MMSEGMENTATION}
    assert len(older) == len(config.to_dict()) - len(MMSEGMENTATION)
    assert ModelConfig.from_dict(older) == config
    assert (config.stem_width, config.align_corners, config.any_size) == (128, True, False)


def test_sizes_of_features_are_told_for_any_image_that_fits() -> None:
    config = tiny_config()
    assert config.feature_hw_of((129, 65)) == (17, 9)
    assert config.attention_hw_of((129, 65)) == (9, 5)
    with pytest.raises(
        ConfigError, match=r"images of \(129, 64\): each side must be 8n \+ 1, as the network's"
    ):
        config.feature_hw_of((129, 64))
    theirs = tiny_config(**MMSEGMENTATION, crop_hw=(512, 683), mask_hw=(66, 66))
    assert (theirs.feature_hw, theirs.attention_hw, theirs.psa_mask_hw) == ((64, 86), (32, 43), (66, 66))
    compact = theirs.replace(compact=True, mask_hw=None)
    assert (theirs.any_size, compact.any_size, compact.psa_mask_hw) == (True, False, (32, 43))


def test_a_configuration_survives_json() -> None:
    config = tiny_config(mask_hw=(3, 5), psa_type="collect", normalization_factor=2.5, stage_dilations=(1, 2))
    text = json.dumps(config.to_dict())
    assert ModelConfig.from_dict(json.loads(text)) == config
    for preset in (*PRESETS.values(), tiny_config(**MMSEGMENTATION)):
        assert ModelConfig.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 50, "classes": 5, "crop_hw": [65, 65], "crop": 3}, r"unknown keys \['crop'\]; known are"),
        ({"depth": 50, "classes": 5}, "crop_hw"),
        ({}, "depth"),
        (None, "None"),
        ([1, 2], r"\[1, 2\]"),
        ({"depth": [], "classes": 5, "crop_hw": [65, 65]}, r"depth takes a whole number, not \[\]"),
        ({"depth": 50, "classes": 5, "crop_hw": [65, 65], 7: 1}, r"unknown keys \['7'\]"),
    ],
)
def test_what_is_no_configuration_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_changes_are_validated_too() -> None:
    config = tiny_config()
    assert config.replace(depth=50).depth == 50
    with pytest.raises(ConfigError, match="depth 51"):
        config.replace(depth=51)
    with pytest.raises(ConfigError, match="depht"):
        config.replace(depht=50)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.depth = 50  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "classes", "crop", "mask"),
    [
        ("psanet50_ade20k", 150, 465, 59),
        ("psanet101_ade20k", 150, 465, 59),
        ("psanet50_voc2012", 21, 465, 59),
        ("psanet101_voc2012", 21, 465, 59),
        ("psanet50_cityscapes", 19, 705, 89),
        ("psanet101_cityscapes", 19, 705, 89),
    ],
)
def test_presets_are_the_published_networks(name: str, classes: int, crop: int, mask: int) -> None:
    preset = PRESETS[name]
    assert (preset.classes, preset.crop_hw, preset.psa_mask_hw) == (classes, (crop, crop), (mask, mask))
    assert (preset.context, preset.psa_type, preset.compact) == ("psa", "bidirectional", False)
    assert (preset.shrink_factor, preset.normalization_factor, preset.aux) == (2, 1.0, True)
    assert f"psanet{preset.depth}" == name.split("_")[0]
    half = preset.replace(compact=True).psa_mask_hw
    assert half == ((mask + 1) // 2, (mask + 1) // 2)


@pytest.mark.parametrize("depth", [18, 50])
def test_presets_of_camvid_see_its_images_whole(depth: int) -> None:
    preset = PRESETS[f"psanet{depth}_camvid"]
    assert (preset.depth, preset.classes, preset.head_width) == (depth, 11, 256)
    assert (preset.crop_hw, preset.psa_mask_hw) == ((369, 481), (47, 61))
    assert all(0 <= crop - side < 16 for crop, side in zip(preset.crop_hw, (360, 480), strict=True))


def test_there_is_one_direction_for_each_attention_branch() -> None:
    assert tiny_config().directions == ("collect", "distribute")
    assert tiny_config(psa_type="collect").directions == ("collect",)
    assert tiny_config(psa_type="distribute", compact=True).directions == ("distribute",)
    assert tiny_config(context="nonlocal").directions == ()


def test_features_are_shrunk_corner_on_corner_always_or_where_no_side_is_divided() -> None:
    assert tiny_config().shrinks_aligned((8, 8))
    theirs = tiny_config(**MMSEGMENTATION, mask_hw=(9, 9))
    sizes = [(9, 9), (8, 9), (9, 8), (8, 8)]
    assert [theirs.shrinks_aligned(size) for size in sizes] == [True, False, False, False]


@pytest.mark.parametrize(("dataset", "crop"), [("ade20k", 473), ("voc2012", 473), ("cityscapes", 713)])
@pytest.mark.parametrize("depth", [50, 101])
def test_presets_of_pspnet(depth: int, dataset: str, crop: int) -> None:
    preset = PRESETS[f"pspnet{depth}_{dataset}"]
    assert (preset.depth, preset.context, preset.crop_hw) == (depth, "ppm", (crop, crop))


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PRESETS["psanet50_ade20k"] = tiny_config()  # type: ignore[index]


def test_configuration_labels_options_and_errors_need_no_library() -> None:
    code = """
import sys
import models.config, models.errors, models.labels, models.options
found = {"torch", "numpy", "cv2", "safetensors", "models.network"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
