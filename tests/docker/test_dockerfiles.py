"""The Dockerfiles: what hadolint does not know of this project."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from by_hand import Instruction, environment_of, read_stages
from entrypoint import DEFAULT_STORE

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "docker" / f"Dockerfile.{kind}" for kind in ("cpu", "gpu")]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.suffix[1:])


def texts(stage: list[Instruction], keyword: str) -> list[str]:
    return [item.text for item in stage if item.keyword == keyword]


def last(path: Path, keyword: str) -> str:
    return texts(read_stages(path)[-1], keyword)[-1]


@each
def test_the_service_is_the_first_process_and_no_root(path: Path) -> None:
    user, group = last(path, "USER").split(":")
    assert int(user) >= 10000
    assert int(group) >= 10000
    assert last(path, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(last(path, "ENTRYPOINT"))[0] == "python"


@each
def test_the_health_check_asks_the_service_with_what_the_image_has(path: Path) -> None:
    options, _, command = last(path, "HEALTHCHECK").partition("CMD ")
    assert json.loads(command) == ["python", "/opt/psanet/healthcheck.py"]
    assert "--start-period=" in options
    copied = [text for stage in read_stages(path) for text in texts(stage, "COPY")]
    assert any("docker/healthcheck.py" in text for text in copied)


@each
def test_modules_come_from_the_installation_alone(path: Path) -> None:
    environ = environment_of(read_stages(path)[-1])
    assert environ["PYTHONSAFEPATH"] == "1"
    assert environ["PATH"].startswith("/opt/psanet/bin:")
    assert environ["PSANET_HOST"] == "0.0.0.0"


@each
def test_labels_say_the_version_and_the_base(path: Path) -> None:
    label = last(path, "LABEL")
    assert f'org.opencontainers.image.version="{PYPROJECT["project"]["version"]}"' in label
    base = re.search(r"^ARG \w+_IMAGE=(\S+)$", path.read_text(), re.MULTILINE)
    assert base is not None
    assert re.search(rf'image\.base\.name="(docker\.io/library/)?{re.escape(base[1])}"', label)
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", base[1]), "a tag, and not latest"
    assert not base[1].endswith(":latest")


@each
def test_everything_that_is_installed_is_pinned(path: Path) -> None:
    (install,) = [text for text in texts(read_stages(path)[0], "RUN") if "pip" in text]
    assert " install -c constraints.txt " in install
    environ = environment_of(read_stages(path)[0])
    assert environ["PIP_CONSTRAINT"] == environ["PIP_BUILD_CONSTRAINT"] == "/src/constraints.txt"
    pinned = (ROOT / "constraints.txt").read_text()
    for name in re.split(r"constraints\.txt\s+", install)[1].split():
        assert name.startswith("'.[") or f"\n{name}==" in pinned


def test_the_cpu_image_holds_what_make_serve_installs() -> None:
    run = " ".join(texts(read_stages(FILES[0])[0], "RUN"))
    assert run.endswith("install -c constraints.txt '.[cpu,serve]'")
    assert "'.[cpu,serve]'" in (ROOT / "Makefile").read_text()
    assert "torch" not in run


def test_the_gpu_image_has_what_builds_engines_and_one_onnx_runtime() -> None:
    run = " ".join(texts(read_stages(FILES[1])[0], "RUN"))
    extras = PYPROJECT["project"]["optional-dependencies"]
    installed = {*extras["gpu"], *extras["serve"], *run.split("'.[gpu,serve]' ")[1].split()}
    missing = {entry.replace("onnxruntime", "onnxruntime-gpu") for entry in extras["export"]} - installed
    assert not missing
    assert "onnxruntime" not in installed
    assert "--system-site-packages" in run


def test_the_gpu_image_keeps_engines_and_caches_in_one_volume_of_its_own_user() -> None:
    stage = read_stages(FILES[1])[-1]
    environ = environment_of(stage)
    assert last(FILES[1], "VOLUME") == environ["HOME"] == DEFAULT_STORE
    assert environ["XDG_CACHE_HOME"].startswith(DEFAULT_STORE + "/")
    owner = last(FILES[1], "USER").split(":")[0]
    assert json.loads(last(FILES[1], "RUN")) == ["install", "-d", "-o", owner, "-g", owner, DEFAULT_STORE]


@each
def test_what_is_copied_is_let_through_and_is_there(path: Path) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = set()
    for stage in read_stages(path):
        for text in texts(stage, "COPY"):
            if not text.startswith("--from"):
                sources |= set(text.split()[:-1])
    assert sources <= allowed
    assert all((ROOT / source).exists() for source in sources)
    assert set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= sources
