"""`--memory-budget`: sizes as the service reads them."""

import argparse

import pytest
from pydantic import ByteSize, TypeAdapter

from inference.budget import add_memory_budget_argument, explained, parse_memory_budget
from inference.errors import MemoryBudgetError, ParameterError
from inference.predictor import DEFAULT_BUDGET_BYTES


@pytest.mark.parametrize("text", ["4GiB", "2147483648", "500MB", "1.5 gib", "64m", "1TiB", "20000kb"])
def test_sizes_are_read_as_the_service_reads_them(text: str) -> None:
    assert parse_memory_budget(text) == TypeAdapter(ByteSize).validate_python(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "4GiB"),
        ("3e", "4GiB"),
        ("-4GiB", "4GiB"),
        ("much", "4GiB"),
        ("nan", "4GiB"),
        ("16", "16MiB"),
        ("15MiB", "16MiB"),
    ],
)
def test_what_is_no_size_is_refused_with_the_mend(text: str, says: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"{says}.*not '{text}'"):
        parse_memory_budget(text)


def test_without_the_option_it_is_the_predictors_own() -> None:
    parser = argparse.ArgumentParser()
    add_memory_budget_argument(parser)
    assert parser.parse_args([]).memory_budget == DEFAULT_BUDGET_BYTES
    assert parser.parse_args(["--memory-budget", "16MiB"]).memory_budget == 2**24


def test_only_errors_that_a_budget_mends_name_the_option() -> None:
    assert explained(MemoryBudgetError("or a larger memory budget")).endswith("budget (--memory-budget)")
    assert explained(ParameterError("no such scale")) == "no such scale"
