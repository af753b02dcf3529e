"""The TensorRT engine's own work, on stand-ins for the GPU and for the libraries (`fake_tensorrt`): buffers,
graphs, which plan is taken, and every refusal. What a GPU computes is for a GPU to show (docs/gpu.md)."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.bundle import PlanInfo, read_bundle, write_model_json
from inference.engines import graphs, open_model
from inference.engines import tensorrt as engine_module
from inference.engines.tensorrt import Gpu, TensorRTEngine
from inference.errors import BundleError, EngineError
from inference.predictor import Predictor
from inference.tensorrt_library import Library
from tests.inference.fake_tensorrt import HostDevice, World, expected_logits, fake_module, made_plan
from tests.inference.fakes import made_info
from tests.inference.tensorrt_record import recorded

NAMES = tuple(recorded())
GPU = Gpu(0, "Made GPU", "sm89", 8 << 30)


class Machine:
    """A machine with one GPU and one library, and a bundle with one plan."""

    def __init__(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.folder = World(), folder
        self.runtime: Any = name.partition(" ")[0]
        self.library = Library(self.runtime, fake_module(name, self.world))
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"not looked at")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
        monkeypatch.setattr(engine_module, "find_gpu", lambda device="cuda": GPU)
        monkeypatch.setattr(engine_module, "CudaDevice", HostDevice)
        monkeypatch.setattr(engine_module, "load_library", self.load)
        self.put()

    def load(self, runtime: str) -> Library:
        if runtime != self.runtime:
            raise EngineError(f"{runtime} is not installed")
        return self.library

    def put(
        self, content: bytes | None = None, *, info: dict[str, Any] | None = None, **changes: Any
    ) -> PlanInfo:
        """Writes the plan, and model.json that tells of it, changed as asked."""
        content = made_plan((1, 3, 33, 33), (4, 3, 33, 33)) if content is None else content
        (self.folder / "a.plan").write_bytes(content)
        values: dict[str, Any] = {
            "file": "a.plan", "runtime": self.runtime, "runtime_version": self.library.version,
            "target": "sm86+sm89", "precision": "fp16", "max_batch": 4, "psa_form": "function",
            "sha256": hashlib.sha256(content).hexdigest(), "verified": False,
        }  # fmt: skip
        plan = PlanInfo(**(values | changes))
        write_model_json(self.folder, made_info(plans=(plan,), **(info or {})))
        return plan

    def open(self) -> TensorRTEngine:
        engine = open_model(self.folder, engine="tensorrt", device="cuda")[1]
        assert isinstance(engine, TensorRTEngine)
        return engine

    def captures(self, engine: TensorRTEngine) -> int:
        captures: int = engine._device.captures
        return captures


@pytest.fixture(params=NAMES)
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(request.param, tmp_path / "bundle", monkeypatch)


@pytest.fixture
def rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(NAMES[-1], tmp_path / "bundle", monkeypatch)


@pytest.fixture
def proper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(NAMES[0], tmp_path / "bundle", monkeypatch)


def some_images(count: int, height: int = 33, width: int = 33) -> np.ndarray:
    return np.random.default_rng(count).uniform(0, 255, (count, 3, height, width)).astype(np.float32)


def test_a_plan_gives_logits_for_any_batch_again_and_again(machine: Machine) -> None:
    engine = machine.open()
    assert (engine.name, engine.device, engine.crop_hw, engine.coarse_hw) == (
        "tensorrt",
        "cuda",
        (33, 33),
        (5, 5),
    )
    assert (engine.max_batch, engine.preferred_batch) == (4, 2)
    for count in (1, 4, 2, 1, 1, 4, 3, 4, 4, 1):
        images = some_images(count)
        logits = engine.infer(images)
        assert isinstance(logits, np.ndarray)
        np.testing.assert_allclose(logits, expected_logits(images), rtol=1e-5)
        images[:] = 0
        assert logits.any(), "what was given may be written to"


def test_torch_in_torch_out_in_memory_of_its_own(machine: Machine) -> None:
    engine = machine.open()
    images = some_images(2)
    first = engine.infer(engine.to_device(images))
    kept = first.clone()  # type: ignore[union-attr]
    engine.infer(engine.to_device(some_images(2) * 0))
    assert isinstance(first, torch.Tensor)
    assert torch.equal(first, kept), "the next call does not write into the last one's result"
    np.testing.assert_allclose(first.numpy(), expected_logits(images), rtol=1e-5)


def test_tensorrt_captures_a_graph_on_the_second_call_of_a_batch_in_a_context_of_its_own(
    proper: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    engine, world = proper.open(), proper.world
    for count, captures in ((1, 0), (1, 1), (1, 1), (3, 1), (1, 1), (3, 2)):
        engine.infer(some_images(count))
        assert proper.captures(engine) == captures
    _, *own = world.contexts
    assert [context._shape[0] for context in own] == [1, 3]
    # A captured context is left alone.
    assert [context._changed for context in own] == [1, 1]
    strategy = proper.library.module.ExecutionContextAllocationStrategy.USER_MANAGED
    assert {context._argument for context in world.contexts} == {strategy}
    assert len({context._memory for context in world.contexts}) == 1, "they share their working memory"


def test_tensorrt_gives_the_context_of_the_batch_used_longest_ago_to_a_new_one(
    proper: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    engine, world = proper.open(), proper.world
    for count in (1, 1, 3, 3, 1, 4, 4, 1):
        images = some_images(count)
        np.testing.assert_allclose(engine.infer(images), expected_logits(images), rtol=1e-5)
    assert [context._shape[0] for context in world.contexts[1:]] == [1, 4]
    assert proper.captures(engine) == 3, "of 1, 3 and 4"


def test_an_error_says_what_the_library_said_last_and_not_of_a_call_long_gone(rtx: Machine) -> None:
    engine = rtx.open()
    loaded = engine._loaded
    assert loaded is not None
    for count in range(100):
        loaded.recorder._take(True, f"old {count}")
    assert len(loaded.recorder._errors) < 10
    engine.infer(some_images(1))
    assert loaded.recorder.reason == "it did not say why"


def test_a_graph_that_cannot_be_captured_is_done_without(
    proper: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: HostDevice, work: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(HostDevice, "capture", fail)
    engine = proper.open()
    for _ in range(4):
        images = some_images(2)
        np.testing.assert_allclose(engine.infer(images), expected_logits(images), rtol=1e-5)
    assert caplog.text.count("without a CUDA graph") == 1


def test_rtx_has_graphs_of_its_own_and_keeps_compiled_kernels(rtx: Machine) -> None:
    engine = rtx.open()
    for _ in range(3):
        engine.infer(some_images(2))
    (context,) = rtx.world.contexts
    assert context._argument.cuda_graph_strategy == rtx.library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert context._runs == 3
    assert rtx.captures(engine) == 0
    assert rtx.world.kernels_taken == []
    engine.close()
    rtx.open()
    assert rtx.world.kernels_taken == [b"kernels"]
    rtx.put(made_plan((1, 3, 33, 33), (2, 3, 33, 33)))
    rtx.open()
    assert len(rtx.world.kernels_taken) == 1, "another plan has other kernels"


def test_threads_wait_for_one_another(machine: Machine) -> None:
    engine = machine.open()
    batches = [some_images(count) for count in (1, 2, 3, 4) * 5]
    with ThreadPoolExecutor(4) as pool:
        for images, logits in zip(batches, pool.map(engine.infer, batches), strict=True):
            np.testing.assert_allclose(logits, expected_logits(images), rtol=1e-5)


def test_the_predictor_runs_on_it_in_torch(machine: Machine) -> None:
    predictor = Predictor.open(machine.folder, device="cuda")
    assert predictor.engine.name == "tensorrt", "auto takes a plan that fits"
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert predictor.predict(image, flip=True).labels.shape == (50, 70)
    predictor.close()


def test_a_plan_for_many_sizes_takes_them_and_no_others(machine: Machine) -> None:
    machine.put(made_plan((1, 3, 33, 33), (2, 3, 65, 97)), info={"test_mode": "whole"}, max_batch=2)
    engine = machine.open()
    assert engine.crop_hw is None
    assert engine.limits_hw == ((33, 33), (65, 97))
    for shape in ((1, 33, 97), (2, 65, 97), (1, 33, 97), (1, 33, 97), (2, 33, 33)):
        images = some_images(*shape)
        np.testing.assert_allclose(engine.infer(images), expected_logits(images), rtol=1e-5)
    with pytest.raises(EngineError, match=r"takes float32 images of .*65, 97\).*not .*\(1, 3, 73, 97\)"):
        engine.infer(some_images(1, 73, 97))


@pytest.mark.parametrize(
    "images",
    [some_images(5), some_images(1, 33, 41), some_images(1)[0], some_images(1).astype(np.float64)],
    ids=["too many", "another size", "no batch", "another type"],
)
def test_images_that_the_plan_does_not_take_are_refused(rtx: Machine, images: np.ndarray) -> None:
    with pytest.raises(
        EngineError, match=r"a\.plan takes float32 images of \(1, 3, 33, 33\) to \(4, 3, 33, 33\)"
    ):
        rtx.open().infer(images)


def test_a_plan_for_whole_images_of_one_size_is_no_plan_for_the_crop(machine: Machine) -> None:
    machine.put(made_plan((1, 3, 65, 97), (1, 3, 65, 97)), info={"test_mode": "whole"}, max_batch=1)
    engine = machine.open()
    assert (engine.crop_hw, engine.limits_hw) == (None, ((65, 97), (65, 97)))
    images = some_images(1, 65, 97)
    np.testing.assert_allclose(engine.infer(images), expected_logits(images), rtol=1e-5)
    with pytest.raises(EngineError, match="--sizes LEAST,USUAL,MOST"):
        engine.infer(some_images(1))


def test_a_failing_or_closed_engine_says_so(machine: Machine) -> None:
    engine = machine.open()
    machine.world.fails = True
    with pytest.raises(EngineError, match="the engine failed"):
        engine.infer(some_images(1))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(some_images(1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runtime_version": "9.9.9.9"}, r"was built by version 9\.9\.9\.9 and TensorRT"),
        ({"target": "sm80+sm120"}, r"is for sm80\+sm120 and Made GPU is sm89"),
    ],
)
def test_a_plan_of_another_version_or_gpu_is_refused_with_the_command(
    machine: Machine, changes: dict[str, Any], said: str
) -> None:
    machine.put(**changes)
    with pytest.raises(EngineError, match=f"{said}.*python -m export.trt --ckpt .*bundle"):
        machine.open()


def test_a_plan_of_the_other_library_is_refused_with_what_to_install(rtx: Machine) -> None:
    rtx.put(runtime="tensorrt")
    with pytest.raises(EngineError, match=r"a\.plan: tensorrt is not installed.*python -m export\.trt"):
        rtx.open()


def test_a_bundle_without_a_plan_is_refused_with_the_command(rtx: Machine) -> None:
    write_model_json(rtx.folder, made_info())
    with pytest.raises(EngineError, match=r"it holds none\): build one with python -m export\.trt --ckpt"):
        rtx.open()


def test_a_plan_that_was_cut_short_or_is_gone_is_refused_with_the_command(rtx: Machine) -> None:
    path = rtx.folder / "a.plan"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        BundleError, match=r"cut short \(its sha256 differs\): build one with python -m export"
    ):
        rtx.open()
    path.unlink()
    with pytest.raises(BundleError, match=r"a\.plan cannot be read \(No such file.*python -m export\.trt"):
        rtx.open()


def test_a_plan_that_the_library_refuses_is_refused_with_its_reason_and_the_command(machine: Machine) -> None:
    machine.world.refused = "the plan is of another world"
    reason = "old cuda driver" if machine.runtime == "tensorrt_rtx" else "of another world"
    with pytest.raises(EngineError, match=f"{reason}.*python -m export.trt"):
        machine.open()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            made_plan((1, 3, 41, 41), (4, 3, 41, 41)),
            r"takes images of \(41, 41\) and model\.json says \(33, 33\)",
        ),
        (made_plan((1, 3, 33, 33), (4, 3, 33, 33), classes=7), "gives 7 classes and model.json says 5"),
        (made_plan((1, 3, 33, 33), (4, 3, 33, 33), output="scores"), "other inputs and outputs"),
    ],
    ids=["crop", "classes", "names"],
)
def test_a_plan_of_another_model_is_a_bundle_error(rtx: Machine, content: bytes, said: str) -> None:
    rtx.put(content)
    with pytest.raises(BundleError, match=f"{said}.*python -m export.trt"):
        rtx.open()


def test_of_several_plans_that_fit_the_last_built_is_taken(rtx: Machine) -> None:
    first = rtx.put()
    others = [
        PlanInfo(**{**vars(first), "file": f"{name}.plan", **changes})
        for name, changes in (("b", {"precision": "int8"}), ("c", {"target": "sm120"}))
    ]
    for plan in others:
        (rtx.folder / plan.file).write_bytes((rtx.folder / "a.plan").read_bytes())
    write_model_json(rtx.folder, made_info(plans=(first, *others)))
    assert rtx.open().plan.file == "b.plan"


def test_without_a_gpu_it_says_so_and_auto_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine_module.find_gpu
    machine = Machine(NAMES[-1], tmp_path / "bundle", monkeypatch)
    monkeypatch.setattr(engine_module, "find_gpu", real)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match=r"0 GPUs that PyTorch can use.*nvidia-smi.*--device cpu"):
        machine.open()
    assert not engine_module.fits(read_bundle(machine.folder), "cuda")


def test_auto_leaves_a_plan_that_does_not_fit_and_says_why(
    rtx: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    rtx.put(target="sm120")
    # What comes next, ONNX Runtime, finds no model in the made-up file, or no CUDA.
    with pytest.raises((BundleError, EngineError)):
        open_model(rtx.folder, device="cuda")
    assert "Made GPU is sm89" in caplog.text
