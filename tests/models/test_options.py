"""The architecture options of every command that takes a checkpoint."""

import argparse
from dataclasses import fields

import pytest

from models.options import ArchitectureOptions, add_architecture_arguments, options_from_args


def parse(*arguments: str) -> tuple[ArchitectureOptions, str | None]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_architecture_arguments(parser)
    args = parser.parse_args(arguments)
    return options_from_args(args), args.dataset


def test_without_arguments_the_checkpoint_decides() -> None:
    assert parse() == (ArchitectureOptions(), None)


def test_every_option_of_the_contract_is_read() -> None:
    options, dataset = parse(
        *(
            "--dataset",
            "camvid",
            "--psa-type",
            "distribute",
            "--compact",
            "--mask",
            "59x89",
            "--crop",
            "465X705",
        ),
        *("--shrink-factor", "1", "--normalization-factor", "2.5", "--align-corners", "False"),
        *("--test-mode", "whole"),
    )
    assert dataset == "camvid"
    assert options == ArchitectureOptions(
        psa_type="distribute",
        compact=True,
        mask_hw=(59, 89),
        crop_hw=(465, 705),
        shrink_factor=1,
        normalization_factor=2.5,
        align_corners=False,
        test_mode="whole",
    )
    defaults = ArchitectureOptions()
    assert all(getattr(options, field.name) != getattr(defaults, field.name) for field in fields(options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mask", "59"), "expected HEIGHTxWIDTH such as 465x465, not '59'"),
        (("--crop", "465xwide"), "expected HEIGHTxWIDTH"),
        (("--crop", "0x465"), "both sides must be 1 or more, not '0x465'"),
        (("--align-corners", "yes"), "expected true or false, not 'yes'"),
        (("--psa-type", "both"), "invalid choice: 'both'"),
        (("--shrink-factor", "two"), "invalid int value"),
    ],
)
def test_ill_formed_values_are_explained(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=message):
        parse(*arguments)
