"""Where a bundle's checkpoint is looked for, and what it is read with."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference.bundle import Bundle
from inference.errors import BundleError
from inference.source import source_of
from models.config import MMSEGMENTATION, ModelConfig
from models.labels import get_label_set
from models.options import ArchitectureOptions
from tests.inference.fakes import made_info


def made_bundle(folder: Path, **changes: Any) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    return Bundle(made_info(name="mine", **changes), folder)


@pytest.mark.parametrize(
    ("source_file", "place"),
    [
        ("../other/net.pth", "other/net.pth"),  # where it was
        ("../other/net.pth", "bundle/net.pth"),  # in the bundle
        ("../../far/net.pth", "net.pth"),  # beside it
        (None, "bundle/mine.safetensors"),  # a bundled model's
    ],
)
def test_the_checkpoint_is_looked_for_where_it_was_in_the_bundle_and_beside_it(
    tmp_path: Path, source_file: str | None, place: str
) -> None:
    bundle = made_bundle(tmp_path / "bundle", source_file=source_file)
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"0")
    with source_of(bundle) as source:
        assert source.path == file


def test_a_checkpoint_that_is_nowhere_says_where_it_was_looked_for(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle", source_file="../other/net.pth")
    with (
        pytest.raises(BundleError, match=r"net\.pth, which it was made from.*--engine onnxruntime"),
        source_of(bundle),
    ):
        pass


def test_another_file_of_that_name_is_told_by_its_hash(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path, source_sha256="aa")
    (tmp_path / "mine.safetensors").write_bytes(b"0")
    with source_of(bundle) as source:
        source.require_same("aa")
        with pytest.raises(BundleError, match="sha256 differs"):
            source.require_same("bb")


def test_options_are_the_architecture_and_psa_options_go_with_psa_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"0")
    psa = ModelConfig(depth=18, classes=5, crop_hw=(65, 65), psa_type="collect", shrink_factor=2)
    with source_of(made_bundle(tmp_path, architecture=psa)) as source:
        assert source.options == ArchitectureOptions(
            psa_type="collect", mask_hw=(9, 9), crop_hw=(65, 65), shrink_factor=2, normalization_factor=1.0
        )
    with source_of(made_bundle(tmp_path, architecture=psa.replace(context="ppm"))) as source:
        assert source.options == ArchitectureOptions(crop_hw=(65, 65))


def test_the_corner_rule_goes_with_mmsegmentations_networks_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"0")
    network = ModelConfig(depth=18, classes=5, crop_hw=(64, 64), mask_hw=(97, 97), **MMSEGMENTATION)
    for align_corners in (False, True):
        architecture = network.replace(align_corners=align_corners)
        with source_of(made_bundle(tmp_path, architecture=architecture)) as source:
            assert source.options.align_corners is align_corners
            assert (source.options.crop_hw, source.options.mask_hw) == ((64, 64), (97, 97))


def test_known_labels_go_by_name_and_ones_own_by_a_file_that_goes_away(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"0")
    with source_of(made_bundle(tmp_path, dataset="my streets")) as source:
        own = Path(source.dataset)
        assert json.loads(own.read_text())["name"] == "my streets"
    assert not own.exists()
    labels = get_label_set("camvid")
    known: dict[str, Any] = {
        "architecture": ModelConfig(depth=18, classes=11, crop_hw=(33, 33)),
        "dataset": "camvid",
        "class_names": labels.class_names,
        "palette": labels.palette,
    }
    with source_of(made_bundle(tmp_path, **known)) as source:
        assert source.dataset == "camvid"
        assert source.arguments == {"dataset": "camvid", "options": source.options}
