"""MMSegmentation's files: what they are taken for, strictly; and what is refused, with the mend."""

import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint, save_safetensors
from models.config import MMSEGMENTATION, ModelConfig
from models.errors import (
    CheckpointError,
    MismatchError,
    MissingOptionError,
    NotACheckpointError,
    UnsupportedCheckpointError,
)
from models.labels import LABEL_SETS, get_label_set
from models.network import build_network
from models.options import ArchitectureOptions
from models.protocol import TestProtocol
from tests.models.mmseg_meta import NAMES, PALETTE, SLIDE, config_text, meta_0x, meta_1x
from tests.models.mmseg_network import mmseg_config, mmseg_keys, their_logits, write_mmseg
from tests.models.networks import fill, shapes_of, some_images, tiny_config, write_own

CONFIG = mmseg_config(crop_hw=(512, 1024))
WINDOWS = mmseg_config(crop_hw=(769, 769), align_corners=True)
CITYSCAPES = "psanet_r50-d8_512x1024_40k_cityscapes_20200606_103117-99fac37c.pth"


def load(path: Path, dataset: str | None = None, **options: Any) -> Checkpoint:
    return load_checkpoint(path, dataset=dataset, options=ArchitectureOptions(**options))


def refused(
    path: Path, kind: type[CheckpointError], message: str, dataset: str | None = None, **options: Any
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path, dataset, **options)
    assert type(caught.value) is kind
    assert str(caught.value).count(str(path)) == 1


def made(folder: Path, config: ModelConfig = CONFIG, meta: Any = None, name: str = "iter_40000.pth") -> Path:
    return write_mmseg(folder / name, shapes_of(config), meta)


@pytest.mark.parametrize(("depth", "tensors"), [(50, 378), (101, 684)])
def test_published_files_load_strictly(tmp_path: Path, depth: int, tensors: int) -> None:
    """Counts of tensors as published, batch norm's counters among them."""
    config = ModelConfig(depth=depth, classes=19, crop_hw=(512, 1024), mask_hw=(97, 97), **MMSEGMENTATION)
    path = write_mmseg(tmp_path / CITYSCAPES, shapes_of(config))
    assert len(torch.load(path, weights_only=True)["state_dict"]) == tensors
    checkpoint = load(path)
    assert (checkpoint.config, checkpoint.source_format) == (config, "mmsegmentation")
    assert (checkpoint.labels, len(checkpoint.state_dict)) == (LABEL_SETS["cityscapes"], tensors)
    for key in (
        "backbone.stem.3.weight",
        "decode_head.attention_p.0.bn.bias",
        "auxiliary_head.conv_seg.bias",
    ):
        state = mmseg_keys(shapes_of(config))
        del state[key]
        torch.save({"state_dict": state}, path)
        refused(path, MismatchError, "1 keys are missing")


