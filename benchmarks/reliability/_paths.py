"""Imported first by every script here, so that the packages and what `benchmarks/` shares are found.

The root comes before `benchmarks/`, which has a script of the name of a package.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

for _folder in (ROOT / "benchmarks", ROOT):
    sys.path.insert(0, str(_folder))
