"""Options for what a checkpoint cannot tell of itself, the same in every command that takes a checkpoint.

Not here: what is done with them (`models/inspection.py`).

    parser = argparse.ArgumentParser(); add_architecture_arguments(parser)
    options = options_from_args(parser.parse_args(["--psa-type", "collect"]))
"""

import argparse
import shlex
from dataclasses import dataclass
from typing import NoReturn, get_args

from models.config import ModelConfig, PsaType
from models.protocol import TestMode


@dataclass(frozen=True, kw_only=True)
class ArchitectureOptions:
    """Each None (or False) where the checkpoint itself, or the published default, decides.

    psa_type: needed by files with one attention branch. compact: needed by every official compact network.
    mask_hw: of the over-completed map where it is not square. crop_hw: in pixels.
    align_corners: of the final upsampling; False only in MMSegmentation's networks.
    test_mode: windows or the whole image, for networks that take any size: MMSegmentation's.
    """

    psa_type: PsaType | None = None
    compact: bool = False
    mask_hw: tuple[int, int] | None = None
    crop_hw: tuple[int, int] | None = None
    shrink_factor: int | None = None
    normalization_factor: float | None = None
    align_corners: bool | None = None
    test_mode: TestMode | None = None

    @classmethod
    def of(cls, config: ModelConfig) -> "ArchitectureOptions":
        """What a file of a known network is read with, as far as the published test protocol goes."""
        if config.context != "psa":
            return cls(crop_hw=config.crop_hw)
        return cls(
            psa_type=config.psa_type,
            compact=config.compact,
            mask_hw=config.psa_mask_hw,
            crop_hw=config.crop_hw,
            shrink_factor=config.shrink_factor,
            normalization_factor=config.normalization_factor,
        )


def add_architecture_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, and `--dataset`, to a command's parser."""
    group = parser.add_argument_group("architecture, where the checkpoint cannot tell")
    group.add_argument("--dataset", metavar="NAME|FILE", help="labels: a known name or a JSON file")
    group.add_argument("--psa-type", choices=get_args(PsaType), help="needed with one attention branch")
    group.add_argument("--compact", action="store_true", help="the mask is compact, not over-completed")
    group.add_argument("--mask", type=_size, metavar="HxW", help="size of the mask, if not square")
    group.add_argument("--crop", type=_size, metavar="HxW", help="size of the windows in pixels")
    group.add_argument("--shrink-factor", type=int, metavar="N", help="default: 2")
    group.add_argument("--normalization-factor", type=float, metavar="X", help="default: 1.0")
    group.add_argument("--align-corners", type=_boolean, metavar="true|false", help="default: true")
    group.add_argument("--test-mode", choices=get_args(TestMode), help="default: as it was published")


def options_from_args(args: argparse.Namespace) -> ArchitectureOptions:
    """The options that `add_architecture_arguments` parsed; `args.dataset` stands beside them."""
    return ArchitectureOptions(
        psa_type=args.psa_type,
        compact=args.compact,
        mask_hw=args.mask,
        crop_hw=args.crop,
        shrink_factor=args.shrink_factor,
        normalization_factor=args.normalization_factor,
        align_corners=args.align_corners,
        test_mode=args.test_mode,
    )


def parse_options(text: str) -> tuple[str | None, ArchitectureOptions]:
    """The data set and the options in `--psa-type collect --dataset voc2012` and the like, or ValueError."""
    parser = _RaisingParser(add_help=False)
    add_architecture_arguments(parser)
    args = parser.parse_args(shlex.split(text))
    return args.dataset, options_from_args(args)


class _RaisingParser(argparse.ArgumentParser):
    """One that leaves the process alone."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        size_hw = int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 465x465, not {text!r}") from None
    if min(size_hw) < 1:
        raise argparse.ArgumentTypeError(f"both sides must be 1 or more, not {text!r}")
    return size_hw


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return text.lower() == "true"
