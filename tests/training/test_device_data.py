from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference.pairs import DatasetError, load_pair, read_list
from models.config import MEAN_RGB
from training import device_data
from training.config import AugmentConfig, read_config
from training.dataset import training_batches
from training.device_data import DeviceImages
from training.distributed import Processes
from training.transforms import Draw, TrainingTransform

CPU = torch.device("cpu")
CROP = (49, 65)


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Three smooth pictures of different sizes, with labels in large regions."""
    made = []
    for index, (height, width) in enumerate([(60, 80), (45, 70), (72, 52)]):
        y, x = np.mgrid[:height, :width] / 9
        image = np.stack([127 + 120 * np.sin(x + index), 127 + 120 * np.cos(y), 60 + 50 * np.sin(x + y)], -1)
        label = ((y + 0.3).astype(int) * 3 + (x + 0.2).astype(int)) % 11
        label[:4] = 255
        names = tmp_path / f"{index}.png", tmp_path / f"{index}_labels.png"
        Image.fromarray(image.astype(np.uint8)).save(names[0])
        Image.fromarray(label.astype(np.uint8)).save(names[1])
        made.append(names)
    return made


def both(
    pairs: list[tuple[Path, Path]], config: AugmentConfig, seeds: range
) -> list[tuple[Draw, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """The draw, OpenCV's image and labels, and the device's, of every picture at every seed."""
    images = DeviceImages(pairs, classes=11, device=CPU)
    order = [(index, seed) for index in range(len(pairs)) for seed in seeds]
    draws = [
        Draw.of(config, images.sizes_hw[index], CROP, np.random.default_rng(seed)) for index, seed in order
    ]
    crops, labels = images.crops([index for index, _ in order], draws, CROP)
    assert (crops.dtype, labels.dtype) == (torch.float32, torch.int64)
    result = []
    for (index, seed), draw, crop, ids in zip(order, draws, crops, labels, strict=True):
        image, label = load_pair(pairs[index])
        expected = TrainingTransform(config, CROP)(
            image.astype(np.float32), label, np.random.default_rng(seed)
        )
        result.append((draw, *expected, crop.permute(1, 2, 0).numpy(), ids.numpy()))
    return result


@pytest.mark.parametrize("color", [0.0, 0.4])
def test_the_device_makes_of_a_draw_what_opencv_makes(pairs: list[tuple[Path, Path]], color: float) -> None:
    found = both(pairs, AugmentConfig(color=color), range(12))
    assert {draw.mirrored for draw, *_ in found} == {False, True}
    assert any((expected_label == 255).any() for _, _, expected_label, _, _ in found)
    for draw, expected, expected_label, crop, label in found:
        np.testing.assert_array_equal(label, expected_label, err_msg=str(draw))
        # OpenCV resamples with coefficients of 11 bits on some processors.
        np.testing.assert_allclose(crop, expected, atol=0.6, err_msg=str(draw))


def test_a_turned_picture_differs_by_interpolation_and_at_its_edges_alone(
    pairs: list[tuple[Path, Path]],
) -> None:
    images = DeviceImages(pairs, classes=11, device=CPU)
    turned = [row for row in both(pairs, AugmentConfig(rotate_degrees=10), range(12)) if row[0].degrees > 3]
    assert len(turned) > 5
    for draw, expected, expected_label, crop, label in turned:
        assert np.median(np.abs(crop - expected)) < 0.6, draw
        assert (label == expected_label).mean() > 0.97, draw
        back = replace(draw, degrees=-draw.degrees)
        others = [images.crops([index], [back], CROP)[1][0].numpy() for index in range(len(pairs))]
        assert all((other == expected_label).mean() < 0.97 for other in others), "a wrong direction shows"


def test_blur_is_opencvs_away_from_edges(pairs: list[tuple[Path, Path]]) -> None:
    config = AugmentConfig(scale=(1.4, 2.0), blur=True)
    found = both(pairs, config, range(12))
    assert {draw.blurred for draw, *_ in found} == {False, True}
    for draw, expected, _, crop, _ in found:
        np.testing.assert_allclose(crop[2:-2, 2:-2], expected[2:-2, 2:-2], atol=0.6, err_msg=str(draw))


def test_what_is_padded_is_the_mean_colour_and_counts_nowhere(pairs: list[tuple[Path, Path]]) -> None:
    images = DeviceImages(pairs, classes=11, device=CPU)
    draw = Draw(0.5, 0.0, False, False, 0, 0, None)
    crops, labels = images.crops([0], [draw], CROP)
    outside = torch.ones(CROP, dtype=torch.bool)
    outside[9:39, 12:52] = False
    assert (labels[0][outside] == 255).all()
    assert (labels[0][~outside] != 255).any()
    torch.testing.assert_close(
        crops[0][:, outside], torch.tensor(MEAN_RGB)[:, None].expand(-1, outside.sum())
    )


def test_batches_are_those_of_the_other_pipeline(miniature: Path) -> None:
    pairs = read_list(miniature, miniature / "list/train.txt")
    changes = ["model.crop_hw=[33, 33]", "batch=3", "epochs=null", "iterations=5", "workers=0"]

    def batches(*more: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        settings = [*changes, f"data.root={miniature}", *more]
        config = read_config("training/configs/camvid_psanet18.yaml", settings)
        return list(training_batches(pairs, config, Processes(CPU), share=3, start=2, stop=5))

    plain, on_device = batches("data.on_device=false"), batches("data.on_device=true")
    assert len(plain) == len(on_device) == 3
    for (image, label), (device_image, device_label) in zip(plain, on_device, strict=True):
        assert torch.equal(label, device_label)
        # The pictures have hard edges, at which a shift of 1/64 of a pixel shows.
        torch.testing.assert_close(device_image, image, atol=8, rtol=0)


def test_images_beyond_the_free_memory_are_refused(
    pairs: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    with pytest.raises(DatasetError, match=r"set data\.on_device=false"):
        device_data._require_room(1001, torch.device("cuda", 0))
    device_data._require_room(1000, torch.device("cuda", 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_makes_the_same_crops(pairs: list[tuple[Path, Path]]) -> None:
    config = AugmentConfig(rotate_degrees=10, blur=True, color=0.3)
    crops = []
    for device in (CPU, torch.device("cuda")):
        images = DeviceImages(pairs, classes=11, device=device)
        draws = [Draw.of(config, images.sizes_hw[0], CROP, np.random.default_rng(seed)) for seed in range(16)]
        crops.append([each.cpu() for each in images.crops([0] * 16, draws, CROP)])
    assert torch.equal(crops[0][1], crops[1][1])
    torch.testing.assert_close(crops[0][0], crops[1][0], atol=0.05, rtol=0)
