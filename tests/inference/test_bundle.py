"""model.json, bundle folders, and how a name becomes a model."""

import json
from pathlib import Path
from typing import Any

import pytest

import inference.bundle as bundle
from inference.bundle import (
    SCHEMA_VERSION,
    Bundle,
    ModelInfo,
    PlanInfo,
    bundled_names,
    read_bundle,
    resolve_model,
    write_model_json,
)
from inference.errors import BundleError, ModelNotFoundError
from models.config import PRESETS
from tests.inference.fakes import made_info


def make_bundle(folder: Path, info: ModelInfo | None = None) -> Path:
    folder.mkdir(parents=True)
    write_model_json(folder, info or made_info())
    (folder / "model.onnx").write_bytes(b"not read here")
    return folder


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "DELETE"}))


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of bundled models with one model, `alpha`."""
    root = tmp_path / "bundled"
    make_bundle(root / "alpha", made_info(name="alpha"))
    (root / "half made").mkdir()
    monkeypatch.setattr(bundle, "BUNDLED_ROOT", root)
    return root


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    info = made_info(
        architecture=PRESETS["psanet50_ade20k"].replace(classes=5),
        label_ids=(7, 8, 11, 12, 13),
        precision="int8",
        test_mode="whole",
        align_corners=False,
        source_file="psanet50_ade20k.pth",
        source_sha256="ab" * 32,
        built_with={"torch": "2.13.0", "onnx": "1.23"},
        outputs=("logits", "attention_collect"),
    )
    folder = make_bundle(tmp_path / "b", info)
    found = read_bundle(folder)
    assert found == Bundle(info, folder)
    assert found.onnx_path == folder / "model.onnx"
    assert found.info.classes == 5


def test_writing_leaves_nothing_else_and_replaces_what_was_there(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    write_model_json(folder, made_info(name="second"))
    assert read_bundle(folder).info.name == "second"
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.onnx"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    with pytest.raises(TypeError):
        write_model_json(folder, made_info(built_with={"torch": object()}))
    assert read_bundle(folder).info.name == "made"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("name", ["model.json", "model.onnx"])
def test_a_folder_without_one_of_the_files_is_no_bundle(tmp_path: Path, name: str) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing.*python -m export\.onnx"):
        read_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"a": 1}', b"[" * 100_000])
def test_a_broken_model_json_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "model.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.json cannot be used"):
        read_bundle(folder)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "1", None, True, "DELETE"])
def test_another_schema_is_refused_with_the_mend(tmp_path: Path, version: Any) -> None:
    folder = make_bundle(tmp_path / "b")
    rewrite(folder, schema_version=version)
    with pytest.raises(BundleError, match=r"schema_version.*; export the checkpoint anew$") as caught:
        read_bundle(folder)
    assert str(caught.value).count("export") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "unknown keys.*extra"),
        ({"crop_hw": "DELETE"}, "missing keys.*crop_hw"),
        ({"class_names": ["one"]}, "1 class names"),
        ({"class_names": "abcde"}, "no list"),
        ({"class_names": [1, 2, 3, 4, 5]}, "no str"),
        ({"palette": [[0, 0, 0]]}, "colours"),
        ({"palette": [[0, 0, 256]] * 5}, "0..255"),
        ({"palette": [[0, 0]] * 5}, "0..255"),
        ({"palette": [0, 1, 2, 3, 4]}, "no list"),
        ({"label_ids": [1]}, "label_ids"),
        ({"crop_hw": [33]}, "crop_hw"),
        ({"crop_hw": [0, 33]}, "crop_hw"),
        ({"crop_hw": [33.5, 33]}, "no int"),
        ({"base_size": 0}, "base_size"),
        ({"base_size": True}, "no int"),
        ({"align_corners": 1}, "no bool"),
        ({"test_mode": "half"}, "test_mode"),
        ({"precision": "fp8"}, "precision"),
        ({"mean_rgb": [1, 2]}, "three numbers"),
        ({"std_rgb": [0, 1, 1]}, "std_rgb"),
        ({"outputs": []}, "logits"),
        ({"architecture": {"depth": 50}}, "not a model configuration"),
        ({"architecture": None}, "no dict"),
        ({"built_with": {"torch": 2}}, "no str"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make_bundle(tmp_path / "b")
    rewrite(folder, **changes)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_a_bundled_name_a_folder_and_a_checkpoint_are_told_apart(bundled: Path, tmp_path: Path) -> None:
    assert bundled_names() == ("alpha",)
    found = resolve_model("alpha")
    assert isinstance(found, Bundle)
    assert found.folder == bundled / "alpha"
    assert isinstance(resolve_model(bundled / "alpha"), Bundle)
    assert isinstance(resolve_model(str(bundled / "alpha")), Bundle)
    checkpoint = tmp_path / "psanet50.pth"
    checkpoint.write_bytes(b"0")
    assert resolve_model(str(checkpoint)) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        *("beta", "", "../bundled/alpha", "./alpha", "half made", "no/alpha", ".", "/"),
        *("~nobody-of-that-name/a", 300 * "a"),
    ],
)
def test_what_is_nowhere_says_what_there_is(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere" / "deep")
    message = r"bundled models: alpha|model\.json is missing"
    with pytest.raises((ModelNotFoundError, BundleError), match=message):
        resolve_model(text)


def test_a_path_object_is_never_a_bundled_name(bundled: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        resolve_model(Path("alpha"))


@pytest.mark.parametrize("name", ["model.json", "model.onnx"])
def test_a_file_of_a_bundle_says_to_name_the_folder(bundled: Path, name: str) -> None:
    with pytest.raises(BundleError, match="name its folder"):
        resolve_model(bundled / "alpha" / name)


def test_no_bundled_models_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BUNDLED_ROOT", tmp_path / "none")
    assert bundled_names() == ()
    with pytest.raises(ModelNotFoundError, match="bundled models: none"):
        resolve_model("alpha")


@pytest.mark.parametrize("file", ["../other.plan", "model.json", "model.onnx", "..", "a/b.plan", ""])
def test_a_plan_is_a_plan_file_in_the_bundle(file: str) -> None:
    # What replaces a plan deletes the old one's file.
    with pytest.raises(BundleError, match=r"must be a \*\.plan in the bundle"):
        PlanInfo(
            file=file,
            runtime="tensorrt",
            runtime_version="10.13",
            target="sm89",
            precision="fp16",
            max_batch=1,
            psa_form="function",
            sha256="",
            verified=False,
        )


def made_plan_info(**changes: Any) -> PlanInfo:
    values: dict[str, Any] = {
        "file": "a.plan", "runtime": "tensorrt_rtx", "runtime_version": "1.7", "target": "sm89",
        "precision": "fp16", "max_batch": 1, "psa_form": "function", "sha256": "ab", "verified": False,
    }  # fmt: skip
    return PlanInfo(**(values | changes))


def test_sizes_of_a_plan_are_read_back_and_older_files_have_none(tmp_path: Path) -> None:
    plans = (made_plan_info(), made_plan_info(file="b.plan", sizes=((32, 32), (48, 64), (64, 96))))
    folder = make_bundle(tmp_path / "b", made_info(plans=plans))
    assert read_bundle(folder).info.plans == plans
    values = json.loads((folder / "model.json").read_text())["plans"]
    del values[0]["sizes"]
    rewrite(folder, plans=values)
    assert read_bundle(folder).info.plans == plans
    for sizes in (
        [[32, 32]],
        [[32, 32], [48, 64], [64]],
        [[32, 32], [48, 64], [0, 64]],
        "32x32",
        [[1, 2], [3, 4], "5"],
    ):
        rewrite(folder, plans=[values[0] | {"sizes": sizes}])
        with pytest.raises(BundleError, match="model.json"):
            read_bundle(folder)


def test_keys_of_a_plan_that_are_missing_or_unknown_are_named(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", made_info(plans=(made_plan_info(),)))
    (plan,) = json.loads((folder / "model.json").read_text())["plans"]
    without = {key: value for key, value in plan.items() if key not in ("sha256", "file")}
    for changed, says in (
        (without, "plans lacks file, sha256; export the checkpoint anew"),
        (plan | {"speed": 1}, r"plans holds unknown keys \['speed'\]; export"),
        ("a.plan", "no dict"),
    ):
        rewrite(folder, plans=[changed])
        with pytest.raises(BundleError, match=f"model.json cannot be used: .*{says}"):
            read_bundle(folder)
