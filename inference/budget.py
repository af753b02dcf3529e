"""The option `--memory-budget` of the commands, in the service's words: PSANET_MEMORY_BUDGET takes the same.

Not here: what fits a budget (`plan.py`, `mmseg_plan.py`).

    add_memory_budget_argument(parser); Predictor.open(model, memory_budget_bytes=args.memory_budget)
"""

import argparse
import re

from inference.errors import MemoryBudgetError
from inference.predictor import DEFAULT_BUDGET_BYTES

LEAST_BYTES = 2**24
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "b": 1} | {
    name: value
    for power, letter in enumerate("kmgt", 1)
    for name, value in ((f"{letter}ib", 1024**power), (f"{letter}b", 1000**power), (letter, 1000**power))
}


def add_memory_budget_argument(parser: argparse.ArgumentParser) -> None:
    """`args.memory_budget`: bytes, as `Predictor` takes them."""
    parser.add_argument(
        "--memory-budget",
        type=parse_memory_budget,
        default=DEFAULT_BUDGET_BYTES,
        metavar="SIZE",
        help="what the prediction of one image may take, such as 4GiB or a number of bytes (default: "
        f"{DEFAULT_BUDGET_BYTES // 2**30}GiB)",
    )


def parse_memory_budget(text: str) -> int:
    """Bytes of "4GiB", "500MB", "2147483648". Raises ArgumentTypeError for anything else, or below 16 MiB."""
    found = _SIZE.fullmatch(text)
    unit = None if found is None else _UNITS.get(found[2].lower())
    if found is None or unit is None:
        raise argparse.ArgumentTypeError(f"takes a size such as 4GiB, 500MB or 2147483648, not {text!r}")
    size = int(float(found[1]) * unit)
    if size < LEAST_BYTES:
        raise argparse.ArgumentTypeError(f"takes {LEAST_BYTES // 2**20}MiB or more, not {text!r}")
    return size


def explained(error: Exception) -> str:
    """An error's text for the commands: where a larger budget would mend it, with the option that sets it."""
    return f"{error} (--memory-budget)" if isinstance(error, MemoryBudgetError) else str(error)
