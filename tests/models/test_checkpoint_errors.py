"""Checkpoints that must not load: each error names the file, the first keys that differ, and the mend."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.checkpoint import load_backbone, load_checkpoint
from models.errors import (
    CheckpointError,
    MismatchError,
    MissingOptionError,
    NotACheckpointError,
    UnsupportedCheckpointError,
)
from models.files import FORMAT
from models.labels import get_label_set
from models.options import ArchitectureOptions
from models.resnet import ResNet
from tests.models.networks import shapes_of, tiny_config, write_official, write_own

CONFIG = tiny_config(classes=21)
WHOLE = "Is it a whole PSANet or PSPNet checkpoint, and are the architecture options its own"


def zeros(*shape: int) -> Tensor:
    return torch.zeros(()).expand(shape)


def refused(
    path: Path, kind: type[CheckpointError], *messages: str, dataset: str | None = None, **options: Any
) -> None:
    """Loading raises exactly that kind, and its message holds the path and these."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, dataset=dataset, options=ArchitectureOptions(**options))
    assert type(caught.value) is kind
    for message in (str(path), *messages):
        assert message in str(caught.value)
    assert str(caught.value).count(str(path)) == 1


def changed(tmp_path: Path, **changes: Tensor | None) -> Path:
    """An official file with some keys (`__` for a dot) replaced, added or, for None, taken out."""
    state: dict[str, Tensor] = dict(shapes_of(CONFIG))
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return write_official(tmp_path / "changed.pth", CONFIG, state)


def test_a_path_that_is_missing(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.pth", CheckpointError, "there is no checkpoint file")


def test_a_half_written_checkpoint_wherever_it_ends(tmp_path: Path) -> None:
    path = changed(tmp_path)
    whole = path.read_bytes()
    for share in (0.01, 0.3, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, NotACheckpointError, "was it copied or downloaded whole")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path, backbone__layer2__1__conv2__weight=None)
    refused(path, MismatchError, "1 keys are missing, the first ['backbone.layer2.1.conv2.weight']", WHOLE)


def test_an_extra_key_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path, backbone__layer2__9__weight=zeros(3), extra=zeros(3))
    refused(
        path, MismatchError, "2 keys are not known, the first ['backbone.layer2.9.weight', 'extra']", WHOLE
    )


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path, context__proj__0__weight=zeros(512, 4, 1, 1))
    refused(
        path,
        MismatchError,
        "1 shapes differ, the first context.proj.0.weight: (512, 4, 1, 1) in the file, (512, 16, 1, 1) in",
        WHOLE,
    )


def test_only_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    load_checkpoint(changed(tmp_path, cls__1__num_batches_tracked=None))
    refused(
        changed(tmp_path, cls__1__running_mean=None),
        MismatchError,
        "1 keys are missing",
        "cls.1.running_mean",
    )


@pytest.mark.parametrize("prefix", ["aux.0", "psa.reduce_p", "psa.proj", "cls.1", "layer0.7"])
def test_a_part_that_is_missing_is_never_left_at_random(tmp_path: Path, prefix: str) -> None:
    own = prefix.replace("psa.", "context.").replace("layer0", "backbone.layer0")
    state = {key: value for key, value in shapes_of(CONFIG).items() if not key.startswith(own + ".")}
    path = write_official(tmp_path / "part.pth", CONFIG, state)
    psa_type = "collect" if prefix == "psa.reduce_p" else None
    refused(path, MismatchError, own if psa_type is None else "context.attention_p", psa_type=psa_type)


def torchvision_keys() -> Mapping[str, Tensor]:
    state = {f"{key}": value for key, value in shapes_of(tiny_config(depth=18)).items()}
    layers = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.layer")}
    layers = {key: value for key, value in layers.items() if not key.startswith("layer0.")}
    return {
        "conv1.weight": zeros(64, 3, 7, 7),
        "bn1.weight": zeros(64),
        **layers,
        "fc.weight": zeros(1000, 512),
    }


def test_another_network_is_told_what_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision_keys(), path)
    refused(
        path,
        MismatchError,
        "it is no PSANet or PSPNet checkpoint",
        "give a whole checkpoint of hszhao/semseg's",
    )
    torch.save({"model": {"a": zeros(3)}, "epoch": 3}, path)
    refused(path, NotACheckpointError, "holds no `state_dict` of tensors", "give a checkpoint")


