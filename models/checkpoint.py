"""Checkpoints → (configuration, labels, weights), strictly.

Reads the official hszhao/semseg files of PSANet and PSPNet, MMSegmentation's of PSANet, and this project's
own (`.pth` of the training, `.safetensors`). The architecture comes from the keys and shapes
(`models/inspection.py`, `models/mmseg.py`), and from options where they cannot tell.

    python -c "from models.checkpoint import load_checkpoint; print(load_checkpoint('psanet50.pth').config)"

Errors: the tree of CheckpointError in `models/errors.py`.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from models import mmseg
from models.config import ConfigError, ModelConfig
from models.errors import (
    CheckpointError,
    MismatchError,
    MissingOptionError,
    NotACheckpointError,
    UnsupportedCheckpointError,
)
from models.files import FORMAT, file_sha256, read_file, tensors_of, write_safetensors
from models.inspection import backbone_keys, configured, infer_config, own_keys
from models.labels import LabelSet, UnknownDatasetError, get_label_set, guess_label_set, label_set_from_dict
from models.mmseg_meta import labels_of, read_meta
from models.network import SceneParser, build_network
from models.options import ArchitectureOptions
from models.protocol import TestProtocol
from models.resnet import ResNet

logger = logging.getLogger(__name__)

__all__ = [
    "FORMAT",
    "Checkpoint",
    "CheckpointError",
    "build_from_checkpoint",
    "load_backbone",
    "load_checkpoint",
    "load_weights",
    "read_file",
    "save_safetensors",
]


SourceFormat = Literal["official", "mmsegmentation", "own"]


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read. `state_dict` has this project's keys and float32 values, whatever the file.

    protocol: how the network is meant to be tested.
    """

    path: Path
    config: ModelConfig
    labels: LabelSet
    state_dict: Mapping[str, Tensor]
    sha256: str
    source_format: SourceFormat
    protocol: TestProtocol


def load_checkpoint(
    path: str | Path, *, dataset: str | None = None, options: ArchitectureOptions | None = None
) -> Checkpoint:
    """Reads a checkpoint of any known format and checks it against the network that it describes.

    dataset: names the labels, or a JSON file of them; else the checkpoint's own, file name, class count.
    Raises CheckpointError, whose message names the file, what differs and the mend.
    """
    path, options = Path(path), options or ArchitectureOptions()
    content = read_file(path)
    state = tensors_of(content, path)
    try:
        found = _found(content, state, path.name, dataset, options)
    except (ConfigError, CheckpointError, UnknownDatasetError) as error:
        kind = type(error) if isinstance(error, CheckpointError) else MismatchError
        raise kind(f"{path}: {error}") from error
    config, state = found.config, found.state
    try:
        with torch.device("meta"):  # the shapes without the memory
            expected = build_network(config).state_dict()
    except (RuntimeError, TypeError) as error:  # sizes past 64 bits, together or one alone
        raise MismatchError(f"{path}: no network can be as large as its configuration says") from error
    mend = "Is it a whole PSANet or PSPNet checkpoint, and are the architecture options its own?"
    _compare(path, state, expected, mend)
    state = _with_counters(state, expected)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return Checkpoint(
        path, config, found.labels, state, file_sha256(path), found.source_format, found.protocol
    )


def build_from_checkpoint(checkpoint: Checkpoint) -> SceneParser:
    """The network with the checkpoint's weights, on the CPU, in eval mode."""
    network = build_network(checkpoint.config)
    network.load_state_dict(dict(checkpoint.state_dict), strict=True)
    return network.eval()


def load_backbone(backbone: ResNet, path: Path) -> None:
    """Puts ImageNet weights into a backbone: this project's pre-training or the official deep-stem files.

    Raises CheckpointError, which explains the difference when the file has torchvision's 7x7 stem.
    """
    content = read_file(path)
    if content.get("result", "of others") is None:
        logger.warning("%s is of a pre-training that was cut off: it is started from as it is", path)
    state = backbone_keys(tensors_of(content, path))
    stem = state.get("layer0.0.weight")
    if stem is not None and tuple(stem.shape[2:]) == (7, 7):
        raise UnsupportedCheckpointError(
            f"{path} has torchvision's stem, one 7x7 convolution; these networks have three of 3x3. "
            "Give an official deep-stem file (resnet50_v2.pth), or one of `python -m training.pretrain`"
        )
    expected = backbone.state_dict()
    _compare(path, state, expected, "Is it a whole ResNet, of the depth that the network has?")
    backbone.load_state_dict(_with_counters(state, expected), strict=True)


def load_weights(network: SceneParser, path: str | Path) -> None:
    """Puts the weights of a checkpoint of any known format into a network of the same architecture, in place.

    What the file cannot tell (an official one its direction, say) is as in the network. The auxiliary head,
    which files for inference lack, stays as it is where the file or the network has none. Raises
    CheckpointError, whose message names the first keys that differ, or what the same keys would mean.
    """
    try:
        checkpoint = load_checkpoint(path)
    except MissingOptionError:
        checkpoint = load_checkpoint(path, options=ArchitectureOptions.of(network.config))
    if checkpoint.source_format != "official":
        _require_same_meaning(Path(path), checkpoint.config, network.config)
    expected = network.state_dict()
    state = {key: value for key, value in checkpoint.state_dict.items() if not key.startswith("aux.")}
    if network.aux is not None:
        known = checkpoint.state_dict if checkpoint.config.aux else expected
        state |= {key: value for key, value in known.items() if key.startswith("aux.")}
    _compare(Path(path), state, expected, "Give the training the file's own depth, classes, crop and head.")
    network.load_state_dict(state, strict=True)


