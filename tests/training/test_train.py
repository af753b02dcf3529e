import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from models.checkpoint import CheckpointError
from models.config import ConfigError
from models.network import TrainingLogits, build_network
from tests.training.small import SmallNetwork, teacher_file
from training import evaluate as evaluate_module
from training import setup as training_setup
from training import train as train_module
from training.config import TrainingConfig, read_config
from training.monitor import Monitor
from training.numerics import bf16_pays
from training.optimization import build_optimizer, segmentation_loss, set_learning_rate, valid_pixels
from training.signals import InterruptedTraining
from training.state import TrainingState, save_atomically, save_state
from training.train import train

CAMVID = "training/configs/camvid_psanet18.yaml"
TINY = ["model.crop_hw=[33, 33]", "model.head_width=8", "epochs=null", "batch=2", "workers=0", "bf16=false"]
TINY += ["tensorboard=false"]


def tiny(root: Path, out: Path, *overrides: str) -> TrainingConfig:
    return read_config(CAMVID, [*TINY, f"data.root={root}", f"out={out}", *overrides])


@pytest.fixture
def unevaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network for crops of 33 pixels takes hundreds of windows for an image; no test here asks for them."""
    monkeypatch.setattr(train_module, "evaluate", lambda *args, **kwargs: {})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, unevaluated: None) -> None:
    """Trainings of this test are of a network that takes milliseconds a step."""
    monkeypatch.setattr(training_setup, "build_network", SmallNetwork)


def saved(out: Path) -> dict[str, Any]:
    return dict(torch.load(out / "checkpoint.pth", weights_only=True))


def assert_same_training(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To the bit: weights, their average, momentum, counters and random states."""
    for name in ("state_dict", "raw_state_dict"):
        for key, value in expected.get(name, {}).items():
            assert torch.equal(found[name][key], value), key
    for index, momentum in expected["optimizer"]["state"].items():
        assert torch.equal(found["optimizer"]["state"][index]["momentum_buffer"], momentum["momentum_buffer"])
    assert torch.equal(found["rng_states"][0]["cpu"], expected["rng_states"][0]["cpu"])
    assert found["iteration"] == expected["iteration"]
    assert found.get("averaged") == expected.get("averaged")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_a_signal_stopped_goes_on_as_if_nothing_had_been(
    signum: signal.Signals, miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An evaluation in between draws random numbers of its own, after the state was saved.
    monkeypatch.setattr(train_module, "evaluate", lambda *args, **kwargs: {"mIoU": float(torch.rand(()))})
    settings = ["iterations=4", "ema=0.9", "evaluate_every=2", "model.dropout=0.5"]
    teacher_file(tmp_path / "teacher.pth")  # made at each start, from random numbers at first
    settings += [f"teacher={tmp_path}/teacher.pth", "class_balance=0.5"]
    train(tiny(miniature, tmp_path / "whole", *settings))
    config = tiny(miniature, tmp_path / "parts", *settings)

    class StopsAtTheThirdStep(Monitor):
        def step(self, iteration: int, **values: float) -> None:
            if iteration == 2:  # noted after this step's turn, so the next one is the last
                signal.raise_signal(signum)

    handler = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "Monitor", StopsAtTheThirdStep)
        patch.setattr(train_module, "validate", lambda *args: {})
        with pytest.raises(InterruptedTraining, match=f"{signum.name}: iteration 3 is saved") as stopped:
            train(config)
    assert stopped.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is handler
    assert saved(tmp_path / "parts")["iteration"] == 3
    train(config)
    assert_same_training(saved(tmp_path / "parts"), saved(tmp_path / "whole"))


