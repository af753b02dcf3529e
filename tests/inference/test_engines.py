"""Engines: what they compute, what they open, and what they say when they cannot."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from inference.bundle import ModelInfo, read_bundle, write_model_json
from inference.engines import open_model
from inference.engines.onnxruntime import OnnxRuntimeEngine, _providers
from inference.engines.pytorch import PyTorchEngine
from inference.errors import BundleError, EngineError, ParameterError
from inference.predictor import Predictor
from models.checkpoint import CheckpointError, load_checkpoint
from models.config import MMSEGMENTATION, ModelConfig
from tests.export.tiny import save_official, save_own, tiny_config, tiny_network
from tests.inference.fakes import made_info
from tests.mmseg_oracle import mmsegmentation_probabilities, mmsegmentation_views
from tests.oracle import published_probabilities

ROOT = Path(__file__).resolve().parents[2]


def made_model(
    *, classes: int = 5, side: int | str = 33, name: str = "logits", kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """One convolution at stride 8; `side` of the images, a name leaves it open."""
    sides = [side, side] if isinstance(side, int) else [f"{side}_h", f"{side}_w"]
    coarse = [(side - 1) // 8 + 1 if isinstance(side, int) else f"coarse_{side}" for side in sides]
    weights = np.random.default_rng(0).normal(0, 0.02, (classes, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["pixels", "w"], [name], strides=[8, 8], pads=[1, 1, 1, 1]),
        ],
        "made",
        [helper.make_tensor_value_info("image", kind, ["N", 3, *sides])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes, *coarse])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def make_bundle(folder: Path, info: ModelInfo | None = None, **model: Any) -> Path:
    folder.mkdir()
    write_model_json(folder, info or made_info())
    onnx.save(made_model(**model), folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny PSANet in the official format."""
    folder = tmp_path_factory.mktemp("official")
    return save_official(tiny_network(tiny_config(aux=True)), folder / "psanet18_camvid.pth")