def test_what_the_file_cannot_tell_names_the_option(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for changes, option in (
        ({"psa_type": "collect"}, "--psa-type collect or distribute"),
        ({"crop_hw": (65, 97)}, "--mask HxW"),
        ({"crop_hw": (81, 81), "compact": True}, "--compact"),
        ({"context": "ppm", "classes": 11}, "--crop HxW"),
    ):
        config = CONFIG.replace(**changes)
        refused(write_official(path, config, shapes_of(config)), MissingOptionError, f"give {option}")


def test_options_that_contradict_the_file_say_so(tmp_path: Path) -> None:
    path = changed(tmp_path)
    refused(path, MismatchError, "leave out --psa-type", psa_type="collect")
    refused(path, MismatchError, "--mask 3x3 makes 9 channels, it has 81", mask_hw=(3, 3))
    refused(path, MismatchError, "513 would do", crop_hw=(512, 512))
    refused(path, MismatchError, "normalization_factor must be finite and above 0", normalization_factor=-1.0)
    refused(path, MismatchError, "leave out --align-corners false", align_corners=False)
    own = write_own(tmp_path / "own.pth", CONFIG, get_label_set("voc2012"), shapes_of(CONFIG))
    refused(own, MismatchError, "leave out --psa-type", psa_type="distribute")
    refused(own, MismatchError, "leave out --align-corners false", align_corners=False)


def test_the_data_set_must_be_known_and_fit(tmp_path: Path) -> None:
    path = changed(tmp_path)
    refused(path, MismatchError, "unknown data set 'coco'; known are ade20k, camvid", dataset="coco")
    message = "it has 21 classes, the data set cityscapes has 19: give --dataset"
    refused(path, MismatchError, message, dataset="cityscapes")
    renamed = path.rename(tmp_path / "psanet_cityscapes.pth")
    refused(renamed, MismatchError, message)
    config = tiny_config(classes=7)
    path = write_official(tmp_path / "seven.pth", config, shapes_of(config))
    refused(path, MismatchError, "no known data set has 7 classes: give --dataset")
    refused(path, MismatchError, "nowhere.json", dataset=str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"config": None}, MismatchError, "a model configuration has keys and values"),
        ({"config": {"depth": 18}}, MismatchError, "not a model configuration"),
        ({"config": {**CONFIG.to_dict(), "depth": 19}}, MismatchError, "depth 19 is none of"),
        ({"config": {**CONFIG.to_dict(), "new": 1}}, MismatchError, "unknown keys ['new']"),
        ({"config": {**CONFIG.to_dict(), "head_width": 16}}, MismatchError, "shapes differ"),
        ({"config": {**CONFIG.to_dict(), "head_width": 10**12}}, MismatchError, "as large as"),
        ({"config": {**CONFIG.to_dict(), "head_width": 10**30}}, MismatchError, "as large as"),
        ({"config": ...}, NotACheckpointError, "it lacks `config`"),
        ({"labels": {"name": "x"}}, MismatchError, "no label set"),
        (
            {"labels": get_label_set("camvid").to_dict()},
            MismatchError,
            "21 classes, the data set camvid has 11",
        ),
        ({"state_dict": None}, NotACheckpointError, "holds no `state_dict` of tensors"),
        ({"state_dict": {"a": 1}}, NotACheckpointError, "holds no `state_dict` of tensors"),
    ],
)
def test_own_files_are_checked_as_strictly(
    tmp_path: Path, changes: dict[str, Any], kind: type[CheckpointError], message: str
) -> None:
    labels = get_label_set("voc2012").to_dict()
    content = {
        "format": FORMAT,
        "config": CONFIG.to_dict(),
        "labels": labels,
        "state_dict": shapes_of(CONFIG),
    }
    content = {key: value for key, value in {**content, **changes}.items() if value is not ...}
    torch.save(content, tmp_path / "own.pth")
    refused(tmp_path / "own.pth", kind, message)


def test_torchvision_s_backbone_is_told_what_is_different(tmp_path: Path) -> None:
    path = tmp_path / "resnet18-5c106cde.pth"
    torch.save(torchvision_keys(), path)
    with pytest.raises(
        UnsupportedCheckpointError, match="one 7x7 convolution.*pre-train|one of `python"
    ) as caught:
        load_backbone(ResNet(18), path)
    assert str(path) in str(caught.value)


def test_a_backbone_of_another_depth_or_with_a_part_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    state = {
        k.removeprefix("backbone."): v for k, v in shapes_of(CONFIG).items() if k.startswith("backbone.")
    }
    torch.save({"state_dict": state}, path)
    load_backbone(ResNet(18), path)
    with pytest.raises(MismatchError, match=r"resnet\.pth is not this network: 80 keys.* of the depth that"):
        load_backbone(ResNet(34), path)
    del state["layer4.1.conv2.weight"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(MismatchError, match=r"1 keys are missing, the first \['layer4.1.conv2.weight'\]"):
        load_backbone(ResNet(18), path)
    torch.save({"state_dict": {"a": 3}}, path)
    with pytest.raises(NotACheckpointError, match=r"resnet\.pth holds no `state_dict`"):
        load_backbone(ResNet(18), path)
