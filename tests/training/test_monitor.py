import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from models.config import ConfigError
from training.config import TrainingConfig, read_config
from training.monitor import Monitor, beside

CHECKPOINT = Path("models/bundled/psanet18_camvid/psanet18_camvid.safetensors")


def config(out: Path, *overrides: str) -> TrainingConfig:
    changes = [f"out={out}", "log_every=2", "batch=3", *overrides]
    return read_config("training/configs/camvid_psanet18.yaml", changes)


def written(out: Path) -> tuple[dict[str, list[tuple[int, float]]], list[str]]:
    """Scalars by name, as (step, value), and names of pictures, as TensorBoard's own reader finds them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    scalars = {name: [(each.step, each.value) for each in events.Scalars(name)] for name in tags["scalars"]}
    return scalars, tags["images"]


def test_curves_are_means_of_the_steps_since_the_last_point(tmp_path: Path) -> None:
    monitor = Monitor(config(tmp_path), start=0, total=4, speaks=True)
    for iteration, loss in enumerate((4.0, 2.0, 1.0, 3.0), 1):
        monitor.step(iteration, loss=loss, main=loss / 2, aux=loss / 4, lr=0.5 / iteration)
    monitor.evaluated(4, {"mIoU": 0.25, "images": 7})
    monitor.close()
    scalars, _ = written(tmp_path)
    assert scalars["loss/total"] == [(2, 3.0), (4, 2.0)]
    assert scalars["loss/main"] == [(2, 1.5), (4, 1.0)]
    assert scalars["loss/aux"] == [(2, 0.75), (4, 0.5)]
    assert scalars["lr"] == [(2, 0.25), (4, 0.125)]
    assert scalars["validation/mIoU"] == [(4, 0.25)]
    assert all(speed > 0 for _, speed in scalars["images_per_s"])


def test_steps_that_were_lost_with_a_crash_are_not_drawn_twice(tmp_path: Path) -> None:
    for start, loss in ((0, 1.0), (2, 5.0)):  # the second run goes on from the checkpoint of step 2
        monitor = Monitor(config(tmp_path), start=start, total=6, speaks=True)
        for iteration in range(start + 1, 5):
            monitor.step(iteration, loss=loss, main=loss, aux=loss, lr=loss)
        monitor.close()
    assert written(tmp_path)[0]["loss/total"] == [(2, 1.0), (4, 5.0)]


def test_pictures_of_the_validation_are_drawn(miniature: Path, tmp_path: Path) -> None:
    monitor = Monitor(config(tmp_path), start=0, total=1, speaks=True)
    monitor.pictures(1, CHECKPOINT, [(miniature / "images/0.png", miniature / "labels/0.png")], "cpu")
    monitor.close()
    assert written(tmp_path)[1] == ["validation/0"]


def test_a_picture_is_image_truth_and_prediction_black_where_nothing_counts() -> None:
    image = np.full((60, 80, 3), 200, np.uint8)
    truth, labels = np.zeros((60, 80), np.uint8), np.ones((60, 80), np.uint8)
    truth[:30] = 255
    picture = beside(image, truth, labels, [(1, 2, 3), (4, 5, 6)])
    assert picture.shape == (60, 240, 3)
    assert picture.dtype == np.uint8
    assert [tuple(picture[50, column]) for column in (10, 90, 170)] == [(200, 200, 200), (1, 2, 3), (4, 5, 6)]
    assert not picture[:30, 80:].any()
    wide = np.zeros((1000, 2000), np.uint8)
    assert beside(np.zeros((1000, 2000, 3), np.uint8), wide, wide, [(1, 2, 3)]).shape == (240, 1440, 3)


def test_only_one_process_writes(tmp_path: Path) -> None:
    monitor = Monitor(config(tmp_path, "tensorboard=true"), start=0, total=2, speaks=False)
    monitor.step(2, loss=1, main=1, aux=1, lr=1)
    monitor.pictures(2, CHECKPOINT, [], "cpu")
    monitor.close()
    assert not (tmp_path / "tensorboard").exists()


def test_without_tensorboard_trainings_go_on_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monitor = Monitor(config(tmp_path), start=0, total=2, speaks=True)
    monitor.step(2, loss=1, main=1, aux=1, lr=1)
    monitor.close()
    assert "pip install 'psanet-serving[train]', or set tensorboard=false" in caplog.text
    with pytest.raises(ConfigError, match=r"TensorBoard is not installed: pip install"):
        Monitor(config(tmp_path, "tensorboard=true"), start=0, total=2, speaks=True)
    caplog.clear()
    Monitor(config(tmp_path, "tensorboard=false"), start=0, total=2, speaks=True).close()
    assert not caplog.text
