"""Label files as data sets publish them, to class ids: (H, W) uint8, 255 where nothing counts.

Decoders are small picklable objects, so that other processes can run them; what does not fit is a ValueError
that says why, and the caller names the file.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.labels import IGNORE

Ids = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Remap:
    """Decodes a single-channel label image and renames its values; one that `names` lacks is refused."""

    names: Mapping[int, int]

    def __call__(self, data: bytes) -> Ids:
        values = decode_values(data)
        table = np.full(256, IGNORE, dtype=np.uint8)
        known = np.zeros(256, dtype=bool)
        for value, class_id in self.names.items():
            table[value], known[value] = class_id, True
        if not known[values].all():
            raise ValueError(
                f"holds {int(values[~known[values]][0])}, which is no label of this data set: take the file "
                "of the archive, not one that was converted before"
            )
        return table[values]


def decode_values(data: bytes) -> Ids:
    """(H, W) uint8 values of a single-channel 8-bit image, palette or not; ValueError for any other."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
            values = np.array(image) if mode in ("L", "P") else None
    except Exception as error:  # Pillow raises nearly anything on damaged input
        raise ValueError(f"cannot be decoded ({error}): download the archive again") from error
    if values is None:
        raise ValueError(
            f"holds {mode} pixels where a number for each pixel is expected (mode P or L): a tool saved it "
            "anew and turned numbers into colours; take the file of the archive"
        )
    return values


def encode_ids(ids: Ids) -> bytes:
    """A grey PNG whose pixel values are the class ids; every reader gives them back alike."""
    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, "PNG")
    return buffer.getvalue()
