import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inference.pairs import read_list
from models.checkpoint import CheckpointError
from models.config import ConfigError
from models.labels import IGNORE
from models.network import TrainingLogits
from tests.training.small import teacher_file
from training.config import TrainingConfig, read_config
from training.objective import Objective, build_objective, divergence

CPU = torch.device("cpu")
CAMVID = "training/configs/camvid_psanet18.yaml"


def batch(classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, classes, (2, 6, 7))
    labels[0, :2] = IGNORE
    return torch.randn(2, classes, 6, 7), torch.randn(2, classes, 6, 7), labels


def test_the_divergence_is_that_of_its_definition_over_valid_pixels() -> None:
    said, known, labels = batch()
    expected = 0.0
    for n, y, x in (labels != IGNORE).nonzero().tolist():
        p, q = (each[n, :, y, x].double().softmax(0) for each in (known, said))
        expected += sum(float(a * math.log(a / b)) for a, b in zip(p, q, strict=True))
    assert float(divergence(said, known, labels)) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(known, known, labels)) == pytest.approx(0, abs=1e-4)


def test_pixels_weigh_what_their_class_weighs() -> None:
    main, aux, labels = batch()
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    loss = Objective(0.4, weights)(TrainingLogits(main, aux), torch.zeros(0), labels, 10)
    sums = []
    for logits in (main, aux):
        by_pixel = -logits.log_softmax(1).gather(1, labels.clamp(max=4)[:, None])[:, 0]
        sums.append(float((by_pixel * weights[labels.clamp(max=4)])[labels != IGNORE].sum()) / 10)
    assert [float(loss.main), float(loss.aux)] == pytest.approx(sums, rel=1e-5)
    assert float(loss.total) == pytest.approx(sums[0] + 0.4 * sums[1], rel=1e-5)


def config_of(root: Path, *changes: str) -> TrainingConfig:
    return read_config(
        CAMVID, [f"data.root={root}", "model.crop_hw=[33, 33]", "model.head_width=8", *changes]
    )


def test_a_teacher_is_followed_without_gradients_of_its_own(tmp_path: Path, miniature: Path) -> None:
    teacher_file(tmp_path / "teacher.pth")
    pairs = read_list(miniature, miniature / "list/train.txt")
    config = config_of(miniature, f"teacher={tmp_path}/teacher.pth", "distill_weight=2", "class_balance=0.5")
    objective = build_objective(config, pairs, CPU)
    assert objective.teacher is not None
    assert not objective.teacher.training
    images = 255 * torch.rand(2, 3, 33, 33)
    labels = torch.randint(0, 11, (2, 33, 33))
    main = torch.randn(2, 11, 33, 33, requires_grad=True)
    loss = objective(TrainingLogits(main, None), images, labels, labels.numel())
    taught = objective.teacher(images)
    expected = loss.main + 2 * divergence(main.detach(), taught, labels) / labels.numel()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.total.backward()
    assert main.grad is not None
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())


def test_balanced_weights_are_said_in_the_log(miniature: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pairs = read_list(miniature, miniature / "list/train.txt")
    objective = build_objective(config_of(miniature, "class_balance=0.5"), pairs, CPU)
    assert objective.class_weights is not None
    assert caplog.messages[0].startswith("weights in the loss: sky ")
    assert build_objective(config_of(miniature), pairs, CPU) == Objective(0.4, None, None, 1.0)


def test_a_teacher_of_other_classes_or_a_missing_one_is_refused(tmp_path: Path, miniature: Path) -> None:
    teacher_file(tmp_path / "teacher.pth", classes=21, dataset="voc2012")
    with pytest.raises(ConfigError, match="knows 21 classes, the network 11"):
        build_objective(config_of(miniature, f"teacher={tmp_path}/teacher.pth"), [], CPU)
    with pytest.raises(CheckpointError, match="absent"):
        build_objective(config_of(miniature, f"teacher={tmp_path}/absent.pth"), [], CPU)
