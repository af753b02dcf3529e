"""The PSA module against equation 8 of the paper, written out with loops in float64."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.config import ConfigError, PsaType
from models.context import PSA
from models.resnet import ResNet
from tests.models.networks import fill

CHANNELS, WIDTH = 6, 4
TYPES: tuple[PsaType, ...] = ("collect", "distribute", "bidirectional")
# The module alone: its batch norms stay with the statistics that they have.
FORMS = pytest.mark.parametrize("training", [False, True], ids=["plain", "in one piece"])


def some_psa(**options: Any) -> PSA:
    module = PSA(CHANNELS, WIDTH, **options).double()
    fill(module)
    return module.eval()


def some_features(size_hw: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, CHANNELS, *size_hw, generator=generator, dtype=torch.float64)


def slow_psa(module: PSA, features: Tensor) -> Tensor:
    """The module's (1, 2C, h, w) from its weights alone: convolutions as products, attention pair by pair."""
    x = features[0].numpy()
    branches = []
    if module.psa_type != "distribute":
        branches.append((module.reduce, module.attention, False))
    else:
        branches.append((module.reduce, module.attention, True))
    if module.psa_type == "bidirectional":
        assert module.reduce_p is not None
        assert module.attention_p is not None
        branches.append((module.reduce_p, module.attention_p, True))
    size_hw = tuple((side - 1) // module.shrink_factor + 1 for side in x.shape[1:])
    gathered = []
    for reduce, attention, distribute in branches:
        reduced = resample(conv_bn_relu(x, reduce), size_hw)
        predict = attention[3]
        assert isinstance(predict, nn.Conv2d)
        picture = np.einsum("oc,chw->ohw", weight(predict), conv_bn_relu(reduced, attention))
        gathered.append(gather(reduced, picture, module, distribute))
    context = resample(conv_bn_relu(np.concatenate(gathered), module.proj), x.shape[1:])
    return torch.from_numpy(np.concatenate([x, context]))[None]


def gather(reduced: np.ndarray, picture: np.ndarray, module: PSA, distribute: bool) -> np.ndarray:
    """z_i = 1/N sum over j of a_ij x_j."""
    _, h, w = reduced.shape
    positions = list(itertools.product(range(h), range(w)))
    out = np.zeros_like(reduced)
    for target, weights in zip(positions, slow_weights(picture, module, distribute), strict=True):
        for a, source in zip(weights, positions, strict=True):
            out[:, target[0], target[1]] += a * reduced[:, source[0], source[1]] / module.normalization_factor
    return out


def slow_weights(picture: np.ndarray, module: PSA, distribute: bool) -> np.ndarray:
    """(t, s): a_ij, the softmax over j of what i (collect), j (distribute) says."""
    _, h, w = picture.shape
    mask_h, mask_w = module.mask_hw
    positions = list(itertools.product(range(h), range(w)))
    rows = []
    for target in positions:
        logits = []
        for source in positions:
            centre, other = (source, target) if distribute else (target, source)
            if module.compact:
                row, column = other
            else:
                row = other[0] - centre[0] + (mask_h - 1) // 2
                column = other[1] - centre[1] + (mask_w - 1) // 2
            inside = 0 <= row < mask_h and 0 <= column < mask_w
            logits.append(picture[row * mask_w + column][centre] if inside else 0.0)
        weights = np.array(logits, np.float64)
        rows.append(np.exp(weights) / np.exp(weights).sum() if module.softmax else weights)
    return np.stack(rows)


def weight(convolution: nn.Conv2d) -> np.ndarray:
    return convolution.weight.detach().numpy()[:, :, 0, 0]


def conv_bn_relu(x: np.ndarray, layers: nn.Sequential) -> np.ndarray:
    convolution, norm = layers[0], layers[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    mean, variance, scale, shift = (
        value.detach().numpy()[:, None, None]  # type: ignore[union-attr]
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    y = np.einsum("oc,chw->ohw", weight(convolution), x)
    return np.asarray(np.maximum((y - mean) / np.sqrt(variance + 1e-5) * scale + shift, 0))


def resample(x: np.ndarray, size_hw: tuple[int, ...]) -> np.ndarray:
    """Linear along each axis, first and last samples on first and last."""
    for axis, size in ((1, size_hw[0]), (2, size_hw[1])):
        lines = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).T
        at, shape = np.linspace(0, x.shape[axis] - 1, size), np.moveaxis(x, axis, 0).shape[1:]
        resampled = np.stack([np.interp(at, np.arange(len(line)), line) for line in lines], 1)
        x = np.moveaxis(resampled.reshape(size, *shape), 0, axis)
    return x


@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("shrink_factor", [1, 2, 4])
@pytest.mark.parametrize("compact", [False, True], ids=["over-completed", "compact"])
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "raw"])
@FORMS
def test_the_module_is_equation_8(
    psa_type: PsaType, shrink_factor: int, compact: bool, softmax: bool, training: bool
) -> None:
    h, w = 5, 9
    shrunk_hw = ((h - 1) // shrink_factor + 1, (w - 1) // shrink_factor + 1)
    mask_hw = shrunk_hw if compact else (2 * shrunk_hw[0] - 1, 2 * shrunk_hw[1] - 1)
    module = some_psa(
        mask_hw=mask_hw,
        psa_type=psa_type,
        compact=compact,
        shrink_factor=shrink_factor,
        softmax=softmax,
        normalization_factor=2.5,
    )
    module.training = training
    features = some_features((h, w))
    with torch.no_grad():
        assert torch.allclose(module(features), slow_psa(module, features), atol=1e-10)


@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("compact", [False, True], ids=["over-completed", "compact"])
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "raw"])
def test_what_the_module_attends_to_are_the_weights_of_equation_8(
    psa_type: PsaType, compact: bool, softmax: bool
) -> None:
    mask_hw = (3, 5) if compact else (4, 7)
    module = some_psa(
        mask_hw=mask_hw, psa_type=psa_type, compact=compact, softmax=softmax, normalization_factor=2.5
    )
    features = some_features((5, 9))
    branches = {"collect" if psa_type != "distribute" else "distribute": (module.reduce, module.attention)}
    if module.reduce_p is not None and module.attention_p is not None:
        branches["distribute"] = (module.reduce_p, module.attention_p)
    with torch.no_grad():
        found = module.weights_by_direction(features)
    assert list(found) == list(branches)
    for direction, (reduce, attention) in branches.items():
        reduced = resample(conv_bn_relu(features[0].numpy(), reduce), (3, 5))
        predict = attention[3]
        assert isinstance(predict, nn.Conv2d)
        picture = np.einsum("oc,chw->ohw", weight(predict), conv_bn_relu(reduced, attention))
        expected = slow_weights(picture, module, direction == "distribute")
        np.testing.assert_allclose(found[direction][0].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("psa_type", TYPES)
@pytest.mark.parametrize("mask_hw", [(3, 3), (1, 5), (4, 6), (15, 11)])
@FORMS
def test_masks_smaller_even_or_larger_than_the_features_need(
    psa_type: PsaType, mask_hw: tuple[int, int], training: bool
) -> None:
    module = some_psa(mask_hw=mask_hw, psa_type=psa_type, shrink_factor=1)
    module.training = training
    features = some_features((4, 5))
    with torch.no_grad():
        assert torch.allclose(module(features), slow_psa(module, features), atol=1e-10)


@pytest.mark.parametrize("size_hw", [(5, 5), (6, 9), (7, 4), (1, 3)])
def test_features_of_any_size_even_ones_that_the_shrink_factor_does_not_divide(
    size_hw: tuple[int, int],
) -> None:
    module = some_psa(mask_hw=(5, 5))
    features = some_features(size_hw)
    with torch.no_grad():
        assert torch.allclose(module(features), slow_psa(module, features), atol=1e-10)


@pytest.mark.parametrize("distribute", [False, True])
def test_each_target_s_weights_over_all_sources_sum_to_one(distribute: bool) -> None:
    module = some_psa(mask_hw=(3, 5))
    weights = module.attention_weights(torch.randn(2, 15, 4, 6) * 20, distribute=distribute)
    assert weights.shape == (2, 24, 24)
    assert torch.allclose(weights.sum(1), torch.ones(2, 24))
    assert not torch.allclose(weights.sum(2), torch.ones(2, 24), atol=0.1)


def test_pairs_beyond_the_mask_take_part_in_the_softmax_with_0() -> None:
    module = some_psa(mask_hw=(1, 1))
    weights = module.attention_weights(torch.full((1, 1, 2, 3), 2.0), distribute=False)
    own = np.exp(2.0) / (np.exp(2.0) + 5)
    expected = torch.full((6, 6), (1 - own) / 5).fill_diagonal_(own)
    assert torch.allclose(weights[0], expected, atol=1e-6)


def test_weights_sum_to_one_in_float32_whatever_the_map_s_type() -> None:
    module = some_psa(mask_hw=(59, 59))
    weights = module.attention_weights(torch.randn(1, 3481, 30, 30).bfloat16(), distribute=False)
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.sum(1), torch.ones(1, 900), atol=1e-5)


