"""MMSegmentation's checkpoints from the file to the answer: their network, written plainly, under the oracle
of their protocol; and a bundle's way back to such a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.bundle import Bundle, write_model_json
from inference.engines import open_model
from inference.engines.pytorch import open_checkpoint
from inference.predictor import Predictor
from inference.source import source_of
from models.network import build_network
from models.options import ArchitectureOptions
from tests.mmseg_oracle import mmsegmentation_probabilities, mmsegmentation_views
from tests.models.mmseg_network import mmseg_config, mmseg_keys, their_logits, write_mmseg
from tests.models.networks import fill

OPTIONS = ArchitectureOptions(crop_hw=(48, 64), align_corners=False, test_mode="whole")
"""What a file with neither meta nor a published name must be told."""


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    network = build_network(mmseg_config(aux=False))
    fill(network)
    return network.state_dict()


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    meta = {
        "CLASSES": ("sky", "road", "car", "tree", "person"),
        "PALETTE": [[index] * 3 for index in range(5)],
    }
    return write_mmseg(tmp_path_factory.mktemp("theirs") / "net.pth", state, meta)


@pytest.mark.parametrize(
    ("test_mode", "align_corners"), [("whole", False), ("sliding", True)], ids=["whole", "sliding"]
)
def test_a_checkpoint_of_theirs_labels_images_as_their_code_does(
    checkpoint: Path, state: dict[str, Tensor], test_mode: Any, align_corners: bool
) -> None:
    options = replace(OPTIONS, test_mode=test_mode, align_corners=align_corners)
    predictor = Predictor.open(checkpoint, options=options)
    info = predictor.info
    assert (info.protocol, info.test_mode, info.align_corners) == (
        "mmsegmentation",
        test_mode,
        align_corners,
    )
    theirs = mmseg_keys(state)

    def network(images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of the images' own size."""
        with torch.no_grad():
            return their_logits(theirs, torch.from_numpy(images), align_corners=align_corners).numpy()

    image = np.random.default_rng(0).integers(0, 256, (50, 83, 3), np.uint8)
    options_of_call: dict[str, Any] = {"scales": (1.0, 1.5), "flip": True}
    # A file without meta has no test scale, and its classes no data set: the crop's long side it is.
    assert (info.base_size, info.base_short) == (64, None)
    found = predictor.predict(image, probabilities=True, **options_of_call)
    views = mmsegmentation_views(
        network,
        image,
        long_side=info.base_size,
        short_side=info.base_short,
        crop_hw=None if test_mode == "whole" else (48, 64),
        align_corners=align_corners,
        **options_of_call,
    )
    expected = mmsegmentation_probabilities(views)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-4)
    assert (found.labels == expected.argmax(0)).mean() > 0.999


def test_a_bundle_finds_its_way_back_to_a_checkpoint_that_says_nothing_of_itself(
    checkpoint: Path, tmp_path: Path
) -> None:
    info, _ = open_checkpoint(checkpoint, dataset=None, options=OPTIONS, device="cpu", threads=None)
    info = replace(info, source_file=str(checkpoint), psa_form="function", base_short=32)
    with source_of(Bundle(info, tmp_path)) as source:
        found, engine = open_checkpoint(source.path, **source.arguments, device="cpu", threads=None)
    assert found.architecture == info.architecture
    assert (found.class_names, found.palette) == (info.class_names, info.palette)
    assert (found.protocol, found.test_mode, found.align_corners) == ("mmsegmentation", "whole", False)
    assert engine.crop_hw is None
    write_model_json(tmp_path, info)
    (tmp_path / "model.onnx").write_bytes(b"not needed")
    opened, engine = open_model(tmp_path, engine="torch")
    assert opened == info
    assert engine.name == "torch"
