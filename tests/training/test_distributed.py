"""Two processes on gloo beside one: the real command in real processes, forked from one that has imported it.

Networks compute in float64, so that what remains between one process and two is the order of sums.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from models.config import ConfigError
from training.dataset import EndlessSampler
from training.distributed import Processes, open_processes
from training.syncbn import SynchronisedBatchNorm2d, synchronise_batch_norm

OVERRIDES = [
    "model.crop_hw=[33, 33]",
    "model.head_width=8",
    "epochs=null",
    "batch=4",
    "workers=0",
    "bf16=false",
]
OVERRIDES += ["tensorboard=false", "device=cpu", "augment.scale=[0.2, 0.6]"]

# Runs [[rank, count, arguments, options], …] at once; prints exit codes. Options: stop_at, signals itself.
DRIVER = """
import json, multiprocessing, os, signal, socket, sys
import torch
from tests.training.small import SmallNetwork
from training import setup, train

torch.set_default_dtype(torch.float64)
train.evaluate = lambda *args, **kwargs: {"mIoU": 0.0}
setup.build_network = SmallNetwork

class Stops(train.Monitor):
    def step(self, iteration, **values):
        if iteration == stop_at:
            signal.raise_signal(signal.SIGTERM)

def run(rank, count, arguments, options, port):
    global stop_at
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in environment.items()}, MASTER_ADDR="127.0.0.1")
    if "stop_at" in options:
        stop_at, train.Monitor = options["stop_at"], Stops
    sys.argv = ["train.py", *arguments]
    train.main()

rounds = []
for group in json.loads(sys.argv[1]):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run, args=(*arguments, port)) for arguments in group]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    rounds.append([process.exitcode for process in processes])
print(json.dumps(rounds))
"""


def drive(*groups: list[list[Any]]) -> tuple[list[list[int]], str, str]:
    """Runs groups of processes one after another: their exit codes, and what they all wrote."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, json.dumps(groups)],
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    *told, codes = done.stdout.splitlines()
    return json.loads(codes), "\n".join(told), done.stderr


def arguments(root: Path, out: Path, *overrides: str) -> list[str]:
    config = ["--config", "training/configs/camvid_psanet18.yaml"]
    return [*config, *OVERRIDES, f"data.root={root}", f"out={out}", *overrides]


def test_two_processes_have_the_gradients_and_statistics_of_one_with_the_doubled_batch(
    miniature: Path, tmp_path: Path
) -> None:
    settings = ["iterations=2", "model.dropout=0", "save_every=1", "ema=0.5"]
    one = arguments(miniature, tmp_path / "one", *settings)
    two = arguments(miniature, tmp_path / "two", *settings)
    codes, told, _ = drive([[0, 1, one, {}]], [[rank, 2, two, {}] for rank in (0, 1)])
    assert codes == [[0], [0, 0]]
    assert [Path(json.loads(line)["checkpoint"]).parent.name for line in told.splitlines()] == ["one", "two"]
    expected, found = (torch.load(tmp_path / name / "checkpoint.pth") for name in ("one", "two"))
    assert len(found["rng_states"]) == 2
    assert not torch.equal(found["rng_states"][0]["cpu"], found["rng_states"][1]["cpu"])
    for name in ("raw_state_dict", "state_dict"):
        assert list(found[name]) == list(expected[name])
        for key, value in expected[name].items():
            assert torch.allclose(found[name][key], value, rtol=1e-6, atol=1e-9), key
    # With weights and rates alike, momentum tells the gradients.
    for index, state in expected["optimizer"]["state"].items():
        momentum = found["optimizer"]["state"][index]["momentum_buffer"]
        torch.testing.assert_close(momentum, state["momentum_buffer"], rtol=1e-6, atol=1e-9)


