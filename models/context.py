"""The point-wise spatial attention module and the rivals that the paper compares it with (Table 1).

All share one small interface: built with the channels they take, they map features (N, C, h, w) to features
(N, out_channels, h, w) that hold the local and the gathered context. They can be attached to any feature map.
DenseCRF, Table 1's other row, works on probabilities and is no module.

Shape suffixes: n images, c channels, s sources, t targets (s = t = h * w of the shrunk features).

    python -c "from models.context import PSA; print(PSA(2048, 512, mask_hw=(59, 59)).out_channels)"
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from models.config import ConfigError, Direction, ModelConfig, PsaType, ShrinkRule
from models.psa_attention import attend
from models.psa_mask import psa_mask
from models.resample import resize, resize_aligned


class ContextModule(nn.Module):
    """What the networks ask of a context module: `out_channels`, and `forward` from and to (N, C, h, w)."""

    out_channels: int


class NoContext(ContextModule):
    """The baseline: local features alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to itself."""
        return features


class PSA(ContextModule):
    """Point-wise spatial attention (paper 3.2 and 3.3).

    channels: of the features it is attached to. width: channels inside (C2 of Fig. 2).
    mask_hw: size of the predicted attention per position; with `compact` that of the shrunk features.
    The features' size is free unless `compact`; pairs farther apart than the mask reaches have logit 0.
    shrink_rule, proj_padding, align_corners: see `ModelConfig`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        mask_hw: tuple[int, int],
        psa_type: PsaType = "bidirectional",
        compact: bool = False,
        shrink_factor: int = 2,
        normalization_factor: float = 1.0,
        softmax: bool = True,
        shrink_rule: ShrinkRule = "aligned",
        proj_padding: int = 0,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if psa_type not in get_args(PsaType):
            raise ConfigError(f"psa_type {psa_type!r} is none of {', '.join(get_args(PsaType))}")
        self.psa_type, self.compact, self.mask_hw = psa_type, compact, mask_hw
        self.shrink_factor, self.softmax = shrink_factor, softmax
        self.normalization_factor = normalization_factor
        self.shrink_rule, self.align_corners = shrink_rule, align_corners
        self.reduce = _conv_bn_relu(channels, width, 1)
        self.attention = self._attention_branch(width)
        self.reduce_p: nn.Sequential | None = None
        self.attention_p: nn.Sequential | None = None
        if psa_type == "bidirectional":
            self.reduce_p = _conv_bn_relu(channels, width, 1)
            self.attention_p = self._attention_branch(width)
        gathered = 2 * width if psa_type == "bidirectional" else width
        self.proj = _conv_bn_relu(gathered, channels, 1, padding=proj_padding)
        self.out_channels = 2 * channels

    def _attention_branch(self, width: int) -> nn.Sequential:
        predict = nn.Conv2d(width, self.mask_hw[0] * self.mask_hw[1], 1, bias=False)
        return nn.Sequential(*_conv_bn_relu(width, width, 1), predict)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to (N, 2C, h, w): the features, then what attention gathered for them.

        Raises ValueError for features so small that a side shrinks to nothing.
        """
        distribute_first = self.psa_type == "distribute"
        gathered = self._gather(features, self.reduce, self.attention, distribute=distribute_first)
        if self.reduce_p is not None and self.attention_p is not None:
            distributed = self._gather(features, self.reduce_p, self.attention_p, distribute=True)
            gathered = torch.cat((gathered, distributed), 1)
        context = self.proj(gathered)
        return torch.cat((features, self._resample(context, features.shape[2:], features.shape[2:])), 1)

    def weights_by_direction(self, features: Tensor) -> dict[Direction, Tensor]:
        """What `forward` weighs features by, of each branch: (N, t, s), what target t takes from source s.

        Targets and sources are positions of the shrunk features, row by row. See `attention_weights`; the
        factor 1/N of equation 8 comes later.
        """
        first: Direction = "distribute" if self.psa_type == "distribute" else "collect"
        branches: dict[Direction, tuple[nn.Module, nn.Module]] = {first: (self.reduce, self.attention)}
        if self.reduce_p is not None and self.attention_p is not None:
            branches["distribute"] = self.reduce_p, self.attention_p
        shrunk_hw, weights_nts = self._shrunk_hw(features.shape[2:]), {}
        for direction, (reduce, attention) in branches.items():
            reduced = self._resample(reduce(features), shrunk_hw, features.shape[2:])
            weights = self.attention_weights(attention(reduced), distribute=direction == "distribute")
            weights_nts[direction] = weights.mT
        return weights_nts

    def _gather(
        self, features: Tensor, reduce: nn.Module, attention: nn.Sequential, *, distribute: bool
    ) -> Tensor:
        """One direction of equation 8: (N, C, h, w) to (N, width, h', w') of the shrunk features."""
        h, w = self._shrunk_hw(features.shape[2:])
        reduced = self._resample(reduce(features), (h, w), features.shape[2:])
        return self._attended(reduced, attention, distribute=distribute) * (1.0 / self.normalization_factor)

    def _attended(self, reduced: Tensor, attention: nn.Sequential, *, distribute: bool) -> Tensor:
        """What each position gathers, (N, width, h', w'), before normalisation.

        On a GPU, and wherever it is trained, in one piece, which never holds the attention of all pairs; in
        evaluation elsewhere plainly, by the operations that exporters write. Both are one function.
        """
        in_one_piece = (reduced.device.type == "cuda" or self.training) and self.softmax and not self.compact
        predict = attention[-1]
        if in_one_piece and isinstance(predict, nn.Conv2d):
            features = attention[:-1](reduced)
            return attend(features, predict.weight, reduced, self.mask_hw, distribute=distribute)
        attention_nst = self.attention_weights(attention(reduced), distribute=distribute)
        gathered_nct = torch.bmm(reduced.flatten(2), attention_nst.to(reduced.dtype))
        gathered: Tensor = gathered_nct.unflatten(2, reduced.shape[2:])
        return gathered

    def _shrunk_hw(self, feature_hw: Sequence[int]) -> tuple[int, int]:
        height, width = feature_hw
        factor = self.shrink_factor
        if self.shrink_rule == "aligned" or factor == 1:
            return (height - 1) // factor + 1, (width - 1) // factor + 1
        corners = self._aligned(feature_hw)
        shrunk_hw = height // factor + corners, width // factor + corners
        if shrunk_hw[0] < 1 or shrunk_hw[1] < 1:
            raise ValueError(
                f"features of {(int(height), int(width))} shrink to nothing by {factor}: give larger images"
            )
        return shrunk_hw

    def _resample(self, x: Tensor, size_hw: Sequence[int], feature_hw: Sequence[int]) -> Tensor:
        """By the rule that `feature_hw`, the size before shrinking, asks for."""
        if self.shrink_rule == "aligned":
            return resize_aligned(x, (size_hw[0], size_hw[1]))
        return resize(x, (size_hw[0], size_hw[1]), aligned=self._aligned(feature_hw))

    def _aligned(self, feature_hw: Sequence[int]) -> int:
        """1 where "adaptive" aligns corners, else 0: arithmetic, for sizes that are symbols in an export."""
        if self.shrink_factor == 1:
            return int(self.align_corners)
        factor = self.shrink_factor
        divided, divided_w = ((side % factor + factor - 1) // factor for side in feature_hw)
        return divided * divided_w

    def attention_weights(self, map_nmhw: Tensor, *, distribute: bool) -> Tensor:
        """From the predicted map (N, mask_h * mask_w, h, w) to what target t takes from source s: (N, s, t).

        With softmax each target's weights over all sources sum to 1; it runs in float32 at least.
        Raises ConfigError when a compact map does not fit the features.
        """
        _, channels, h, w = map_nmhw.shape
        if self.compact:
            if channels != h * w:
                raise ConfigError(
                    f"a compact mask of {self.mask_hw} needs shrunk features of that size, not {(h, w)}; "
                    "give the images the size that the network was built for"
                )
            logits_nst = map_nmhw.flatten(2).mT if distribute else map_nmhw.flatten(2)
        else:
            logits_nst = psa_mask(map_nmhw, *self.mask_hw, distribute).flatten(2)
        return _softmax_over_sources(logits_nst) if self.softmax else logits_nst


class GlobalPooling(ContextModule):
    """ParseNet's context: the mean of all positions, the same for each.

    As in the pyramid's coarsest level, of which this is the whole, the mean passes a 1x1 convolution.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.project = _conv_bn_relu(channels, width, 1)
        self.out_channels = channels + width

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C + width, h, w)."""
        context = self.project(features.mean((2, 3), keepdim=True))
        return torch.cat((features, context.expand(-1, -1, *features.shape[2:])), 1)


class ASPP(ContextModule):
    """Atrous spatial pyramid pooling: parallel 3x3 convolutions dilated by 6, 12, 18, 24 as in DeepLab v2."""

    rates = (6, 12, 18, 24)

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_conv_bn_relu(channels, width, 3, dilation=rate) for rate in self.rates)
        self.out_channels = channels + width * len(self.rates)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C + 4 * width, h, w)."""
        return torch.cat([features, *(branch(features) for branch in self.branches)], 1)


