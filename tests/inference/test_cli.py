"""The command line, from arguments to files and exit status. The network is a stand-in; the rest is real."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inference import __main__ as command
from inference import labelling
from inference.errors import EngineError, ModelNotFoundError
from inference.images import read_image
from inference.predictor import Predictor
from models.files import FORMAT
from tests.inference.brightness import CAMVID, INFO, BrightnessEngine
from tests.models.networks import tiny_network


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> BrightnessEngine:
    """The stand-in, in place of whatever model the command line names."""
    stand_in = BrightnessEngine()

    def opened(model: str, **options: Any) -> Predictor:
        return Predictor(INFO, stand_in)

    monkeypatch.setattr(Predictor, "open", opened)
    return stand_in


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five grey pictures of different brightness, 45x60, one of them turned by Exif."""
    folder = tmp_path / "photos"
    folder.mkdir()
    turned = Image.Exif()
    turned[274] = 6
    for index in range(5):
        picture = Image.new("RGB", (60, 45), (51 * index,) * 3)
        picture.save(folder / f"{index}.png", exif=turned if index == 4 else None)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, Any], str]:
    """(exit status, the JSON object of the last line, what went to stderr)."""
    status = command.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    return status, json.loads(lines[-1]) if lines else {}, err


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_label_images(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, summary, _ = run(capsys, photos, "--out", tmp_path / "out")
    assert status == 0
    assert {key: summary[key] for key in ("written", "skipped", "failed")} == {
        "written": 5,
        "skipped": 0,
        "failed": 0,
    }
    assert summary["seconds"] > 0
    assert listing(tmp_path / "out") == [f"labels/{index}.png" for index in range(5)]
    for index in range(5):
        picture = Image.open(tmp_path / f"out/labels/{index}.png")
        assert picture.mode == "P"
        assert picture.size == ((45, 60) if index == 4 else (60, 45))
        assert (np.asarray(picture) == 2 * index).all()
    assert engine.closed


def test_every_output(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status, _, _ = run(
        *(capsys, photos / "2.png", "--out", out, "--output", "labels,overlay,color,confidence,json"),
        *("--alpha", "1", "--format", "webp"),
    )
    assert status == 0
    assert listing(out) == [
        *("color/2.png", "confidence/2.png", "json/2.json", "labels/2.png", "overlay/2.webp"),
    ]
    color = np.asarray(Image.open(out / "color/2.png"))
    assert (color == CAMVID.palette[4]).all()
    overlay = np.asarray(Image.open(out / "overlay/2.webp")).astype(int)
    assert np.abs(overlay - CAMVID.palette[4]).max() < 8
    confidence = Image.open(out / "confidence/2.png")
    assert confidence.mode == "L"
    assert np.asarray(confidence).min() > 200
    document = json.loads((out / "json/2.json").read_text())
    assert document["image"] == {"height": 45, "width": 60}
    assert document["model"] == "brightness"
    assert [(entry["id"], entry["pixels"]) for entry in document["classes"]] == [(4, 2700)]
    assert document["classes"][0]["rle"]["size"] == [45, 60]
    assert document["timings_ms"]["infer"] >= document["timings_ms"]["engine"] >= 0


def test_names_that_are_no_text_are_taken_and_told(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Path(os.fsdecode(bytes(photos / "é") + b"\xff.png"))
    (photos / "0.png").rename(odd)
    status, summary, _ = run(capsys, odd, "--out", tmp_path / "out", "--output", "labels,json")
    assert (status, summary["written"]) == (0, 1)
    document = json.loads((tmp_path / "out/json" / f"{odd.stem}.json").read_bytes())
    assert document["file"] == str(odd)


def test_on_a_gpu_predictions_overlap_and_results_are_the_same(
    engine: BrightnessEngine,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each prediction waits for another to be under way; one of the files is broken."""
    assert run(capsys, photos, "--out", tmp_path / "cpu")[0] == 0
    (photos / "broken.png").write_bytes((photos / "4.png").read_bytes()[:60])
    (photos / "5.png").write_bytes((photos / "0.png").read_bytes())
    together, predict = threading.Barrier(2, timeout=20), Predictor.predict

    def predicted(self: Predictor, *args: Any, **options: Any) -> Any:
        together.wait()
        return predict(self, *args, **options)

    monkeypatch.setattr(Predictor, "predict", predicted)
    monkeypatch.setattr(engine, "device", "cuda", raising=False)
    status, summary, err = run(capsys, photos, "--out", tmp_path / "gpu")
    assert (status, summary["written"], summary["failed"]) == (1, 6, 1)
    assert "broken.png" in err
    for index in range(5):
        name = f"labels/{index}.png"
        assert (tmp_path / "gpu" / name).read_bytes() == (tmp_path / "cpu" / name).read_bytes()


def test_a_broken_file_is_reported_and_the_others_are_written(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[:-20])
    (photos / "text.jpg").write_text("not a photograph")
    (photos / "zero.jpg").write_bytes(b"")
    status, summary, err = run(capsys, photos, "--out", tmp_path / "out")
    assert status == 1
    assert (summary["written"], summary["failed"]) == (4, 3)
    assert listing(tmp_path / "out") == [f"labels/{index}.png" for index in (0, 2, 3, 4)]
    assert f"{photos / '1.png'}: the PNG file is truncated" in err
    assert f"{photos / 'text.jpg'}: this is not an image" in err
    assert f"{photos / 'zero.jpg'}: the image is empty" in err
    assert "3 of 7 images failed" in err


def test_a_second_run_does_only_what_is_missing(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[str | Path] = [photos, "--out", tmp_path / "out", "--output", "labels,json"]
    run(capsys, *arguments)
    calls = engine.calls
    (tmp_path / "out/json/3.json").unlink()
    status, summary, _ = run(capsys, *arguments)
    assert (status, summary["written"], summary["skipped"]) == (0, 1, 4)
    assert engine.calls == calls + calls // 5
    assert (tmp_path / "out/json/3.json").exists()


def test_overwrite_makes_everything_anew(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, photos, "--out", tmp_path / "out")
    (tmp_path / "out/labels/0.png").write_bytes(b"old")
    status, summary, _ = run(capsys, photos, "--out", tmp_path / "out", "--overwrite")
    assert (status, summary["written"], summary["skipped"]) == (0, 5, 0)
    assert (tmp_path / "out/labels/0.png").read_bytes() != b"old"


def test_recursion_keeps_sub_folders(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "more").mkdir()
    (photos / "0.png").rename(photos / "more/1.png")
    status, _, _ = run(capsys, photos, "--out", tmp_path / "out", "--recursive")
    assert status == 0
    assert "labels/more/1.png" in listing(tmp_path / "out")


def test_scales_flip_and_base_size_reach_the_predictor(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {}
    for name, extra in {
        "plain": [],
        "flip": ["--flip"],
        "scales": ["--scales", "0.5, 1"],
        "base": ["--base-size", "192"],
    }.items():
        engine.shapes.clear()
        run(capsys, photos / "2.png", "--out", tmp_path / name, *extra)
        images[name] = sum(shape[0] for shape in engine.shapes)
    assert images["flip"] == 2 * images["plain"]
    assert images["scales"] == images["plain"] + 1
    assert images["base"] > images["plain"]


def test_too_many_pixels_fail_unread_and_0_lifts_the_limit(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, summary, err = run(capsys, photos / "2.png", "--out", tmp_path / "out", "--max-pixels", "2699")
    assert (status, summary["failed"], engine.calls) == (1, 1, 0)
    assert "megapixels" in err
    assert run(capsys, photos / "2.png", "--out", tmp_path / "out", "--max-pixels", "0")[0] == 0


def test_the_memory_budget_reaches_the_predictor_and_what_exceeds_it_names_the_option(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(model: str, *, memory_budget_bytes: int, **options: Any) -> Predictor:
        assert memory_budget_bytes == 16 * 2**20
        # What the option takes at the least is plenty for small pictures.
        return Predictor(INFO, BrightnessEngine(), memory_budget_bytes=memory_budget_bytes // 2**14)

    monkeypatch.setattr(Predictor, "open", opened)
    status, summary, err = run(capsys, photos, "--out", tmp_path / "out", "--memory-budget", "16MiB")
    assert (status, summary["failed"]) == (1, 5)
    assert "or a larger memory budget (--memory-budget)" in err


def test_an_overlay_too_large_for_its_format_fails_alone(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (16_384, 1)).save(photos / "wide.png")
    status, summary, err = run(
        *(capsys, photos, "--out", tmp_path / "out", "--output", "labels,overlay", "--format", "webp"),
        *("--base-size", "65"),
    )
    assert (status, summary["written"], summary["failed"]) == (1, 5, 1)
    assert "ask for png or jpeg" in err
    assert not (tmp_path / "out/labels/wide.png").exists()


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["--scales", "0"], "above 0"),
        (["--scales", "-1"], "above 0"),
        (["--scales", "nan"], "above 0"),
        (["--scales", "100"], "up to 10"),
        (["--scales", "1,x"], "numbers such as"),
        (["--scales", ""], "numbers such as"),
        (["--base-size", "0"], "whole number"),
        (["--alpha", "nan"], "between 0 and 1"),
        (["--alpha", "2"], "between 0 and 1"),
        (["--output", "labels,heatmap"], "labels,overlay,color,confidence,json"),
        (["--output", ""], "labels,overlay,color,confidence,json"),
        (["--max-pixels", "-1"], "0 for no limit"),
        (["missing.jpg"], "does not exist"),
        (["*.nothing"], "no file matches"),
    ],
)
def test_bad_arguments_exit_2_with_the_mend_before_any_work(
    arguments: list[str],
    mend: str,
    engine: BrightnessEngine,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, summary, err = run(capsys, photos, "--out", tmp_path / "out", *arguments)
    assert status == 2
    assert summary == {}
    assert mend in err
    assert engine.calls == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["photo.jpg"], ["photo.jpg", "--out", "x", "--format", "gif"]])
def test_incomplete_arguments_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2


def test_two_images_of_one_stem_exit_2(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(photos / "1.jpg")
    status, _, err = run(capsys, photos, "--out", tmp_path / "out")
    assert status == 2
    assert "would both be written" in err


def test_an_out_that_is_a_file_exits_2(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    status, _, err = run(capsys, photos, "--out", tmp_path / "out")
    assert status == 2
    assert "name another folder" in err


def test_an_unknown_model_exits_2(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, photos, "--out", tmp_path / "out", "--model", "psanet9000")
    assert status == 2
    assert "psanet9000" in err


def test_a_checkpoint_is_predicted_as_the_predictor_does(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = tiny_network(classes=11)
    path = tmp_path / "net.pth"
    state = network.state_dict()
    for key in [key for key in state if key.startswith("cls.")][-2:]:
        state[key] *= 100  # sharper, so that places and classes differ
    torch.save({"format": FORMAT, "config": network.config.to_dict(), "state_dict": state}, path)
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((90, 70)).save(photos / "blobs.png")
    status, _, _ = run(
        *(capsys, photos / "blobs.png", "--out", tmp_path / "out", "--model", path, "--dataset", "camvid"),
        *("--scales", "0.5,1", "--base-size", "80", "--flip", "--threads", "1"),
        *("--output", "labels,confidence"),
    )
    assert status == 0
    predictor = Predictor.open(path, dataset="camvid", threads=1)
    expected = predictor.predict(
        read_image(photos / "blobs.png"), scales=(0.5, 1), base_size=80, flip=True, confidence=True
    )
    assert expected.confidence is not None
    assert np.ptp(expected.confidence) > 0.1  # or the comparison would say nothing
    confidence = np.asarray(Image.open(tmp_path / "out/confidence/blobs.png"))
    assert np.abs(confidence - 255 * expected.confidence).max() < 1
    labels = np.asarray(Image.open(tmp_path / "out/labels/blobs.png"))
    assert (labels == expected.labels).mean() > 0.999


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a file"])
def test_a_checkpoint_that_is_none_exits_2(
    content: bytes, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    status, summary, err = run(capsys, photos, "--out", tmp_path / "out", "--model", path)
    assert (status, summary) == (2, {})
    assert str(path) in err
    assert not (tmp_path / "out").exists()


def test_the_bundled_model_is_the_default(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def remember(model: str, **options: Any) -> Predictor:
        asked.append((model, options))
        raise ModelNotFoundError("none here")

    monkeypatch.setattr(Predictor, "open", remember)
    run(capsys, photos, "--out", tmp_path / "out", "--threads", "3")
    assert asked[0][0] == "psanet18_camvid"
    assert asked[0][1]["engine"] == "auto"
    assert asked[0][1]["device"] == "cpu"
    assert asked[0][1]["threads"] == 3


def test_an_engine_that_gives_up_stops_the_run(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(call: int) -> None:
        if call == 3:
            raise EngineError("out of memory")

    engine.before_call = fail
    status, summary, err = run(capsys, photos, "--out", tmp_path / "out")
    assert status == 1
    assert "stopped: out of memory" in err
    assert 0 < summary["written"] == len(listing(tmp_path / "out")) < 5


def test_a_result_that_cannot_be_written_stops_the_run(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/labels").write_text("a file where a folder should be")
    status, summary, err = run(capsys, photos, "--out", tmp_path / "out")
    assert (status, summary["written"]) == (1, 0)
    assert "stopped:" in err


def test_an_interruption_keeps_what_is_done_and_leaves_nothing_half_done(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(call: int) -> None:
        if call == 4:
            raise KeyboardInterrupt

    engine.before_call = interrupt
    status, summary, err = run(capsys, photos, "--out", tmp_path / "out", "--output", "labels,json")
    assert status == 130
    assert "goes on from here" in err
    files = listing(tmp_path / "out")
    assert not [name for name in files if name.endswith(".part")]
    assert summary["written"] == len(files) // 2 < 5
    assert engine.closed
    engine.before_call = lambda call: None
    status, again, _ = run(capsys, photos, "--out", tmp_path / "out", "--output", "labels,json")
    assert (status, again["written"] + summary["written"]) == (0, 5)


def test_what_is_being_written_when_interrupted_counts_too(
    engine: BrightnessEngine,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = labelling._write

    def interrupted(*arguments: Any) -> None:
        time.sleep(0.2)  # by then the command waits for this one
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        write(*arguments)

    monkeypatch.setattr(labelling, "_write", interrupted)
    status, summary, _ = run(capsys, photos / "0.png", "--out", tmp_path / "out")
    assert (status, summary["written"]) == (130, 1)
    assert listing(tmp_path / "out") == ["labels/0.png"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_real_process_cleanly(number: signal.Signals, photos: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from inference import __main__ as command
        from inference.predictor import Predictor
        from tests.inference.brightness import INFO, BrightnessEngine
        engine = BrightnessEngine(before_call=lambda call: time.sleep(0.2))
        Predictor.open = lambda model, **options: Predictor(INFO, engine)
        sys.exit(command.main(sys.argv[1:]))
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(photos), "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(command.__file__).parents[1],
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/labels/*.png")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    written = json.loads(out.splitlines()[-1])["written"]
    assert listing(tmp_path / "out") == [f"labels/{index}.png" for index in range(written)]
    assert 0 < written < 5


def test_the_progress_bar_is_only_for_terminals(
    engine: BrightnessEngine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = run(capsys, photos, "--out", tmp_path / "out")
    assert err == ""
