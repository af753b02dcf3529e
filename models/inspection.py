"""What an official checkpoint's keys and shapes tell about its network, and this project's names for them.

Not here: reading files (`models/files.py`), comparing keys with a network's (`models/checkpoint.py`).

    config = infer_config(own_keys(official_state_dict), ArchitectureOptions())
"""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from models.config import STRIDE, ModelConfig
from models.errors import MismatchError, MissingOptionError
from models.options import ArchitectureOptions

_DEPTH_OF = {(True, 6): 50, (True, 23): 101, (True, 36): 152, (False, 2): 18, (False, 6): 34}
"""By whether the blocks are bottlenecks, and how many stage 4 has."""

_PSA_OPTIONS = ("psa_type", "compact", "mask_hw", "shrink_factor", "normalization_factor")

_FLAT_STEM = {
    "conv1": "layer0.0",
    "bn1": "layer0.1",
    "conv2": "layer0.3",
    "bn2": "layer0.4",
    "conv3": "layer0.6",
    "bn3": "layer0.7",
}


def own_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names to this project's: no `module.`; `backbone.layer*`; `context.*` for `psa.*`, `ppm.*`."""
    stripped = {key.removeprefix("module."): value for key, value in state.items()}
    renamed = {}
    for key, value in stripped.items():
        name = f"backbone.{key}" if re.match(r"layer[0-4]\.", key) else key
        renamed[re.sub(r"^(psa|ppm)\.", "context.", name)] = value
    return renamed