class NonLocal(ContextModule):
    """The non-local block, embedded Gaussian: attention from the similarity of features, plus a short cut."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, width, 1)
        self.phi = nn.Conv2d(channels, width, 1)
        self.g = nn.Conv2d(channels, width, 1)
        self.out = nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))
        # The block starts as the identity (Wang et al. 2018, section 4.1).
        nn.init.zeros_(self.out[1].weight)  # type: ignore[arg-type]
        self.out_channels = channels

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, h, w)."""
        similarity_nst = torch.bmm(self.phi(features).flatten(2).mT, self.theta(features).flatten(2))
        values_ncs = self.g(features).flatten(2)
        gathered_nct = torch.bmm(values_ncs, _softmax_over_sources(similarity_nst).to(values_ncs.dtype))
        result: Tensor = features + self.out(gathered_nct.unflatten(2, features.shape[2:]))
        return result


class PyramidPooling(ContextModule):
    """PSPNet's pyramid: means over 1, 4, 9 and 36 regions, each reduced to a quarter of the channels."""

    bins = (1, 2, 3, 6)

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // len(self.bins)
        self.features = nn.ModuleList(
            nn.Sequential(_AdaptiveAverage(bins), *_conv_bn_relu(channels, width, 1)) for bins in self.bins
        )
        self.out_channels = channels + width * len(self.bins)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to (N, 2C, h, w)."""
        size_hw = (features.shape[2], features.shape[3])
        return torch.cat(
            [features, *(resize_aligned(level(features), size_hw) for level in self.features)], 1
        )


class _AdaptiveAverage(nn.Module):
    """`AdaptiveAvgPool2d` as two small matrix products: ONNX has none for sizes that bins do not divide."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        return self._weights(x, x.shape[2]) @ x @ self._weights(x, x.shape[3]).mT

    def _weights(self, like: Tensor, side: int) -> Tensor:
        spans = [(i * side // self.bins, -(-(i + 1) * side // self.bins)) for i in range(self.bins)]
        return like.new_tensor([[(a <= x < b) / (b - a) for x in range(side)] for a, b in spans])


def build_context(config: ModelConfig, channels: int) -> ContextModule:
    """The context module that `config` names, for features of so many channels."""
    width = config.head_width
    match config.context:
        case "none":
            return NoContext(channels)
        case "global":
            return GlobalPooling(channels, width)
        case "aspp":
            return ASPP(channels, width)
        case "nonlocal":
            return NonLocal(channels, width)
        case "ppm":
            return PyramidPooling(channels)
        case "psa":
            return PSA(
                channels,
                width,
                mask_hw=config.psa_mask_hw,
                psa_type=config.psa_type,
                compact=config.compact,
                shrink_factor=config.shrink_factor,
                normalization_factor=config.normalization_factor,
                softmax=config.psa_softmax,
                shrink_rule=config.shrink_rule,
                proj_padding=config.proj_padding,
                align_corners=config.align_corners,
            )


def _softmax_over_sources(logits_nst: Tensor) -> Tensor:
    """Sums over thousands of sources are lost in half precision, so it is never used here."""
    return torch.softmax(logits_nst, dim=1, dtype=torch.promote_types(logits_nst.dtype, torch.float32))


def _conv_bn_relu(
    inputs: int, outputs: int, kernel: int, *, dilation: int = 1, padding: int | None = None
) -> nn.Sequential:
    """padding: default, what keeps the size."""
    padding = dilation * (kernel // 2) if padding is None else padding
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
