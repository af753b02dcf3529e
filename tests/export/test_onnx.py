"""From a checkpoint to a bundle: every kind of network, both precisions, the command line, mistakes."""

import errno
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import export.build
import export.onnx
from export.comparison import sample_images
from export.errors import UnavailableError, VerificationError
from export.onnx import Exported, export_onnx, main
from inference.bundle import read_bundle
from inference.images import read_image
from inference.predictor import Predictor
from models.checkpoint import load_checkpoint, save_safetensors
from models.config import MMSEGMENTATION
from models.protocol import TestProtocol
from tests.attention_oracle import slow_attention
from tests.export.tiny import save_official, save_own, tiny_config, tiny_network

ROOT = Path(__file__).resolve().parents[2]

# Name → changes to the tiny configuration, and how many PSAPairs nodes its graph holds.
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "collect, smaller mask": ({"psa_type": "collect", "mask_hw": (3, 7)}, 1),
    "distribute, even mask, not square": (
        {"psa_type": "distribute", "mask_hw": (4, 6), "crop_hw": (49, 65)},
        1,
    ),
    "bidirectional, neither shrunk nor softmax": (
        {"shrink_factor": 1, "crop_hw": (41, 33), "normalization_factor": 2.0, "psa_softmax": False},
        2,
    ),
    "bidirectional, compact": ({"compact": True}, 0),
    "no context": ({"context": "none"}, 0),
    "global pooling": ({"context": "global"}, 0),
    "ASPP": ({"context": "aspp"}, 0),
    "non-local": ({"context": "nonlocal"}, 0),
    "pyramid pooling": ({"context": "ppm", "crop_hw": (57, 65)}, 0),
}


def psa_nodes(model: onnx.ModelProto, name: str = "PSAPairs") -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if (node.domain, node.op_type) == ("psanet", name)]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bidirectional PSANet in the official format."""
    network = tiny_network(tiny_config(aux=True))
    return save_official(network, tmp_path_factory.mktemp("official") / "psanet18_camvid.pth")


@pytest.fixture(scope="module")
def exported(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Its bundle, in a folder elsewhere."""
    return export_onnx(official, tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_becomes_a_bundle_that_gives_its_logits(name: str, tmp_path: Path) -> None:
    changes, expected = NETWORKS[name]
    network = tiny_network(tiny_config(**changes))
    result = export_onnx(save_own(network, tmp_path / "net.pth"))
    assert result.folder == tmp_path / "net"
    assert result.comparison.max_logit_error < 1e-4
    bundle = read_bundle(result.folder)
    assert bundle.info.architecture == network.config
    assert bundle.info.crop_hw == network.config.crop_hw
    model = onnx.load(bundle.onnx_path)
    assert len(psa_nodes(model)) == expected
    assert len(model.functions) == (1 if expected else 0)
    assert bundle.info.psa_form == ("pairs" if expected else "none")
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, *network.config.crop_hw)).astype(np.float32)
    with torch.inference_mode():
        own = network.coarse_logits(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(str(bundle.onnx_path), providers=["CPUExecutionProvider"])
    for batch in (images[:1], images):
        (logits,) = session.run(["logits"], {"image": batch})
        np.testing.assert_allclose(logits, own[: len(batch)], atol=1e-4)
    names = [item.name for item in session.get_outputs()]
    attention = slow_attention(network, images[:2]) if network.config.directions else {}
    assert names == list(bundle.info.outputs) == ["logits", *(f"attention_{name}" for name in attention)]
    error = result.comparison.max_attention_error
    assert (error is None) if not attention else (error is not None and error < 1e-4)
    for name, expected in attention.items():
        (weights,) = session.run([f"attention_{name}"], {"image": images[:2]})
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, expected, atol=1e-4 if network.config.psa_softmax else 1e-3)


