"""MMSegmentation's PSANet files: their names in this project's terms, and the network that they are of.

Their network is this project's at other settings (`models.config.MMSEGMENTATION`). Depth, classes, mask and
branches come from the keys and shapes; crop, corner rule and test mode from the configuration in the file's
meta, else from a published file's name, else from the options.

Not here: reading the meta (`models/mmseg_meta.py`), comparing keys (`models/checkpoint.py`).

    state = own_keys(content["state_dict"]); source = describe(state, read_meta(content), "a.pth", options)
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from models.config import MEAN_RGB, MMSEGMENTATION, STD_RGB, ModelConfig, PsaType
from models.errors import MismatchError, MissingOptionError, UnsupportedCheckpointError
from models.inspection import convolution, depth_of, mask_of, without_usual_mask
from models.labels import LabelSet
from models.mmseg_meta import Meta
from models.options import ArchitectureOptions
from models.protocol import TestMode, TestProtocol

T = TypeVar("T")

_NAMES = {
    **{f"decode_head.{name}.conv": f"context.{name}.0" for name in ("reduce", "reduce_p", "proj")},
    **{f"decode_head.{name}.bn": f"context.{name}.1" for name in ("reduce", "reduce_p", "proj")},
    **{f"decode_head.{name}.0.conv": f"context.{name}.0" for name in ("attention", "attention_p")},
    **{f"decode_head.{name}.0.bn": f"context.{name}.1" for name in ("attention", "attention_p")},
    **{f"decode_head.{name}.1": f"context.{name}.3" for name in ("attention", "attention_p")},
    "decode_head.bottleneck.conv": "cls.0",
    "decode_head.bottleneck.bn": "cls.1",
    "decode_head.conv_seg": "cls.4",
    "auxiliary_head.convs.0.conv": "aux.0",
    "auxiliary_head.convs.0.bn": "aux.1",
    "auxiliary_head.conv_seg": "aux.4",
}

_OTHER_HEADS = {
    "fpn_convs": "UPerHead",
    "psp_modules": "PSPHead",
    "aspp_modules": "ASPPHead",
    "query_project": "a non-local head",
}
"""By a module that it alone has, the most particular first."""

_PSA_TYPES: Mapping[str, PsaType] = MappingProxyType(
    {"collect": "collect", "distribute": "distribute", "bi-direction": "bidirectional"}
)
_TEST_MODES: Mapping[str, TestMode] = MappingProxyType({"whole": "whole", "slide": "sliding"})


class _Published(NamedTuple):
    align_corners: bool
    mode: TestMode
    scale: tuple[int, int]


_PUBLISHED = {
    (512, 1024): _Published(False, "whole", (2048, 1024)),
    (769, 769): _Published(True, "sliding", (2049, 1025)),
    (512, 512): _Published(False, "whole", (2048, 512)),
}
"""By the crop in a published file's name: corner rule, test mode, long and short side of the test scale."""


_USUAL_SCALES: Mapping[str, tuple[int, int | None]] = {
    "cityscapes": (2048, 1024),
    "ade20k": (2048, 512),
    "voc2012": (2048, 512),
}
"""Long and short side of the test scale that the published models of a data set share."""


@dataclass(frozen=True)
class Source:
    """What a file is of; `scale`: long and short side in pixels at scale 1, None where it does not say."""

    config: ModelConfig
    mode: TestMode
    scale: tuple[int, int] | None

    def protocol(self, labels: LabelSet) -> TestProtocol:
        """How the network is tested; without a scale of its own at that of the data set's published ones."""
        long_side, short_side = self.scale or _USUAL_SCALES.get(labels.name, (labels.base_size, None))
        return TestProtocol(base_size=long_side, base_short=short_side, name="mmsegmentation", mode=self.mode)


