"""What point-wise spatial attention works on at a time: blocks of targets, so that memory stays bounded.

The attention of all pairs has (HW)^2 values, the over-completed map four times as many. Neither is ever
whole in memory but where it is small: the targets of some rows, or of some whole images, are worked on at a
time, in a workspace of at most `limit` bytes (of one row of targets if that alone is more). Pure arithmetic.

    list(plan_blocks(Geometry(45, 45, 89, 89, False), images=2, bytes_a_pair=2, limit=2**23))
"""

from collections.abc import Iterator
from typing import NamedTuple


class Geometry(NamedTuple):
    """Features of h x w, what each position predicts for others (mask_h x mask_w), and in which direction."""

    h: int
    w: int
    mask_h: int
    mask_w: int
    distribute: bool

    @property
    def positions(self) -> int:
        """H * W: the targets of an image, and its sources."""
        return self.h * self.w

    @property
    def middle(self) -> tuple[int, int]:
        """Row and column of the mask that speak of the position itself."""
        return (self.mask_h - 1) // 2, (self.mask_w - 1) // 2

    @property
    def covers_all_pairs(self) -> bool:
        """Whether the mask reaches from every position to every other; pairs beyond it have logit 0."""
        up, left = self.middle
        down, right = self.mask_h - 1 - up, self.mask_w - 1 - left
        return min(up, down) >= self.h - 1 and min(left, right) >= self.w - 1


class Block(NamedTuple):
    """Images first_image … last_image - 1, targets in the feature rows top … bottom - 1."""

    first_image: int
    last_image: int
    top: int
    bottom: int

    def targets(self, geometry: Geometry) -> slice:
        """Of each of its images."""
        return slice(self.top * geometry.w, self.bottom * geometry.w)

    def centre_rows(self, geometry: Geometry) -> tuple[int, int]:
        """First row, and the one after the last, of the positions that predict."""
        return (0, geometry.h) if geometry.distribute else (self.top, self.bottom)

    def other_rows(self, geometry: Geometry) -> tuple[int, int]:
        """… of those that are predicted for."""
        return (self.top, self.bottom) if geometry.distribute else (0, geometry.h)


def plan_blocks(
    geometry: Geometry, images: int, *, bytes_a_pair: int, limit: int, most_images: int = 2**31
) -> Iterator[Block]:
    """Blocks that cover every target once, in order; as few, and as equal, as `limit` allows.

    limit: bytes for the pairs of a block; it has one row of targets at least. most_images: of a block.
    """
    row_bytes = geometry.w * geometry.positions * bytes_a_pair
    whole_images = min(limit // (geometry.h * row_bytes), most_images)
    if whole_images:
        for first, last in _split(images, whole_images):
            yield Block(first, last, 0, geometry.h)
        return
    for image in range(images):
        for top, bottom in _split(geometry.h, max(1, limit // row_bytes)):
            yield Block(image, image + 1, top, bottom)


def _split(count: int, largest: int) -> Iterator[tuple[int, int]]:
    """Runs that cover 0 … count - 1, none longer than `largest`, all about as long."""
    parts = -(-count // largest)
    for part in range(parts):
        yield part * count // parts, (part + 1) * count // parts