def some_images(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 255, (count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("side", [33, "side"])
def test_onnx_runtime_runs_any_number_of_images(tmp_path: Path, side: int | str) -> None:
    info, engine = open_model(make_bundle(tmp_path / "b", side=side), threads=1)
    assert info == made_info()
    assert (engine.name, engine.device, engine.max_batch) == ("onnxruntime", "cpu", None)
    assert (engine.crop_hw, engine.coarse_hw) == ((33, 33), (5, 5))
    images = some_images(3, 33)
    assert engine.to_device(images) is images
    logits = engine.infer(images)
    assert (logits.shape, logits.dtype) == ((3, 5, 5, 5), np.float32)
    np.testing.assert_allclose(engine.infer(images[1:2]), logits[1:2], atol=1e-5)
    np.testing.assert_allclose(engine.infer(images[..., ::-1])[..., ::-1].shape, logits.shape)


def mmsegmentation_info(**changes: Any) -> ModelInfo:
    values: dict[str, Any] = {
        "protocol": "mmsegmentation",
        "test_mode": "whole",
        "base_size": 96,
        "base_short": 48,
        "align_corners": False,
    }
    return made_info(**(values | changes))


def mmsegmentation_config(crop_hw: tuple[int, int]) -> ModelConfig:
    sizes: dict[str, Any] = {"depth": 18, "classes": 5, "crop_hw": crop_hw, "mask_hw": (7, 7)}
    return ModelConfig(**sizes, **MMSEGMENTATION, head_width=8, aux=False)


@pytest.mark.parametrize("test_mode", ["whole", "sliding"])
def test_onnx_runtime_runs_images_of_any_size_by_mmsegmentations_protocol(
    tmp_path: Path, test_mode: str
) -> None:
    info = mmsegmentation_info(test_mode=test_mode)
    predictor = Predictor.open(make_bundle(tmp_path / "b", info, side="side"), threads=1)
    assert predictor.engine.crop_hw is None
    assert predictor.engine.infer(some_images(2, 70)[:, :, :9]).shape == (2, 5, 2, 9)
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    found = predictor.predict(image, scales=(0.5, 1.0), flip=True, probabilities=True)
    views = mmsegmentation_views(
        predictor.engine.infer,
        image,
        long_side=96,
        short_side=48,
        crop_hw=None if test_mode == "whole" else (33, 33),
        scales=(0.5, 1.0),
        flip=True,
    )
    np.testing.assert_allclose(found.probabilities, mmsegmentation_probabilities(views), atol=1e-5)


def test_opening_a_model_of_whole_images_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeEngine, "infer", lambda *_: pytest.fail("it ran an image"))
    _, engine = open_model(make_bundle(tmp_path / "b", mmsegmentation_info(), side="side"))
    assert engine.coarse_hw == (5, 5)


def test_a_file_of_one_size_is_no_model_of_whole_images_but_one_of_windows(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"\[33, 33\].*whole images.*export the checkpoint anew"):
        open_model(make_bundle(tmp_path / "whole", mmsegmentation_info()))
    _, engine = open_model(make_bundle(tmp_path / "sliding", mmsegmentation_info(test_mode="sliding")))
    assert engine.crop_hw == (33, 33)


def test_cuda_does_not_tune_itself_for_every_size_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    for any_size, search in ((True, "HEURISTIC"), (False, None)):
        (name, options), rest = _providers("cuda:2", any_size=any_size)
        assert (name, rest) == ("CUDAExecutionProvider", "CPUExecutionProvider")
        assert (options["device_id"], options["use_tf32"]) == (2, 0)
        assert options.get("cudnn_conv_algo_search") == search


@pytest.mark.parametrize("test_mode", ["whole", "sliding"])
def test_pytorch_runs_mmsegmentations_network_on_images_of_any_size(test_mode: str) -> None:
    network = tiny_network(mmsegmentation_config((64, 80)))
    engine = PyTorchEngine(network)
    assert (engine.crop_hw, engine.coarse_hw) == (None, (8, 10))
    info = mmsegmentation_info(architecture=network.config, test_mode=test_mode, crop_hw=(64, 80))
    image = np.random.default_rng(1).integers(0, 256, (61, 140, 3), np.uint8)
    found = Predictor(info, engine).predict(image, scales=(1.0, 2.0), flip=True, probabilities=True)

    def whole_logits(images: np.ndarray) -> np.ndarray:
        """Of the images' size, so that nothing is left to resample."""
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    views = mmsegmentation_views(
        whole_logits,
        image,
        long_side=96,
        short_side=48,
        crop_hw=None if test_mode == "whole" else (64, 80),
        scales=(1.0, 2.0),
        flip=True,
    )
    np.testing.assert_allclose(found.probabilities, mmsegmentation_probabilities(views), atol=1e-4)


def test_an_image_too_narrow_for_the_network_is_refused_before_it_runs() -> None:
    config = mmsegmentation_config((64, 64))
    predictor = Predictor(mmsegmentation_info(architecture=config), PyTorchEngine(tiny_network(config)))
    with pytest.raises(ParameterError, match="too narrow.*larger base_size"):
        predictor.predict(np.zeros((1, 300, 3), np.uint8))
    assert predictor.predict(np.zeros((30, 300, 3), np.uint8)).labels.shape == (30, 300)


def test_onnx_runtime_and_the_stitching_give_the_published_probabilities(tmp_path: Path) -> None:
    predictor = Predictor.open(make_bundle(tmp_path / "b"))
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    found = predictor.predict(image, scales=(0.5, 1.0), flip=True, probabilities=True)
    expected = published_probabilities(
        predictor.engine.infer,
        image,
        crop_hw=(33, 33),
        base_size=60,
        mean_rgb=predictor.info.mean_rgb,
        scales=(0.5, 1.0),
        flip=True,
    )
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    predictor.close()
    with pytest.raises(EngineError, match="closed"):
        predictor.predict(image)


def test_threads_may_share_a_session(tmp_path: Path) -> None:
    _, engine = open_model(make_bundle(tmp_path / "b"))
    images = some_images(8, 33)
    expected = engine.infer(images)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: engine.infer(images[index : index + 1]), range(8)))
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a\x12\x00", "half"])
def test_a_broken_model_file_is_a_bundle_error(tmp_path: Path, content: bytes | str) -> None:
    path = make_bundle(tmp_path / "b") / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if isinstance(content, str) else content)
    with pytest.raises(BundleError, match=r"model\.onnx.*export the checkpoint anew"):
        open_model(path.parent)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"classes": 4}, "classes 4 and its model.json says 5"),
        ({"side": 41}, "crop height 41 and its model.json says 33"),
        ({"name": "scores"}, "in place of image and logits"),
        ({"kind": TensorProto.UINT8}, "uint8"),
    ],
)
def test_a_model_file_of_another_model_is_a_bundle_error(
    tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        open_model(make_bundle(tmp_path / "b", **model))


def test_cuda_that_is_not_there_is_an_error_not_the_cpu(tmp_path: Path, official: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="--device cpu"):
        open_model(make_bundle(tmp_path / "b"), device="cuda")
    with pytest.raises(EngineError, match="--device cpu"):
        open_model(official, device="cuda:1")


@pytest.mark.parametrize(
    "options",
    [{"engine": "openvino"}, {"device": "tpu"}, {"device": "cuda:x"}, {"threads": 0}, {"threads": 1025}],
)
def test_unknown_choices_say_what_there_is(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"choose|between 1 and 1024"):
        open_model(make_bundle(tmp_path / "b"), **options)


def test_tensorrt_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="TensorRT runs on an NVIDIA GPU: choose --device cuda"):
        open_model(make_bundle(tmp_path / "b"), engine="tensorrt")


