"""Taking a Dockerfile's steps in a folder, and listing what that gives."""

import json
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

from by_hand import DOCKERFILE, Folder, Instruction, environment_of, megabytes, png, read_stages
from sbom import write_sbom

TINY = """# syntax=docker/dockerfile:1
ARG BASE=some:tag
FROM ${BASE} AS build
ENV WHERE=/opt/psanet \\
    HOW="in a folder"
WORKDIR /src
# a comment
COPY LICENSE README.md ./
COPY docker docker
RUN mkdir -p /opt/psanet \\
    && echo "$HOW" > "$WHERE/said"

FROM ${BASE}
COPY --from=build /opt/psanet /opt/psanet
COPY docker/healthcheck.py /opt/psanet/healthcheck.py
CMD ["python"]
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "Dockerfile"
    path.write_text(TINY)
    return path


def test_instructions_are_read_by_stage(tiny: Path) -> None:
    build, final = read_stages(tiny)
    assert [item.keyword for item in build] == ["ENV", "WORKDIR", "COPY", "COPY", "RUN"]
    assert final[-1] == Instruction("CMD", '["python"]')
    assert environment_of(build) == {"WHERE": "/opt/psanet", "HOW": "in a folder"}


def test_the_steps_are_taken_inside_the_folder(tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "image"
    place.mkdir()
    Folder(place, sys.executable).build(read_stages(tiny))
    assert (place / "opt/psanet/said").read_text() == "in a folder\n"
    assert (place / "opt/psanet/healthcheck.py").is_file()
    assert {path.name for path in (place / "src").iterdir()} == {"LICENSE", "README.md", "docker"}
    assert not list((place / "src").rglob("__pycache__"))
    assert megabytes(place / "opt/psanet") < 0.01


def test_only_places_of_the_image_are_moved() -> None:
    folder = Folder(Path("/tmp/x"), "python")
    assert folder.inside("/opt/psanet/bin:$PATH") == "/tmp/x/opt/psanet/bin:$PATH"
    assert folder.inside("a/opt ./src . /usr/var /option") == "a/opt ./src . /usr/var /option"


def test_the_image_s_own_file_is_understood() -> None:
    build, final = read_stages(DOCKERFILE)
    assert [item.keyword for item in build if item.keyword == "RUN"] == ["RUN"]
    said = {item.keyword: item.text for item in final}
    assert json.loads(said["ENTRYPOINT"]) == ["python", "-m", "service"]


def test_the_picture_is_one() -> None:
    pixels = cv2.imdecode(np.frombuffer(png(12, 20), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (12, 20, 3)
    assert (pixels == (150, 120, 90)).all()


def test_the_bill_of_materials_lists_what_an_environment_holds(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    installed = next((tmp_path / "env").glob("lib/python*/site-packages")) / "thing-1.2.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: thing\nVersion: 1.2\nLicense-Expression: MIT\n"
    )
    out = tmp_path / "out" / "sbom.json"
    assert write_sbom(tmp_path / "env" / "bin" / "python", out) == 1
    document = json.loads(out.read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "psanet-serving"
    (component,) = document["components"]
    assert (component["name"], component["version"]) == ("thing", "1.2")
    assert str(tmp_path) not in out.read_text()