@pytest.mark.parametrize("meta", [meta_0x(), meta_1x()], ids=["0.x", "1.x"])
def test_logits_are_those_of_their_network(tmp_path: Path, meta: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = build_network(CONFIG)
    network = network.to_empty(device="cpu")
    fill(network)
    path = write_mmseg(tmp_path / "a.pth", network.state_dict(), meta)
    checkpoint = load(path)
    images = some_images(1, (40, 50))
    with torch.no_grad():
        own = build_from_checkpoint(checkpoint)(images)
        expected = their_logits(mmseg_keys(network.state_dict()), images)
    assert torch.allclose(own, expected, atol=1e-4 * float(expected.std()))


def test_the_file_form_of_2020_is_read(tmp_path: Path) -> None:
    path = tmp_path / CITYSCAPES
    content = {"meta": meta_0x(), "state_dict": mmseg_keys(shapes_of(CONFIG))}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert load(path).config == CONFIG


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("windows", [False, True], ids=["whole", "windows"])
def test_the_meta_tells_everything(tmp_path: Path, version: int, windows: bool) -> None:
    """From a name that tells nothing, or something else."""
    text = config_text(version=version)
    if windows:
        text = config_text(
            version=version, test=SLIDE, align_corners=True, crop=(769, 769), scale=(2049, 1025)
        )
    config = WINDOWS if windows else CONFIG
    meta = meta_1x(text) if version else meta_0x(text)
    checkpoint = load(made(tmp_path, config, meta, "psanet_512x512_ade20k.pth"))
    assert checkpoint.config == config
    labels = checkpoint.labels
    assert (labels.class_names, labels.palette) == (NAMES, tuple(map(tuple, PALETTE)))
    base = (2049, 1025) if windows else (2048, 1024)
    mode = "sliding" if windows else "whole"
    assert checkpoint.protocol == TestProtocol(
        base_size=base[0], base_short=base[1], name="mmsegmentation", mode=mode
    )
    assert labels.base_size == base[0]


@pytest.mark.parametrize(
    ("name", "classes", "crop_hw", "corners", "protocol", "dataset"),
    [
        (CITYSCAPES, 19, (512, 1024), False, ("whole", 2048, 1024), "cityscapes"),
        (
            "psanet_r50-d8_769x769_40k_cityscapes_20200530_033717-d5365506.pth",
            *(19, (769, 769), True, ("sliding", 2049, 1025), "cityscapes"),
        ),
        (
            "psanet_r50-d8_512x512_160k_ade20k_20200615_161258-148077dd.pth",
            *(150, (512, 512), False, ("whole", 2048, 512), "ade20k"),
        ),
        (
            "psanet_r50-d8_512x512_20k_voc12aug_20200617_102413-2f1bbaa1.pth",
            *(21, (512, 512), False, ("whole", 2048, 512), "voc2012"),
        ),
        (
            "psanet_r50-d8_4xb2-40k_cityscapes-769x769.pth",
            *(19, (769, 769), True, ("sliding", 2049, 1025), "cityscapes"),
        ),
    ],
)
def test_without_a_meta_the_published_name_tells(
    tmp_path: Path,
    name: str,
    classes: int,
    crop_hw: tuple[int, int],
    corners: bool,
    protocol: tuple[str, int, int],
    dataset: str,
) -> None:
    config = mmseg_config(classes=classes, crop_hw=crop_hw, align_corners=corners)
    checkpoint = load(made(tmp_path, config, name=name))
    found = checkpoint.protocol
    assert checkpoint.config == config
    assert (found.mode, found.base_size, found.base_short, found.name) == (*protocol, "mmsegmentation")
    assert checkpoint.labels is LABEL_SETS[dataset]


def test_without_either_the_options_tell_and_each_is_asked_for(tmp_path: Path) -> None:
    config = mmseg_config(classes=19)
    path = made(tmp_path, config)
    given: dict[str, Any] = {}
    for name, value, message in (
        ("test_mode", "whole", "its test mode: give --test-mode whole or sliding"),
        ("crop_hw", (48, 64), "its crop: give --crop HxW"),
        ("align_corners", False, "its corner rule: give --align-corners"),
    ):
        refused(path, MissingOptionError, f"neither its meta nor its name tells {message}", **given)
        given[name] = value
    checkpoint = load(path, **given)
    assert checkpoint.config == config
    assert checkpoint.protocol == TestProtocol(
        base_size=2048, base_short=1024, name="mmsegmentation", mode="whole"
    )


def test_options_may_change_the_crop_and_the_test_but_not_the_network(tmp_path: Path) -> None:
    path = made(tmp_path, meta=meta_0x())
    checkpoint = load(path, crop_hw=(100, 75), test_mode="sliding", align_corners=False, shrink_factor=2)
    assert checkpoint.config == CONFIG.replace(crop_hw=(100, 75))
    assert checkpoint.protocol.mode == "sliding"
    refused(path, MismatchError, "its align_corners is false: leave out", align_corners=True)
    refused(path, MismatchError, "has shrink_factor 2: leave out --shrink-factor", shrink_factor=3)
    refused(path, MismatchError, "two attention branches.*leave out --psa-type", psa_type="collect")
    refused(path, MismatchError, "--mask 5x5 makes 25 channels, it has 16", mask_hw=(5, 5))


@pytest.mark.parametrize("theirs", ["collect", "distribute"])
def test_one_branch_has_the_direction_that_the_meta_says(tmp_path: Path, theirs: Any) -> None:
    config = CONFIG.replace(psa_type=theirs)
    text = config_text().replace("'bi-direction'", f"'{theirs}'")
    assert load(made(tmp_path, config, meta_0x(text))).config == config
    untold = made(tmp_path, config, meta_0x(config_text().replace("psa_type='bi-direction',", "")))
    refused(untold, MissingOptionError, "give --psa-type collect or distribute")
    assert load(untold, psa_type=theirs).config == config


def test_one_compact_branch_is_transposed_the_other_way_round(tmp_path: Path) -> None:
    config = mmseg_config(crop_hw=(64, 128), mask_hw=(4, 8), compact=True, psa_type="distribute")
    text = config_text(test="mode='slide', crop_size=(64, 128)", crop=(64, 128))
    text = text.replace("'bi-direction'", "'collect'").replace("compact=False", "compact=True")
    path = made(tmp_path, config, meta_0x(text.replace("mask_size=(4, 4)", "mask_size=(4, 8)")))
    found = load(path).config
    assert (found.psa_type, found.compact, found.psa_mask_hw) == ("distribute", True, (4, 8))
    assert not found.any_size
    refused(path, MismatchError, "compact network runs on windows.*--test-mode sliding", test_mode="whole")


@pytest.mark.parametrize(("stride", "usual"), [((341, 341), True), ((342, 341), True), ((256, 341), False)])
def test_windows_at_another_stride_are_refused_until_asked_for(
    tmp_path: Path, stride: tuple[int, int], usual: bool
) -> None:
    text = config_text(test=f"mode='slide', crop_size=(512, 512), stride={stride}", crop=(512, 512))
    path = made(tmp_path, meta=meta_0x(text))
    if not usual:
        refused(path, MismatchError, r"every \(256, 341\) pixels.*--test-mode sliding")
    assert load(path, **({} if usual else {"test_mode": "sliding"})).protocol.mode == "sliding"


def test_other_values_of_the_head_are_taken_over(tmp_path: Path) -> None:
    text = config_text().replace("normalization_factor=1.0", "normalization_factor=None")
    text = text.replace("psa_softmax=True", "psa_softmax=False").replace(
        "contract_dilation=True", "with_cp=False"
    )
    found = load(made(tmp_path, meta=meta_0x(text))).config
    assert (found.normalization_factor, found.psa_softmax, found.contract_dilation) == (16, False, False)
    assert found.replace(normalization_factor=1.0, psa_softmax=True, contract_dilation=True) == CONFIG


def test_labels_of_the_meta_keep_the_data_set_s_ids_where_they_are_its_own(tmp_path: Path) -> None:
    known = LABEL_SETS["cityscapes"]
    config = CONFIG.replace(classes=19)
    meta = {**meta_0x(), "CLASSES": known.class_names, "PALETTE": [[i, i, i] for i in range(19)]}
    labels = load(made(tmp_path, config, meta)).labels
    assert (labels.name, labels.label_ids, labels.palette[3]) == ("cityscapes", known.label_ids, (3, 3, 3))
    meta["CLASSES"] = [f"class {i}" for i in range(19)]
    labels = load(made(tmp_path, config, meta)).labels
    assert (labels.name, labels.label_ids, labels.class_names[18]) == ("cityscapes", None, "class 18")
    assert load(made(tmp_path, config, meta), dataset="cityscapes").labels is known


def test_classes_without_colours_get_different_ones(tmp_path: Path) -> None:
    for palette in (None, [[1, 2, 3]], "random"):
        labels = load(made(tmp_path, meta={**meta_0x(), "PALETTE": palette})).labels
        assert (labels.class_names, len(set(labels.palette))) == (NAMES, 5)


def test_wrong_class_counts_ask_for_the_data_set(tmp_path: Path) -> None:
    refused(made(tmp_path, meta=meta_0x()), MismatchError, "has 5 classes.*cityscapes has 19", "cityscapes")
    path = made(tmp_path, meta={**meta_0x(), "CLASSES": NAMES[:4]})
    refused(path, MismatchError, "has 5 classes, the data set .* has 4: give --dataset")


def test_our_own_file_of_it_keeps_the_protocol(tmp_path: Path) -> None:
    source = load(
        made(tmp_path, WINDOWS, meta_0x(config_text(test=SLIDE, align_corners=True, crop=(769, 769))))
    )
    path = tmp_path / "own.safetensors"
    save_safetensors(source, path)
    found = load(path)
    assert (found.source_format, found.config) == ("own", WINDOWS.replace(aux=False))
    assert (found.protocol, found.labels) == (source.protocol, source.labels)
    assert load(path, test_mode="whole").protocol.mode == "whole"
    refused(path, MismatchError, "its network aligns corners: leave out", align_corners=False)
    official = load_own(tmp_path, tiny_config(classes=11))
    assert official.protocol == TestProtocol(base_size=480)
    refused(official.path, MismatchError, "leave out --test-mode whole", test_mode="whole")


def load_own(folder: Path, config: ModelConfig) -> Checkpoint:
    return load(write_own(folder / "last.pth", config, get_label_set("camvid"), shapes_of(config)))


def test_a_protocol_that_is_none_is_refused(tmp_path: Path) -> None:
    path = load_own(tmp_path, tiny_config(classes=11)).path
    content = torch.load(path, weights_only=True)
    for protocol, message in (
        ({"base_size": 0}, "base_size takes a whole number of 1 or more, not 0"),
        ({"base_size": 480, "mode": "tiles"}, "mode 'tiles' is none of sliding, whole"),
        ({"size": 480}, "not a test protocol"),
        (None, "not a test protocol"),
    ):
        torch.save({**content, "protocol": protocol}, path)
        refused(path, MismatchError, message)


@pytest.mark.parametrize(
    ("keys", "meta", "name"),
    [
        (("decode_head.psp_modules.0.1.conv.weight",), None, "PSPHead"),
        (
            ("decode_head.fpn_convs.0.conv.weight", "decode_head.psp_modules.0.1.conv.weight"),
            None,
            "UPerHead",
        ),
        (("decode_head.0.conv_seg.weight", "decode_head.1.conv_seg.weight"), None, "another head"),
        ((), meta_0x("model = dict(decode_head=dict(type='DAHead'))"), "DAHead"),
    ],
)
def test_other_heads_are_named(tmp_path: Path, keys: tuple[str, ...], meta: Any, name: str) -> None:
    state = {f"decode_head.{part}.weight": torch.zeros(1) for part in ("conv_seg", "bottleneck.conv")}
    path = tmp_path / "other.pth"
    torch.save({"meta": meta, "state_dict": {**state, **{key: torch.zeros(1) for key in keys}}}, path)
    refused(path, UnsupportedCheckpointError, f"MMSegmentation's, with {name}; only its PSANet's")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("style='pytorch'", "style='caffe'", "backbone.style = 'caffe'"),
        ("58.395, 57.12", "1.0, 1.0", r"std = \[1.0, 1.0, 57.375\]"),
        ("to_rgb=True", "to_rgb=False", "to_rgb = False"),
        ("type='SyncBN', ", "type='SyncBN', eps=0.001, ", "norm_cfg.eps = 0.001"),
        ("in_index=3", "in_index=2", "in_index = 2"),
        ("dilations=(1, 1, 2, 4)", "dilations=(1, 1, 1, 2)", r"dilations \(1, 1, 1, 2\) with strides"),
        ("strides=(1, 2, 1, 1)", "strides=None", "with strides None"),
    ],
)
def test_configurations_that_this_network_cannot_have_are_refused(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in config_text()
    path = made(tmp_path, meta=meta_0x(config_text().replace(before, after)))
    refused(path, UnsupportedCheckpointError, message)


def test_an_output_stride_of_16_is_taken_over(tmp_path: Path) -> None:
    text = config_text().replace("(1, 1, 2, 4)", "(1, 1, 1, 2)").replace("(1, 2, 1, 1)", "(1, 2, 2, 1)")
    found = load(made(tmp_path, meta=meta_0x(text))).config
    assert (found.stage_dilations, found.output_stride) == ((1, 2), 16)


def test_other_backbones_are_refused(tmp_path: Path) -> None:
    state = mmseg_keys(shapes_of(CONFIG))
    path = tmp_path / "other.pth"
    plain = {key: value for key, value in state.items() if not key.startswith("backbone.stem.")}
    torch.save({"state_dict": {**plain, "backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}}, path)
    refused(path, UnsupportedCheckpointError, "on another backbone; only ResNetV1c-50, 101 and 152")
    small = mmseg_keys(shapes_of(CONFIG.replace(depth=18)))
    torch.save({"meta": meta_0x(), "state_dict": small}, path)
    refused(path, UnsupportedCheckpointError, "on another backbone")


def test_a_file_cut_off_or_of_other_shapes_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path, meta=meta_1x())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, NotACheckpointError, "copied or downloaded whole")
    state: dict[str, Tensor] = mmseg_keys(shapes_of(CONFIG))
    state["decode_head.proj.conv.weight"] = torch.zeros(2048, 8, 1, 1)
    torch.save({"meta": meta_1x(), "state_dict": state}, path)
    refused(path, MismatchError, r"context.proj.0.weight: \(2048, 8, 1, 1\) in the file")
    del state["decode_head.conv_seg.weight"]
    torch.save({"meta": meta_1x(), "state_dict": state}, path)
    refused(path, MismatchError, "lacks the convolution cls.4.weight")


class HistoryBuffer:
    """As mmengine's logs hold values."""

    def __init__(self) -> None:
        self.values = np.arange(3.0)
        self.methods = {"min": HistoryBuffer.least}

    def least(self) -> float:
        return float(self.values.min())


HistoryBuffer.__module__ = "mmengine.logging.history_buffer"


def unpublished(monkeypatch: pytest.MonkeyPatch, path: Path, extra: Mapping[str, Any]) -> None:
    """What mmengine's runner saves while it trains, with objects of modules that are not there to read it."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    with monkeypatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setattr(sys.modules[names[-1]], "HistoryBuffer", HistoryBuffer, raising=False)
        state = mmseg_keys(shapes_of(CONFIG))
        torch.save({"meta": meta_1x(), "state_dict": state, **extra}, path)


def test_logs_of_unpublished_checkpoints_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = {"log_scalars": {"loss": HistoryBuffer()}, "runtime_info": {"best": np.float64(0.5), "iter": 3}}
    path = tmp_path / "iter_40000.pth"
    unpublished(monkeypatch, path, {"message_hub": logs, "optimizer": {"state": {}}})
    assert b"HistoryBuffer" in path.read_bytes()
    allowed = len(torch.serialization.get_safe_globals())
    assert load(path).config == CONFIG
    assert len(torch.serialization.get_safe_globals()) == allowed


def test_nothing_but_such_logs_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "iter_40000.pth"
    unpublished(monkeypatch, path, {"message_hub": HistoryBuffer(), "other": Runs()})
    refused(path, NotACheckpointError, "holds Python objects .*system.*could run code")
    assert not (tmp_path / "ran").exists()
