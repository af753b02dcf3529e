import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from training.curves import main, read_curves


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "psanet18_camvid"
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for step in range(20, 101, 20):
            board.add_scalar("loss/main", 100 / step, step)
            board.add_scalar("lr", 0.01, step)
        board.add_scalar("validation/mIoU", 0.5, 100)
    return folder


def test_curves_are_what_the_training_wrote(run: Path) -> None:
    curves = read_curves(run)
    assert set(curves) == {"loss/main", "validation/mIoU"}
    assert curves["loss/main"] == [(20, 5.0), (40, 2.5), (60, pytest.approx(5 / 3)), (80, 1.25), (100, 1.0)]


def test_the_command_draws_all_runs(run: Path, tmp_path: Path) -> None:
    main([str(run), "--out", str(tmp_path / "curves.png")])
    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert (picture.std(2) > 20).sum() > 100, "no coloured line was drawn"
    main([str(run), "--out", str(tmp_path / "curves.svg")])
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_runs_in_folders_of_one_name_are_all_drawn(run: Path, tmp_path: Path) -> None:
    runs = []
    for row in ("baseline", "collect"):
        runs.append(tmp_path / row / "seed0")
        shutil.copytree(run, runs[-1])
    main([*map(str, runs), "--out", str(tmp_path / "curves.svg")])
    drawn = (tmp_path / "curves.svg").read_text()
    assert "baseline/seed0" in drawn
    assert "collect/seed0" in drawn


def test_the_folder_one_is_in_has_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    main([".", "--out", str(tmp_path / "curves.svg")])
    assert "psanet18_camvid" in (tmp_path / "curves.svg").read_text()


@pytest.mark.parametrize("case", ["no folder", "no curves", "no format"])
def test_what_cannot_be_drawn_is_said(
    case: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty/tensorboard").mkdir(parents=True)
    folder = {"no folder": tmp_path / "absent", "no curves": tmp_path / "empty", "no format": run}[case]
    says = {
        "no folder": "holds no tensorboard/",
        "no curves": "no curves yet",
        "no format": "cannot be written",
    }
    out = tmp_path / ("curves.odd" if case == "no format" else "curves.png")
    with pytest.raises(SystemExit) as ended:
        main([str(folder), "--out", str(out)])
    assert ended.value.code == 2
    assert says[case] in capsys.readouterr().err
    assert not out.exists()
