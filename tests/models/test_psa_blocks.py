"""Blocks of targets: each target once, none larger than is allowed."""

from hypothesis import given
from hypothesis import strategies as st

from models.psa_blocks import Geometry, plan_blocks

sides = st.integers(1, 12)
geometries = st.builds(Geometry, sides, sides, sides, sides, st.booleans())


@given(geometries, st.integers(1, 5), st.integers(1, 10**5), st.integers(1, 4))
def test_blocks_cover_every_target_once_within_the_limit(
    geometry: Geometry, images: int, limit: int, most_images: int
) -> None:
    seen: list[tuple[int, int]] = []
    row_bytes = geometry.w * geometry.positions * 2
    blocks = list(plan_blocks(geometry, images, bytes_a_pair=2, limit=limit, most_images=most_images))
    for block in blocks:
        rows, count = block.bottom - block.top, block.last_image - block.first_image
        assert count * rows * row_bytes <= max(limit, row_bytes)
        assert 1 <= count <= most_images
        seen += [
            (image, row)
            for image in range(block.first_image, block.last_image)
            for row in range(block.top, block.bottom)
        ]
    assert seen == [(image, row) for image in range(images) for row in range(geometry.h)]


def test_as_few_blocks_as_fit_and_all_about_as_large() -> None:
    geometry = Geometry(45, 45, 89, 89, False)
    image = 2025 * 2025 * 2

    def blocks(images: int, limit: int) -> list[tuple[int, ...]]:
        return [tuple(block) for block in plan_blocks(geometry, images, bytes_a_pair=2, limit=limit)]

    assert blocks(4, 4 * image) == [(0, 4, 0, 45)]
    assert blocks(5, 4 * image) == [(0, 2, 0, 45), (2, 5, 0, 45)]
    assert blocks(2, image - 1) == [(0, 1, 0, 22), (0, 1, 22, 45), (1, 2, 0, 22), (1, 2, 22, 45)]
    assert len(blocks(1, 1)) == 45


def test_centres_are_targets_when_collecting_and_sources_when_distributing() -> None:
    geometry = Geometry(6, 4, 11, 7, False)
    block = list(plan_blocks(geometry, 1, bytes_a_pair=1, limit=2 * 4 * 24))[1]
    assert (block.centre_rows(geometry), block.other_rows(geometry)) == ((2, 4), (0, 6))
    distributing = geometry._replace(distribute=True)
    assert (block.centre_rows(distributing), block.other_rows(distributing)) == ((0, 6), (2, 4))
    assert block.targets(geometry) == slice(8, 16)


@given(geometries)
def test_a_mask_covers_all_pairs_when_no_pair_lies_beyond_it(geometry: Geometry) -> None:
    up, left = geometry.middle
    inside = all(
        0 <= down + up < geometry.mask_h and 0 <= right + left < geometry.mask_w
        for down in (1 - geometry.h, geometry.h - 1)
        for right in (1 - geometry.w, geometry.w - 1)
    )
    assert geometry.covers_all_pairs == inside
