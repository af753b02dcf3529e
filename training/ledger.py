"""What an evaluation has counted so far, image by image, in a file from which the next run goes on.

Not here: counting (`counting.py`), figures (`inference/metrics.py`).

`progress.jsonl`: a line that says what is evaluated and how, then one for each image. Lines are only added,
so a run that is killed loses no more than the images at hand, and half a line at the end is dropped.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from inference.errors import ParameterError
from inference.files import write_atomically

_VERSION = 1


@dataclass(frozen=True)
class Counts:
    """One image: its confusion matrix of (classes, classes), kept sparsely, and the engine's seconds.

    cells: (n, 3) int64 of true class, predicted class and pixels, all above 0. stamp: sizes and times of the
    image's files, so that a file that was changed since is counted anew.
    """

    cells: NDArray[np.int64]
    engine_s: float
    stamp: tuple[int, ...]

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.int64], engine_s: float, stamp: tuple[int, ...]) -> Self:
        """From a dense matrix."""
        true, predicted = np.nonzero(matrix)
        return cls(np.stack([true, predicted, matrix[true, predicted]], 1), engine_s, stamp)

    def add_to(self, matrix: NDArray[np.int64]) -> None:
        """Adds these pixels to a dense matrix."""
        matrix[self.cells[:, 0], self.cells[:, 1]] += self.cells[:, 2]


class Ledger:
    """Counts by the image's place in the list; in a file too, where `path` is not None.

    identity: what the counts depend on, in plain values. restart: drop what the file holds.
    Raises ParameterError where the file holds an evaluation of another identity, or is damaged or unwritable.
    """

    def __init__(
        self, path: Path | None = None, identity: Mapping[str, Any] | None = None, *, restart: bool = False
    ) -> None:
        self.counts: dict[int, Counts] = {}
        self._file = None
        if path is None:
            return
        header = {"version": _VERSION, **json.loads(json.dumps(identity or {}))}
        try:
            if restart or not (path.is_file() and self._read(path, header)):
                write_atomically(path, json.dumps(header).encode() + b"\n")
            self._file = path.open("ab")
        except OSError as error:
            raise ParameterError(
                f"{path} cannot be written ({error.strerror}): name another --out"
            ) from error

    def add(self, index: int, counts: Counts) -> None:
        """Keeps an image's counts; on the disk when it returns. Raises ParameterError for a full disk."""
        self.counts[index] = counts
        if self._file is None:
            return
        values = {"index": index, "cells": counts.cells.tolist(), "engine_s": round(counts.engine_s, 4)}
        try:
            self._file.write(json.dumps({**values, "stamp": counts.stamp}).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise ParameterError(f"{self._file.name} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _read(self, path: Path, header: Mapping[str, Any]) -> bool:
        """Takes over what the file holds, and cuts off half a line at its end; False for an empty file."""
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        if not lines:
            return False
        try:
            found = dict(json.loads(lines[0]))
            for line in lines[1:]:
                values = json.loads(line)
                cells = np.array(values["cells"], np.int64).reshape(-1, 3)
                stamp = tuple(int(value) for value in values["stamp"])
                self.counts[int(values["index"])] = Counts(cells, float(values["engine_s"]), stamp)
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"{path} is damaged ({error!r}): --restart begins anew, or name another --out"
            ) from error
        _require_same(path, found, header)
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
        return True


def _require_same(path: Path, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    names = dict.fromkeys([*header, *found])
    changed = [name for name in names if found.get(name) != header.get(name)]
    if changed:
        told = "; ".join(f"{name}: {found.get(name)}, now {header.get(name)}" for name in changed)
        raise ParameterError(
            f"{path} holds another evaluation ({told}): name another --out for this one, "
            "or drop the other's with --restart"
        )