def test_the_file_is_as_the_contract_has_it(exported: Exported) -> None:
    model = onnx.load(exported.folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {item.domain: item.version for item in model.opset_import} == {"": 18, "psanet": 1}
    (image,), (logits, *attention) = model.graph.input, model.graph.output
    expected = [("image", [3, 65, 65]), ("logits", [11, 9, 9])]
    expected += [("attention_collect", [25, 25]), ("attention_distribute", [25, 25])]
    for value, (name, sizes) in zip((image, logits, *attention), expected, strict=True):
        assert value.name == name
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        batch, *rest = value.type.tensor_type.shape.dim
        assert (batch.dim_param, [side.dim_value for side in rest]) == ("N", sizes)
    masks = [{item.name: item.i for item in node.attribute} for node in psa_nodes(model)]
    assert masks == [{"mask_h": 9, "mask_w": 9}] * 2
    (function,) = model.functions
    assert (function.domain, function.name, function.overload) == ("psanet", "PSAPairs", "")


def test_the_file_tells_nothing_of_the_machine_that_built_it(exported: Exported) -> None:
    model = onnx.load(exported.folder / "model.onnx")
    assert model.producer_name == "psanet-serving"
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    text = (exported.folder / "model.onnx").read_bytes() + (exported.folder / "model.json").read_bytes()
    assert str(ROOT).encode() not in text
    assert str(exported.folder.parent).encode() not in text


def test_batch_norm_is_folded_and_the_file_holds_the_weights_and_little_else(
    official: Path, exported: Exported
) -> None:
    model = onnx.load(exported.folder / "model.onnx")
    assert not {node.op_type for node in model.graph.node} & {"BatchNormalization", "Dropout"}
    state = load_checkpoint(official).state_dict
    weights = sum(4 * value.numel() for key, value in state.items() if not key.startswith("aux."))
    assert exported.size_bytes == (exported.folder / "model.onnx").stat().st_size
    assert exported.size_bytes < weights + 100_000


def test_model_json_says_what_the_model_is_and_where_it_is_from(official: Path, exported: Exported) -> None:
    info, checkpoint = read_bundle(exported.folder).info, load_checkpoint(official)
    assert (info.name, info.dataset, info.classes, info.base_size) == ("bundle", "camvid", 11, 480)
    assert info.outputs == ("logits", "attention_collect", "attention_distribute")
    assert (info.precision, info.psa_form, info.align_corners, info.test_mode) == (
        "fp32",
        "pairs",
        True,
        "sliding",
    )
    assert info.architecture == checkpoint.config.replace(aux=False)
    assert info.palette == checkpoint.labels.palette
    assert info.source_sha256 == checkpoint.sha256
    assert info.source_file is not None
    assert (exported.folder / info.source_file).samefile(official)
    assert {"torch", "onnx", "onnxruntime", "psanet-serving"} <= info.built_with.keys()
    assert info.built_with["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_the_predictor_labels_alike_from_the_bundle_and_from_the_checkpoint(
    official: Path, exported: Exported
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    labels = []
    for model in (exported.folder, official):
        predictor = Predictor.open(model, threads=1)
        labels.append(predictor.predict(image, scales=(0.25,)).labels)
        predictor.close()
    assert labels[0].shape == (70, 110)
    assert (labels[0] == labels[1]).mean() > 0.999


def test_fp16_halves_the_file_and_keeps_a_float16_checkpoint_as_it_is(tmp_path: Path, official: Path) -> None:
    source = tmp_path / "psanet18_camvid.safetensors"
    save_safetensors(load_checkpoint(official), source)
    result = export_onnx(source, precision="fp16")
    assert result.size_bytes < 1.05 * source.stat().st_size
    assert result.comparison.max_logit_error < 1e-4
    assert read_bundle(result.folder).info.precision == "fp16"
    kinds = {
        item.data_type
        for item in onnx.load(result.folder / "model.onnx").graph.initializer
        if len(item.dims) > 3
    }
    assert kinds >= {onnx.TensorProto.FLOAT16}


def test_the_command_line_exports_an_official_checkpoint(official: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export.onnx", "--ckpt", str(official), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    figures = json.loads(line)
    assert list(figures) == [
        "bundle",
        "precision",
        "psa_form",
        "max_logit_error",
        "mean_logit_error",
        "label_agreement",
        "max_attention_error",
        "seconds",
        "bytes",
    ]
    assert (figures["precision"], figures["psa_form"]) == ("fp32", "pairs")
    assert figures["bundle"] == str(tmp_path / "out")
    assert figures["max_logit_error"] <= 2e-3
    assert figures["label_agreement"] >= 0.9999
    assert 0 < figures["max_attention_error"] < 1e-4
    assert figures["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert figures["seconds"] > 0
    assert "comparing with PyTorch" in run.stderr
    assert "Warning" not in run.stderr


def test_inline_leaves_standard_ops_alone_and_no_attention_logits_alone(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--inline", "--no-attention", "--precision", "fp16", "--out", str(out)]
    assert main(["--ckpt", str(official), *options]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["psa_form"], figures["max_attention_error"]) == ("inlined", None)
    info, model = read_bundle(out).info, onnx.load(out / "model.onnx")
    assert (info.psa_form, info.precision, info.outputs) == ("inlined", "fp16", ("logits",))
    assert [item.name for item in model.graph.output] == ["logits"]
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.onnx"]


def test_a_network_tested_on_whole_images_becomes_a_bundle_for_any_size(tmp_path: Path) -> None:
    network = tiny_network(tiny_config(**MMSEGMENTATION, crop_hw=(64, 64), mask_hw=(9, 9)))
    protocol = TestProtocol(base_size=96, base_short=64, name="mmsegmentation", mode="whole")
    checkpoint = save_own(network, tmp_path / "net.pth")
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "protocol": protocol.to_dict()}, checkpoint)
    result = export_onnx(checkpoint)
    info = read_bundle(result.folder).info
    assert (info.test_mode, info.protocol, info.base_size, info.base_short) == (
        "whole",
        "mmsegmentation",
        96,
        64,
    )
    assert (info.crop_hw, info.align_corners, info.psa_form) == ((64, 64), False, "pairs")
    image = np.random.default_rng(3).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    labels = []
    for model in (result.folder, checkpoint):
        predictor = Predictor.open(model, threads=1)
        labels.append(predictor.predict(image).labels)
        predictor.close()
    assert (labels[0] == labels[1]).mean() > 0.999


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_an_interruption_leave_the_old_bundle_as_it_was(
    stop: BaseException, official: Path, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported.folder, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_: object) -> None:
        raise stop

    monkeypatch.setattr(export.onnx, "write_model_json", fail)
    arguments = ["--ckpt", str(official), "--inline", "--out", str(out)]
    assert main(arguments) == (2 if isinstance(stop, OSError) else 130)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.fixture
def quick(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """The graph that `to_onnx` gives for the official checkpoint, without the wait; tests may spoil it."""
    model = onnx.load(exported.folder / "model.onnx")
    monkeypatch.setattr(export.build, "to_onnx", lambda network, **options: model)
    for name in ("export", "export.onnx"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    return model


@pytest.mark.usefixtures("quick")
def test_a_bundle_is_exported_anew_from_its_checkpoint(exported: Exported, tmp_path: Path) -> None:
    again = export_onnx(exported.folder, tmp_path / "again", precision="fp16")
    assert 0.45 < again.size_bytes / exported.size_bytes < 0.55
    assert again.comparison.label_agreement > 0.99
    first, second = read_bundle(exported.folder).info, read_bundle(again.folder).info
    assert (first.source_sha256, first.architecture) == (second.source_sha256, second.architecture)


@pytest.mark.parametrize("spoil", ["weight", "nan"])
def test_what_is_not_the_network_is_not_kept(
    spoil: str, quick: onnx.ModelProto, official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bias = next(item for item in quick.graph.initializer if item.name.endswith("cls.4.bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] = values[0] + 0.01 if spoil == "weight" else np.nan
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    out = tmp_path / "out"
    assert main(["--ckpt", str(official), "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("in fp32" if spoil == "weight" else "not finite") in captured.err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VerificationError):
        export_onnx(official, out)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_attention_that_is_not_the_networks_is_refused_in_fp32_and_told_of_in_fp16(
    precision: Any, quick: onnx.ModelProto, official: Path, tmp_path: Path
) -> None:
    graph = quick.graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["weights" if name == "attention_collect" else name for name in names]
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.9), "spoilt"))
    graph.node.append(onnx.helper.make_node("Mul", ["weights", "spoilt"], ["attention_collect"]))
    if precision == "fp32":
        with pytest.raises(VerificationError, match="attention is up to"):
            export_onnx(official, tmp_path / "out")
    else:
        error = export_onnx(official, tmp_path / "out", precision=precision).comparison.max_attention_error
        assert error is not None
        assert error > 0.01


@pytest.mark.usefixtures("quick")
def test_fp16_reports_where_fp32_would_fail(official: Path, quick: onnx.ModelProto, tmp_path: Path) -> None:
    bias = next(item for item in quick.graph.initializer if item.name.endswith("cls.4.bias"))
    values = onnx.numpy_helper.to_array(bias) + np.float32(0.01)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    result = export_onnx(official, tmp_path / "out", precision="fp16")
    assert 0.009 < result.comparison.max_logit_error < 0.05


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says on stderr when it ends with 2 and says nothing on stdout."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """A folder with one picture, of about the windows that the tiny network takes."""
    folder = tmp_path / "street"
    folder.mkdir()
    picture = sample_images((90, 120))[1].transpose(1, 2, 0)
    cv2.imwrite(str(folder / "0001.png"), picture.astype(np.uint8))
    return folder


@pytest.mark.usefixtures("quick")
def test_int8_is_a_third_of_the_size_inlined_and_compared_on_its_own_images(
    exported: Exported, official: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--precision", "int8", "--calib", str(street), "--out", str(out)]
    assert main(["--ckpt", str(official), *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["precision"], figures["psa_form"]) == ("int8", "inlined")
    assert 0.9 < figures["label_agreement"] < 1
    assert figures["bytes"] < 0.35 * exported.size_bytes
    bundle = read_bundle(out)
    assert (bundle.info.precision, bundle.info.psa_form) == ("int8", "inlined")
    assert bundle.info.outputs == ("logits", "attention_collect", "attention_distribute")
    assert 0 < figures["max_attention_error"] < 0.2
    assert not onnx.load(bundle.onnx_path).functions
    image = read_image(street / "0001.png")
    labels = [Predictor.open(model, threads=1).predict(image).labels for model in (out, exported.folder)]
    assert (labels[0] == labels[1]).mean() > 0.9


def test_int8_and_its_images_come_together(
    official: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        (["--precision", "int8"], "--precision int8 needs images to calibrate with: --calib FOLDER"),
        (["--calib", str(street)], "--calib goes with --precision int8: leave it out"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["--ckpt", str(official), "--out", str(tmp_path / "out"), *arguments])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(UnavailableError, match="--calib FOLDER"):
        export_onnx(official, tmp_path / "out", precision="int8")
    assert list(tmp_path.iterdir()) == [street]


@pytest.mark.usefixtures("quick")
def test_a_folder_without_a_readable_image_ends_with_2_and_leaves_nothing(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"not a picture")
    for name, said in (
        ("missing", "does not exist"),
        ("empty", "holds no image"),
        ("broken", "holds no image that can be read"),
    ):
        options = ["--precision", "int8", "--calib", str(tmp_path / name), "--out", str(tmp_path / "out")]
        assert said in failing(["--ckpt", str(official), *options], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "empty"]


def test_mistakes_end_with_2_and_the_mend(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    broken = tmp_path / "broken" / "net.pth"
    broken.parent.mkdir()
    broken.write_bytes(official.read_bytes()[:100_000])
    for arguments, said in (
        (["--ckpt", str(tmp_path / "missing.pth")], "no model"),
        (["--ckpt", str(broken)], "broken/net.pth cannot be read"),
        (["--ckpt", str(official), "--out", str(tmp_path)], "name another folder with --out"),
        (["--ckpt", str(official), "--dataset", "ade20k"], "the data set ade20k has 150"),
        (["--ckpt", str(official), "--dataset", "ade"], "unknown data set"),
        (["--ckpt", str(official), "--psa-type", "collect"], "two attention branches"),
    ):
        assert said in failing(arguments, capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "notes.txt"]
    assert [path.name for path in broken.parent.iterdir()] == ["net.pth"]
