"""What a prediction by MMSegmentation's protocol is planned to hold, and in which batches it runs."""

from typing import Any

import pytest

from inference.errors import MemoryBudgetError
from inference.mmseg_layout import lay_out_pictures
from inference.mmseg_plan import PictureRequest, attention_bytes, plan_pictures
from models.config import MMSEGMENTATION, ModelConfig

CITYSCAPES = ModelConfig(depth=50, classes=19, crop_hw=(512, 1024), mask_hw=(97, 97), **MMSEGMENTATION)
MIB = 1 << 20


def made_request(
    image_hw: tuple[int, int] = (1024, 2048), scales: tuple[float, ...] = (1.0,), **changes: Any
) -> PictureRequest:
    crop_hw = changes.pop("crop_hw", None)
    pictures = lay_out_pictures(
        image_hw, scales, (2048, 1024), crop_hw=crop_hw, padded=False, coarse_of=CITYSCAPES.feature_hw_of
    )
    values: dict[str, Any] = {
        "image_hw": image_hw,
        "pictures": pictures,
        "classes": 19,
        "mirrored": False,
        "confidence": False,
        "probabilities": False,
        "architecture": CITYSCAPES,
        "batch": 8,
        "block_hw": (64, 256),
        "block_values": 1 << 18,
    }
    return PictureRequest(**(values | changes))


def test_attention_counts_the_predicted_map_and_all_pairs() -> None:
    """1024x2048 pixels: 64x128 positions with a map of 97x97 values each."""
    positions = 64 * 128
    assert attention_bytes(CITYSCAPES, (1024, 2048)) == 4 * positions * (97 * 97 + 6 * positions)
    assert attention_bytes(CITYSCAPES.replace(psa_type="collect"), (1024, 2048)) > 1000 * MIB
    official = ModelConfig(depth=50, classes=19, crop_hw=(705, 705))
    assert attention_bytes(official, (705, 705)) == 4 * 45**2 * (89**2 + 6 * 45**2)
    for context, pairs in (("ppm", 0), ("nonlocal", 6 * 89**4)):
        assert attention_bytes(official.replace(context=context), (705, 705)) == 4 * pairs


def test_a_cityscapes_image_fits_the_default_budget_and_the_largest_scale_does_not() -> None:
    assert plan_pictures(made_request(batch=1, mirrored=True), 2048 * MIB).peak_bytes > 1000 * MIB
    with pytest.raises(MemoryBudgetError, match=r"most of it attention maps.*2048\.0 MiB.*smaller base_size"):
        plan_pictures(made_request(scales=(1.75,)), 2048 * MIB)


def test_the_message_counts_what_is_asked_for() -> None:
    with pytest.raises(MemoryBudgetError, match="most of it probabilities.*try labels alone"):
        plan_pictures(made_request((9000, 9000), probabilities=True), 3000 * MIB)


def test_batches_are_halved_until_they_fit_and_hold_one_size_each() -> None:
    request = made_request((256, 512), (0.25, 0.5), mirrored=True, crop_hw=(256, 256))
    wide = plan_pictures(request, 1 << 40)
    assert wide.batch == 8
    assert [len(views) for views in wide.batches()] == [6, 8, 8, 8, 8, 4]
    tight = plan_pictures(request, wide.peak_bytes - 1)
    assert tight.batch == 4
    for plan in (wide, tight):
        views = [view for batch in plan.batches() for view in batch]
        assert len(set(views)) == len(views) == 2 * (1 * 3 + 3 * 6)
        for batch in plan.batches():
            assert len({view[0] for view in batch}) == 1
            assert len(batch) <= plan.batch


def test_one_picture_without_its_mirror_image_is_single() -> None:
    assert plan_pictures(made_request(), 1 << 40).single
    assert plan_pictures(made_request(scales=(1.0, 1.0)), 1 << 40).single
    assert not plan_pictures(made_request(mirrored=True), 1 << 40).single
    assert not plan_pictures(made_request(scales=(1.0, 0.5)), 1 << 40).single


@pytest.mark.parametrize("classes", [2, 19, 150, 3000])
@pytest.mark.parametrize("image_hw", [(1, 1), (10, 12), (3000, 20), (1024, 2048)])
def test_blocks_hold_no_more_values_than_they_may(classes: int, image_hw: tuple[int, int]) -> None:
    request = made_request(image_hw, (0.5, 1.0), classes=classes, block_values=1 << 16)
    rows, columns = plan_pictures(request, 1 << 50).block_hw
    assert 1 <= rows <= min(64, image_hw[0])
    assert 1 <= columns <= min(256, image_hw[1])
    assert classes * rows * columns <= 1 << 16