def backbone_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's names to the backbone's: `conv1`, `bn1` … to `layer0.*`; its last layer is left out."""
    renamed = {}
    for key, value in state.items():
        head, _, tail = key.removeprefix("module.").partition(".")
        if head != "fc":
            renamed[f"{_FLAT_STEM.get(head, head)}.{tail}"] = value
    return renamed


def infer_config(state: Mapping[str, Tensor], options: ArchitectureOptions) -> ModelConfig:
    """The configuration of an official network, from names as `own_keys` gives them.

    Raises MissingOptionError, which names the option, for what the file cannot tell; MismatchError for
    options that contradict it or keys of no known network, ConfigError for options that no network can have.
    """
    for key in ("backbone.layer0.0.weight", "backbone.layer1.0.conv1.weight", "cls.0.weight", "cls.4.weight"):
        convolution(state, key)
    depth = depth_of(state)
    width, inputs = state["cls.0.weight"].shape[:2]
    common = {
        "depth": depth,
        "classes": state["cls.4.weight"].shape[0],
        "head_width": width,
        "aux": any(key.startswith("aux.") for key in state),
    }
    if "context.reduce.0.weight" in state:
        return _infer_psa(state, options, common)
    if given := _given(options):
        raise MismatchError(f"it has no attention: leave out {_flags(given)}")
    context = "ppm" if "context.features.0.1.weight" in state else "none"
    if context == "none" and inputs != (2048 if depth >= 50 else 512):
        raise MismatchError(
            "its classifier's inputs fit neither PSANet, PSPNet nor a baseline: "
            "is it a whole checkpoint of one of these networks?"
        )
    crop_hw = options.crop_hw or _usual_crop(int(common["classes"]), context)
    return ModelConfig(context=context, crop_hw=crop_hw, **common)  # type: ignore[arg-type]


def configured(config: ModelConfig, options: ArchitectureOptions) -> ModelConfig:
    """The configuration that an own checkpoint holds, at the crop that the options ask for.

    All else is known: options may repeat it. Raises MismatchError where they contradict it.
    """
    given = _given(options)
    if config.context != "psa" and given:
        raise MismatchError(f"it has no attention: leave out {_flags(given)}")
    known = config.replace(mask_hw=config.psa_mask_hw) if config.context == "psa" else config
    for name in given:
        if getattr(options, name) != getattr(known, name):
            raise MismatchError(
                f"it was trained with {name} {getattr(known, name)}: leave out {_flags([name])}"
            )
    if options.crop_hw is None or options.crop_hw == config.crop_hw:
        return config
    # The mask stays as large as it was trained, whatever the crop.
    changed = known.replace(crop_hw=options.crop_hw)
    return changed if config.context != "psa" else without_usual_mask(changed)


def _infer_psa(
    state: Mapping[str, Tensor], options: ArchitectureOptions, common: Mapping[str, object]
) -> ModelConfig:
    both = "context.reduce_p.0.weight" in state
    if both and options.psa_type not in (None, "bidirectional"):
        raise MismatchError(
            f"it has two attention branches, {options.psa_type} has one: leave out --psa-type"
        )
    if not both and options.psa_type not in ("collect", "distribute"):
        raise MissingOptionError(
            "it has one attention branch, its keys cannot tell which: give --psa-type collect or distribute"
        )
    mask_hw = mask_of(state, options, compact=options.compact)
    shrink_factor = 2 if options.shrink_factor is None else options.shrink_factor
    reach_hw = mask_hw if options.compact else ((mask_hw[0] + 1) // 2, (mask_hw[1] + 1) // 2)
    height, width = ((side - 1) * STRIDE * shrink_factor + 1 for side in reach_hw)
    normalization_factor = options.normalization_factor
    config = ModelConfig(
        context="psa",
        crop_hw=options.crop_hw or (height, width),
        psa_type="bidirectional" if both else options.psa_type,  # type: ignore[arg-type]
        compact=options.compact,
        mask_hw=mask_hw,
        shrink_factor=shrink_factor,
        normalization_factor=1.0 if normalization_factor is None else normalization_factor,
        **common,  # type: ignore[arg-type]
    )
    return without_usual_mask(config)


def mask_of(
    state: Mapping[str, Tensor], options: ArchitectureOptions, *, compact: bool, even: bool = False
) -> tuple[int, int]:
    """Size of the map that attention is predicted as: square, or what the options say of its channels.

    even: whether sides of an over-completed map may be even, and so have no middle (MMSegmentation).
    """
    channels = convolution(state, "context.attention.3.weight").shape[0]
    side = math.isqrt(channels)
    height, width = options.mask_hw or (side, side)
    if options.mask_hw is None and side * side != channels:
        raise MissingOptionError(f"its mask of {channels} channels is not square: give --mask HxW")
    if height * width != channels:
        raise MismatchError(
            f"--mask {height}x{width} makes {height * width} channels, it has {channels}: give its own size"
        )
    if not compact and not even and (height % 2 == 0 or width % 2 == 0):
        raise MissingOptionError(
            f"its mask of {height}x{width} has no middle, so it must be a compact network: give --compact"
        )
    return height, width


def without_usual_mask(config: ModelConfig) -> ModelConfig:
    """The same with mask_hw None where that means the same, as presets have it."""
    usual = config.replace(mask_hw=None)
    return usual if usual.psa_mask_hw == config.psa_mask_hw else config


def depth_of(state: Mapping[str, Tensor]) -> int:
    """Of the ResNet, by its blocks. Raises MismatchError where no ResNet has so many."""
    blocks = {match[1] for key in state if (match := re.match(r"backbone\.layer3\.(\d+)\.", key))}
    bottleneck = "backbone.layer1.0.conv3.weight" in state
    try:
        return _DEPTH_OF[bottleneck, len(blocks)]
    except KeyError:
        raise MismatchError(
            f"{len(blocks)} blocks in stage 4 are those of no known ResNet: "
            "is it a whole checkpoint with a ResNet-18, 34, 50, 101 or 152?"
        ) from None


def _usual_crop(classes: int, context: str) -> tuple[int, int]:
    """The crop that a network without a mask was published with, by its data set's class count."""
    if classes not in (150, 21, 19):
        raise MissingOptionError(f"a network with {classes} classes has no published crop: give --crop HxW")
    side = {"ppm": 473, "none": 465}[context] if classes != 19 else {"ppm": 713, "none": 705}[context]
    return side, side


def convolution(state: Mapping[str, Tensor], key: str) -> Tensor:
    """The weight of that name; MismatchError where there is none, or none of a convolution."""
    if key not in state or state[key].dim() != 4:
        raise MismatchError(
            f"it is no PSANet or PSPNet checkpoint: it lacks the convolution {key}, it has "
            f"{sorted(state)[:3]} …; give a whole checkpoint of hszhao/semseg's or of this project's training"
        )
    return state[key]


def _given(options: ArchitectureOptions) -> list[str]:
    values = {name: getattr(options, name) for name in _PSA_OPTIONS}
    return [name for name, value in values.items() if value is not None and value is not False]


def _flags(names: list[str]) -> str:
    return ", ".join("--mask" if name == "mask_hw" else f"--{name.replace('_', '-')}" for name in names)