def test_options_for_checkpoints_are_refused_for_bundles(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="leave out the data set"):
        open_model(make_bundle(tmp_path / "b"), dataset="camvid")


def test_a_checkpoint_runs_in_pytorch_and_describes_itself(official: Path) -> None:
    info, engine = open_model(official, threads=torch.get_num_threads())
    assert (engine.name, engine.device, engine.crop_hw, engine.coarse_hw) == (
        "torch",
        "cpu",
        (65, 65),
        (9, 9),
    )
    assert (info.name, info.dataset, info.classes, info.base_size) == ("psanet18_camvid", "camvid", 11, 480)
    assert (info.crop_hw, info.precision, info.source_sha256) == (
        (65, 65),
        "fp32",
        load_checkpoint(official).sha256,
    )
    images = some_images(2, 65)
    logits = engine.infer(engine.to_device(images))
    assert isinstance(logits, np.ndarray)
    network = tiny_network(tiny_config(aux=True))
    with torch.no_grad():
        expected = network.coarse_logits(torch.from_numpy(images))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    as_tensor = engine.infer(torch.from_numpy(images))
    assert isinstance(as_tensor, torch.Tensor)
    assert not as_tensor.requires_grad
    with pytest.raises(EngineError, match=r"PyTorch failed on \(1, 4, 65, 65\)"):
        engine.infer(np.zeros((1, 4, 65, 65), np.float32))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images)


def test_the_predictor_gives_the_networks_own_probabilities_on_one_window(official: Path) -> None:
    predictor = Predictor.open(official)
    image = np.random.default_rng(5).integers(0, 256, (65, 65, 3), np.uint8)
    found = predictor.predict(image, base_size=65, probabilities=True)
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        expected = tiny_network(tiny_config(aux=True))(pixels).softmax(1)[0]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-4)


def test_onnx_runtime_on_a_checkpoint_says_to_export_it(official: Path) -> None:
    with pytest.raises(EngineError, match=r"python -m export\.onnx --ckpt"):
        open_model(official, engine="onnxruntime")


def test_a_file_that_is_no_checkpoint_is_the_loaders_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"not one")
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        open_model(path)


@pytest.mark.parametrize("labels", ["camvid", "my streets"])
def test_pytorch_runs_a_bundles_source_where_it_still_lies(tmp_path: Path, labels: str) -> None:
    checkpoint = save_own(tiny_network(tiny_config()), tmp_path / "source.pth")
    read, _ = open_model(checkpoint)
    info = made_info(
        11,
        (65, 65),
        name="mine",
        architecture=read.architecture,
        dataset=labels,
        source_file="../source.pth",
        source_sha256=read.source_sha256,
    )
    folder = make_bundle(tmp_path / "b", info, classes=11, side=65)
    found, engine = open_model(folder, engine="torch")
    assert found == info
    assert engine.name == "torch"
    checkpoint.write_bytes(save_own(tiny_network(tiny_config(), seed=1), tmp_path / "new.pth").read_bytes())
    with pytest.raises(EngineError, match="sha256 differs"):
        open_model(folder, engine="torch")
    checkpoint.unlink()
    with pytest.raises(EngineError, match=r"no PyTorch weights.*source\.pth.*--engine onnxruntime"):
        open_model(folder, engine="torch")
    assert read_bundle(folder).info == info


