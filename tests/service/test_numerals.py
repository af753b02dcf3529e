"""Numbers as JSON: what the json module would write and read, for any array."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inference.errors import ParameterError
from service.numerals import json_fractions, json_integers, read_bytes

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [0, 1, 10, 11, 256, None])
def test_every_integer_is_written(kind: type, count: int | None) -> None:
    values = np.arange(np.iinfo(kind).max + 1, dtype=kind)[:count]
    assert json_integers(values) == ",".join(map(str, values.tolist())).encode()


def test_rows_of_a_view_are_written_in_its_order() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert json_integers(values.T[::-1]) == b"3,7,11,2,6,10,1,5,9,0,4,8"


@given(arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 1, width=32)))
def test_fractions_read_back_as_they_were(values: Any) -> None:
    read = np.array(json.loads(b"[%b]" % json_fractions(values)), np.float32)
    large = values >= 1e-4
    np.testing.assert_array_equal(read[large], values[large])
    np.testing.assert_allclose(read, values, rtol=0, atol=1e-12)


def test_confidences_hardly_above_one_are_told() -> None:
    values = np.array([1, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    assert json.loads(b"[%b]" % json_fractions(values)) == pytest.approx([1, 1.000000119], abs=1e-9)


@given(arrays.arrays(np.uint8, SHAPES), st.booleans(), st.sampled_from([None, 1]))
def test_arrays_read_back_flat_or_nested(values: Any, nested: bool, indent: int | None) -> None:
    text = json.dumps((values if nested else values.ravel()).tolist(), indent=indent).encode()
    np.testing.assert_array_equal(read_bytes(text, values.shape), values)


def test_long_texts_are_read_in_pieces() -> None:
    values = np.random.default_rng(0).integers(0, 256, (300, 700, 3), np.uint8)
    text = json.dumps(values.tolist()).encode()
    assert len(text) > 2**21
    np.testing.assert_array_equal(read_bytes(text, values.shape), values)


@pytest.mark.parametrize(
    "text",
    [
        *(b"[1,2]", b"[1,2,3,4]", b"[1,2,256]", b"[1,2,-3]", b"[1,2,3.5]", b"[1,2,1e1]", b"[1,2,]"),
        *(b"[,1,2]", b"[1,,2]", b"[1 2,3]", b"[01,2,3]", b"[1,2,3", b"1,2,3", b"[[1,2,3]]", b"[]", b""),
        *(b"[[[1,2],3]]", b"[[[1,2,3]]]]", b"[1,2,null]", b'[1,2,"3"]', b"[1,2,%d]" % 10**23, b"[1,2,\xff]"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ParameterError, match="whole numbers"):
        read_bytes(text, (1, 1, 3))


def test_one_pixel_may_be_written_in_two_ways() -> None:
    for text in (b"[1,2,3]", b"[[[1, 2,\n3]]]"):
        assert read_bytes(text, (1, 1, 3)).tolist() == [[[1, 2, 3]]]
