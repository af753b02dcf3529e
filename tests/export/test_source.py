"""Which checkpoint a command means, and what a bundle remembers of it."""

import dataclasses
import json
from pathlib import Path

import pytest

import export.source
from export.source import find_source, relative_source
from inference.bundle import write_model_json
from inference.engines.pytorch import describe
from inference.errors import BundleError, ModelNotFoundError
from models.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from models.labels import LabelSet
from models.options import ArchitectureOptions
from tests.export.tiny import save_official, save_own, tiny_config, tiny_network

NONE = ArchitectureOptions()
COLLECT = ArchitectureOptions(psa_type="collect", mask_hw=(3, 7), crop_hw=(65, 65), normalization_factor=0.5)


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An official file that cannot be read without options."""
    config = tiny_config(psa_type="collect", mask_hw=(3, 7), normalization_factor=0.5)
    return save_official(tiny_network(config), tmp_path_factory.mktemp("net") / "net.pth").read_bytes()


@pytest.fixture
def source(network_file: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "nets" / "camvid.pth"
    path.parent.mkdir()
    path.write_bytes(network_file)
    return path


def make_bundle(folder: Path, checkpoint: Checkpoint) -> Path:
    """What `export.onnx` writes, with nothing in the model file."""
    folder.mkdir(parents=True)
    info = dataclasses.replace(
        describe(checkpoint), name=folder.name, source_file=relative_source(checkpoint.path, folder)
    )
    (folder / "model.onnx").write_bytes(b"")
    write_model_json(folder, info)
    return folder


def test_a_checkpoint_file_is_read_as_the_options_say(source: Path) -> None:
    found = find_source(source, dataset=None, options=COLLECT)
    assert found.checkpoint.config == tiny_config(
        psa_type="collect", mask_hw=(3, 7), normalization_factor=0.5
    )
    assert found.default_out == source.with_suffix("")
    with pytest.raises(CheckpointError, match="--psa-type"):
        find_source(source, dataset=None, options=NONE)


def test_a_bundle_remembers_the_options_that_its_checkpoint_needed(source: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(source, options=COLLECT)
    bundle = make_bundle(tmp_path / "elsewhere" / "bundle", checkpoint)
    found = find_source(bundle, dataset=None, options=NONE)
    assert found.checkpoint.config == checkpoint.config
    assert found.checkpoint.path.samefile(source)
    assert found.default_out.resolve() == source.with_suffix("").resolve()


def test_options_that_are_given_go_before_the_bundles(source: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", load_checkpoint(source, options=COLLECT))
    options = ArchitectureOptions(psa_type="distribute", crop_hw=(97, 97))
    config = find_source(bundle, dataset=None, options=options).checkpoint.config
    assert (config.psa_type, config.crop_hw) == ("distribute", (97, 97))
    assert (config.mask_hw, config.normalization_factor) == ((3, 7), 0.5)


def test_a_bundle_remembers_labels_of_ones_own(source: Path, tmp_path: Path) -> None:
    names, palette = [f"class {index}" for index in range(11)], [[index, 0, 0] for index in range(11)]
    file = tmp_path / "streets.json"
    file.write_text(
        json.dumps({"name": "streets", "class_names": names, "palette": palette, "base_size": 640})
    )
    checkpoint = load_checkpoint(source, dataset=str(file), options=COLLECT)
    bundle = make_bundle(tmp_path / "bundle", checkpoint)
    file.unlink()
    labels = find_source(bundle, dataset=None, options=NONE).checkpoint.labels
    assert isinstance(labels, LabelSet)
    assert labels == checkpoint.labels
    assert find_source(bundle, dataset="camvid", options=NONE).checkpoint.labels.name == "camvid"


def test_a_checkpoint_that_moved_with_its_bundle_is_found(source: Path, tmp_path: Path) -> None:
    bundle = make_bundle(source.parent / "bundle", load_checkpoint(source, options=COLLECT))
    for place in ("bundle/camvid.pth", "camvid.pth"):
        moved = tmp_path / "moved" / place.replace("/", "_")
        moved.mkdir(parents=True)
        (moved / "bundle").mkdir()
        for file in bundle.iterdir():
            (moved / "bundle" / file.name).write_bytes(file.read_bytes())
        (moved / place).write_bytes(source.read_bytes())
        found = find_source(moved / "bundle", dataset=None, options=NONE)
        assert found.checkpoint.path.samefile(moved / place)


def test_a_checkpoint_that_changed_since_is_refused(source: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", load_checkpoint(source, options=COLLECT))
    save_official(tiny_network(tiny_config(psa_type="collect", mask_hw=(3, 7)), seed=1), source)
    with pytest.raises(BundleError, match=r"sha256 differs.*give the checkpoint itself"):
        find_source(bundle, dataset=None, options=NONE)


def test_a_checkpoint_that_is_gone_is_an_error_with_the_places_and_the_mend(
    source: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", load_checkpoint(source, options=COLLECT))
    source.unlink()
    with pytest.raises(BundleError, match=r"camvid\.pth.*nets.*give the checkpoint itself"):
        find_source(bundle, dataset=None, options=NONE)


def test_a_bundled_model_is_found_by_its_name_and_exported_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny_camvid"
    file = save_own(tiny_network(tiny_config()), tmp_path / "tiny.pth")
    make_bundle(folder, load_checkpoint(file))
    monkeypatch.setattr("inference.bundle.BUNDLED_ROOT", tmp_path)
    monkeypatch.setattr(export.source, "BUNDLED_ROOT", tmp_path)
    found = find_source("tiny_camvid", dataset=None, options=NONE)
    assert found.checkpoint.config == tiny_config()
    assert found.default_out == Path("tiny_camvid")


def test_what_is_neither_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        find_source(tmp_path / "none.pth", dataset=None, options=NONE)
    with pytest.raises(BundleError):
        find_source(tmp_path, dataset=None, options=NONE)
