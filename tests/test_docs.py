"""What the pages tell to run and to write: docs/clients.md, docs/cvat.md, docs/label-studio.md."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.bundle import read_bundle
from service.labelstudio.config import read_label_config
from service.settings import Settings
from tests.service.fakes import TellingEngine, app_of, encoded, live, telling, three_colors

ROOT = Path(__file__).parent.parent
ADDRESS = "127.0.0.1:8000"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^ *```{language}\n(.*?)^ *```$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S
    )


PROGRAMS = blocks("clients.md", "python")
COMMANDS = [
    line
    for page in ("clients.md", "cvat.md")
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith("curl ")
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(app_of(telling(TellingEngine(), name="psanet18_camvid"))) as url:
        yield url.removeprefix("http://")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "street.jpg").write_bytes(encoded(three_colors(300, 400), "JPEG"))
    return tmp_path


def test_there_is_something_to_run() -> None:
    assert (len(PROGRAMS), len(COMMANDS)) == (3, 7)


def test_the_labelling_interface_is_one_for_the_bundled_model() -> None:
    (text,) = blocks("label-studio.md", " *xml")
    info = read_bundle(ROOT / "models/bundled/psanet18_camvid").info
    matched = read_label_config(text, Settings()).match(info)
    names = {label: [info.class_names[each] for each in classes] for label, classes in matched}
    assert names == {"Road": ["road"], "Car": ["car"], "Green": ["tree"]}


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_run(number: int, address: str, folder: Path) -> None:
    text = PROGRAMS[number].replace(ADDRESS, address)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_commands_run(number: int, address: str, folder: Path) -> None:
    command = COMMANDS[number].replace(ADDRESS, address)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    written = re.search(r"-o (\S+)", command)
    assert written is None or (folder / written[1]).stat().st_size > 0
