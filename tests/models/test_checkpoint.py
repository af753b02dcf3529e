"""Checkpoints that load: official files of every make, this project's own, and what data set they are of."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.checkpoint import (
    Checkpoint,
    build_from_checkpoint,
    load_backbone,
    load_checkpoint,
    load_weights,
    save_safetensors,
)
from models.config import PRESETS, ModelConfig, PsaType
from models.errors import MismatchError
from models.labels import LABEL_SETS, get_label_set
from models.network import SceneParser, build_network
from models.options import ArchitectureOptions
from models.resnet import ResNet
from tests.models.networks import (
    fill,
    official_keys,
    shapes_of,
    some_images,
    tiny_config,
    tiny_network,
    write_official,
    write_own,
)


@pytest.fixture(scope="module")
def network() -> SceneParser:
    """Of CamVid's 11 classes, with weights that matter."""
    return tiny_network(classes=11)


@pytest.fixture(scope="module")
def official(network: SceneParser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "psanet18_camvid.pth"
    return write_official(path, network.config, network.state_dict())


def logits_of(network: SceneParser) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(some_images())
    return logits


def load_shapes(path: Path, config: ModelConfig, *, dataset: str | None = None, **options: Any) -> Checkpoint:
    """What an official file with those shapes at that path is taken for."""
    write_official(path, config, shapes_of(config))
    return load_checkpoint(path, dataset=dataset, options=ArchitectureOptions(**options))


def test_an_official_file_gives_the_network_bit_by_bit(network: SceneParser, official: Path) -> None:
    checkpoint = load_checkpoint(official)
    assert checkpoint.path == official
    assert checkpoint.config == network.config
    assert checkpoint.labels is LABEL_SETS["camvid"]
    assert checkpoint.source_format == "official"
    assert checkpoint.sha256 == hashlib.sha256(official.read_bytes()).hexdigest()
    rebuilt = build_from_checkpoint(checkpoint)
    assert not rebuilt.training
    assert torch.equal(logits_of(rebuilt), logits_of(network))


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "DistributedDataParallel"])
@pytest.mark.parametrize("aux", [True, False], ids=["aux", "no aux"])
@pytest.mark.parametrize("counters", [True, False], ids=["counters", "no counters"])
@pytest.mark.parametrize("bare", [True, False], ids=["bare", "wrapped"])
def test_official_files_of_every_make_load(
    tmp_path: Path, prefix: str, aux: bool, counters: bool, bare: bool
) -> None:
    config = tiny_config(classes=21, aux=aux)
    state = {k: v for k, v in shapes_of(config).items() if counters or not k.endswith("num_batches_tracked")}
    path = tmp_path / "train_epoch_50.pth"
    if bare:
        torch.save(official_keys(config, state, prefix=prefix), path)
    else:
        write_official(path, config, state, prefix=prefix)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.config, checkpoint.labels.name) == (config, "voc2012")
    assert set(checkpoint.state_dict) == set(shapes_of(config))


@pytest.mark.parametrize("name", ["psanet50_ade20k", "pspnet101_cityscapes"])
def test_files_of_the_published_sizes_load(tmp_path: Path, name: str) -> None:
    checkpoint = load_shapes(tmp_path / f"{name}.pth", PRESETS[name])
    assert (checkpoint.config, checkpoint.labels.name) == (PRESETS[name], name.split("_")[1])


def test_options_reach_the_architecture(tmp_path: Path) -> None:
    config = tiny_config(crop_hw=(65, 97), psa_type="distribute", normalization_factor=2.0, classes=21)
    found = load_shapes(
        tmp_path / "a.pth", config, psa_type="distribute", mask_hw=(9, 13), normalization_factor=2.0
    )
    assert found.config == config


def test_a_half_precision_file_is_raised_to_float32(network: SceneParser, tmp_path: Path) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    checkpoint = load_checkpoint(write_official(tmp_path / "half.pth", network.config, state))
    assert {value.dtype for value in checkpoint.state_dict.values()} == {torch.float32, torch.int64}
    assert (logits_of(build_from_checkpoint(checkpoint)) - logits_of(network)).abs().max() < 0.01


def test_an_own_file_keeps_configuration_and_labels(network: SceneParser, tmp_path: Path) -> None:
    config = network.config.replace(psa_softmax=False, normalization_factor=3.0)
    labels = get_label_set("camvid")
    path = write_own(tmp_path / "last.pth", config, labels, network.state_dict())
    checkpoint = load_checkpoint(path)
    assert (checkpoint.config, checkpoint.labels, checkpoint.source_format) == (config, labels, "own")
    assert build_from_checkpoint(checkpoint).config == config


def test_an_own_file_runs_at_another_crop_with_its_own_mask(tmp_path: Path) -> None:
    config = tiny_config(classes=11)
    path = write_own(tmp_path / "last.pth", config, get_label_set("camvid"), shapes_of(config))
    larger = load_checkpoint(path, options=ArchitectureOptions(crop_hw=(129, 97))).config
    assert (larger.crop_hw, larger.psa_mask_hw) == ((129, 97), (9, 9))


