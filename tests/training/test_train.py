import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from models.checkpoint import CheckpointError, load_checkpoint
from models.config import ConfigError
from models.network import TrainingLogits, build_network
from training import evaluate as evaluate_module
from training import train as train_module
from training.config import TrainingConfig, read_config
from training.state import save_atomically
from training.train import bf16_pays, build_optimizer, segmentation_loss, set_learning_rate, train

TINY = ["model.crop_hw=[33, 33]", "model.head_width=8", "epochs=null", "batch=2", "workers=0", "bf16=false"]


def tiny(root: Path, out: Path, *overrides: str) -> TrainingConfig:
    return read_config(
        "training/configs/camvid_psanet18.yaml", [*TINY, f"data.root={root}", f"out={out}", *overrides]
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(out / "checkpoint.pth").state_dict)


def test_a_resumed_training_equals_an_uninterrupted_one(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "evaluate", lambda *args, **kwargs: {})
    train(tiny(miniature, tmp_path / "whole", "iterations=4", "save_every=2"))
    save = train_module.save_state

    def save_and_die(*args: object) -> None:
        save(*args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    config = tiny(miniature, tmp_path / "parts", "iterations=4", "save_every=2")
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save_state", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert torch.load(tmp_path / "parts/checkpoint.pth", weights_only=True)["iteration"] == 2
    train(config)
    expected = weights(tmp_path / "whole")
    for key, value in weights(tmp_path / "parts").items():
        assert torch.equal(value, expected[key]), key


def test_the_loss_falls(miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []

    def recorded(logits: TrainingLogits, labels: torch.Tensor, aux_weight: float) -> torch.Tensor:
        loss = segmentation_loss(logits, labels, aux_weight)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(train_module, "segmentation_loss", recorded)
    monkeypatch.setattr(train_module, "evaluate", lambda *args, **kwargs: {})
    train(tiny(miniature, tmp_path / "out", "iterations=30", "batch=4", "augment.scale=[1, 1]"))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_loss_is_main_plus_weighted_auxiliary_without_ignored_pixels() -> None:
    main, aux = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    labels = torch.randint(0, 5, (2, 4, 4))
    labels[0, 0] = 255
    counted = labels != 255

    def mean_loss(logits: torch.Tensor) -> torch.Tensor:
        return -F.log_softmax(logits, 1).gather(1, labels.clamp(max=4)[:, None])[:, 0][counted].mean()

    loss = segmentation_loss(TrainingLogits(main, aux), labels, 0.4)
    torch.testing.assert_close(loss, mean_loss(main) + 0.4 * mean_loss(aux))
    torch.testing.assert_close(segmentation_loss(TrainingLogits(main, None), labels, 0.4), mean_loss(main))


def test_the_head_learns_ten_times_as_fast_by_the_poly_policy_and_everything_decays(tmp_path: Path) -> None:
    config = tiny(tmp_path, tmp_path, "iterations=4")
    network = build_network(config.model)
    optimizer = build_optimizer(network, config)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    assert all(group["weight_decay"] == 1e-4 for group in optimizer.param_groups)
    head = {id(parameter) for parameter in optimizer.param_groups[1]["params"]}
    assert {id(p) for m in (network.context, network.cls, network.aux) for p in m.parameters()} == head  # type: ignore[union-attr]
    for progress, factor in ((0.0, 1.0), (0.5, 0.5**0.9)):
        set_learning_rate(optimizer, config, progress)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.01 * factor, 0.1 * factor])


def test_a_loss_that_is_not_finite_stops_before_the_step(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "segmentation_loss", lambda *args: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match=r"nan at iteration 0; lower lr"):
        train(tiny(miniature, tmp_path / "out", "iterations=2"))
    assert not (tmp_path / "out/checkpoint.pth").exists()


def test_another_network_or_schedule_is_not_resumed(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "evaluate", lambda *args, **kwargs: {})
    out = tmp_path / "out"
    train(tiny(miniature, out, "iterations=1"))
    for override, says in (
        ("model.context=none", "another network"),
        ("lr=0.5", r"other \['lr'\]"),
        ("momentum=0.5", r"other \['momentum'\]"),
    ):
        with pytest.raises(CheckpointError, match=says):
            train(tiny(miniature, out, "iterations=1", override))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(miniature: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PyTorch finds 0 GPUs here"):
        train(tiny(miniature, tmp_path / "out", "iterations=1", "device=cuda:1"))


@pytest.mark.parametrize("amx", [False, True])
def test_bf16_is_for_processors_that_multiply_in_it(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    assert bf16_pays(torch.device("cpu")) is amx


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pth"
    save_atomically({"value": 1}, path)

    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_atomically({"value": 2}, path)
    assert torch.load(path, weights_only=True) == {"value": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_the_command_ends_with_one_json_line_and_evaluate_agrees(miniature: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "training.train",
        "--config",
        "training/configs/camvid_psanet18.yaml",
        *TINY,
    ]
    command += [
        "iterations=2",
        "model.crop_hw=[241, 241]",
        f"data.root={miniature}",
        f"out={tmp_path / 'out'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    trained = json.loads(done.stdout.splitlines()[-1])
    assert Path(trained["checkpoint"]).is_file()
    command = [sys.executable, "-m", "training.evaluate", "--model", trained["checkpoint"]]
    command += [
        "--data-root",
        str(miniature),
        "--list",
        str(miniature / "list/val.txt"),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    evaluated = json.loads(done.stdout.splitlines()[-1])
    assert evaluated["mIoU"] == trained["mIoU"]
    assert evaluated["images"] == 2
    assert len(json.loads((tmp_path / "metrics.json").read_text())["iou"]) == 11


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scales", "0"], "a scale of 0 cannot be used"),
        (["--scales", "nan"], "a scale of nan cannot be used"),
        (["--scales", "one"], "--scales takes numbers"),
        (["--limit", "0"], "--limit takes 1 or more"),
        (["--model", "absent"], "no model 'absent'"),
        (["--list", "absent.txt"], "there is no list absent.txt"),
        (["--dataset", "ade20k"], "leave out the data set"),
        (["--out", "{root}/list/val.txt/below"], "cannot be made"),
    ],
)
def test_evaluate_says_what_is_wrong_and_exits_with_2(
    miniature: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--model", "psanet18_camvid", "--data-root", str(miniature)]
    given += ["--list", str(miniature / "list/val.txt")]
    given += [argument.format(root=miniature) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *given])
    with pytest.raises(SystemExit) as stopped:
        evaluate_module.main()
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "absent.yaml"], "there is no configuration"),
        (["--config", "training/configs/camvid_psanet18.yaml", "data.root=absent"], "there is no list"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.train", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
