"""Engines for images of many sizes: which sizes, what is refused, what TensorRT makes of them, a bundle."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import parser

import export.trt_models
from export.build import build_model
from export.comparison import sample_images
from export.errors import UnavailableError
from export.half import to_half
from export.trt import export_trt, main
from export.trt_models import Wanted, shapes_for
from export.trt_sizes import (
    Sizes,
    check_sizes,
    default_sizes,
    make_profile,
    parse_sizes,
    with_known_remainders,
)
from inference.bundle import ModelInfo, read_bundle
from inference.cache import Cache
from inference.engines.pytorch import describe
from inference.tensorrt_library import Profile, Request, load_library
from models.checkpoint import load_checkpoint
from models.options import ArchitectureOptions
from models.protocol import TestProtocol
from tests.export.tiny import save_own, tiny_network
from tests.inference.fakes import made_info
from tests.models.mmseg_network import mmseg_config

CONFIG = mmseg_config(depth=18, classes=11, aux=False)
PROTOCOL = TestProtocol(base_size=64, name="mmsegmentation", mode="whole")


def whole_info(crop_hw: tuple[int, int], box: tuple[int, int | None]) -> ModelInfo:
    config = mmseg_config(crop_hw=crop_hw, mask_hw=(97, 97))
    return made_info(
        architecture=config,
        crop_hw=crop_hw,
        protocol="mmsegmentation",
        test_mode="whole",
        base_size=box[0],
        base_short=box[1],
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network like MMSegmentation's, tested like theirs, on whole images; smaller than any of theirs."""
    path = save_own(tiny_network(CONFIG), tmp_path_factory.mktemp("whole") / "net.pth")
    torch.save({**torch.load(path), "protocol": PROTOCOL.to_dict()}, path)
    return path


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """That network for any size, as it is exported."""
    return build_model(tiny_network(CONFIG), any_size=True)


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    before = logging.getLogger("export").level
    yield
    logging.getLogger("export").setLevel(before)


def test_default_sizes_are_what_the_protocol_makes_of_pictures_like_the_training_crops() -> None:
    cityscapes = default_sizes(whole_info((512, 1024), (2048, 1024)))
    assert cityscapes == Sizes((32, 32), (1024, 2048), (1024, 2048))
    ade20k = default_sizes(whole_info((512, 512), (2048, 512)))
    assert ade20k == Sizes((32, 32), (512, 512), (1024, 1024)), "either way up, twice as long as wide"
    assert default_sizes(whole_info((640, 480), (2048, 512))).most == (1024, 512)
    assert default_sizes(whole_info((256, 1024), (2048, 512))).most == (512, 2048), "the crop's own shape"
    assert default_sizes(whole_info((48, 64), (64, None))) == Sizes((32, 32), (48, 64), (64, 64))
    assert default_sizes(whole_info((24, 20), (24, None))).least == (24, 20)


def test_sizes_are_read_as_they_are_written() -> None:
    sizes = parse_sizes("32x48, 512X1024,1024x2048")
    assert sizes == Sizes((32, 48), (512, 1024), (1024, 2048))
    assert parse_sizes(str(sizes)) == sizes
    assert sizes.nearest((100, 9000)) == (100, 2048)
    assert sizes.nearest((1, 1)) == (32, 48)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("512x512", "LEAST,USUAL,MOST, each HEIGHTxWIDTH"),
        ("32x32,512,1024x1024", "LEAST,USUAL,MOST"),
        ("32x32,-5x512,1024x1024", "LEAST,USUAL,MOST"),
        ("32x32,512x512,1024x1024,8x8", "LEAST,USUAL,MOST"),
        ("64x32,48x512,1024x1024", "the heights 64, 48, 1024 must not fall"),
        ("32x32,512x512,1024x256", "the widths 32, 512, 256 must not fall"),
        ("0x32,512x512,1024x1024", "the heights 0, 512, 1024"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_with_an_example(text: str, said: str) -> None:
    with pytest.raises(UnavailableError, match=f"--sizes.*{said}"):
        parse_sizes(text)


def test_sizes_beyond_the_network_or_tensorrt_are_refused() -> None:
    network = whole_info((512, 1024), (2048, 1024)).architecture
    check_sizes(Sizes((16, 16), (1024, 2048), (2048, 4096)), network, 1)
    with pytest.raises(UnavailableError, match=r"arrays hold 2\.15e\+09: choose a smaller.*--max-batch 1"):
        check_sizes(Sizes((16, 16), (1024, 2048), (2048, 4096)), network, 2)
    with pytest.raises(UnavailableError, match=r"--sizes 8x16,.*too small.*give them sides above 8"):
        check_sizes(Sizes((8, 16), (512, 512), (512, 512)), network, 1)


def test_windows_are_tuned_for_half_a_call_and_pictures_for_a_whole_one(model: onnx.ModelProto) -> None:
    sizes = Sizes((32, 32), (48, 64), (64, 96))
    assert make_profile(model, sizes, 2) == Profile((1, 3, 32, 32), (2, 3, 48, 64), (2, 3, 64, 96))
    fixed = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[N,3,33,41] image) => (float[N,3,33,41] logits) '
        "{ logits = Identity(image) }"
    )
    assert make_profile(fixed, None, 8) == Profile((1, 3, 33, 41), (4, 3, 33, 41), (8, 3, 33, 41))