def test_safetensors_hold_the_network_for_inference(
    network: SceneParser, official: Path, tmp_path: Path
) -> None:
    path = tmp_path / "psanet18_camvid.safetensors"
    save_safetensors(load_checkpoint(official), path)
    assert path.stat().st_size < 0.52 * official.stat().st_size
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == network.config.replace(aux=False)
    assert (checkpoint.labels, checkpoint.source_format) == (get_label_set("camvid"), "own")
    for key, value in network.state_dict().items():
        if not key.startswith("aux."):
            stored = value.half().float() if value.is_floating_point() else value
            assert torch.equal(checkpoint.state_dict[key], stored), key
    assert not any(key.startswith("aux.") for key in checkpoint.state_dict)
    deviation = logits_of(network).std()
    assert (logits_of(build_from_checkpoint(checkpoint)) - logits_of(network)).abs().max() < 0.02 * deviation


def test_safetensors_of_float32_lose_nothing(network: SceneParser, official: Path, tmp_path: Path) -> None:
    path = tmp_path / "full.safetensors"
    save_safetensors(load_checkpoint(official), path, dtype=torch.float32)
    assert torch.equal(logits_of(build_from_checkpoint(load_checkpoint(path))), logits_of(network))


def test_values_beyond_float16_are_stored_as_float32(tmp_path: Path) -> None:
    config = tiny_config(classes=11, context="none")
    state = shapes_of(config)
    key = "backbone.layer1.0.bn1.running_var"
    state[key] = torch.full_like(state[key], 1e6)
    source = load_checkpoint(write_own(tmp_path / "last.pth", config, get_label_set("camvid"), state))
    save_safetensors(source, tmp_path / "small.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "small.safetensors").state_dict[key], state[key])


def test_safetensors_without_our_metadata_are_known_by_their_keys(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config = tiny_config(classes=11)
    save_file(
        {key: value.contiguous() for key, value in shapes_of(config).items()}, tmp_path / "a.safetensors"
    )
    checkpoint = load_checkpoint(tmp_path / "a.safetensors")
    assert (checkpoint.config, checkpoint.source_format) == (config, "official")


class TestDataSet:
    """`--dataset`, else the checkpoint's own, else the file name, else the class count."""

    def test_the_option_comes_first(self, tmp_path: Path) -> None:
        own = tmp_path / "kitchen.json"
        colors = [[i, i, i] for i in range(19)]
        names = [f"class {i}" for i in range(19)]
        own.write_text(
            json.dumps({"name": "kitchen", "class_names": names, "palette": colors, "base_size": 99})
        )
        path, config = tmp_path / "psanet_cityscapes.pth", tiny_config(classes=19)
        assert load_shapes(path, config, dataset="cityscapes").labels.name == "cityscapes"
        assert load_shapes(path, config, dataset=str(own)).labels.base_size == 99
        write_own(path, config, get_label_set("cityscapes"), shapes_of(config))
        assert load_checkpoint(path, dataset=str(own)).labels.name == "kitchen"

    def test_the_checkpoint_s_own_comes_before_the_file_name(self, tmp_path: Path) -> None:
        config = tiny_config(classes=19)
        path = tmp_path / "ade20k.pth"
        write_own(path, config, get_label_set("cityscapes"), shapes_of(config))
        assert load_checkpoint(path).labels.name == "cityscapes"

    @pytest.mark.parametrize(
        ("name", "classes", "dataset"),
        [("psanet18_voc2012.pth", 21, "voc2012"), ("train_epoch_100.pth", 19, "cityscapes")],
    )
    def test_the_file_name_comes_before_the_class_count(
        self, tmp_path: Path, name: str, classes: int, dataset: str
    ) -> None:
        assert load_shapes(tmp_path / name, tiny_config(classes=classes)).labels.name == dataset


@pytest.mark.parametrize("flat", [True, False], ids=["official", "own"])
def test_a_backbone_takes_a_classifier_s_weights(tmp_path: Path, flat: bool) -> None:
    source = ResNet(18, dilations=(1, 1))
    fill(source)
    state = source.state_dict()
    path = tmp_path / "resnet18_v2.pth"
    if flat:
        stem = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
        renamed = {}
        for key, value in state.items():
            parts = key.split(".")
            renamed[".".join([stem[parts[1]], *parts[2:]]) if parts[0] == "layer0" else key] = value
        torch.save({**renamed, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, path)
    else:
        torch.save({"depth": 18, "top1": 0.5, "state_dict": state}, path)
    backbone = ResNet(18)
    load_backbone(backbone, path)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("psa_type", ["collect", "distribute"])
def test_weights_of_one_official_direction_are_as_the_network_takes_them(
    psa_type: PsaType, tmp_path: Path
) -> None:
    source = tiny_network(classes=11, psa_type=psa_type)
    path = write_official(tmp_path / "camvid.pth", source.config, source.state_dict())
    network = build_network(source.config)
    load_weights(network, path)
    assert torch.equal(network.context.attention[3].weight, source.context.attention[3].weight)  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"psa_type": "distribute"}, "give model.psa_type=collect"),
        ({"compact": True, "crop_hw": (129, 129)}, "give model.compact=False"),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    source = tiny_network(classes=11, psa_type="collect")
    path = write_own(tmp_path / "own.pth", source.config, LABEL_SETS["camvid"], source.state_dict())
    network = build_network(source.config.replace(**changes))
    assert shapes(network) == shapes(source)
    with pytest.raises(MismatchError, match=says):
        load_weights(network, path)


def shapes(network: SceneParser) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in network.state_dict().items()}
