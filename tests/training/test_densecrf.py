"""DenseCRF: its limits, a slow mean field to compare with, and what is said where it cannot run."""

import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest

from inference.errors import EngineError, ParameterError
from training.densecrf import DenseCRFParameters, Refiner, parameters_from_text, refine

UNARY_ALONE = DenseCRFParameters(bi_w=0, pos_w=0)


def probabilities_of(seed: int, classes: int = 3, height: int = 9, width: int = 12) -> np.ndarray:
    raw = np.random.default_rng(seed).random((classes, height, width)).astype(np.float32)
    return raw / raw.sum(0)


def image_of(seed: int, height: int = 9, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def slow_mean_field(
    image: np.ndarray, probabilities: np.ndarray, parameters: DenseCRFParameters
) -> np.ndarray:
    """Labels by the definition: every pixel with every other, kernels normalised symmetrically."""
    classes, height, width = probabilities.shape
    rows, columns = np.mgrid[:height, :width]
    place = np.stack([columns.ravel(), rows.ravel()], 1).astype(float)
    color = image.reshape(-1, 3).astype(float)
    kernels = []
    for weight, features in (
        (parameters.pos_w, place / parameters.pos_xy_std),
        (parameters.bi_w, np.hstack([place / parameters.bi_xy_std, color / parameters.bi_rgb_std])),
    ):
        kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        scale = 1 / np.sqrt(kernel.sum(1) + 1e-20)
        kernels.append(weight * scale[:, None] * kernel * scale[None])
    unary = -np.log(probabilities.reshape(classes, -1).astype(float))
    belief = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(parameters.iterations):
        # Potts: what disagrees costs, so what agrees is taken off.
        energy = unary - sum(belief @ kernel for kernel in kernels)
        belief = np.exp(-energy + energy.min(0))
        belief /= belief.sum(0)
    return belief.argmax(0).reshape(height, width)


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed (the extra densecrf)")


def test_without_kernels_the_labels_are_the_networks() -> None:
    probabilities = probabilities_of(0)
    assert np.array_equal(refine(image_of(1), probabilities, UNARY_ALONE), probabilities.argmax(0))


def test_without_iterations_the_labels_are_the_networks() -> None:
    probabilities = probabilities_of(0)
    refined = refine(image_of(1), probabilities, DenseCRFParameters(iterations=0))
    assert np.array_equal(refined, probabilities.argmax(0))


def test_a_lone_wrong_pixel_of_an_even_area_takes_its_surroundings_label() -> None:
    image = np.full((15, 20, 3), 90, np.uint8)
    probabilities = np.full((2, 15, 20), 0.2, np.float32)
    probabilities[0] = 0.8
    probabilities[:, 7, 10] = (0.4, 0.6)
    assert refine(image, probabilities, UNARY_ALONE)[7, 10] == 1
    assert not refine(image, probabilities, DenseCRFParameters()).any()


def test_labels_move_to_the_edge_in_the_image() -> None:
    image = np.full((24, 40, 3), 40, np.uint8)
    image[:, 20:] = 200
    probabilities = np.full((2, 24, 40), 0.3, np.float32)
    probabilities[0, :, :17] = 0.7  # the network's edge lies three columns too far to the left
    probabilities[1, :, 17:] = 0.7
    truth = np.zeros((24, 40), np.uint8)
    truth[:, 20:] = 1
    refined = refine(image, probabilities, DenseCRFParameters())
    assert (refined != truth).mean() < 0.01 < (probabilities.argmax(0) != truth).mean()


@pytest.mark.parametrize("seed", range(3))
def test_most_labels_are_those_of_a_slow_mean_field(seed: int) -> None:
    """Not all: the library filters on a lattice, which approximates the kernels."""
    parameters = DenseCRFParameters(bi_w=4, bi_xy_std=4, bi_rgb_std=60, pos_w=2, pos_xy_std=1.5, iterations=5)
    height, width = 14, 16
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns * 12, rows * 14, (rows + columns) * 6], -1).astype(np.uint8)
    probabilities = probabilities_of(seed, 3, height, width)
    slow = slow_mean_field(image, probabilities, parameters)
    refined = refine(image, probabilities, parameters)
    assert (refined == slow).mean() > 0.9
    assert (probabilities.argmax(0) == slow).mean() < 0.7


def test_probabilities_of_zero_and_of_any_layout_are_taken_and_left_as_they_are() -> None:
    probabilities = np.zeros((9, 12, 3), np.float32)
    probabilities[..., 1] = 1
    given = probabilities.transpose(2, 0, 1)
    before = given.copy()
    assert (refine(image_of(1)[:, ::-1], given, DenseCRFParameters()) == 1).all()
    assert np.array_equal(given, before)


def test_processes_refine_as_the_function_does() -> None:
    images, probabilities = [image_of(1), image_of(2)], [probabilities_of(3), probabilities_of(4)]
    with Refiner(DenseCRFParameters(), 1) as refiner:
        for image, each in zip(images, probabilities, strict=True):
            assert np.array_equal(refiner(image, each), refine(image, each, DenseCRFParameters()))


def test_processes_refine_on_when_their_whole_group_gets_a_signal_and_a_killed_one_is_said() -> None:
    image, probabilities = image_of(1), probabilities_of(3)
    with Refiner(DenseCRFParameters(), 1) as refiner:
        refiner(image, probabilities)
        (process,) = multiprocessing.active_children()
        for signum in (signal.SIGTERM, signal.SIGINT):
            os.kill(process.pid or 0, signum)
        assert np.array_equal(
            refiner(image, probabilities), refine(image, probabilities, DenseCRFParameters())
        )
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        for _ in range(2):
            with pytest.raises(EngineError, match="fewer --workers need less"):
                refiner(image, probabilities)


def test_sizes_that_differ_and_too_many_classes_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"an image of \(9, 12, 3\)"):
        refine(image_of(0), probabilities_of(0, height=8), UNARY_ALONE)
    with pytest.raises(ParameterError, match="up to 255 classes"):
        refine(image_of(0), probabilities_of(0, classes=256), UNARY_ALONE)


def test_defaults_are_the_papers_and_text_changes_single_ones() -> None:
    assert parameters_from_text("") == DenseCRFParameters(
        bi_w=3.5, bi_xy_std=55, bi_rgb_std=3, pos_w=2, pos_xy_std=1, iterations=10
    )
    assert parameters_from_text("bi_w=4,iterations=5") == DenseCRFParameters(bi_w=4, iterations=5)


@pytest.mark.parametrize(
    "text",
    ["bi=4", "bi_w", "bi_w=a", "iterations=1.5", "iterations=-1", "pos_w=-1", "bi_xy_std=0", "bi_w=nan"],
)
def test_parameters_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        parameters_from_text(text)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(EngineError, match=r"psanet-serving\[densecrf\]"):
        Refiner(DenseCRFParameters(), 1)
