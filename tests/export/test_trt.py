"""From a checkpoint to a TensorRT engine: real ones of TensorRT for RTX, built without a GPU; joining a
bundle, the cache, and everything that must leave nothing behind."""

import errno
import json
import logging
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

import export.trt
import export.trt_models
from export.build import build_model
from export.comparison import Comparison, sample_images
from export.errors import CalibrationError, OutputError, UnavailableError
from export.half import to_half
from export.output import add_plan
from export.quantize import quantize, to_symmetric
from export.trt import Exported, export_trt, main
from export.trt_models import Wanted
from export.trt_targets import choose_library, choose_targets
from inference.bundle import read_bundle
from inference.cache import Cache
from inference.engines import open_model
from inference.engines.tensorrt import Gpu
from inference.errors import EngineError
from inference.tensorrt_library import Library, Profile, Request, load_library
from models.checkpoint import build_from_checkpoint, load_checkpoint
from models.config import ModelConfig
from models.network import build_network
from models.options import ArchitectureOptions
from tests.export.tiny import save_official, tiny_config, tiny_network
from tests.inference.fake_tensorrt import World, fake_module

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
GPU = Gpu(0, "Made GPU", "sm89", 8 << 30)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bidirectional PSANet in the official format."""
    network = tiny_network(tiny_config(aux=True))
    return save_official(network, tmp_path_factory.mktemp("official") / "psanet18_camvid.pth")


@pytest.fixture(scope="module")
def tiny_model(checkpoint: Path) -> onnx.ModelProto:
    """Its ONNX file in float32."""
    return build_model(build_from_checkpoint(load_checkpoint(checkpoint)))


@pytest.fixture
def quick(tiny_model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> Iterator[onnx.ModelProto]:
    """That model in place of one exported anew; tests may spoil it."""
    model = onnx.ModelProto()
    model.CopyFrom(tiny_model)
    monkeypatch.setattr(export.trt_models, "build_model", lambda network, **options: model)
    level = logging.getLogger("export").level
    yield model
    logging.getLogger("export").setLevel(level)


@pytest.fixture(scope="module")
def exported(
    checkpoint: Path, tiny_model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """A bundle with its engine in float16, by the defaults."""
    folder = tmp_path_factory.mktemp("bundles")
    copy = onnx.ModelProto()
    copy.CopyFrom(tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.trt_models, "build_model", lambda network, **options: copy)
        return export_trt(checkpoint, folder / "bundle", wanted=Wanted(), cache=Cache(folder / "cache"))


class FakeBuilder:
    """A library whose plans are made at once; it counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str = "tensorrt_rtx 1.7") -> None:
        self.world, self.built = World(), 0
        runtime: Any = name.partition(" ")[0]
        self.library = Library(runtime, fake_module(name, self.world))
        builder = self.library.module.Builder
        original = builder.build_serialized_network

        def count(this: Any, network: Any, config: Any) -> Any:
            self.built += 1
            return original(this, network, config)

        builder.build_serialized_network = count
        monkeypatch.setattr(export.trt, "choose_library", lambda *args, **options: self.library)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    return FakeBuilder(monkeypatch)


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the comparison with PyTorch, which other tests make, for done."""
    good = Comparison(1e-6, 1e-7, 1.0, 1.0, True)
    monkeypatch.setattr(export.trt, "verify_model", lambda *arguments: good)


@without_gpu
def test_a_bundle_holds_the_engine_beside_a_model_for_any_runtime(
    exported: Exported, checkpoint: Path
) -> None:
    bundle = read_bundle(exported.folder)
    (plan,) = bundle.info.plans
    content = (exported.folder / plan.file).read_bytes()
    assert (plan.runtime, plan.precision, plan.max_batch, plan.psa_form) == (
        "tensorrt_rtx",
        "fp16",
        8,
        "function",
    )
    assert plan.target == "sm80+sm86+sm89+sm120+sm121", "without a GPU, all"
    assert len(content) == exported.size_bytes > 20_000_000
    assert (plan.verified, bundle.info.engine_verified) == (False, False)
    assert bundle.info.precision == "fp16"
    assert bundle.info.source_sha256 == load_checkpoint(checkpoint).sha256
    assert exported.comparison.label_agreement > 0.99
    assert exported.comparison.max_logit_error < 0.05
    engine = open_model(exported.folder)[1]
    assert engine.name == "onnxruntime"
    engine.close()
    assert not list(exported.folder.parent.glob(".*")), "nothing is left beside it"


@without_gpu
def test_another_engine_joins_a_bundle_of_the_same_network_and_one_of_its_kind_replaces_it(
    exported: Exported, quick: onnx.ModelProto, tmp_path: Path
) -> None:
    before = (exported.folder / "model.onnx").read_bytes()
    wanted = Wanted(precision="fp32", max_batch=2, target="sm86")
    result = export_trt(exported.folder, wanted=wanted)
    assert result.folder == exported.folder
    assert result.comparison.max_logit_error < 1e-4
    first, second = read_bundle(exported.folder).info.plans
    assert (first, second) == (exported.plan, result.plan)
    assert (exported.folder / "model.onnx").read_bytes() == before
    again = export_trt(exported.folder, wanted=Wanted(precision="fp32", max_batch=3, target="sm86"))
    assert read_bundle(exported.folder).info.plans == (exported.plan, again.plan)
    files = {path.name for path in exported.folder.iterdir()}
    assert files == {"model.onnx", "model.json", exported.plan.file, again.plan.file}


@without_gpu
def test_a_bundle_that_is_only_given_is_never_replaced(
    exported: Exported, quick: onnx.ModelProto, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in exported.folder.iterdir()}
    with pytest.raises(OutputError, match="read otherwise.*name another folder with --out"):
        export_trt(exported.folder, wanted=Wanted(), options=ArchitectureOptions(normalization_factor=2.0))
    assert {path.name: path.read_bytes() for path in exported.folder.iterdir()} == before


@pytest.mark.usefixtures("unverified")
def test_a_plan_is_built_once_for_the_same_of_everything(
    checkpoint: Path, quick: onnx.ModelProto, fake: FakeBuilder, tmp_path: Path
) -> None:
    cache, numbers = Cache(tmp_path / "cache"), iter(range(100))

    def build(**changes: Any) -> bool:
        wanted = Wanted(**({"precision": "fp32", "target": "sm86"} | changes))
        return export_trt(checkpoint, tmp_path / str(next(numbers)), wanted=wanted, cache=cache).cached

    assert [build(), build(), build(max_batch=4), build(target="sm86+sm89"), build()] == [0, 1, 0, 0, 1]
    fake.library.module.__version__ = "1.7.2.0"
    assert not build(), "another version of the library builds anew"
    bias = next(item for item in quick.graph.initializer if item.name.endswith("cls.4.bias"))
    values = onnx.numpy_helper.to_array(bias) + 1e-6
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    assert not build(), "so do other weights"
    assert fake.built == 5
    assert not list((tmp_path / "cache").glob("timing-*")), "RTX measures nothing when it builds"


@pytest.mark.usefixtures("unverified")
def test_tensorrt_keeps_timings_by_version_and_gpu(
    checkpoint: Path, quick: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeBuilder(monkeypatch, "tensorrt 11.4")
    monkeypatch.setattr(export.trt, "verify_plan", lambda info, plan, *others: verified.append(plan) or ok)
    ok, verified = object(), []  # type: ignore[var-annotated]
    cache = Cache(tmp_path / "cache")
    for number, name in enumerate(("GPU A", "GPU A", "GPU B")):
        monkeypatch.setattr(export.trt, "find_gpu", lambda name=name: Gpu(0, name, "sm89", 8 << 30))
        wanted = Wanted(precision="fp32", max_batch=number + 1)
        result = export_trt(checkpoint, tmp_path / str(number), wanted=wanted, cache=cache)
        assert (result.plan.target, result.plan.verified, result.plan.runtime) == ("sm89", True, "tensorrt")
    assert [config._cache._content for config in fake.world.configs] == [b"", b"+", b""]
    assert len(list((tmp_path / "cache").glob("timing-*"))) == 2
    assert len(verified) == 3


def test_the_command_prints_one_json_line(
    checkpoint: Path,
    quick: onnx.ModelProto,
    fake: FakeBuilder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--ckpt", str(checkpoint), "--out", str(tmp_path / "out"), "--no-cache", "--max-batch", "3"]
    assert main([*arguments, "--target", "sm86+sm120"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert figures["bundle"] == str(tmp_path / "out")
    assert (figures["target"], figures["max_batch"]) == ("sm86+sm120", 3)
    assert (figures["engine_verified"], figures["compared"]) == (False, "onnx")
    assert figures["label_agreement"] > 0.99
    assert 0 < figures["mean_logit_error"] <= figures["max_logit_error"] < 0.05
    assert (tmp_path / "out" / figures["plan"]).stat().st_size == figures["bytes"]


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """What the command says on stderr when it ends with `code` and says nothing on stdout."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.usefixtures("unverified")
@without_gpu
def test_mistakes_end_with_2_and_the_mend(
    checkpoint: Path, quick: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        (["--max-batch", "0"], "--max-batch must be between 1 and 256, not 0"),
        (["--max-batch", "-3"], "--max-batch must be between 1 and 256"),
        (["--dataset", "ade20k"], "the data set ade20k has 150"),
        (
            ["--target", "sm90"],
            "does not build for sm90: --target takes current, all, and one or more of sm75",
        ),
        (["--target", "current"], "no GPU for --target current"),
        (["--runtime", "tensorrt"], "TensorRT is not installed: pip install tensorrt"),
        (["--plugin", "--runtime", "tensorrt_rtx"], "plugins need TensorRT proper"),
        (["--plugin"], "with an NVIDIA GPU; or leave --plugin out"),
        (["--precision", "int8"], "--calib FOLDER"),
        (["--psa-type", "collect"], "two attention branches"),
    ):
        message = failing(["--ckpt", str(checkpoint), "--out", str(tmp_path / "out"), *arguments], capsys)
        assert said in message, arguments
    assert "no model" in failing(["--ckpt", str(tmp_path / "missing.pth")], capsys)
    with pytest.raises(SystemExit) as exit_:
        main(["--ckpt", str(checkpoint), "--max-batch", "many"])
    assert exit_.value.code == 2
    assert list(tmp_path.iterdir()) == []


