"""What the Triton kernels of point-wise spatial attention are told of a block of targets and its workspaces.

Logits lie in one workspace by target and source, their gradients in another by centre and other. Pure
arithmetic. Not here: which blocks there are (`models/psa_blocks.py`), launches (`models/psa_launch.py`).

    plan_parts(Geometry(45, 45, 89, 89, False), images=2, bytes_a_pair=2, channels=512, limit=2**25)
"""

from functools import lru_cache
from typing import NamedTuple

from models.psa_blocks import Block, Geometry, plan_blocks

ROW_MULTIPLE = 128
"""Rows of workspaces are padded to whole tiles: kernels do not look where a row ends."""


class Part(NamedTuple):
    """A block: its images, its first row of targets; how many targets of each image, and the first of them;
    rows of centres and others, from and up to; how far apart rows and images lie in either workspace."""

    images: slice
    top: int
    targets: int
    first_target: int
    centre_top: int
    centre_bottom: int
    other_top: int
    other_bottom: int
    pitch: int
    image_stride: int
    grad_pitch: int
    grad_image_stride: int

    @property
    def image_count(self) -> int:
        """How many images it has."""
        return int(self.images.stop - self.images.start)


@lru_cache(maxsize=64)
def plan_parts(
    geometry: Geometry, images: int, bytes_a_pair: int, channels: int, limit: int
) -> tuple[Part, ...]:
    """Blocks of at most `limit` bytes of logits (see `plan_blocks`) that kernels can address."""
    positions = geometry.positions
    # Addresses within a block are 32-bit numbers, and positions are numbered up to 2^20.
    most_images = max(1, min((2**31 - 1) // (positions * channels), 2**20 // positions))
    blocks = plan_blocks(geometry, images, bytes_a_pair=bytes_a_pair, limit=limit, most_images=most_images)
    return tuple(_part(block, geometry) for block in blocks)


def _part(block: Block, geometry: Geometry) -> Part:
    centres, others = block.centre_rows(geometry), block.other_rows(geometry)
    targets = (block.bottom - block.top) * geometry.w
    pitch = _padded(geometry.positions)
    grad_pitch = _padded((others[1] - others[0]) * geometry.w)
    return Part(
        slice(block.first_image, block.last_image),
        block.top,
        targets,
        block.top * geometry.w,
        *centres,
        *others,
        pitch,
        targets * pitch,
        grad_pitch,
        (centres[1] - centres[0]) * geometry.w * grad_pitch,
    )


def _padded(pairs: int) -> int:
    return -(-pairs // ROW_MULTIPLE) * ROW_MULTIPLE
