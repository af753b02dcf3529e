"""The meta of MMSegmentation's files: both forms, configurations of every age, and texts that are none."""

import sys
from typing import Any

import pytest

from models.mmseg_meta import Meta, config_values, read_meta
from tests.models.mmseg_meta import NAMES, PALETTE, SLIDE, config_text, meta_0x, meta_1x


@pytest.mark.parametrize("meta", [meta_0x(), meta_1x()], ids=["0.x", "1.x"])
def test_both_forms_tell_the_same(meta: dict[str, Any]) -> None:
    found = read_meta({"meta": meta, "state_dict": {}})
    assert found.class_names == NAMES
    assert found.palette == tuple(map(tuple, PALETTE))
    assert (found.crop_hw, found.test_scale, found.data_set) == (
        (512, 1024),
        (2048, 1024),
        "CityscapesDataset",
    )
    assert found.test_cfg == {"mode": "whole"}
    assert found.section("model", "decode_head")["align_corners"] is False
    assert found.section("model", "backbone")["dilations"] == (1, 1, 2, 4)


@pytest.mark.parametrize("version", [0, 1])
def test_windows_scale_and_crop_of_the_other_kind(version: int) -> None:
    text = config_text(version=version, test=SLIDE, align_corners=True, crop=(769, 769), scale=(2049, 1025))
    found = Meta(values=config_values(text))
    assert found.test_cfg == {"mode": "slide", "crop_size": (769, 769), "stride": (513, 513)}
    assert (found.crop_hw, found.test_scale) == ((769, 769), (2049, 1025))


def test_in_2020_the_test_stood_beside_the_model() -> None:
    text = "model = dict(type='EncoderDecoder')\ntrain_cfg = dict()\ntest_cfg = dict(mode='slide')\n"
    assert Meta(values=config_values(text)).test_cfg == {"mode": "slide"}


def test_files_one_after_another_are_merged_like_their_inheritance() -> None:
    text = """/home/user/configs/_base_/models/psanet_r50-d8.py
# model settings
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(depth=50, norm_cfg=norm_cfg),
    decode_head=dict(type='PSAHead', mask_size=(97, 97), align_corners=False))
test_cfg = dict(mode='whole')

configs/_base_/datasets/cityscapes_769x769.py
crop_size = (769, 769)
train_pipeline = [dict(type='RandomCrop', crop_size=crop_size)]
data = dict(train=dict(pipeline=train_pipeline), workers=-1)

configs/psanet/psanet_r50-d8_769x769_40k_cityscapes.py
_base_ = ['../_base_/models/psanet_r50-d8.py', '../_base_/datasets/cityscapes_769x769.py']
model = dict(decode_head=dict(align_corners=True), auxiliary_head=dict(_delete_=True, type='FCNHead'))
test_cfg = dict(mode='slide', crop_size=(769, 769), stride=(513, 513))
"""
    found = Meta(values=config_values(text))
    head = {"type": "PSAHead", "mask_size": (97, 97), "align_corners": True}
    assert found.section("model", "decode_head") == head
    assert found.section("model", "backbone", "norm_cfg") == {"type": "SyncBN", "requires_grad": True}
    assert found.section("model", "auxiliary_head") == {"type": "FCNHead"}
    assert (found.crop_hw, found.test_cfg["mode"]) == ((769, 769), "slide")
    assert found.section("data")["workers"] == -1


def test_a_mapping_can_take_another_s_place() -> None:
    text = "a.py\nhead = dict(type='A', x=1)\nb.py\nhead = dict(_delete_=True, type='B')\n"
    assert config_values(text) == {"head": {"type": "B"}}


def test_nothing_is_ever_run() -> None:
    text = """
import os
ran = os.system('touch /tmp/mmseg-was-run')
also = [x for x in range(3)]
called = open('/etc/passwd').read()
model = dict(a=__import__('os'), **{'b': 1}, c={'d': 2, 1 + 1: 3}, e=f'{ran}', f=unknown)
x, y = 1, 2
sys.exit(1)
"""
    model = {"a": None, "c": {"d": 2}, "e": None, "f": None}
    assert config_values(text) == {"ran": None, "also": None, "called": None, "model": model}
    assert "os" in sys.modules  # of Python itself


@pytest.mark.parametrize(
    "text",
    [
        "",
        "this is no Python",
        "model = dict(",
        "a\x00b = 1",
        "x = " + "(" * 5000 + ")" * 5000,
        "x = " + "-" * 100_000 + "1",
        "x = " + "+".join(["1"] * 30_000) + "\n",
        "x = 1\n" * 300_000,
        "x = 1\n" * 40_000,
        *(
            f"a0 = {first}\n" + "".join(f"a{i} = {step.format(i - 1)}\n" for i in range(1, 60))
            for first, step in (("1", "(a{0}, a{0})"), ("dict(x=1)", "dict(p=a{0}, q=a{0})"))
        ),
    ],
    ids=lambda text: f"{len(text)} characters",
)
def test_a_text_that_cannot_be_read_says_nothing(text: str) -> None:
    assert config_values(text) in ({}, {"x": None})


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"meta": None},
        {"meta": ["config"]},
        {"meta": {"config": 3, "CLASSES": 5, "PALETTE": "red"}},
        {"meta": {"CLASSES": (), "PALETTE": [[1, 2]]}},
        {"meta": {"PALETTE": [[0, 0, 256]], "dataset_meta": {"classes": None}}},
        {"meta": {"config": "model = 3\ndata = [1]\ncrop_size = (1, 'a')\ntest_pipeline = dict(scale=3)"}},
        {"meta": {"config": "crop_size = (0, 5)\ntest_pipeline = [dict(scale=(True, 2)), 7]"}},
    ],
)
def test_what_is_of_another_kind_is_left_out(content: dict[str, Any]) -> None:
    found = read_meta(content)
    assert (found.class_names, found.palette, found.crop_hw, found.test_scale) == (None, None, None, None)
    assert found.section("model", "decode_head") == found.test_cfg == {}


def test_one_number_is_a_square_and_the_first_of_several_scales_counts() -> None:
    text = "crop_size = 512\ndata = dict(test=dict(pipeline=[dict(img_scale=[(2048, 512), (1024, 256)])]))"
    found = Meta(values=config_values(text))
    assert (found.crop_hw, found.test_scale) == ((512, 512), (2048, 512))