def fails_with(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


@pytest.mark.usefixtures("unverified")
def test_a_build_that_fails_or_is_interrupted_leaves_nothing(
    checkpoint: Path,
    quick: onnx.ModelProto,
    fake: FakeBuilder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [
        "--ckpt",
        str(checkpoint),
        "--out",
        str(tmp_path / "out"),
        "--precision",
        "fp32",
        "--no-cache",
    ]
    fake.world.fails = True
    assert "could not build an engine: out of everything" in failing(arguments, capsys)
    fake.world.fails, fake.world.endless = False, True
    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", interrupted_once())
        assert "interrupted; nothing was written" in failing(arguments, capsys, code=130)
    assert list(tmp_path.iterdir()) == []


def interrupted_once() -> Callable[..., bool]:
    """A `wait` that Ctrl-C comes into the first time, once the build runs."""
    wait, times = threading.Event.wait, iter([True])

    def interrupted(self: threading.Event, timeout: float | None = None) -> bool:
        if (
            timeout is not None
            and threading.current_thread() is threading.main_thread()
            and next(times, False)
        ):
            signal.raise_signal(signal.SIGINT)
        return wait(self, timeout)

    return interrupted


def test_a_full_disk_leaves_nothing(
    checkpoint: Path,
    quick: onnx.ModelProto,
    fake: FakeBuilder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        "--ckpt",
        str(checkpoint),
        "--out",
        str(tmp_path / "out"),
        "--precision",
        "fp32",
        "--no-cache",
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond that: what a full disk does, for one process.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        message = failing(arguments, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["write_atomically", "write_model_json"])
def test_a_disk_that_is_full_when_an_engine_joins_leaves_the_bundle_as_it_was(
    step: str, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in exported.folder.iterdir()}
    monkeypatch.setattr(f"export.output.{step}", fails_with(OSError(errno.ENOSPC, "No space left on device")))
    plan = exported.plan.__class__(**{**vars(exported.plan), "file": "new.plan"})
    with pytest.raises(OutputError, match="No space left"):
        add_plan(read_bundle(exported.folder), plan, b"new")
    assert {path.name: path.read_bytes() for path in exported.folder.iterdir()} == before


def test_what_is_not_the_network_is_not_kept(
    checkpoint: Path,
    quick: onnx.ModelProto,
    fake: FakeBuilder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bias = next(item for item in quick.graph.initializer if item.name.endswith("cls.4.bias"))
    values = onnx.numpy_helper.to_array(bias) + 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    out = tmp_path / "out"
    message = failing(["--ckpt", str(checkpoint), "--out", str(out), "--precision", "fp32"], capsys, code=1)
    assert "the result was not kept" in message
    assert fake.built == 0
    assert not out.exists()


@pytest.mark.usefixtures("unverified")
def test_activations_beyond_float16_are_refused(
    checkpoint: Path,
    quick: onnx.ModelProto,
    fake: FakeBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export.trt_models, "largest_activation", lambda model, images: 7e4)
    with pytest.raises(UnavailableError, match=r"activations reach 7e\+04 .*choose --precision fp32"):
        export_trt(checkpoint, tmp_path / "out", wanted=Wanted())


@pytest.mark.usefixtures("unverified")
def test_activations_near_the_end_of_float16_are_told_of(
    checkpoint: Path,
    quick: onnx.ModelProto,
    fake: FakeBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for peak, told in ((1e4, False), (3e4, True)):
        monkeypatch.setattr(export.trt_models, "largest_activation", lambda model, images, peak=peak: peak)
        export_trt(checkpoint, tmp_path / "out", wanted=Wanted())
        assert ("near the end of float16" in caplog.text) == told


def test_targets_are_what_the_library_and_the_gpu_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = Library("tensorrt_rtx", fake_module("tensorrt_rtx 1.7", World()))
    proper = Library("tensorrt", fake_module("tensorrt 10.13", World()))
    hopper = Gpu(0, "Made Hopper", "sm90", 8 << 30)
    for library, target, gpu, requested, written in (
        (rtx, None, None, ("sm80", "sm86", "sm89", "sm120", "sm121"), "sm80+sm86+sm89+sm120+sm121"),
        (rtx, None, GPU, ("sm89",), "sm89"),
        (rtx, "current", hopper, ("current",), "sm90"),
        (rtx, "sm75", GPU, ("sm75",), "sm75"),
        (rtx, "SM120+sm86", None, ("sm120", "sm86"), "sm120+sm86"),
        (proper, None, GPU, (), "sm89"),
        (proper, "sm90", hopper, (), "sm90"),
    ):
        found = choose_targets(library, target, gpu)
        assert (found.requested, found.written) == (requested, written)
    for target, gpu, said in ((None, None, "--runtime tensorrt_rtx"), ("all", GPU, "leave --target out")):
        with pytest.raises(UnavailableError, match=said):
            choose_targets(proper, target, gpu)
    for target, said in (
        ("all+sm80", "'all' stands alone, not in 'all.sm80': --target takes .* sm75, sm80"),
        ("sm80+current", "'current' stands alone"),
        ("", "a target is missing in '': --target takes current, all, and one or more of sm75, sm80"),
        ("sm80+", "a target is missing in 'sm80.'"),
    ):
        with pytest.raises(UnavailableError, match=said):
            choose_targets(rtx, target, None)


def test_auto_is_tensorrt_on_its_own_gpu_and_rtx_for_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = Library("tensorrt_rtx", fake_module("tensorrt_rtx 1.7", World()))
    proper = Library("tensorrt", fake_module("tensorrt 10.13", World()))
    monkeypatch.setattr("export.trt_targets.available", lambda: (proper, rtx))
    for gpu, target, expected in (
        (GPU, None, proper),
        (GPU, "sm89", proper),
        (GPU, "sm120", rtx),
        (GPU, "all", rtx),
        (None, None, rtx),
    ):
        assert choose_library("auto", gpu=gpu, target=target, plugin=False) is expected
    monkeypatch.setattr("export.trt_targets.available", lambda: ())
    with pytest.raises(
        EngineError, match="neither TensorRT nor TensorRT for RTX is installed: run make setup"
    ):
        choose_library("auto", gpu=GPU, target=None, plugin=False)


@without_gpu
def test_an_int8_engine_is_calibrated_on_the_folder(
    checkpoint: Path, quick: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calib = tmp_path / "images"
    calib.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        cv2.imwrite(str(calib / f"{seed}.png"), cv2.blur(pixels, (5, 5)))
    seen: list[int] = []

    def build(network: Any, *, precision: str, calibration: Any, any_size: bool) -> onnx.ModelProto:
        images = list(calibration)
        seen.append(len(images))
        return quantize(quick, images)

    monkeypatch.setattr(export.trt_models, "build_model", build)
    wanted = Wanted(precision="int8", calib=calib, max_batch=2, target="sm86")
    result = export_trt(checkpoint, tmp_path / "out", wanted=wanted)
    assert seen[0] >= 3
    assert (result.plan.precision, result.plan.psa_form) == ("int8", "inlined")
    assert result.size_bytes < 18_000_000
    assert result.comparison.label_agreement > 0.9
    empty = tmp_path / "empty"
    empty.mkdir()
    wanted = Wanted(precision="int8", calib=empty, target="sm86")
    with pytest.raises(CalibrationError):
        export_trt(checkpoint, tmp_path / "no", wanted=wanted)
    assert not (tmp_path / "no").exists()


@pytest.mark.timeout(600)
def test_engines_of_psanet50_in_float16_and_int8_are_built_without_a_gpu() -> None:
    """465x465, 150 classes: the size of ADE20K. Random weights cost what trained ones do."""
    torch.manual_seed(0)
    config = ModelConfig(depth=50, classes=150, crop_hw=(465, 465), aux=False)
    model = build_model(build_network(config).eval())
    library, one = load_library("tensorrt_rtx"), (3, 465, 465)
    request = Request(Profile((1, *one), (4, *one), (8, *one)), ("sm80", "sm89"))
    int8 = to_symmetric(quantize(model, [sample_images((465, 465))[1:]]))
    for typed, least, most in ((to_half(model), 90e6, 120e6), (to_half(int8), 50e6, 75e6)):
        plan = library.build(typed.SerializeToString(), request)
        assert least < len(plan.content) < most


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: engines were built but not run")
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-3), ("fp16", 5e-2)])
def test_an_engine_is_run_and_compared_on_the_gpu(
    precision: Any, most: float, checkpoint: Path, quick: onnx.ModelProto, tmp_path: Path
) -> None:
    wanted = Wanted(precision=precision, max_batch=3, target="current")
    result = export_trt(checkpoint, tmp_path / "out", wanted=wanted, cache=Cache(tmp_path / "cache"))
    assert result.plan.verified
    assert result.comparison.max_logit_error < most
    engine = open_model(result.folder, engine="tensorrt", device="cuda")[1]
    images = sample_images((65, 65)).repeat(2, 0)[:3]
    expected = engine.infer(images)
    for count in (1, 3, 2, 3, 3, 1):
        np.testing.assert_allclose(engine.infer(images[:count]), expected[:count], atol=most)
    engine.close()
