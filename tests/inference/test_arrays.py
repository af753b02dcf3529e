"""Buffers and products on numpy and torch arrays."""

from typing import Any

import numpy as np
import pytest
import torch

import inference.arrays as arrays
from inference.arrays import Workspace

KINDS = pytest.mark.parametrize("like", [np.zeros(1), torch.zeros(1)], ids=["numpy", "torch"])


@KINDS
@pytest.mark.parametrize("limit", [1, 3000, 1 << 18])
@pytest.mark.parametrize("shapes", [((7, 5), (5, 90)), ((3, 7, 5), (5, 90)), ((7, 5), (3, 5, 90))])
def test_products_in_pieces_are_the_product(
    like: Any, limit: int, shapes: tuple[tuple[int, ...], tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "PRODUCT_LIMIT", limit)
    rng, work = np.random.default_rng(0), Workspace(like)
    left, right = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    expected = left @ right
    out = work.empty((*expected.shape[:-1], 100))[..., 4:94]
    found = work.product(work.asarray(left), work.asarray(right), out)
    assert found is out
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)


@KINDS
def test_a_buffer_is_used_again_and_grows(like: Any) -> None:
    work = Workspace(like)
    first = work.take("name", (4, 6))
    first[...] = 3
    smaller = work.take("name", (2, 5))
    assert tuple(smaller.shape) == (2, 5)
    assert bool((smaller == 3).all())
    assert tuple(work.take("name", (50, 6)).shape) == (50, 6)
    other = work.take("other", (4,), "uint8")
    assert str(other.dtype).endswith("uint8")


def test_a_numpy_workspace_makes_numpy_arrays_of_numpy_arrays_without_a_copy() -> None:
    work, values = Workspace(np.zeros(1)), np.ones(3, np.float32)
    assert work.on_numpy
    assert work.asarray(values) is values
    assert not Workspace(torch.zeros(1)).on_numpy


@KINDS
@pytest.mark.parametrize("classes", [2, 200, 256, 257, 700])
def test_the_lowest_class_id_wins_ties(classes: int, like: Any) -> None:
    values = np.random.default_rng(2).integers(0, 3, (classes, 6, 7)).astype(np.float32)
    work = Workspace(like)
    labels, best = work.first_maximum(work.asarray(values))
    np.testing.assert_array_equal(labels, values.argmax(0))
    np.testing.assert_array_equal(best, values.max(0))