def is_mmsegmentation(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are MMSegmentation's."""
    return any(key.removeprefix("module.").startswith("decode_head.") for key in state)


def own_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMSegmentation's names to this project's; unknown ones stay."""
    renamed = {}
    for key, value in state.items():
        module, _, leaf = key.removeprefix("module.").rpartition(".")
        module = _NAMES.get(module, re.sub(r"^backbone\.stem\b", "backbone.layer0", module))
        renamed[f"{module}.{leaf}" if module else leaf] = value
    return renamed


def describe(state: Mapping[str, Tensor], meta: Meta, file_name: str, options: ArchitectureOptions) -> Source:
    """The network and its test, from names as `own_keys` gives them.

    Raises UnsupportedCheckpointError for other heads and backbones, MissingOptionError for what neither the
    file nor its name tells, MismatchError for options that contradict it.
    """
    head, text = meta.section("model", "decode_head"), meta.section("model")
    _require_psanet(state, head.get("type"))
    _require_plain(meta)
    for key in ("backbone.layer0.6.weight", "cls.0.weight", "cls.4.weight", "context.reduce.0.weight"):
        convolution(state, key)
    trained = meta.crop_hw or _crop_in(file_name)
    published = _PUBLISHED.get(trained) if trained and (text or _crop_in(file_name)) else None
    stated_mode = _TEST_MODES.get(str(meta.test_cfg.get("mode")))
    mode: TestMode = _told(
        options.test_mode or stated_mode or (published and published.mode),
        "its test mode: give --test-mode whole or sliding",
    )
    if options.test_mode is None and mode == "sliding":
        _require_usual_stride(meta)
    compact = options.compact or head.get("compact") is True
    masked = options if options.mask_hw else dataclasses.replace(options, mask_hw=meta.mask_hw)
    mask_hw = mask_of(state, masked, compact=compact, even=True)
    factor = head.get("normalization_factor", 1.0)
    config = ModelConfig(
        depth=depth_of(state),
        classes=state["cls.4.weight"].shape[0],
        crop_hw=_told(options.crop_hw or meta.window_hw or trained, "its crop: give --crop HxW"),
        psa_type=_psa_type(state, head, options, compact=compact),
        compact=compact,
        mask_hw=mask_hw,
        shrink_factor=_agreed("shrink_factor", head.get("shrink_factor"), options.shrink_factor, 2),
        normalization_factor=_agreed(
            "normalization_factor",
            mask_hw[0] * mask_hw[1] if factor is None else factor,
            options.normalization_factor,
            1.0,
        ),
        psa_softmax=head.get("psa_softmax") is not False,
        head_width=state["cls.0.weight"].shape[0],
        aux=any(key.startswith("aux.") for key in state),
        stage_dilations=_dilations(meta.section("model", "backbone")),
        **{
            **MMSEGMENTATION,
            "stem_width": state["backbone.layer0.6.weight"].shape[0],
            "contract_dilation": _contracted(meta.section("model", "backbone")),
            "align_corners": _corner_rule(head, published, options),
        },
    )
    if mode == "whole" and not config.any_size:
        raise MismatchError("a compact network runs on windows of its crop alone: give --test-mode sliding")
    return Source(without_usual_mask(config), mode, meta.test_scale or (published and published.scale))


def _require_usual_stride(meta: Meta) -> None:
    """Windows lie two thirds of their size apart here; a pixel less or more, as files have it, may pass."""
    window_hw, stride_hw = meta.window_hw, meta.stride_hw
    if window_hw is None or stride_hw is None:
        return
    if any(abs(3 * step - 2 * side) > 3 for side, step in zip(window_hw, stride_hw, strict=True)):
        raise MismatchError(
            f"it is tested on windows of {window_hw} every {stride_hw} pixels, here they lie two thirds of "
            "their size apart: to have it so, give --test-mode sliding"
        )


def _require_psanet(state: Mapping[str, Tensor], stated: Any) -> None:
    psanet = "context.reduce.0.weight" in state and "context.attention.3.weight" in state
    if not psanet or (isinstance(stated, str) and stated.rpartition(".")[2] != "PSAHead"):
        found = [name for part, name in _OTHER_HEADS.items() if any(f".{part}." in key for key in state)]
        name = stated if isinstance(stated, str) else (found or ["another head"])[0]
        raise UnsupportedCheckpointError(
            f"it is MMSegmentation's, with {name}; only its PSANet's (PSAHead) can be loaded"
        )
    if "backbone.layer0.0.weight" not in state or "backbone.layer1.0.conv3.weight" not in state:
        raise UnsupportedCheckpointError(
            "it is MMSegmentation's PSANet on another backbone; only ResNetV1c-50, 101 and 152 can be loaded"
        )


def _require_plain(meta: Meta) -> None:
    """Raises UnsupportedCheckpointError where the configuration asks for what this network does not do."""
    backbone, head = meta.section("model", "backbone"), meta.section("model", "decode_head")
    wanted: list[tuple[str, Any, Any]] = [
        ("backbone.style", backbone.get("style"), "pytorch"),
        ("backbone.multi_grid", backbone.get("multi_grid"), None),
        ("decode_head.in_index", head.get("in_index"), 3),
    ]
    for name, part in (("backbone", backbone), ("decode_head", head)):
        norm = part.get("norm_cfg")
        wanted.append((f"{name}.norm_cfg.eps", norm.get("eps") if isinstance(norm, Mapping) else None, 1e-5))
    pixels = meta.section("data_preprocessor") or meta.section("img_norm_cfg")
    for name, ours in (("mean", MEAN_RGB), ("std", STD_RGB)):
        given = pixels.get(name)
        wanted.append((name, None if given is None or _close(given, ours) else given, None))
    for name in ("bgr_to_rgb", "to_rgb"):
        wanted.append((name, pixels.get(name), True))
    for name, given, usual in wanted:
        if given not in (None, usual):
            raise UnsupportedCheckpointError(
                f"its configuration has {name} = {given!r}, which this network does not do; "
                "only MMSegmentation's published PSANets and those trained like them can be loaded"
            )


def _close(given: Any, ours: tuple[float, ...]) -> bool:
    if not isinstance(given, list | tuple) or len(given) != len(ours):
        return False
    pairs = zip(given, ours, strict=True)
    return all(isinstance(value, int | float) and abs(value - own) < 1e-3 for value, own in pairs)


def _corner_rule(head: Mapping[str, Any], published: _Published | None, options: ArchitectureOptions) -> bool:
    stated = published and published.align_corners
    if head:  # where it says nothing, corners are not aligned
        stated = head.get("align_corners") is True
    if stated is not None and options.align_corners not in (None, stated):
        raise MismatchError(f"its align_corners is {str(stated).lower()}: leave out --align-corners")
    return _told(options.align_corners if stated is None else stated, "its corner rule: give --align-corners")


def _dilations(backbone: Mapping[str, Any]) -> tuple[int, int]:
    """Of stages 4 and 5; a stage's stride must be what this network has with them."""
    dilations, strides = backbone.get("dilations", (1, 1, 2, 4)), backbone.get("strides", (1, 2, 1, 1))
    sequences = isinstance(dilations, tuple | list) and isinstance(strides, tuple | list)
    pairs = list(zip(dilations[2:], strides[2:], strict=False)) if sequences else []
    if len(pairs) != 2 or any(stride != (2 if dilation == 1 else 1) for dilation, stride in pairs):
        raise UnsupportedCheckpointError(
            f"its backbone has dilations {dilations} with strides {strides}; published ones have "
            "(1, 1, 2, 4) with (1, 2, 1, 1), and this network none like these"
        )
    return pairs[0][0], pairs[1][0]


def _contracted(backbone: Mapping[str, Any]) -> bool:
    """Published ones are; theirs are not unless their configuration says so."""
    return backbone.get("contract_dilation") is True if backbone else True


def _psa_type(
    state: Mapping[str, Tensor], head: Mapping[str, Any], options: ArchitectureOptions, *, compact: bool
) -> PsaType:
    if "context.reduce_p.0.weight" in state:
        if options.psa_type not in (None, "bidirectional"):
            raise MismatchError(
                f"it has two attention branches, {options.psa_type} has one: leave out --psa-type"
            )
        return "bidirectional"
    stated = _PSA_TYPES.get(str(head.get("psa_type")))
    if stated == "bidirectional":
        stated = None
    if compact and stated is not None:
        # One compact branch's map is transposed to collect there, in the published code to distribute.
        stated = "distribute" if stated == "collect" else "collect"
    told = _agreed("psa_type", stated, options.psa_type, None)
    if told not in ("collect", "distribute"):
        also = ", distribute for what they call compact collect and the other way round" if compact else ""
        raise MissingOptionError(
            "it has one attention branch, its keys cannot tell which: "
            f"give --psa-type collect or distribute{also}"
        )
    return told


def _agreed(name: str, stated: T | None, option: T | None, default: T) -> T:
    """What the configuration says, else the option, else the default; both may be given when they agree."""
    if stated is not None and option is not None and stated != option:
        flag = f"--{name.replace('_', '-')}"
        raise MismatchError(f"its configuration has {name} {stated}: leave out {flag}")
    return stated if stated is not None else default if option is None else option


def _told(value: T | None, what: str) -> T:
    if value is None:
        raise MissingOptionError(f"neither its meta nor its name tells {what}")
    return value


def _crop_in(file_name: str) -> tuple[int, int] | None:
    """The crop in a name such as psanet_r50-d8_512x1024_40k_cityscapes_20200606_103117-99fac37c.pth."""
    found = re.search(r"(?<![0-9a-z])(\d{3,4})x(\d{3,4})(?![0-9a-z])", file_name)
    return (int(found[1]), int(found[2])) if found else None
