"""Decodes damaged files with a cap on memory, for `fuzz.py`, which sees whether this process lives.

    python benchmarks/reliability/_decoding.py PROGRESS_FILE SEED START STOP MEMORY_MB

The number of the file at work is in PROGRESS_FILE; what came of them all is printed as one JSON line.
"""

import json
import mmap
import resource
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import _paths  # noqa: F401
import numpy as np

from inference.errors import ImageError
from inference.images import decode_image, identify
from tests.inference.mutated import mutated, seeds

_MOST_TOLD = 20


def main(progress: Path, seed: int, start: int, stop: int, memory_mb: int) -> None:
    files = seeds()
    for kind in files:
        for content in files[kind]:
            decode_image(content)  # sound ones have to be; and what is imported late is imported now
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + memory_mb * 2**20,) * 2)
    outcomes: Counter[str] = Counter()
    unexpected: list[str] = []
    slowest_s, slowest, want_of_memory = 0.0, start, 0
    with open(progress, "r+b") as file, mmap.mmap(file.fileno(), 8) as at:
        for number in range(start, stop):
            struct.pack_into("<q", at, 0, number)
            kind, content = mutated(files, number, seed)
            began = time.perf_counter()
            try:
                header = _header(content)
                pixels = decode_image(content)
                outcome = "decoded"
                sound = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
                if not sound or header is None or pixels.shape[:2] != header:
                    unexpected.append(
                        f"{number}: {pixels.dtype} {pixels.shape} where the header has {header}"
                    )
            except ImageError as error:
                outcome = type(error).__name__
                want_of_memory += isinstance(error.__cause__, MemoryError)
            except BaseException as error:
                outcome = f"unexpected {type(error).__name__}"
                unexpected.append(f"{number}: {type(error).__name__}: {error}"[:300])
            outcomes[f"{kind} {outcome}"] += 1
            took = time.perf_counter() - began
            if took > slowest_s:
                slowest_s, slowest = took, number
        struct.pack_into("<q", at, 0, stop)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {
        "outcomes": outcomes,
        "unexpected": unexpected[:_MOST_TOLD],
        "slowest_s": round(slowest_s, 3),
        "slowest": slowest,
        "want_of_memory": want_of_memory,
        "peak_mb": round(peak_mb),
    }
    print(json.dumps(figures))


def _header(content: bytes) -> tuple[int, int] | None:
    """As the service looks at it before anything is queued; None for what is turned away there."""
    try:
        return identify(content).upright_hw
    except ImageError:
        return None


if __name__ == "__main__":
    path, *numbers = sys.argv[1:]
    main(Path(path), *map(int, numbers))
