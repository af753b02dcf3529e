"""What a network is made of, as one frozen, validated value; and the one table of presets.

Not here: the network itself (`models/network.py`) or anything that imports torch.

    python -c "from models.config import PRESETS; print(PRESETS['psanet50_ade20k'])"
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

Context = Literal["psa", "none", "global", "aspp", "nonlocal", "ppm"]
Direction = Literal["collect", "distribute"]
"""Of the information flow (paper 3.1): what positions collect from the others, or distribute to them."""
PsaType = Literal["collect", "distribute", "bidirectional"]
ShrinkRule = Literal["aligned", "adaptive"]

DEPTHS = (18, 34, 50, 101, 152)
STRIDE = 8
"""Pixels per feature once stages 4 and 5 are dilated (paper 4.2)."""

MEAN_RGB = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD_RGB = (0.229 * 255, 0.224 * 255, 0.225 * 255)
"""Mean and deviation of ImageNet's pixels, RGB in [0, 255], as the published training uses them."""


_KINDS: Mapping[Any, tuple[tuple[type, ...], str]] = MappingProxyType(
    {
        int: ((int,), "a whole number"),
        bool: ((bool,), "true or false"),
        float: ((int, float), "a number"),
    }
)
"""What the plain fields take, by their annotation."""


class ConfigError(ValueError):
    """A value that no network can be built from; the message says which and what would do."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture of one network.

    depth: of the ResNet: 18, 34, 50, 101 or 152.
    classes: number of classes, at least 2.
    context: how context is gathered: the paper's PSA module or one of its rivals (Table 1).
    crop_hw: height and width in pixels that the network is trained and served at, `8n + 1` each;
        with PSA also `(crop - 1) % (8 * shrink_factor) == 0`.
    psa_type: direction of the information flow (paper 3.1).
    compact: attention of H x W values per position, not the over-completed (2H-1) x (2W-1) (Table 1).
    mask_hw: size of the over-completed map; None: what covers every pair at `crop_hw`. Pairs farther apart
        than a smaller one reaches have logit 0; a larger one is that of a network trained at a larger crop.
    shrink_factor: the features are reduced by this before attention (official: 2).
    normalization_factor: N of equation 8 (official: 1.0).
    psa_softmax: softmax over the source positions.
    head_width: channels inside the head: 512 as published, 256 for the small models.
    aux: whether there is the auxiliary head on stage 4 (paper 3.4).
    stage_dilations: of stages 4 and 5; 1 keeps that stage's stride of 2.
    dropout: of whole feature maps before either classifier.

    What follows is by default as in hszhao/semseg; `MMSEGMENTATION` holds what differs in their networks.

    stem_width: channels that the stem gives; its first two convolutions have half of them.
    contract_dilation: the first block of a dilated stage is dilated by half of that.
    proj_padding: zeros around the gathered context before its last 1x1 convolution, so that the context's
        map is larger by a border of ReLU(BN(0)) when it is resampled to the features' size.
    shrink_rule: "aligned" shrinks a side to (side - 1) // factor + 1 and resamples with corners aligned, down
        and up again. "adaptive" does so where the factor divides neither side of the features; else the sides
        become side // factor, resampled with half-pixel centres. Nothing is shrunk by a factor of 1: then
        "adaptive" resamples by `align_corners`.
    aligned_sides: images have sides of `8n + 1`, whose corners are the features' corners. False: of any
        size, and features of ceil(side / 8); `crop_hw` may be any size too.
    align_corners: of the last upsampling.
    """

    depth: int
    classes: int
    crop_hw: tuple[int, int]
    context: Context = "psa"
    psa_type: PsaType = "bidirectional"
    compact: bool = False
    mask_hw: tuple[int, int] | None = None
    shrink_factor: int = 2
    normalization_factor: float = 1.0
    psa_softmax: bool = True
    head_width: int = 512
    aux: bool = True
    stage_dilations: tuple[int, int] = (2, 4)
    dropout: float = 0.1
    stem_width: int = 128
    contract_dilation: bool = False
    proj_padding: int = 0
    shrink_rule: ShrinkRule = "aligned"
    aligned_sides: bool = True
    align_corners: bool = True

    def __post_init__(self) -> None:
        for name in ("crop_hw", "mask_hw", "stage_dilations"):
            value = getattr(self, name)
            if name != "mask_hw" or value is not None:
                object.__setattr__(self, name, _pair(name, value))
        self._check_types()
        choices = {
            "depth": DEPTHS,
            "context": get_args(Context),
            "psa_type": get_args(PsaType),
            "shrink_rule": get_args(ShrinkRule),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            _require(value in known, f"{name} {value!r} is none of {', '.join(map(str, known))}")
        for name, least in (
            ("classes", 2),
            ("shrink_factor", 1),
            ("head_width", 1),
            ("stem_width", 2),
            ("proj_padding", 0),
        ):
            value = getattr(self, name)
            _require(value >= least, f"{name} must be {least} or more, not {value}")
        _require(self.stem_width % 2 == 0, f"stem_width must be even, not {self.stem_width}")
        factor = self.normalization_factor
        _require(0 < factor < math.inf, f"normalization_factor must be finite and above 0, not {factor}")
        _require(0.0 <= self.dropout < 1.0, f"dropout must lie in [0, 1), not {self.dropout}")
        _require(all(d in (1, 2, 4) for d in self.stage_dilations), "stage_dilations take 1, 2 or 4")
        self._check_crop()
        if self.context == "psa":
            self._check_mask()

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in _KINDS:
                types, words = _KINDS[field.type]
                fits = isinstance(value, types) and isinstance(value, bool) == (field.type is bool)
                _require(fits, f"{field.name} takes {words}, not {value!r}")

    def _check_crop(self) -> None:
        if not self.aligned_sides:
            _require(self.context == "psa", "aligned_sides may be false with context psa alone")
            self.attention_hw_of(self.crop_hw)
            return
        step = self.output_stride * (self.shrink_factor if self.context == "psa" else 1)
        for side in self.crop_hw:
            _require(
                side > 1 and (side - 1) % step == 0,
                f"crop_hw {self.crop_hw}: (side - 1) must be a multiple of {step} and above 0;"
                f" {_nearest(side, step)} would do",
            )

    def _check_mask(self) -> None:
        attention_hw = self.attention_hw
        if self.compact:
            _require(
                self.mask_hw in (None, attention_hw),
                f"a compact mask is as large as the shrunk features, {attention_hw}, not {self.mask_hw}",
            )
            return
        _require(min(self.psa_mask_hw) >= 1, f"mask_hw {self.mask_hw}: each side must be 1 or more")

    @property
    def output_stride(self) -> int:
        """Pixels per feature."""
        # A list: torch.compile cannot follow a generator into math.prod.
        return STRIDE * math.prod([2 if dilation == 1 else 1 for dilation in self.stage_dilations])

    @property
    def directions(self) -> tuple[Direction, ...]:
        """One for each attention branch, collect first; none without a PSA module."""
        if self.context != "psa":
            return ()
        return ("collect", "distribute") if self.psa_type == "bidirectional" else (self.psa_type,)

    @property
    def any_size(self) -> bool:
        """Whether one network takes images of any size, not of the crop's or of `8n + 1` alone."""
        return not self.aligned_sides and not self.compact

    @property
    def feature_hw(self) -> tuple[int, int]:
        """Size of the backbone's output at `crop_hw`."""
        return self.feature_hw_of(self.crop_hw)

    @property
    def attention_hw(self) -> tuple[int, int]:
        """Size of the features that attention runs on at `crop_hw`, once shrunk."""
        return self.attention_hw_of(self.crop_hw)

    def feature_hw_of(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Size of the backbone's output, and of the coarse logits, for images of that size.

        Raises ConfigError for images that this network does not take, with a size that would do.
        """
        height, width = image_hw
        stride = self.output_stride
        _require(min(image_hw) >= 1, f"images of {image_hw}: each side must be 1 or more")
        _require(
            not self.aligned_sides or (height - 1) % stride == (width - 1) % stride == 0,
            f"images of {image_hw}: each side must be {stride}n + 1, as the network's crop {self.crop_hw} is",
        )
        return (height - 1) // stride + 1, (width - 1) // stride + 1

    def attention_hw_of(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Size of the shrunk features that attention runs on, for images of that size.

        Raises ConfigError as `feature_hw_of` does, and for images so small that a side shrinks to nothing.
        """
        height, width = self.feature_hw_of(image_hw)
        factor = self.shrink_factor
        if self.shrinks_aligned((height, width)):
            return (height - 1) // factor + 1, (width - 1) // factor + 1
        _require(
            min(height, width) >= factor,
            f"images of {image_hw} are too small, features of {(height, width)} shrink to nothing: "
            f"give them sides above {self.output_stride * (factor - 1)}",
        )
        return height // factor, width // factor

    def shrinks_aligned(self, feature_hw: tuple[int, int]) -> bool:
        """Whether features of that size are shrunk with corners on corners (`shrink_rule`)."""
        height, width = feature_hw
        return self.shrink_rule == "aligned" or bool(
            height % self.shrink_factor and width % self.shrink_factor
        )

    @property
    def psa_mask_hw(self) -> tuple[int, int]:
        """Size of the attention that is predicted for each position (paper 3.3)."""
        if self.mask_hw is not None:
            return self.mask_hw
        height, width = self.attention_hw
        return (height, width) if self.compact else (2 * height - 1, 2 * width - 1)

    def replace(self, **changes: Any) -> "ModelConfig":
        """The same architecture but for `changes`; raises ConfigError where they do not fit."""
        try:
            return dataclasses.replace(self, **changes)
        except TypeError as error:
            raise ConfigError(str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and YAML take them; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """The configuration that `to_dict` wrote. Unknown and missing keys raise ConfigError."""
        _require(isinstance(values, Mapping), f"a model configuration has keys and values, {values!r} none")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(map(str, set(values) - known))
        _require(not unknown, f"unknown keys {unknown}; known are {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"not a model configuration: {error}") from error


def _pair(name: str, value: Any) -> tuple[int, int]:
    try:
        first, second = value
        if int(first) != first or int(second) != second or isinstance(value, str):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} takes two whole numbers, not {value!r}") from None
    return int(first), int(second)


def _nearest(side: int, step: int) -> int:
    return max(1, round((side - 1) / step)) * step + 1


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


MMSEGMENTATION: Mapping[str, Any] = MappingProxyType(
    {
        "stem_width": 64,
        "contract_dilation": True,
        "proj_padding": 1,
        "shrink_rule": "adaptive",
        "aligned_sides": False,
        "align_corners": False,
    }
)
"""What all PSANets of MMSegmentation share and the published network does not; 769x769 aligns corners."""


def _presets() -> dict[str, ModelConfig]:
    table = {}
    for dataset, classes, psa_crop, ppm_crop in (
        ("ade20k", 150, 465, 473),
        ("voc2012", 21, 465, 473),
        ("cityscapes", 19, 705, 713),
    ):
        for depth in (50, 101):
            table[f"psanet{depth}_{dataset}"] = ModelConfig(
                depth=depth, classes=classes, crop_hw=(psa_crop, psa_crop)
            )
            table[f"pspnet{depth}_{dataset}"] = ModelConfig(
                depth=depth, classes=classes, crop_hw=(ppm_crop, ppm_crop), context="ppm"
            )
    for depth in (18, 50):  # one crop shows a whole image of 360 x 480
        table[f"psanet{depth}_camvid"] = ModelConfig(
            depth=depth, classes=11, crop_hw=(369, 481), head_width=256
        )
    return table


PRESETS: Mapping[str, ModelConfig] = MappingProxyType(_presets())
"""The published networks by name, and ours on CamVid."""