def test_a_signal_to_one_process_stops_all_at_one_step_and_they_go_on_as_if_nothing_had_been(
    miniature: Path, tmp_path: Path
) -> None:
    settings = ["iterations=3", "accumulate=2", "model.dropout=0.5", "ema=0.5"]
    whole, parts = (arguments(miniature, tmp_path / name, *settings) for name in ("whole", "parts"))
    stopped = [[0, 2, parts, {}], [1, 2, parts, {"stop_at": 1}]]
    groups = [[[rank, 2, each, {}] for rank in (0, 1)] for each in (whole, parts)]
    codes, _, said = drive(groups[0], stopped, groups[1])
    assert codes == [[0, 0], [143, 143], [0, 0]]
    assert said.count("SIGTERM: iteration 2 is saved") == 1
    expected, found = (torch.load(tmp_path / name / "checkpoint.pth") for name in ("whole", "parts"))
    for name in ("raw_state_dict", "state_dict"):
        for key, value in expected[name].items():
            assert torch.equal(found[name][key], value), key
    for before, after in zip(expected["rng_states"], found["rng_states"], strict=True):
        assert torch.equal(before["cpu"], after["cpu"])


def test_what_one_process_finds_wrong_ends_all_with_one_message(miniature: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    good, bad = (arguments(root, tmp_path, "iterations=1") for root in (miniature, tmp_path / "empty"))
    codes, _, said = drive([[0, 2, good, {}], [1, 2, bad, {}]])
    assert codes == [[2, 2]]
    errors = [line for line in said.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "process 1 of 2: error: there is no list" in errors[0]


def test_a_file_that_is_found_wrong_on_the_way_ends_all_with_its_name_alone(
    miniature: Path, tmp_path: Path
) -> None:
    Image.new("L", (80, 60), 77).save(miniature / "labels/2.png")
    command = arguments(miniature, tmp_path, "iterations=9", "data.cache=false", "workers=1")
    codes, _, said = drive([[rank, 2, [*command, "batch=2"], {}] for rank in (0, 1)])
    assert codes == [[2, 2]]
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if "error" in line]
    assert re.search(r"process \d of 2: error: \S*labels/2\.png holds 77, which is neither", error)


def test_processes_take_together_the_images_that_one_would_take_in_each_step() -> None:
    batch, parts, count = 12, 2, 3
    share = batch // parts // count
    whole = list(EndlessSampler(5, seed=1, start=batch, stop=4 * batch))
    divided = [
        list(EndlessSampler(5, seed=1, start=batch, stop=4 * batch, share=share, rank=rank, count=count))
        for rank in range(count)
    ]
    sampler = EndlessSampler(5, seed=1, start=batch, stop=4 * batch, share=share, rank=2, count=count)
    assert len(sampler) == len(divided[2]) == 12
    each = share * parts
    for step in range(3):
        taken = [pair for own in divided for pair in own[step * each : (step + 1) * each]]
        assert sorted(taken) == whole[step * batch : (step + 1) * batch]


def test_synchronised_batch_norm_keeps_keys_and_parameters_and_is_batch_norm_outside_training() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=0.1, momentum=0.3)))
    before = dict(network.named_parameters())
    images, keys = torch.randn(2, 3, 5, 5), list(network.state_dict())
    network[1][0].running_mean.copy_(torch.randn(4))
    expected = network.eval()(images)
    synchronise_batch_norm(network, torch.device("cpu"))
    layer = network[1][0]
    assert isinstance(layer, SynchronisedBatchNorm2d)
    assert (layer.eps, layer.momentum) == (0.1, 0.3)
    assert list(network.state_dict()) == keys
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    assert torch.equal(network(images), expected)


def test_one_process_needs_no_group_and_several_no_gpu_of_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun --nproc-per-node 1
    with open_processes("cpu") as processes:
        assert processes == Processes(torch.device("cpu"))
        assert not torch.distributed.is_initialized()
        assert processes.agree(torch.tensor([1.0, 2.0]), 15) == ([1.0, 2.0], 15)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="device=cuda gives each its own"), open_processes("cuda:0"):
        pass
