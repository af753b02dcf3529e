"""Where positions of attention lie: the matrices against resampling step by step, windows by brute force."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from inference.attention_grid import Frame, Grid, GridAxis, lay_out_grid
from inference.bundle import ModelInfo
from inference.mmseg_layout import lay_out_pictures
from inference.windows import lay_out
from models.config import MMSEGMENTATION, ModelConfig
from tests.inference.fakes import made_info

WINDOWS = made_info(architecture=ModelConfig(depth=18, classes=5, crop_hw=(33, 49)), crop_hw=(33, 49))


def whole_info(crop_hw: tuple[int, int], *, align_corners: bool = False) -> ModelInfo:
    config = ModelConfig(depth=18, classes=5, crop_hw=crop_hw, mask_hw=(7, 7), **MMSEGMENTATION)
    return made_info(
        architecture=config.replace(align_corners=align_corners),
        crop_hw=crop_hw,
        protocol="mmsegmentation",
        test_mode="whole",
        align_corners=align_corners,
    )


def published_grid(image_hw: tuple[int, int], scale: float = 1.0, base_size: int = 60) -> Grid:
    return lay_out_grid(WINDOWS, lay_out(image_hw, (scale,), base_size, (33, 49))[0])


def whole_grid(info: ModelInfo, image_hw: tuple[int, int], long_side: int) -> Grid:
    pictures = lay_out_pictures(
        image_hw, (1.0,), (long_side, None), crop_hw=None, padded=False, coarse_of=lambda hw: hw
    )
    return lay_out_grid(info, pictures[0])


def upsampled(values: NDArray[np.float32], size_hw: tuple[int, int], *, aligned: bool) -> NDArray[np.float32]:
    tensor = torch.from_numpy(values)[None, None]
    found = F.interpolate(tensor, size_hw, mode="bilinear", align_corners=aligned)[0, 0]
    return np.asarray(found.numpy())


def slow_map(
    values: NDArray[np.float32], grid: Grid, window: tuple[int, int], image_hw: tuple[int, int]
) -> NDArray[np.float32]:
    """Step by step: positions, features, window, the padded picture without its padding, the image."""
    rows, columns = grid.rows, grid.columns
    features = upsampled(values, (rows.features, columns.features), aligned=rows.shrunk_aligned)
    pixels = upsampled(features, grid.window_hw, aligned=rows.aligned)
    frames = rows.frame, columns.frame
    padded = np.zeros([max(frame.starts[-1] + frame.window, frame.scaled) for frame in frames], np.float32)
    starts = [frame.starts[index] for frame, index in zip(frames, window, strict=True)]
    padded[tuple(slice(start, start + n) for start, n in zip(starts, grid.window_hw, strict=True))] = pixels
    scaled = padded[tuple(slice(frame.before, frame.before + frame.scaled) for frame in frames)]
    found = cv2.resize(scaled, image_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(found, np.float32)


def check(grid: Grid, image_hw: tuple[int, int]) -> None:
    values = np.random.default_rng(0).uniform(0, 1, grid.hw).astype(np.float32)
    for row in range(len(grid.rows.frame.starts)):
        for column in range(len(grid.columns.frame.starts)):
            found = grid.rows.matrix(row) @ values @ grid.columns.matrix(column).T
            expected = slow_map(values, grid, (row, column), image_hw)
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("image_hw", "scale"),
    [((40, 60), 1.0), ((40, 60), 0.5), ((90, 60), 1.7), ((20, 130), 1.0), ((7, 5), 2.0)],
)
def test_windows_are_shown_where_the_published_protocol_cut_them(
    image_hw: tuple[int, int], scale: float
) -> None:
    check(published_grid(image_hw, scale), image_hw)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("image_hw", "long_side", "shrunk_aligned"),
    [((64, 96), 96, False), ((50, 30), 72, False), ((60, 60), 72, True), ((70, 90), 104, True)],
)
def test_whole_images_are_shown_by_both_corner_rules_and_both_of_shrinking(
    image_hw: tuple[int, int], long_side: int, shrunk_aligned: bool, align_corners: bool
) -> None:
    grid = whole_grid(whole_info((64, 96), align_corners=align_corners), image_hw, long_side)
    assert (grid.rows.shrunk_aligned, grid.columns.aligned) == (shrunk_aligned, align_corners)
    check(grid, image_hw)


def test_the_window_is_the_one_in_which_the_pixel_is_most_central() -> None:
    grid = published_grid((100, 260), base_size=260)
    frame = grid.columns.frame
    assert len(frame.starts) > 4
    for pixel in range(260):
        in_window = [pixel - start for start in frame.starts]
        distances = [abs(at - 24) for at in in_window]
        chosen = grid.columns.central(pixel)
        assert distances[chosen] == min(distances)
        assert 0 <= in_window[chosen] < 49
        assert grid.window_at(pixel, 0) == (0, chosen)


def axis(**changes: Any) -> GridAxis:
    frame = Frame(image=120, scaled=60, before=3, window=33, starts=(0, 22, 33))
    values: dict[str, Any] = {
        "frame": frame, "features": 5, "positions": 3, "shrunk_aligned": True, "aligned": True,
    }  # fmt: skip
    return GridAxis(**(values | changes))


@pytest.mark.parametrize("shrunk_aligned", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_every_position_lies_in_the_middle_of_its_cell(shrunk_aligned: bool, aligned: bool) -> None:
    """Where a pixel there shows nothing but that position, or most of all pixels."""
    some = axis(
        frame=Frame(image=640, scaled=640, before=0, window=640, starts=(0,)),
        features=80,
        positions=27,
        shrunk_aligned=shrunk_aligned,
        aligned=aligned,
    )
    start, length = some.cells(0)
    middles = start + (np.arange(27) + 0.5) * length / 27
    matrix = some.matrix(0)
    for position in range(1, 26):
        strongest = np.flatnonzero(matrix[:, position] > matrix[:, position].max() - 1e-3)
        assert abs((strongest.min() + strongest.max() + 1) / 2 - middles[position]) < 5


def test_with_corners_aligned_the_outer_positions_lie_on_the_outer_pixels() -> None:
    start, length = axis().cells(1)
    # Window 1 starts at 22 - 3 of the scaled picture, which is half as large as the image.
    assert start + length / 6 == pytest.approx(2 * (19 + 0.5))
    assert start + length * 5 / 6 == pytest.approx(2 * (19 + 32 + 0.5))


def test_a_window_shows_no_padding() -> None:
    assert axis().extent(0) == (0, 60)
    assert axis().extent(1) == (38, 66)
    assert axis().extent(2) == (60, 60)


def test_one_position_alone_covers_the_window() -> None:
    some = axis(frame=Frame(20, 20, 0, 20, (0,)), features=3, positions=1)
    start, length = some.cells(0)
    assert start + length / 2 == pytest.approx(10)
    assert length >= 20
    np.testing.assert_allclose(some.matrix(0), np.ones((20, 1)))