def test_known_remainders_change_no_value_at_sizes_of_either_rule(model: onnx.ModelProto) -> None:
    known = with_known_remainders(model)
    onnx.checker.check_model(known, full_check=True)
    kinds = [node.op_type for node in known.graph.node]
    remainders = [node.op_type for node in model.graph.node].count("Mod")
    assert remainders > 0
    assert len(kinds) == len(model.graph.node) + remainders
    sessions = [
        onnxruntime.InferenceSession(item.SerializeToString(), providers=["CPUExecutionProvider"])
        for item in (model, known)
    ]
    for size_hw in ((40, 56), (40, 64), (48, 64), (17, 31)):  # features 5x7, 5x8, 6x8, 3x4
        image = np.random.default_rng(0).uniform(0, 255, (1, 3, *size_hw)).astype(np.float32)
        own, other = (session.run(None, {"image": image})[0] for session in sessions)
        np.testing.assert_array_equal(own, other)


def test_tensorrt_sets_aside_memory_for_the_largest_image_and_not_for_more(model: onnx.ModelProto) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    library, half = load_library("tensorrt_rtx"), to_half(model)
    request = Request(Profile((1, 3, 32, 32), (1, 3, 256, 256), (1, 3, 256, 256)), ("sm89",))
    fixed = Request(Profile(*[(1, 3, 256, 256)] * 3), ("sm89",))

    def memory_bytes(model: onnx.ModelProto, request: Request) -> int:
        found = library.build(model.SerializeToString(), request).memory_bytes
        assert found is not None
        return found

    free, known = memory_bytes(half, request), memory_bytes(with_known_remainders(half), request)
    assert free > 5_000_000_000, "as it is exported; if this fails, TensorRT sees bounds of remainders now"
    assert known < 2 * memory_bytes(half, fixed) < 50_000_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_engine_of_a_network_for_whole_images_is_built_and_described(
    checkpoint: Path, model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setattr(export.trt_models, "build_model", lambda network, **options: exported(model, options))
    cache = Cache(tmp_path / "cache")

    def build(out: str, **changes: Any) -> Any:
        return export_trt(checkpoint, tmp_path / out, wanted=Wanted(target="sm89", **changes), cache=cache)

    result = build("a")
    bundle = read_bundle(tmp_path / "a")
    (plan,) = bundle.info.plans
    assert plan.sizes == ((32, 32), (48, 64), (64, 64))
    assert (plan.max_batch, plan.psa_form, bundle.info.test_mode) == (1, "function", "whole")
    assert result.comparison.max_logit_error < 0.1
    assert result.comparison.label_agreement > 0.98
    assert 0 < result.memory_bytes < 50_000_000
    again = build("b")
    assert (again.cached, again.memory_bytes) == (True, result.memory_bytes)
    other = build("a", sizes=parse_sizes("32x32,64x64,64x96"), max_batch=2)
    assert not other.cached
    assert [item.sizes for item in read_bundle(tmp_path / "a").info.plans] == [other.plan.sizes]
    assert (other.plan.sizes, other.plan.max_batch) == (((32, 32), (64, 64), (64, 96)), 2)


def exported(model: onnx.ModelProto, options: dict[str, Any]) -> onnx.ModelProto:
    """A copy, as exporting gives another each time."""
    assert options["any_size"]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def test_sizes_are_for_whole_images_and_mistakes_end_with_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    start = ["--ckpt", str(checkpoint), "--out", str(tmp_path / "out"), "--runtime", "tensorrt_rtx"]
    start += ["--target", "sm89"]
    for arguments, said in (
        (["--test-mode", "sliding", "--sizes", "32x32,48x64,64x64"], "windows of 48x64: leave it out"),
        (["--test-mode", "whole", "--sizes", "32x32,48x64"], "--sizes takes LEAST,USUAL,MOST"),
        (["--test-mode", "whole", "--sizes", "4x4,48x64,64x64"], "too small"),
        (["--test-mode", "whole", "--max-batch", "0"], "--max-batch must be between 1 and 256"),
    ):
        assert main([*start, *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert said in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_windows_gets_an_engine_of_windows(checkpoint: Path) -> None:
    info = describe(load_checkpoint(checkpoint, options=ArchitectureOptions(test_mode="sliding")))
    assert info.test_mode == "sliding"
    assert shapes_for(info, Wanted()) == (None, 8)
    assert shapes_for(info, Wanted(max_batch=3)) == (None, 3)


def test_either_form_of_the_psa_mask_in_float16_is_the_network_and_can_be_built() -> None:
    """The one that is faster in ONNX Runtime could be built, too."""
    pytest.importorskip("tensorrt_rtx_bindings")
    network, library = tiny_network(CONFIG), load_library("tensorrt_rtx")
    half = to_half(with_known_remainders(build_model(network, any_size=True, psa_form="pairs")))
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    for size_hw in ((40, 56), (48, 64)):
        images = sample_images(size_hw)
        with torch.inference_mode():
            own = network.coarse_logits(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(session.run(None, {"image": images})[0], own, atol=5e-3)
    request = Request(Profile((1, 3, 32, 32), (1, 3, 64, 64), (2, 3, 64, 64)), ("sm89",))
    assert library.build(half.SerializeToString(), request).memory_bytes
