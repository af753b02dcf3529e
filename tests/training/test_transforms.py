import numpy as np
import pytest

from models.config import MEAN_RGB
from models.labels import IGNORE
from training.config import AugmentConfig
from training.transforms import TrainingTransform, pad, rotate, scale

PLAIN = AugmentConfig(scale=(1.0, 1.0), mirror=False)


def picture(hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image whose every channel is its label, so that any disagreement between the two shows."""
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    label = ((rows // 8 + columns // 8) % 11).astype(np.uint8)
    return np.repeat(label[..., None], 3, 2).astype(np.float32), label


def test_image_and_labels_take_the_same_crop_and_mirror() -> None:
    image, label = picture((60, 80))
    transform = TrainingTransform(AugmentConfig(scale=(1.0, 1.0)), (33, 41))
    seen_mirrored = set()
    for seed in range(20):
        crop, crop_label = transform(image, label, np.random.default_rng(seed))
        assert crop.shape == (33, 41, 3)
        np.testing.assert_array_equal(crop[..., 0], crop_label)
        found = any(
            np.array_equal(label[top : top + 33, left : left + 41], crop_label)
            for top in range(28)
            for left in range(40)
        )
        seen_mirrored.add(not found)
    assert seen_mirrored == {False, True}


def test_the_generator_alone_decides() -> None:
    image, label = picture((60, 80))
    transform = TrainingTransform(AugmentConfig(rotate_degrees=10, blur=True), (33, 33))
    first = transform(image, label, np.random.default_rng(5))
    second = transform(image, label, np.random.default_rng(5))
    other = transform(image, label, np.random.default_rng(6))
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[0], other[0])


def test_scale_covers_the_configured_range() -> None:
    image, label = picture((60, 80))
    sizes = {scale(image, label, factor)[1].shape for factor in (0.5, 1.0, 2.0)}
    assert sizes == {(30, 40), (60, 80), (120, 160)}


@pytest.mark.parametrize(("factor", "hw"), [(0.5, (32, 42)), (0.53, (33, 44)), (1.99, (125, 165))])
def test_scaled_sides_are_rounded_halves_to_even_and_pixels_lie_as_in_the_published_code(
    factor: float, hw: tuple[int, int]
) -> None:
    image, label = picture((63, 83))
    scaled, scaled_label = scale(image, label, factor)
    assert scaled.shape[:2] == scaled_label.shape == hw
    coordinates = np.tile(np.arange(83, dtype=np.float32), (63, 1))[..., None].repeat(3, 2)
    columns = scale(coordinates, label, factor)[0][0, 1:-1, 0]
    expected = (np.arange(1, scaled.shape[1] - 1) + 0.5) / factor - 0.5
    np.testing.assert_allclose(columns, expected.clip(0, 82), atol=0.04)


def test_nothing_is_scaled_away() -> None:
    image, label = picture((1, 90))
    assert scale(image, label, 0.5)[1].shape == (1, 90)


def test_labels_are_never_mixed() -> None:
    image, label = picture((60, 80))
    for factor in (0.53, 1.7):
        assert set(np.unique(scale(image, label, factor)[1])) <= set(range(11))
    assert set(np.unique(rotate(image, label, 7.0)[1])) <= {*range(11), IGNORE}


def test_small_images_are_padded_half_before_with_mean_and_ignore() -> None:
    image, label = picture((20, 30))
    padded, padded_label = pad(image, label, (33, 33))
    assert padded.shape == (33, 33, 3)
    np.testing.assert_array_equal(padded_label[6:26, 1:31], label)
    outside = np.ones((33, 33), bool)
    outside[6:26, 1:31] = False
    assert (padded_label[outside] == IGNORE).all()
    np.testing.assert_allclose(padded[outside], np.tile(MEAN_RGB, (outside.sum(), 1)), rtol=1e-6)


def test_rotation_fills_corners_with_mean_and_ignore_and_turns_both_alike() -> None:
    image, label = picture((61, 61))
    turned, turned_label = rotate(image, label, 10.0)
    assert turned_label[0, 0] == IGNORE
    np.testing.assert_allclose(turned[0, 0], MEAN_RGB, rtol=1e-5)
    agree = np.abs(turned[..., 0] - turned_label)[20:41, 20:41] < 0.6
    assert agree.mean() > 0.7


@pytest.mark.parametrize("blur", [False, True])
def test_blur_only_where_configured(blur: bool) -> None:
    image, label = picture((40, 40))
    transform = TrainingTransform(AugmentConfig(scale=(1.0, 1.0), mirror=False, blur=blur), (40, 40))
    changed = [
        not np.array_equal(transform(image, label, np.random.default_rng(s))[0], image) for s in range(30)
    ]
    assert any(changed) == blur
    assert not all(changed)


def test_without_augmentation_a_crop_of_the_images_size_is_the_image() -> None:
    image, label = picture((41, 49))
    same, same_label = TrainingTransform(PLAIN, (41, 49))(image, label, np.random.default_rng(0))
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(same_label, label)
