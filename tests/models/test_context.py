"""The rivals of Table 1 beside the PSA module (which is in test_psa.py), each against its formula."""

import pytest
import torch
from torch import Tensor, nn

from models.config import Context, ModelConfig
from models.context import (
    ASPP,
    ContextModule,
    GlobalPooling,
    NoContext,
    NonLocal,
    PyramidPooling,
    build_context,
)
from tests.models.networks import fill, tiny_config

CHANNELS, WIDTH = 12, 4
KINDS: list[tuple[Context, int]] = [
    ("none", CHANNELS),
    ("global", CHANNELS + WIDTH),
    ("aspp", CHANNELS + 4 * WIDTH),
    ("nonlocal", CHANNELS),
    ("ppm", 2 * CHANNELS),
    ("psa", 2 * CHANNELS),
]


def filled(module: ContextModule) -> ContextModule:
    fill(module)
    return module.eval()


def some_features(size_hw: tuple[int, int] = (9, 9), dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, CHANNELS, *size_hw, generator=torch.Generator().manual_seed(1)).to(dtype)


def config_of(context: Context) -> ModelConfig:
    return tiny_config(context=context, head_width=WIDTH)


@pytest.mark.parametrize(("context", "channels"), KINDS)
@pytest.mark.parametrize("size_hw", [(9, 9), (7, 13), (10, 6)])
def test_any_feature_map_gives_one_of_its_size_with_the_features_first(
    context: Context, channels: int, size_hw: tuple[int, int]
) -> None:
    module = filled(build_context(config_of(context), CHANNELS))
    features = some_features(size_hw)
    out = module(features)
    assert out.shape == (2, channels, *size_hw)
    assert module.out_channels == channels
    if channels > CHANNELS:
        assert torch.equal(out[:, :CHANNELS], features)


@pytest.mark.parametrize("context", [context for context, _ in KINDS if context != "none"])
def test_every_parameter_and_the_features_learn(context: Context) -> None:
    module = filled(build_context(config_of(context), CHANNELS)).train()
    features = some_features().requires_grad_()
    out = module(features)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for name, parameter in [*module.named_parameters(), ("features", features)]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("context", [context for context, _ in KINDS if context not in ("none", "aspp")])
def test_context_reaches_from_corner_to_corner(context: Context) -> None:
    module = filled(build_context(config_of(context), CHANNELS))
    features = some_features()
    changed = features.clone()
    changed[:, :, 0, 0] += 5.0
    difference = (module(changed) - module(features))[:, :, -1, -1].abs().max()
    assert difference > 1e-4


def test_the_baseline_has_no_context() -> None:
    features = some_features()
    assert NoContext(CHANNELS)(features) is features


def test_global_pooling_is_the_projected_mean_everywhere() -> None:
    module = filled(GlobalPooling(CHANNELS, WIDTH).double())
    features = some_features((5, 7), torch.float64)
    mean = features.flatten(2).mean(2)[:, :, None, None]
    assert torch.allclose(module(features)[:, CHANNELS:], module.project(mean).expand(-1, -1, 5, 7))  # type: ignore[operator]


def test_aspp_dilates_by_the_rates_of_deeplab_v2() -> None:
    module = ASPP(CHANNELS, WIDTH)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert [c.dilation[0] for c in convolutions] == [c.padding[0] for c in convolutions] == [6, 12, 18, 24]
    assert all(c.kernel_size == (3, 3) for c in convolutions)


def test_a_non_local_block_starts_as_the_identity() -> None:
    features = some_features()
    assert torch.equal(NonLocal(CHANNELS, WIDTH).eval()(features), features)


def test_a_non_local_block_is_its_formula_pair_by_pair() -> None:
    module = NonLocal(CHANNELS, WIDTH).double()
    filled(module)
    features = some_features((3, 4), torch.float64)[:1]
    theta, phi, g = (f(features)[0].flatten(1) for f in (module.theta, module.phi, module.g))
    gathered = torch.zeros(WIDTH, 12, dtype=torch.float64)
    for target in range(12):
        weights = torch.stack([(theta[:, target] @ phi[:, source]).exp() for source in range(12)])
        for source in range(12):
            gathered[:, target] += weights[source] / weights.sum() * g[:, source]
    expected = features + module.out(gathered.view(1, WIDTH, 3, 4))
    assert torch.allclose(module(features), expected, atol=1e-12)


@pytest.mark.parametrize("size_hw", [(60, 60), (59, 47), (7, 13), (5, 4)])
def test_pyramid_pooling_is_adaptive_average_pooling_for_any_size(size_hw: tuple[int, int]) -> None:
    module = PyramidPooling(CHANNELS).double()
    filled(module)
    features = some_features(size_hw, torch.float64)
    expected = [features]
    for bins, level in zip((1, 2, 3, 6), module.features, strict=True):
        assert isinstance(level, nn.Sequential)
        pooled = level[1:](nn.functional.adaptive_avg_pool2d(features, bins))
        expected.append(nn.functional.interpolate(pooled, size_hw, mode="bilinear", align_corners=True))
    assert torch.allclose(module(features), torch.cat(expected, 1), atol=1e-12)


@pytest.mark.parametrize("context", ["nonlocal", "psa"])
def test_softmax_runs_in_float32_under_autocast(context: Context) -> None:
    class Softmaxes(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.types: list[torch.dtype] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._softmax.default:
                self.types += [args[0].dtype, out.dtype]
            elif func is torch.ops.psanet.psa_mask.default:
                assert out.dtype == torch.bfloat16, "autocast was not at work"
            return out

    module = filled(build_context(config_of(context), CHANNELS))
    with torch.no_grad():
        expected = module(some_features())
        with Softmaxes() as seen, torch.autocast("cpu", torch.bfloat16):
            out = module(some_features())
    assert seen.types == [torch.float32] * (4 if context == "psa" else 2)
    assert (out.float() - expected).abs().mean() < 0.03 * expected.std()
