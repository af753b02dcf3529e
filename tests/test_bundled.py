"""The model that comes with the project: whole, small, and the same network in both of its files."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from inference.bundle import BUNDLED_ROOT, bundled_names, read_bundle
from inference.images import read_image
from inference.predictor import Predictor
from models.config import PRESETS
from models.labels import LABEL_SETS

NAME = "psanet18_camvid"
FOLDER = BUNDLED_ROOT / NAME
SAMPLES = Path("service/page/samples")


def scene() -> np.ndarray:
    """(360, 480, 3) uint8: a made-up road under a sky, with some grain."""
    rng = np.random.default_rng(0)
    image = np.zeros((360, 480, 3), np.float32)
    image[:150] = (190, 205, 225)
    image[150:] = (105, 100, 105)
    image[60:220, :160] = (120, 80, 60)
    image[90:210, 330:] = (60, 85, 40)
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def test_everything_bundled_stays_under_64_mb_and_is_named() -> None:
    assert NAME in bundled_names()
    assert sum(file.stat().st_size for file in BUNDLED_ROOT.rglob("*") if file.is_file()) < 64_000_000


def test_the_bundle_says_what_it_is_and_what_it_was_made_of() -> None:
    info = read_bundle(FOLDER).info
    assert (info.name, info.dataset, info.precision, info.psa_form) == (NAME, "camvid", "int8", "inlined")
    assert info.class_names == LABEL_SETS["camvid"].class_names
    assert info.architecture.replace(aux=True, crop_hw=PRESETS[NAME].crop_hw) == PRESETS[NAME]
    source = FOLDER / f"{NAME}.safetensors"
    assert info.source_file == source.name
    assert hashlib.sha256(source.read_bytes()).hexdigest() == info.source_sha256


def test_both_files_are_the_same_network() -> None:
    """As nearly as int8 is: another network, or another seed of this one, is far beyond these bounds."""
    predictions = []
    for engine in ("onnxruntime", "torch"):
        predictor = Predictor.open(NAME, engine=engine)
        predictions.append(predictor.predict(scene(), probabilities=True))
        predictor.close()
    served, source = predictions
    assert served.probabilities is not None
    assert source.probabilities is not None
    assert abs(served.probabilities - source.probabilities).mean() < 0.004
    assert (served.labels == source.labels).mean() > 0.97


def test_it_knows_sky_above_a_roof_and_road_before_a_camera() -> None:
    """On pictures of other hands than those that it was trained on: a photograph, and a rendered street."""
    names = LABEL_SETS["camvid"].class_names
    predictor = Predictor.open(NAME)
    photograph, street = (
        predictor.predict(read_image(str(SAMPLES / name))).labels for name in ("pavilion.jpg", "street.jpg")
    )
    predictor.close()
    assert (photograph[:50] == names.index("sky")).mean() > 0.9
    assert (street[-50:] == names.index("road")).mean() > 0.9


@pytest.mark.parametrize("what", ["CamVid", "research", "mIoU", "training/recipes/"])
def test_the_card_gives_data_licence_recipe_and_figures(what: str) -> None:
    card = (FOLDER / "README.md").read_text()
    assert what in card
    assert re.search(r"\b\d\d\.\d\b", card), "the card gives no figure"
