"""Tile sizes of the Triton kernels of point-wise spatial attention, and which of them is fastest here.

Not here: the kernels (`models/psa_triton.py`) and their launches (`models/psa_launch.py`).

    python benchmarks/psa_head.py --tune     # on a GPU: all that were tried, with their times
"""

import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch

log = logging.getLogger(__name__)


class Tiles(NamedTuple):
    """One way to run a kernel: a tile of m x n results, k at a time; warps, and stages of loads in flight.

    m: positions or offsets, in a row or as (rows, columns) of the picture; n: channels, offsets or sources.
    registers: at most so many a thread, so that two programs fit a multiprocessor (None: what is needed).
    """

    m: int | tuple[int, int]
    n: int
    k: int
    warps: int
    stages: int
    registers: int | None = None

    def arguments(self, n_at_most: int | None) -> dict[str, Any]:
        """As a launch takes them. n_at_most: the channels that there are, where n counts channels."""
        n = self.n if n_at_most is None else min(self.n, max(16, 1 << (n_at_most - 1).bit_length()))
        rows: dict[str, Any] = {"BLOCK_M": self.m}
        if isinstance(self.m, tuple):
            rows = {"TILE_H": self.m[0], "TILE_W": self.m[1]}
        launch = {"num_warps": self.warps, "num_stages": self.stages}
        if self.registers is not None:
            launch["maxnreg"] = self.registers
        return {**rows, "BLOCK_N": n, "BLOCK_K": self.k, **launch}


# The first of each is taken where nothing may be measured. Larger ones were no faster on an H200.
HALF: Mapping[str, tuple[Tiles, ...]] = {
    "predict": (
        Tiles((8, 16), 128, 64, 8, 3),
        Tiles((8, 16), 128, 64, 8, 3, 128),
        Tiles((8, 8), 256, 64, 8, 3),
        Tiles((8, 8), 128, 64, 4, 4),
    ),
    "gather": (Tiles(64, 128, 64, 4, 3), Tiles(64, 256, 64, 8, 3), Tiles(128, 128, 64, 8, 3)),
    "logit_grads": (Tiles(128, 128, 64, 8, 3), Tiles(64, 128, 64, 4, 4)),
    "value_grads": (Tiles(64, 256, 64, 8, 3), Tiles(128, 256, 64, 8, 3), Tiles(64, 128, 64, 4, 3)),
    "feature_grads": (
        Tiles((8, 8), 256, 64, 8, 3),
        Tiles((8, 8), 512, 32, 8, 3),
        Tiles((8, 8), 128, 64, 4, 3),
        Tiles((8, 16), 128, 64, 8, 3),
    ),
    "weight_grads": (
        Tiles((2, 32), 256, 64, 8, 3),
        Tiles((2, 32), 128, 64, 4, 3),
        Tiles((4, 32), 128, 64, 8, 3),
        Tiles((1, 64), 256, 64, 8, 3),
    ),
}
FLOAT: Mapping[str, tuple[Tiles, ...]] = {
    "predict": (Tiles((8, 8), 64, 32, 4, 3), Tiles((8, 8), 128, 32, 8, 2), Tiles((8, 16), 64, 32, 8, 2)),
    "gather": (Tiles(64, 64, 32, 4, 3), Tiles(64, 128, 32, 8, 2), Tiles(128, 64, 32, 8, 2)),
    "logit_grads": (Tiles(64, 64, 32, 4, 3), Tiles(64, 128, 32, 8, 2)),
    "value_grads": (Tiles(64, 64, 32, 4, 3), Tiles(64, 128, 32, 8, 2)),
    "feature_grads": (Tiles((8, 8), 64, 32, 4, 2), Tiles((8, 8), 128, 32, 8, 2)),
    "weight_grads": (Tiles((2, 32), 64, 32, 4, 2), Tiles((2, 32), 128, 32, 8, 2)),
}


class Trial(NamedTuple):
    """What was found of one: milliseconds, or why it does not run here."""

    tiles: Tiles
    milliseconds: float
    failure: str = ""


class Tuner:
    """Remembers the fastest tiles of each kernel, type and size of problem; searches when first asked.

    It takes the first without a search where it cannot measure (no GPU, or while a CUDA graph is captured) or
    must not (deterministic algorithms are asked for: other tiles add in another order).
    """

    def __init__(self) -> None:
        self.trials: dict[Hashable, list[Trial]] = {}
        self._best: dict[Hashable, Tiles] = {}

    def best(
        self,
        key: Hashable,
        candidates: tuple[Tiles, ...],
        run: Callable[[Tiles], None],
        device: torch.device,
    ) -> Tiles:
        """The fastest of `candidates` for problems like `key`; run launches, any number of times over.

        Raises RuntimeError where none runs.
        """
        if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
            return candidates[0]
        if (known := self._best.get(key)) is not None:
            return known
        if torch.cuda.is_current_stream_capturing():
            return candidates[0]
        self.trials[key] = [_try(tiles, run) for tiles in candidates]
        log.info("%s: %s", key, self.trials[key])
        best = min(self.trials[key], key=lambda trial: trial.milliseconds)
        if best.failure:
            raise RuntimeError(f"no tiles run for {key}: {best.failure}")
        self._best[key] = best.tiles
        return best.tiles

    def forget(self) -> None:
        """As if nothing had been found."""
        self.trials.clear()
        self._best.clear()


def _try(tiles: Tiles, run: Callable[[Tiles], None], repeats: int = 5) -> Trial:
    """The least of a few runs, after one that compiles."""
    try:
        run(tiles)
        times = []
        for _ in range(repeats):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run(tiles)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    except Exception as error:  # too much shared memory, say: another may run
        return Trial(tiles, float("inf"), f"{type(error).__name__}: {error}".partition("\n")[0])
    return Trial(tiles, min(times))


TUNER = Tuner()
"""One for the process: what it found holds for all networks."""
