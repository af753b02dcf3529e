import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.training.prepare.conftest import write_zip
from tests.training.prepare.miniatures import ade20k_files
from training.prepare import ade20k, camvid, cityscapes, convert, voc2012
from training.prepare.__main__ import main

CONFIGS = Path(__file__).parents[3] / "training/configs"
pytestmark = pytest.mark.usefixtures("few_ade20k")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "ADEChallengeData2016.zip", ade20k_files())


def test_the_last_line_is_json_and_progress_goes_to_stderr(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["ade20k", str(archive), "--out", str(archive.parent / "out")])
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert summary["lists"] == {"training": 3, "validation": 2}
    assert summary["dataset"] == "ade20k"
    assert "5/5" in err


def test_the_prepared_folder_lies_where_the_configuration_looks(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(archive.parent)
    main(["ade20k", archive.name])
    assert (archive.parent / "data/ade20k/list/training.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ade20k", "absent.zip"], "absent.zip does not exist"),
        (["camvid", "ADEChallengeData2016.zip"], "no image with labels was found"),
        (["ade20k", "ADEChallengeData2016.zip", "--workers", "-1"], "--workers takes 0 or more"),
        (["mapillary", "x"], "invalid choice"),
        (["ade20k"], "required: DOWNLOADS"),
    ],
)
def test_mistakes_exit_with_2_and_the_mend(
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(archive.parent)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not (archive.parent / "data").exists()


def test_an_interrupt_says_that_it_can_go_on(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "write_atomically", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["ade20k", str(archive), "--out", str(archive.parent / "out")])
    assert ended.value.code == 130
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["ade20k", "voc2012", "cityscapes", "camvid", "coco"])
def test_help_shows_the_layout(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([dataset, "--help"])
    assert ended.value.code == 0
    assert "--allow-partial" in capsys.readouterr().out


def test_every_configuration_finds_its_lists() -> None:
    modules = {"ade20k": ade20k, "voc2012": voc2012, "cityscapes": cityscapes, "camvid": camvid}
    checked = set()
    for path in CONFIGS.rglob("*.yaml"):
        data = yaml.safe_load(path.read_text()).get("data", {})
        if "train_list" not in data:
            continue  # a part that others are composed with
        made = {f"list/{name}.txt" for name in modules[data["dataset"]].plan([]).lists}
        assert {data["train_list"], data["val_list"]} <= made, path
        assert data["root"] == f"data/{data['dataset']}", path
        checked.add(data["dataset"])
    assert checked == set(modules)


def test_preparing_needs_no_torch() -> None:
    code = "import sys, training.prepare.__main__; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
