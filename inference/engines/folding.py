"""A network for inference alone: each convolution with its normalisation, its short cut and its ReLU in one.

Batch normalisation that no longer learns is a scale and a shift, which go into the convolution before it
(exact but for rounding). What is left behind it, bias, short cut and ReLU, cuDNN does as it writes the result
where `fused` is set, which spares a pass over every feature map for each; elsewhere PyTorch does.

Not here: precision, graphs and which form is faster on the GPU at hand (`gpu_network.py`).

    folded = fold(network); folded.coarse_logits(images)
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.network import SceneParser
from models.resnet import BasicBlock, Bottleneck


class Unit(nn.Module):
    """A convolution with bias, then what is added, then ReLU."""

    def __init__(self, convolution: nn.Conv2d, normalisation: nn.BatchNorm2d | None, *, relu: bool) -> None:
        super().__init__()
        folded = convolution
        if normalisation is not None:
            folded = fuse_conv_bn_eval(convolution, normalisation)
        self.weight, self.bias = folded.weight, folded.bias
        self.relu, self.fused = relu, False
        self._sizes: Any = convolution.stride, convolution.padding, convolution.dilation, convolution.groups

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """x: (N, C, H, W); added: of the result's shape."""
        if self.fused and self.relu:
            if added is None:
                return torch.cudnn_convolution_relu(x, self.weight, self.bias, *self._sizes)
            return torch.cudnn_convolution_add_relu(x, self.weight, added, 1.0, self.bias, *self._sizes)
        result = F.conv2d(x, self.weight, self.bias, *self._sizes)
        if added is not None:
            result = result + added
        return F.relu(result, inplace=True) if self.relu else result


class Block(nn.Module):
    """A residual block of units: those of its path, and the short cut's where it has one."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if isinstance(block, Bottleneck):
            pairs.append((block.conv3, block.bn3))
        self.path = nn.ModuleList(Unit(*pair, relu=True) for pair in pairs)
        short_cut = block.downsample
        self.short_cut = None if short_cut is None else Unit(short_cut[0], short_cut[1], relu=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), as the block that it stands for."""
        added = x if self.short_cut is None else self.short_cut(x)
        for unit in self.path[:-1]:
            x = unit(x)
        result: Tensor = self.path[-1](x, added)
        return result


def fold(network: SceneParser) -> SceneParser:
    """A copy in eval mode that gives the same logits, up to rounding; it cannot be trained."""
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    folded.aux = None
    _fold_children(folded)
    return folded


def set_fused(network: nn.Module, fused: bool) -> None:
    """Whether cuDNN does what follows a convolution; for a GPU alone."""
    for module in network.modules():
        if isinstance(module, Unit):
            module.fused = fused


def _fold_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, BasicBlock | Bottleneck):
            setattr(module, name, Block(child))
        elif isinstance(child, nn.Sequential):
            _fold_sequence(child)
        else:
            _fold_children(child)


def _fold_sequence(sequence: nn.Sequential) -> None:
    """In place; what is folded away leaves an identity behind, so that the others keep their numbers."""
    for index, layer in enumerate(sequence):
        following = list(sequence)[index + 1 : index + 3]
        if not isinstance(layer, nn.Conv2d) or not following or not isinstance(following[0], nn.BatchNorm2d):
            continue
        relu = len(following) > 1 and isinstance(following[1], nn.ReLU)
        sequence[index] = Unit(layer, following[0], relu=relu)
        for gone in range(1, 2 + relu):
            sequence[index + gone] = nn.Identity()
    _fold_children(sequence)
