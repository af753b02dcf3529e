from pathlib import Path

import pytest
import torch

from models.checkpoint import CheckpointError, build_from_checkpoint, load_checkpoint
from models.network import build_network
from training.config import read_config
from training.optimization import build_optimizer
from training.release import main, release
from training.state import TrainingState, save_state


def test_the_released_file_gives_the_trainings_logits_to_half_precision(tmp_path: Path) -> None:
    overrides = ["model.crop_hw=[33, 33]", "model.head_width=8", f"data.root={tmp_path}", f"out={tmp_path}"]
    config = read_config("training/configs/camvid_psanet18.yaml", overrides)
    network = build_network(config.model)
    path = tmp_path / "checkpoint.pth"
    save_state(TrainingState(network, build_optimizer(network, config), iteration=3), path, config)
    told = release(path, tmp_path / "kept/model.safetensors")
    kept = load_checkpoint(tmp_path / "kept/model.safetensors")
    assert kept.labels.name == "camvid"
    assert not kept.config.aux
    assert not any(key.startswith("aux.") for key in kept.state_dict)
    assert told["sha256"] == kept.sha256
    assert told["bytes"] < 0.5 * path.stat().st_size
    network.aux = None
    assert told["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    images = torch.rand(1, 3, 33, 33) * 255
    with torch.inference_mode():
        expected, found = network.eval()(images), build_from_checkpoint(kept)(images)
    assert (found - expected).abs().max() < 0.02 * expected.std()


def test_another_ending_or_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        release(tmp_path / "checkpoint.pth", tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        release(tmp_path / "checkpoint.pth", tmp_path / "model.safetensors")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["model.crop_hw=[33, 33]", "model.head_width=8", f"data.root={tmp_path}", f"out={tmp_path}"]
    config = read_config("training/configs/camvid_psanet18.yaml", overrides)
    network = build_network(config.model)
    path = tmp_path / "checkpoint.pth"
    save_state(TrainingState(network, build_optimizer(network, config), iteration=3), path, config)
    with pytest.raises(SystemExit) as ended:
        main(["--ckpt", str(path), "--out", str(path / "below/model.safetensors")])
    assert ended.value.code == 2
    assert "checkpoint.pth/below cannot be used: Not a directory" in capsys.readouterr().err
