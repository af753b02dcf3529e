"""The file that an interrupted evaluation goes on from."""

from pathlib import Path

import numpy as np
import pytest

from inference.errors import ParameterError
from training.ledger import Counts, Ledger

IDENTITY = {"model": "a", "scales": (1.0, 1.5), "densecrf": None}


def matrix_of(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 1000, (5, 5)) * (rng.random((5, 5)) < 0.4)).astype(np.int64)


def counts_of(seed: int) -> Counts:
    return Counts.of_matrix(matrix_of(seed), 0.5, (seed, 2**62 + seed))


def dense(counts: Counts) -> np.ndarray:
    matrix = np.zeros((5, 5), np.int64)
    counts.add_to(matrix)
    return matrix


def written(path: Path) -> Path:
    ledger = Ledger(path, IDENTITY)
    for index in (2, 0):
        ledger.add(index, counts_of(index))
    ledger.close()
    return path


def test_what_was_added_is_there_in_the_next_run(tmp_path: Path) -> None:
    again = Ledger(written(tmp_path / "progress.jsonl"), IDENTITY)
    again.close()
    assert sorted(again.counts) == [0, 2]
    for index, counts in again.counts.items():
        assert np.array_equal(dense(counts), matrix_of(index))
        assert counts.stamp == (index, 2**62 + index)
        assert counts.engine_s == 0.5


def test_an_image_without_a_counted_pixel_is_kept_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "a", IDENTITY)
    ledger.add(0, Counts.of_matrix(np.zeros((5, 5), np.int64), 0.0, ()))
    ledger.close()
    again = Ledger(tmp_path / "a", IDENTITY)
    again.close()
    assert not dense(again.counts[0]).any()


def test_every_cut_of_the_file_keeps_the_whole_lines_and_takes_more(tmp_path: Path) -> None:
    content = written(tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    ends = [place for place, byte in enumerate(content) if byte == ord("\n")]
    for length in sorted({*range(0, len(content), 29), *ends, *(end + 1 for end in ends)}):
        path.write_bytes(content[:length])
        ledger = Ledger(path, IDENTITY)
        assert list(ledger.counts) == [2, 0][: max(0, content[:length].count(b"\n") - 1)]
        ledger.add(7, counts_of(7))
        ledger.close()
        again = Ledger(path, IDENTITY)
        again.close()
        assert np.array_equal(dense(again.counts[7]), matrix_of(7))


def test_the_later_line_of_an_image_counts(tmp_path: Path) -> None:
    ledger = Ledger(written(tmp_path / "a"), IDENTITY)
    ledger.add(0, counts_of(9))
    ledger.close()
    again = Ledger(tmp_path / "a", IDENTITY)
    again.close()
    assert np.array_equal(dense(again.counts[0]), matrix_of(9))


def test_another_evaluation_is_refused_with_what_differs_and_stays(tmp_path: Path) -> None:
    path = written(tmp_path / "a")
    before = path.read_bytes()
    with pytest.raises(ParameterError, match=r"scales: \[1.0, 1.5\], now \[2.0\]\).*--restart"):
        Ledger(path, {**IDENTITY, "scales": (2.0,)})
    with pytest.raises(ParameterError, match="base_size: None, now 480"):
        Ledger(path, {**IDENTITY, "base_size": 480})
    assert path.read_bytes() == before


def test_restart_drops_what_is_there(tmp_path: Path) -> None:
    path = written(tmp_path / "a")
    ledger = Ledger(path, {**IDENTITY, "model": "b"}, restart=True)
    assert not ledger.counts
    ledger.close()
    Ledger(path, {**IDENTITY, "model": "b"}).close()


@pytest.mark.parametrize("line", [b"{}", b"[]", b"no json", b'{"index": 1, "cells": [[1]]}', b"\xff"])
def test_a_damaged_file_is_refused_with_the_mend(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path / "a")
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ParameterError, match="is damaged.*--restart"):
        Ledger(path, IDENTITY)


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="cannot be written"):
        Ledger(tmp_path / "file" / "progress.jsonl", IDENTITY)


def test_without_a_path_counts_are_kept_in_memory() -> None:
    ledger = Ledger()
    ledger.add(3, counts_of(3))
    assert np.array_equal(dense(ledger.counts[3]), matrix_of(3))
    ledger.close()