def _require_same_meaning(path: Path, found: ModelConfig, wanted: ModelConfig) -> None:
    """Attention in one direction has the keys and shapes of that in the other, and a compact mask may too."""
    for name in ("psa_type", "compact") if found.context == wanted.context == "psa" else ():
        value = getattr(found, name)
        if value != getattr(wanted, name):
            raise MismatchError(
                f"{path} has {name} {value}, the network {getattr(wanted, name)}: give model.{name}={value}"
            )


def save_safetensors(checkpoint: Checkpoint, path: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Writes the network for inference, without the auxiliary head, as `load_checkpoint` reads it.

    Floating-point values are stored as `dtype`, but for tensors with values beyond its range, which stay
    float32; the configuration, labels and protocol travel in the metadata.
    """
    state = checkpoint.state_dict.items()
    tensors = {key: _stored(value, dtype) for key, value in state if not key.startswith("aux.")}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(checkpoint.config.replace(aux=False).to_dict()),
        "labels": json.dumps(checkpoint.labels.to_dict()),
    }
    if checkpoint.protocol != TestProtocol(base_size=checkpoint.labels.base_size):
        metadata["protocol"] = json.dumps(checkpoint.protocol.to_dict())
    write_safetensors(path, tensors, metadata)


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        return value.contiguous()
    narrow = value.to(dtype)
    return (narrow if narrow.isfinite().all() else value).contiguous()


class _Found(NamedTuple):
    """What a file is of, before it is compared with the network; `state` has this project's keys."""

    config: ModelConfig
    labels: LabelSet
    state: dict[str, Tensor]
    protocol: TestProtocol
    source_format: SourceFormat


def _found(
    content: Mapping[str, Any],
    state: dict[str, Tensor],
    file_name: str,
    dataset: str | None,
    options: ArchitectureOptions,
) -> _Found:
    """Raises CheckpointError, ConfigError and UnknownDatasetError, without the file's path."""
    if content.get("format") != FORMAT and mmseg.is_mmsegmentation(state):
        state, meta = mmseg.own_keys(state), read_meta(content)
        source = mmseg.describe(state, meta, file_name, options)
        config = source.config
        if dataset is None:
            labels = labels_of(meta, file_name, classes=config.classes, crop_hw=config.crop_hw)
        else:
            labels = get_label_set(dataset)
        _require_fitting(labels, config.classes)
        return _Found(config, labels, state, source.protocol(labels), "mmsegmentation")
    protocol = None
    if own := content.get("format") == FORMAT:
        config, named = configured(_own_config(content), options), content.get("labels")
        protocol = TestProtocol.from_dict(content["protocol"]) if "protocol" in content else None
    else:
        state, named = own_keys(state), None
        config = infer_config(state, options)
    labels = _labels(dataset, named, file_name, config.classes)
    protocol = _tested(config, protocol or TestProtocol(base_size=labels.base_size), options)
    return _Found(config, labels, state, protocol, "own" if own else "official")


def _tested(config: ModelConfig, protocol: TestProtocol, options: ArchitectureOptions) -> TestProtocol:
    """The protocol, with the test mode that the options ask for where the network has the choice."""
    if options.align_corners not in (None, config.align_corners):
        rule = "aligns corners" if config.align_corners else "does not align corners"
        given = str(options.align_corners).lower()
        raise MismatchError(f"its network {rule}: leave out --align-corners {given}")
    if options.test_mode == "whole" and not config.any_size:
        raise MismatchError("its network runs on windows of its crop: leave out --test-mode whole")
    return dataclasses.replace(protocol, mode=options.test_mode or protocol.mode)


def _own_config(content: Mapping[str, Any]) -> ModelConfig:
    if "config" not in content:
        raise NotACheckpointError("it lacks `config`, the network's configuration: is it a whole checkpoint?")
    return ModelConfig.from_dict(content["config"])


def _labels(dataset: str | None, named: Any, file_name: str, classes: int) -> LabelSet:
    if dataset is not None:
        labels = get_label_set(dataset)
    elif named is not None:
        labels = label_set_from_dict(named)
    else:
        labels = guess_label_set(file_name, classes)
    _require_fitting(labels, classes)
    return labels


def _require_fitting(labels: LabelSet, classes: int) -> None:
    if labels.classes != classes:
        raise MismatchError(
            f"it has {classes} classes, the data set {labels.name} has {labels.classes}: "
            "give --dataset, the one that it was trained on"
        )


def _compare(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], mend: str) -> None:
    """Raises MismatchError, with the first of what differs, unless keys and shapes are those expected."""
    needed = {key for key in expected if not key.endswith("num_batches_tracked")}
    missing, extra = sorted(needed - set(state)), sorted(set(state) - set(expected))
    shapes = [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(expected[key].shape)} in the network"
        for key in sorted(set(expected) & set(state))
        if state[key].shape != expected[key].shape
    ]
    if not (missing or extra or shapes):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} keys are missing, the first {missing[:3]}")
    if extra:
        parts.append(f"{len(extra)} keys are not known, the first {extra[:3]}")
    if shapes:
        parts.append(f"{len(shapes)} shapes differ, the first {shapes[0]}")
    raise MismatchError(f"{path} is not this network: {'; '.join(parts)}. {mend}")


def _with_counters(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old files lack batch norm's counters, which nothing reads at inference."""
    counters = [key for key in expected if key.endswith("num_batches_tracked")]
    return {**{key: torch.zeros((), dtype=torch.int64) for key in counters}, **state}
