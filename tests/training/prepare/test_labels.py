import numpy as np
import pytest

from models.labels import IGNORE
from tests.training.prepare.conftest import png
from training.prepare import ade20k, cityscapes
from training.prepare.labels import Remap, decode_values, encode_ids


def test_values_are_renamed() -> None:
    values = np.array([[0, 3], [7, 0]], dtype=np.uint8)
    expected = [[IGNORE, 1], [0, IGNORE]]
    assert Remap({0: IGNORE, 3: 1, 7: 0})(png(values)).tolist() == expected


def test_a_value_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="holds 9, which is no label"):
        Remap({0: 0})(png(np.array([[0, 9]], dtype=np.uint8)))


def test_palette_images_give_their_numbers() -> None:
    values = np.array([[0, 255], [20, 1]], dtype=np.uint8)
    np.testing.assert_array_equal(decode_values(png(values, palette=True)), values)


def test_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="holds RGB pixels where a number"):
        decode_values(png(np.zeros((2, 2, 3), dtype=np.uint8)))


@pytest.mark.parametrize("data", [b"", b"no image", png(np.ones((40, 40), dtype=np.uint8))[:-30]])
def test_what_cannot_be_decoded_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_values(data)


def test_ids_survive_the_png() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(8, 32)
    np.testing.assert_array_equal(decode_values(encode_ids(ids)), ids)


def test_ade20k_has_one_label_more_than_classes() -> None:
    values = np.arange(151, dtype=np.uint8)[None]
    assert ade20k.DECODE(png(values)).tolist() == [[255, *range(150)]]
    with pytest.raises(ValueError, match="holds 151"):
        ade20k.DECODE(png(values + 1))


def test_cityscapes_label_ids_become_the_19_classes() -> None:
    # label id → train id, from the authors' table
    table = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10}
    table |= {24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    values = np.array([[*range(34), 255]], dtype=np.uint8)
    assert cityscapes.DECODE(png(values)).tolist() == [[*(table.get(v, 255) for v in range(34)), 255]]
    with pytest.raises(ValueError, match="holds 34"):
        cityscapes.DECODE(png(np.array([[34]], dtype=np.uint8)))