@pytest.mark.parametrize(("module", "mend"), [("torch", "make setup"), ("onnxruntime", "make setup")])
def test_a_library_that_is_not_installed_is_named_with_the_mend(
    tmp_path: Path, official: Path, module: str, mend: str
) -> None:
    model = official if module == "torch" else make_bundle(tmp_path / "b")
    code = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "from inference.engines import open_model\n"
        "from inference.errors import EngineError\n"
        "try:\n"
        f"    open_model({str(model)!r})\n"
        "except EngineError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert "is not installed" in run.stdout
    assert mend in run.stdout


def test_a_bundle_is_served_without_torch(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b")
    code = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None\n"
        "from inference.predictor import Predictor\n"
        f"predictor = Predictor.open({str(tmp_path / 'b')!r})\n"
        "found = predictor.predict(np.zeros((40, 60, 3), np.uint8), flip=True)\n"
        "print(found.labels.shape, 'torch' in sys.modules and sys.modules['torch'])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == "(40, 60) None"


@pytest.mark.parametrize("module", ["inference.engines.onnxruntime", "export.build"])
def test_onnx_runtime_keeps_no_telemetry(tmp_path: Path, module: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = f"import sys, {module}; print('onnxruntime' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, **places},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert run.stdout.strip() == "True"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_pytorch_on_a_gpu_gives_the_labels_of_the_cpu(official: Path) -> None:
    image = np.random.default_rng(7).integers(0, 256, (100, 150, 3), np.uint8)
    options: dict[str, Any] = {"scales": (0.5, 1.0), "flip": True, "base_size": 150, "probabilities": True}
    on_cpu = Predictor.open(official).predict(image, **options)
    on_gpu = Predictor.open(official, device="cuda", precision="fp32").predict(image, **options)
    assert (on_cpu.labels == on_gpu.labels).mean() > 0.999
    np.testing.assert_allclose(on_gpu.probabilities, on_cpu.probabilities, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_gpu_is_near_and_runs_as_a_graph_in_any_batch(
    official: Path, precision: str
) -> None:
    exact = open_model(official, device="cuda", precision="fp32")[1]
    engine = open_model(official, device="cuda", precision=precision)[1]
    assert isinstance(engine, PyTorchEngine)
    for count in (1, 8, 13, 2, 13):
        images = torch.from_numpy(some_images(count, 65)).cuda()
        logits, expected = engine.infer(images), exact.infer(images)
        assert isinstance(logits, torch.Tensor)
        assert (logits.dtype, logits.shape) == (torch.float32, expected.shape)
        tolerance = {"fp16": 0.05, "bf16": 0.4}[precision]
        assert float((logits - expected).abs().max() / expected.std()) < tolerance
    assert "graph" in engine.form(8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_threads_may_share_graphs(official: Path) -> None:
    engine = open_model(official, device="cuda", precision="fp16")[1]
    images = torch.from_numpy(some_images(8, 65)).cuda()
    expected = [engine.infer(images[index : index + 1]).clone() for index in range(8)]

    def on_a_stream_of_its_own(index: int) -> torch.Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            return engine.infer(images[index % 8 : index % 8 + 1]).cpu()

    torch.cuda.synchronize()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(on_a_stream_of_its_own, range(40)))
    for index, logits in enumerate(found):
        torch.testing.assert_close(logits, expected[index % 8].cpu(), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"precision": "bf16"}, {"compiled": True}])
def test_half_precision_and_compiling_are_refused_on_a_cpu(official: Path, options: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="on a GPU alone here: choose --device cuda"):
        open_model(official, **options)
    with pytest.raises(ParameterError, match="leave out precision"):
        open_model("psanet18_camvid", **options)


def test_an_unknown_precision_says_what_there_is(official: Path) -> None:
    with pytest.raises(ParameterError, match="auto, fp32, fp16, bf16"):
        open_model(official, precision="int4")