@pytest.mark.usefixtures("small")
def test_a_signal_during_an_evaluation_ends_it_at_once(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tolerant(*args: object, **kwargs: object) -> dict[str, Any]:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:
            raise AssertionError("taken for a failure of what it cut off") from error
        raise AssertionError("went on")

    monkeypatch.setattr(train_module, "evaluate", tolerant)
    with pytest.raises(InterruptedTraining, match="iteration 1 is saved"):
        train(tiny(miniature, tmp_path / "out", "iterations=1"))


@pytest.mark.usefixtures("small")
def test_a_signal_while_the_last_step_is_saved_is_not_lost_on_the_caller(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = train_module.save

    def saves_and_is_told(*args: Any) -> None:
        save(*args)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_module, "save", saves_and_is_told)
    with pytest.raises(InterruptedTraining, match="iteration 1 is saved"):
        train(tiny(miniature, tmp_path / "out", "iterations=1"), validates=False)


@pytest.mark.usefixtures("small", "unevaluated")
def test_weights_that_a_step_has_ruined_are_not_saved(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = train_module.gradients

    def ruinous(model: torch.nn.Module, *args: Any) -> torch.Tensor:
        losses = gradients(model, *args)
        if (tmp_path / "out/checkpoint.pth").exists():
            next(model.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
        return losses

    monkeypatch.setattr(train_module, "gradients", ruinous)
    with pytest.raises(FloatingPointError, match="weights that are not finite, so they are not saved"):
        train(tiny(miniature, tmp_path / "out", "iterations=3", "save_every=1"))
    assert saved(tmp_path / "out")["iteration"] == 1


@pytest.mark.usefixtures("small", "unevaluated")
def test_the_precision_is_decided_once_and_a_change_of_it_is_told(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    config = tiny(miniature, tmp_path / "out", "iterations=1", "bf16=null")
    train(config)
    assert saved(tmp_path / "out")["training"]["bf16"] is True
    train(config)
    assert "the training was in" not in caplog.text
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    train(config)
    assert "was in bfloat16 and goes on in float32: bf16=true keeps it as it was" in caplog.text


@pytest.mark.usefixtures("small", "unevaluated")
@pytest.mark.parametrize(("ema", "told"), [("0.9", True), ("0.5", False), ("null", False)])
def test_an_average_over_much_of_the_training_is_warned_of(
    ema: str, told: bool, miniature: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny(miniature, tmp_path / "out", "iterations=20", f"ema={ema}"))
    warning = "ema=0.9 averages over about 10 of 20 steps, and 12.2% of it is what the training began with"
    assert (warning in caplog.text) is told


def test_the_command_saves_on_sigterm_and_exits_with_143(miniature: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.train", "--config", CAMVID, *TINY]
    command += ["iterations=100000", f"data.root={miniature}", f"out={tmp_path}", "workers=1"]
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "iteration 0 of 100000" in line:
                time.sleep(0.5)
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 143, "".join(lines)
    iteration = saved(tmp_path)["iteration"]
    assert f"SIGTERM: iteration {iteration} is saved in {tmp_path}; the same command goes on" in lines[-1]
    assert 1 <= iteration < 100000


@pytest.mark.usefixtures("small")
def test_a_checkpoint_of_before_averages_and_several_processes_goes_on(
    miniature: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny(miniature, tmp_path, "iterations=1"))
    content = saved(tmp_path)
    old = {key: value for key, value in content.items() if key != "rng_states"}
    new = {"accumulate", "ema", "compile", "deterministic", "prefetch", "evaluate_every", "tensorboard"}
    old["training"] = {key: value for key, value in content["training"].items() if key not in new}
    for part, key in (("augment", "blur"), ("model", "stem_width")):
        del old["training"][part][key]
    del old["config"]["stem_width"]
    old |= {"rng": content["rng_states"][0]["cpu"], "cuda_rng": [], "iteration": 0}
    torch.save(old, tmp_path / "checkpoint.pth")
    train(tiny(miniature, tmp_path, "iterations=1", "ema=0.9"))
    assert caplog.messages == [
        "ema=0.9 averages over about 10 of 1 steps, and 90.0% of it is what the training began with: "
        "at most 1 - 10 / steps is advised",
        "the checkpoint has no average of weights: it begins with the next step",
    ]
    assert saved(tmp_path)["averaged"] == 1


@pytest.mark.usefixtures("unevaluated")
@pytest.mark.parametrize("aux", [True, False])
def test_a_training_starts_from_a_whole_network(aux: bool, miniature: Path, tmp_path: Path) -> None:
    config = tiny(miniature, tmp_path / "first", "iterations=1", "lr=1e-9", f"model.aux={aux}".lower())
    train(config)
    first = saved(tmp_path / "first")["state_dict"]
    again = tiny(miniature, tmp_path / "again", "iterations=1", "lr=1e-9", f"start={config.checkpoint}")
    train(again)
    second = saved(tmp_path / "again")["state_dict"]
    weights = [key for key in second if key.endswith("weight") and (aux or not key.startswith("aux."))]
    assert len(weights) > 40
    for key in weights:
        torch.testing.assert_close(second[key], first[key], rtol=1e-4, atol=1e-6)


def test_a_start_of_another_network_is_refused(miniature: Path, tmp_path: Path) -> None:
    config = tiny(miniature, tmp_path / "first", "iterations=1")
    network = build_network(config.model)
    save_state(TrainingState(network, build_optimizer(network, config), 0), config.checkpoint, config)
    other = tiny(
        miniature, tmp_path / "x", "iterations=1", f"start={config.checkpoint}", "model.head_width=16"
    )
    with pytest.raises(CheckpointError, match=r"shapes differ.*Give the training the file's own depth"):
        train(other)
    with pytest.raises(ConfigError, match="one of init"):
        tiny(miniature, tmp_path / "x", "iterations=1", "init=a.pth", "start=b.pth")


@pytest.mark.usefixtures("small")
def test_what_is_served_is_the_average_and_the_optimizer_goes_on_from_the_weights(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def recorded(state: TrainingState, path: Path, *rest: Any) -> None:
        save_state(state, path, *rest)
        steps.append(saved(path.parent))

    monkeypatch.setattr(train_module, "save_state", recorded)
    train(tiny(miniature, tmp_path, "iterations=3", "save_every=1", "ema=0.75"))
    config = tiny(miniature, tmp_path, "iterations=3")
    names = [name for name in SmallNetwork(config.model).state_dict() if "num_batches" not in name]
    assert any("running_var" in name for name in names)
    average = dict(steps[0]["raw_state_dict"])
    for step in steps[1:]:
        average |= {name: 0.75 * average[name] + 0.25 * step["raw_state_dict"][name] for name in names}
    served = steps[-1]["state_dict"]
    for name in names:
        torch.testing.assert_close(served[name], average[name])
    assert not torch.equal(served["cls.4.weight"], steps[-1]["raw_state_dict"]["cls.4.weight"])


@pytest.mark.usefixtures("small")
def test_parts_of_a_step_give_its_gradients_where_batch_statistics_do_not_matter(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def frozen(self: nn.BatchNorm2d, features: torch.Tensor) -> torch.Tensor:
        return features * self.weight[:, None, None] * 0.5 + self.bias[:, None, None]

    monkeypatch.setattr(nn.BatchNorm2d, "forward", frozen)
    found = {}
    for parts in (1, 4):
        out = tmp_path / str(parts)
        # Padded corners differ from image to image, and with them the number of pixels that count.
        settings = ["iterations=1", "batch=4", "model.dropout=0", "augment.scale=[0.2, 0.6]"]
        train(tiny(miniature, out, *settings, f"accumulate={parts}"))
        found[parts] = saved(out)["optimizer"]["state"]
    for index, state in found[1].items():
        torch.testing.assert_close(
            found[4][index]["momentum_buffer"], state["momentum_buffer"], rtol=1e-3, atol=1e-6
        )
    assert caplog.messages == [
        "accumulate=4: gradients are those of 4 images, batch norm's statistics those of 1"
    ]


def test_a_batch_that_cannot_be_divided_is_refused_with_one_that_can(miniature: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch=2 .* must be a multiple of 3: batch=3 would do"):
        train(tiny(miniature, tmp_path, "iterations=1", "accumulate=3"))


@pytest.mark.usefixtures("small")
def test_two_deterministic_trainings_have_the_same_weights(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluated(*args: object, **kwargs: object) -> dict[str, Any]:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        return {}

    monkeypatch.setattr(train_module, "evaluate", evaluated)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for name in ("one", "two"):
        train(tiny(miniature, tmp_path / name, "iterations=2", "deterministic=true"))
    assert_same_training(saved(tmp_path / "one"), saved(tmp_path / "two"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings("default:The .grad attribute of a Tensor:UserWarning")  # Dynamo looks for one
def test_a_compiled_network_has_the_same_keys_and_takes_the_same_steps(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def with_a_backend_that_runs_graphs_as_they_are(self: nn.Module, **options: Any) -> None:
        compiled.append(options)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", with_a_backend_that_runs_graphs_as_they_are)
    for name in ("plain", "compiled"):
        settings = ["iterations=1", "ema=0.5", "model.dropout=0", f"compile={name == 'compiled'}"]
        train(tiny(miniature, tmp_path / name, *settings))
    assert compiled == [{"dynamic": False}]
    plain, found = saved(tmp_path / "plain")["state_dict"], saved(tmp_path / "compiled")["state_dict"]
    assert list(found) == list(plain)
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("unevaluated")
def test_the_loss_falls(miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []

    class Recording(Monitor):
        def step(self, iteration: int, **values: float) -> None:
            losses.append(values["loss"])

    monkeypatch.setattr(train_module, "Monitor", Recording)
    train(tiny(miniature, tmp_path / "out", "iterations=30", "batch=4", "augment.scale=[1, 1]"))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_loss_is_main_plus_weighted_auxiliary_without_ignored_pixels() -> None:
    main, aux = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    labels = torch.randint(0, 5, (2, 4, 4))
    labels[0, 0] = 255
    counted = labels != 255

    def mean_loss(logits: torch.Tensor) -> torch.Tensor:
        return -F.log_softmax(logits, 1).gather(1, labels.clamp(max=4)[:, None])[:, 0][counted].mean()

    def loss(logits: TrainingLogits) -> torch.Tensor:
        return segmentation_loss(logits, labels, aux_weight=0.4, pixels=valid_pixels(labels)).total

    torch.testing.assert_close(loss(TrainingLogits(main, aux)), mean_loss(main) + 0.4 * mean_loss(aux))
    torch.testing.assert_close(loss(TrainingLogits(main, None)), mean_loss(main))


@pytest.mark.usefixtures("small")
def test_images_without_a_label_teach_nothing_and_end_nothing(miniature: Path, tmp_path: Path) -> None:
    for path in (miniature / "labels").iterdir():
        Image.new("L", (80, 60), 255).save(path)
    train(tiny(miniature, tmp_path, "iterations=1", "weight_decay=0"))
    assert all(not state["momentum_buffer"].any() for state in saved(tmp_path)["optimizer"]["state"].values())


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
    monkeypatch.setattr(train_module, "gradients", lambda *args: torch.tensor([float("nan"), 0.0, 0.0]))
    with pytest.raises(FloatingPointError, match=r"nan at iteration 0; give another out and a lower lr"):
        train(tiny(miniature, tmp_path / "out", "iterations=2"))
    assert not (tmp_path / "out/checkpoint.pth").exists()


@pytest.mark.usefixtures("small")
def test_another_network_or_schedule_is_not_resumed(miniature: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(tiny(miniature, out, "iterations=1"))
    for override, says in (
        ("model.context=none", 'begun with model.context="psa": give another `out`, or these'),
        ("lr=0.5", "begun with lr=0.01:"),
        ("momentum=0.5", "begun with momentum=0.9:"),
        ("augment.scale=[0.5, 1]", r"begun with augment.scale=\[0.5, 2.0\]:"),
    ):
        with pytest.raises(CheckpointError, match=says):
            train(tiny(miniature, out, "iterations=1", override))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("way", ["another name", "other content"])
def test_another_list_is_not_gone_on_with_and_a_copy_is(way: str, miniature: Path, tmp_path: Path) -> None:
    settings = ["epochs=1", "batch=1", "data.train_list=list/copy.txt"]
    lines = (miniature / "list/train.txt").read_text()
    (miniature / "list/copy.txt").write_text(lines)
    train(tiny(miniature, tmp_path, *settings[:2]))
    train(tiny(miniature, tmp_path, *settings))
    if way == "another name":
        settings[2] = "data.train_list=list/val.txt"
    else:
        (miniature / "list/copy.txt").write_text(2 * lines)
    with pytest.raises(CheckpointError, match=r"was begun with another list than list/\w+\.txt is now"):
        train(tiny(miniature, tmp_path, *settings))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(miniature: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PyTorch finds 0 GPUs here"):
        train(tiny(miniature, tmp_path / "out", "iterations=1", "device=cuda:1"))


@pytest.mark.parametrize(
    ("capabilities", "pays"),
    [
        ({"avx512_f": True}, False),
        ({"amx_bf16": False, "avx512_bf16": False}, False),
        ({"amx_bf16": False, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_bf16_is_for_processors_that_multiply_in_it(
    capabilities: dict[str, bool], pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert bf16_pays(torch.device("cpu")) is pays


@pytest.mark.parametrize("error", [OSError, RuntimeError])  # PyTorch raises either when a disk is full
def test_checkpoints_are_written_whole_or_not_at_all(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pth"
    save_atomically({"value": 1}, path)

    def fail(*args: object) -> None:
        raise error("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_atomically({"value": 2}, path)
    assert torch.load(path, weights_only=True) == {"value": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_halves_of_saves_that_were_killed_do_not_fill_the_disk(tmp_path: Path) -> None:
    names = [".checkpoint.pth.old", ".checkpoint.pth.young", ".other.pth.old"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
        if name.endswith("old"):
            os.utime(tmp_path / name, (0, 0))
    save_atomically({"value": 1}, tmp_path / "checkpoint.pth")
    assert {file.name for file in tmp_path.iterdir()} == {*names[1:], "checkpoint.pth"}


def test_the_command_ends_with_one_json_line_and_evaluate_agrees(miniature: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "training.train",
        "--config",
        CAMVID,
        *TINY,
    ]
    command += [
        "iterations=2",
        "model.crop_hw=[369, 481]",  # the images are one window
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
        (["--config", CAMVID, "data.root=absent"], "error: there is no list"),
        (["--config", CAMVID, "data.root=absent", "--deterministic", "accumulate=3"], "batch=18 would do"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        train_module.main()
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
