"""MMSegmentation's PSANet as plain functions of a state dict with their names: slow, obvious, for comparison.

Written from the description of their network, not from this project's. `wrong` makes one mistake on purpose:
what a test that compares with the right network must notice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import MEAN_RGB, MMSEGMENTATION, STD_RGB, ModelConfig

MISTAKES = (
    *("bgr", "no contraction", "no padding", "inner corners", "outer corners", "late offset", "uncovered"),
    *("swapped branches", "context first"),
)

_OWN_TO_THEIRS = {
    "context.attention.0": "decode_head.attention.0.conv",
    "context.attention.1": "decode_head.attention.0.bn",
    "context.attention.3": "decode_head.attention.1",
    "context.attention_p.0": "decode_head.attention_p.0.conv",
    "context.attention_p.1": "decode_head.attention_p.0.bn",
    "context.attention_p.3": "decode_head.attention_p.1",
    "context.reduce.0": "decode_head.reduce.conv",
    "context.reduce.1": "decode_head.reduce.bn",
    "context.reduce_p.0": "decode_head.reduce_p.conv",
    "context.reduce_p.1": "decode_head.reduce_p.bn",
    "context.proj.0": "decode_head.proj.conv",
    "context.proj.1": "decode_head.proj.bn",
    "cls.0": "decode_head.bottleneck.conv",
    "cls.1": "decode_head.bottleneck.bn",
    "cls.4": "decode_head.conv_seg",
    "aux.0": "auxiliary_head.convs.0.conv",
    "aux.1": "auxiliary_head.convs.0.bn",
    "aux.4": "auxiliary_head.conv_seg",
}


def mmseg_config(**changes: Any) -> ModelConfig:
    """A small network of theirs; its even mask is smaller than most maps."""
    values = {"depth": 50, "classes": 5, "crop_hw": (48, 64), "head_width": 8, "mask_hw": (4, 4)}
    return ModelConfig(**{**values, **MMSEGMENTATION, **changes})


def mmseg_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that MMSegmentation's files have for this project's."""
    renamed = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        theirs = _OWN_TO_THEIRS.get(module, module.replace("backbone.layer0", "backbone.stem"))
        renamed[f"{theirs}.{leaf}"] = value
    return renamed


def write_mmseg(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> Path:
    """A file as tools/publish_model.py leaves it; `state` has this project's names."""
    torch.save({"meta": dict(meta or {}), "state_dict": mmseg_keys(state)}, path)
    return path


def their_logits(
    state: Mapping[str, Tensor],
    images: Tensor,
    *,
    align_corners: bool = False,
    shrink_factor: int = 2,
    wrong: str | None = None,
) -> Tensor:
    """images: (1, 3, H, W) RGB in [0, 255]. Returns the logits, (1, C, H, W)."""
    if wrong == "bgr":
        images = images.flip(1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1).to(images) for values in (MEAN_RGB, STD_RGB))
    x = (images - mean) / std
    for at, stride in ((0, 2), (3, 1), (6, 1)):
        x = F.conv2d(x, state[f"backbone.stem.{at}.weight"], stride=stride, padding=1)
        x = F.relu(batch_norm(state, f"backbone.stem.{at + 1}", x))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    contracted = wrong != "no contraction"
    for layer, stride, dilation, first in ((1, 1, 1, 1), (2, 2, 1, 1), (3, 1, 2, 1), (4, 1, 4, 2)):
        block = 0
        while f"backbone.layer{layer}.{block}.conv1.weight" in state:
            dilated = first if block == 0 and contracted else dilation
            x = bottleneck(state, f"backbone.layer{layer}.{block}", x, stride if block == 0 else 1, dilated)
            block += 1
    context = attention_context(state, x, align_corners, shrink_factor, wrong)
    x = torch.cat([context, x] if wrong == "context first" else [x, context], 1)
    x = F.conv2d(x, state["decode_head.bottleneck.conv.weight"], padding=1)
    x = F.relu(batch_norm(state, "decode_head.bottleneck.bn", x))
    x = F.conv2d(x, state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"])
    corners = align_corners != (wrong == "outer corners")
    return F.interpolate(x, images.shape[2:], mode="bilinear", align_corners=corners)


def bottleneck(state: Mapping[str, Tensor], name: str, x: Tensor, stride: int, dilation: int) -> Tensor:
    """1x1, 3x3 (stride and dilation here), 1x1, and a short cut."""
    y = F.relu(batch_norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"])))
    y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=dilation, dilation=dilation)
    y = F.relu(batch_norm(state, f"{name}.bn2", y))
    y = batch_norm(state, f"{name}.bn3", F.conv2d(y, state[f"{name}.conv3.weight"]))
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = batch_norm(state, f"{name}.downsample.1", x)
    return F.relu(x + y)


def attention_context(
    state: Mapping[str, Tensor], x: Tensor, align_corners: bool, factor: int, wrong: str | None
) -> Tensor:
    """What both branches gather, projected and resized back: (1, C, h, w), as the features."""
    height, width = h, w = x.shape[2:]
    corners = align_corners
    if factor != 1:
        corners = bool(height % factor and width % factor)
        if corners:
            h, w = (height - 1) // factor + 1, (width - 1) // factor + 1
        else:
            h, w = height // factor, width // factor
        corners = corners != (wrong == "inner corners")
    branches = []
    for end, distribute in (("", False), ("_p", True)):
        if f"decode_head.reduce{end}.conv.weight" in state:
            y = conv_bn_relu(state, f"decode_head.reduce{end}", x)
            if factor != 1:
                y = F.interpolate(y, (h, w), mode="bilinear", align_corners=corners)
            picture = conv_bn_relu(state, f"decode_head.attention{end}.0", y)
            picture = F.conv2d(picture, state[f"decode_head.attention{end}.1.weight"])
            scores = pair_scores(picture[0], distribute != (wrong == "swapped branches"), wrong)
            gathered = y.flatten(2) @ scores.softmax(0)[None]
            branches.append(gathered.view(1, -1, h, w))
    padding = 0 if wrong == "no padding" else 1
    y = conv_bn_relu(state, "decode_head.proj", torch.cat(branches, 1), padding=padding)
    return F.interpolate(y, (height, width), mode="bilinear", align_corners=corners)


def pair_scores(picture: Tensor, distribute: bool, wrong: str | None) -> Tensor:
    """(side * side, h, w) to the score that target t gives source s, (s, t), pair by pair."""
    channels, h, w = picture.shape
    side = round(channels**0.5)
    half = side // 2 if wrong == "late offset" else (side - 1) // 2
    scores = picture.new_full((h * w, h * w), -torch.inf if wrong == "uncovered" else 0.0)
    for row in range(h):
        for column in range(w):
            for mask_row in range(side):
                for mask_column in range(side):
                    other_row, other_column = row + mask_row - half, column + mask_column - half
                    if 0 <= other_row < h and 0 <= other_column < w:
                        own, other = row * w + column, other_row * w + other_column
                        value = picture[mask_row * side + mask_column, row, column]
                        scores[(own, other) if distribute else (other, own)] = value
    return scores


def conv_bn_relu(state: Mapping[str, Tensor], name: str, x: Tensor, *, padding: int = 0) -> Tensor:
    """A 1x1 convolution without bias, batch norm, ReLU."""
    x = F.conv2d(x, state[f"{name}.conv.weight"], padding=padding)
    return F.relu(batch_norm(state, f"{name}.bn", x))


def batch_norm(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """With the stored statistics."""
    mean, variance, weight, bias = (
        state[f"{name}.{leaf}"].view(1, -1, 1, 1)
        for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias
