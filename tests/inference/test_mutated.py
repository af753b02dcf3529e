"""A thousand damaged files through decoding; fifty thousand and more: benchmarks/reliability/fuzz.py."""

import struct

import pytest

from inference.errors import ImageError, UndecodableImageError
from inference.images import decode_image, identify
from tests.inference.mutated import FORMATS, mutated, seeds

FILES = seeds()


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_damaged_starts_sound(kind: str) -> None:
    for content in FILES[kind]:
        assert decode_image(content).shape[:2] == identify(content).upright_hw


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_decoded_or_refused_and_never_larger_than_its_header_says() -> None:
    decoded = 0
    for number in range(1500):
        _, content = mutated(FILES, number)
        try:
            pixels = decode_image(content)
        except ImageError:
            continue
        decoded += 1
        assert pixels.shape[:2] == identify(content).upright_hw, number
    assert 300 < decoded < 1200


@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_a_width_that_lies_elsewhere_is_refused() -> None:
    """What an entry of many values holds is their place in the file, which here looks like a small width."""
    content = bytearray(FILES["TIFF"][0])
    order = "<" if content[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", content, 4)[0]
    (count,) = struct.unpack_from(order + "H", content, start)
    (entry,) = (
        at
        for at in range(start + 2, start + 2 + 12 * count, 12)
        if struct.unpack_from(order + "H", content, at)[0] == 256
    )
    content += bytes(-len(content) % 2)
    struct.pack_into(order + "HII", content, entry + 2, 4, 2, len(content))
    content += struct.pack(order + "II", 50, 50)
    with pytest.raises(UndecodableImageError, match="save it anew"):
        decode_image(bytes(content))