def test_a_compact_module_refuses_features_of_another_size() -> None:
    module = some_psa(mask_hw=(3, 3), compact=True)
    module(some_features((5, 5)))
    with pytest.raises(ConfigError, match=r"compact mask of \(3, 3\).*not \(3, 4\)"):
        module(some_features((5, 7)))


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ConfigError, match="'both' is none of collect, distribute, bidirectional"):
        some_psa(mask_hw=(3, 3), psa_type="both")


@pytest.mark.parametrize(
    ("stage", "size_hw"), [("layer1", (17, 25)), ("layer2", (9, 13)), ("layer3", (9, 13))]
)
def test_the_module_attaches_to_an_earlier_stage(stage: str, size_hw: tuple[int, int]) -> None:
    """Paper 3.4: "can be attached to any stage in the FCN structure"; later stages run on what it returns."""
    backbone = ResNet(18).eval()
    features: list[Tensor] = []
    getattr(backbone, stage).register_forward_hook(lambda module, inputs, output: features.append(output))
    backbone(torch.rand(2, 3, 65, 97))
    channels = features[0].shape[1]
    module = PSA(channels, 8, mask_hw=(7, 9), shrink_factor=2).train()
    out = module(features[0])
    assert out.shape == (2, 2 * channels, *size_hw)
    assert torch.equal(out[:, :channels], features[0])
    out.sum().backward()
    first = next(backbone.parameters()).grad
    assert first is not None
    assert first.abs().max() > 0
