"""Brush labels, held against a slow reader of the format, and that against what label-studio-sdk packs.

The service's own answers were decoded by the SDK too, outside the suite (it pins another OpenCV and numpy):
`with_sdk.py`.
"""

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from service.labelstudio.brush import brush_rle, mask_of

rows, columns = np.indices((24, 31))
radius = np.hypot(rows - 12, columns - 15)
PACKED: dict[str, tuple[NDArray[np.bool_], str]] = {
    "nothing": (np.zeros((3, 4), bool), "0000mIUD{j000"),
    "everything": (np.ones((2, 3), bool), "0000OIUD{L{{R"),
    "much": (np.ones((200, 200), bool), "00MCUIUE1~|NsC0|NX=N`~"),
    "checks": (
        np.indices((5, 7)).sum(0) % 2 > 0,
        "0001tIUD?75&y;kAN*hu|Hc6y{9qCP#sMGvU=jbu0U!Ke5&y;kAN*hu|Hc6y{9qCP#sMGvU=jbu0U!Ke5&y;j",
    ),
    "ring": (
        (radius > 5) & (radius < 11),
        "000Z1IUD~0BLKvI`8)#||Ku<XcmIySG9Ugk0Lg#&yaN&c#sP@`@mK~M|HEJyZ~qg3VSoHa0fqnZI0hI0#9$a-{}X^=fBZ%Ph5z"
        "w51{43qU>HyT6M$iV{6+zV|M55m7yray7+?PrfMI|9MgfKY@i+z>|HEJyZ~qm5Vn6u6F(3Xf0Lg#&%mX3+<FE{O|B%2jpZ-q(#D"
        "Dsn00",
    ),
}
"""Masks, and what label_studio_sdk.converter.brush.mask2rle (2.1.2) made of them, in base 85."""


def unpacked(data: bytes) -> list[int]:
    """Read the format bit by bit: the values of all pixels, four each."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def number(length: int) -> int:
        nonlocal at
        at += length
        assert at <= len(bits)
        return int(bits[at - length : at], 2)

    count, value_bits = number(32), number(5) + 1
    lengths = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        packed = number(1)
        run = number(lengths[number(2)]) + 1
        values += [number(value_bits)] * run if packed else [number(value_bits) for _ in range(run)]
    assert len(values) == count
    assert len(bits) - at < 8 or data.endswith(b"\0")
    return values


def painted(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(mask, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("name", PACKED)
def test_the_reader_reads_what_the_sdk_packs(name: str) -> None:
    mask, text = PACKED[name]
    assert unpacked(base64.b85decode(text)) == np.repeat(painted(mask), 4).tolist()


@pytest.mark.parametrize("name", ["checks", "ring"])
def test_masks_are_packed_as_the_sdk_does(name: str) -> None:
    mask, text = PACKED[name]
    assert brush_rle(painted(mask)) == base64.b85decode(text)


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_reads_back(mask: Any) -> None:
    assert unpacked(brush_rle(painted(mask))) == np.repeat(painted(mask), 4).tolist()


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=6))
def test_runs_of_any_length_read_back(runs: list[int]) -> None:
    mask = np.repeat(np.arange(len(runs)) % 2 > 0, runs)[None]
    assert unpacked(brush_rle(painted(mask))) == np.repeat(painted(mask), 4).tolist()


def test_more_runs_than_are_written_at_a_time_read_back() -> None:
    mask = np.random.default_rng(0).random((300, 301)) < 0.5
    assert np.count_nonzero(np.diff(mask.ravel().astype(int))) > 2**15
    assert unpacked(brush_rle(painted(mask))) == np.repeat(painted(mask), 4).tolist()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_mask_has_the_pixels_of_its_classes(kind: type) -> None:
    labels = np.random.default_rng(0).integers(0, 256 if kind is np.uint8 else 300, (40, 50)).astype(kind)
    mask = mask_of(labels, (3, 200, 255))
    assert (mask.dtype, mask.shape) == (np.uint8, (40, 50))
    np.testing.assert_array_equal(mask, painted(np.isin(labels, (3, 200, 255))))
