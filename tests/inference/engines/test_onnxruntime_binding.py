"""ONNX Runtime on the memory of torch tensors: on the CPU, where the calls are the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from inference.engines import open_model
from inference.engines.onnxruntime import OnnxRuntimeEngine
from inference.engines.onnxruntime_binding import Binding, usable
from inference.errors import EngineError
from inference.predictor import Predictor
from tests.inference.fakes import made_info
from tests.inference.test_engines import make_bundle, mmsegmentation_info


def bound(folder: Path) -> OnnxRuntimeEngine:
    """An engine that takes torch tensors of the host."""
    _, engine = open_model(folder, threads=1)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert engine._session is not None
    engine._binding = Binding(engine._session, "cpu")
    return engine


def test_tensors_in_any_batch_give_the_logits_of_arrays(tmp_path: Path) -> None:
    engine = bound(make_bundle(tmp_path / "b"))
    for count in (3, 1, 4, 3):
        images = np.random.default_rng(count).uniform(0, 255, (count, 3, 33, 33)).astype(np.float32)
        found = engine.infer(engine.to_device(images))
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found, engine.infer(images))
        flipped = engine.infer(torch.from_numpy(images).flip(3).transpose(2, 3))
        turned = np.ascontiguousarray(images[..., ::-1].transpose(0, 1, 3, 2))
        np.testing.assert_array_equal(flipped, engine.infer(turned))


def test_logits_are_the_callers_own(tmp_path: Path) -> None:
    engine = bound(make_bundle(tmp_path / "b"))
    images = torch.rand(2, 3, 33, 33) * 255
    first = [engine.infer(images) for _ in range(2)]
    kept = [logits.clone() for logits in first]
    engine.infer(images * 0)
    for logits, copy in zip(first, kept, strict=True):
        torch.testing.assert_close(logits, copy, rtol=0, atol=0)


def test_images_of_any_size_have_logits_of_theirs(tmp_path: Path) -> None:
    engine = bound(make_bundle(tmp_path / "b", mmsegmentation_info(), side="side"))
    for height, width in ((40, 70), (64, 9), (40, 70)):
        images = np.random.default_rng(height).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
        np.testing.assert_array_equal(engine.infer(torch.from_numpy(images)), engine.infer(images))


def test_the_predictor_stays_on_tensors(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    expected = Predictor.open(folder, threads=1).predict(image, flip=True, probabilities=True)
    found = Predictor(made_info(), bound(folder)).predict(image, flip=True, probabilities=True)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)


def test_what_fails_is_the_engines_error(tmp_path: Path) -> None:
    engine = bound(make_bundle(tmp_path / "b"))
    with pytest.raises(EngineError, match=r"failed on \(1, 3, 40, 33\)"):
        engine.infer(torch.zeros(1, 3, 40, 33))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(torch.zeros(1, 3, 33, 33))


def test_a_gpu_that_torch_does_not_have_is_not_bound() -> None:
    assert usable("cpu")
    assert not usable("cuda:99")
