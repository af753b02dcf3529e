"""The house itself: the floors of imports, what an import brings in, and that every dependency is pinned."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "inference", "export", "training", "service", "psanet_client")
# What is allowed torch in inference and service; everything else must start without it.
ENGINE_MODULES = (
    "cuda_graphs",
    "folding",
    "gpu_network",
    "graphs",
    "onnxruntime_binding",
    "pytorch",
    "tensorrt",
)
TORCH_MODULES = ("inference.device.", *(f"inference.engines.{name}" for name in ENGINE_MODULES))


def canonical(name: str) -> str:
    """The name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pyproject() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "constraints.txt holds name==version lines alone"
    return {canonical(name): version for name, version in pins}


def installed_requirements(root: str, *, extras: tuple[str, ...] = ()) -> dict[str, str]:
    """Name → version of every installed distribution that `root` with `extras` brings, directly or not."""
    found: dict[str, str] = {}
    waiting = [(root, extra) for extra in ("", *extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        for text in distribution(name).requires or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            child = canonical(requirement.name)
            try:
                found[child] = distribution(child).version.partition("+")[0]
            except PackageNotFoundError:
                continue  # an extra that this environment does not have, gpu say
            following = {(child, wanted) for wanted in ("", *requirement.extras)} - seen
            seen |= following
            waiting += following
    return found


def module_names(*packages: str) -> Iterator[str]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_after(modules: list[str]) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter that has imported `modules`."""
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_imports_go_downward_only() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_inference_and_service_import_no_torch() -> None:
    modules = [name for name in module_names("inference", "service") if not name.startswith(TORCH_MODULES)]
    assert len(modules) > 10
    assert not imported_after(modules) & {"torch", "torchvision", "onnx", "onnxscript", "safetensors"}


def test_inference_imports_neither_engine_nor_http_until_it_is_asked() -> None:
    engines = ("inference.engines.", "inference.onnxruntime_library", "inference.device.")
    modules = [name for name in module_names("inference") if not name.startswith(engines)]
    imported = imported_after(["inference", *modules])
    assert not imported & {"torch", "onnxruntime", "fastapi", "starlette", "pydantic", "uvicorn"}


def test_configuration_and_labels_need_the_standard_library_alone() -> None:
    imported = imported_after(["models.config", "models.labels"])
    assert not imported & {"torch", "numpy", "cv2", "PIL", "yaml", "pydantic"}


def test_training_and_export_need_no_http() -> None:
    imported = imported_after(list(module_names("training", "export")))
    assert not imported & {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}


def test_the_client_needs_nothing_of_the_house_and_few_libraries() -> None:
    imported = imported_after(list(module_names("psanet_client")))
    assert "httpx2" in imported
    assert not imported & {*PACKAGES[:-1], "torch", "cv2", "PIL", "pydantic", "fastapi", "onnxruntime"}


def test_every_dependency_is_pinned_exactly() -> None:
    pyproject = read_pyproject()
    extras = pyproject["project"]["optional-dependencies"]
    asked = [requirement for extra in extras.values() for requirement in extra]
    asked += pyproject["project"]["dependencies"] + pyproject["build-system"]["requires"]
    names = {canonical(re.match(r"[\w.-]+", requirement).group()) for requirement in asked}
    assert not names - read_pins().keys()


def test_what_is_installed_is_what_is_pinned() -> None:
    """Transitive dependencies too: nothing that the project brings may come unpinned."""
    pins = read_pins()
    extras = distribution("psanet-serving").metadata.get_all("Provides-Extra") or []
    installed = installed_requirements("psanet-serving", extras=tuple(extras))
    assert len(installed) > 50
    loose = {
        name: version
        for name, version in installed.items()
        # A CUDA build of torch pins its own packages.
        if not name.startswith(("nvidia-", "cuda-", "triton")) and pins.get(name) != version
    }
    assert not loose


def test_torch_is_one_version_everywhere() -> None:
    pinned = f"torch=={read_pins()['torch']}"
    extras = read_pyproject()["project"]["optional-dependencies"]
    asked = {entry for extra in extras.values() for entry in extra if canonical(entry).startswith("torch")}
    assert asked == {pinned}
    assert f"TORCH := {pinned}\n" in (ROOT / "Makefile").read_text()


def test_serving_on_a_cpu_asks_for_no_torch() -> None:
    extras = read_pyproject()["project"]["optional-dependencies"]
    assert not any("torch" in entry for entry in extras["cpu"] + extras["serve"])


def test_what_serving_installs_stays_below_500_mb() -> None:
    """The closure of the extras that `make serve` installs, with pip and the build backend, on disk."""
    names = {"pip", "hatchling", *installed_requirements("hatchling")}
    for extra in ("cpu", "serve"):
        names |= installed_requirements("psanet-serving", extras=(extra,)).keys()
    assert "onnxruntime" in names
    assert "torch" not in names
    files = [file.locate() for name in names for file in distribution(name).files or ()]
    compiled = 1.15  # byte code that was written on installation and is not listed
    size_mb = compiled * sum(Path(file).stat().st_size for file in files if Path(file).is_file()) / 2**20
    assert 200 < size_mb < 500


def stand_in_environment(folder: Path) -> Path:
    """A copy of what `make` reads, with a .venv in which every program prints how it was called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "pip"):
        (programs / name).write_text('#!/bin/sh\necho "ran $*"\nenv | grep ^PSANET_ | sort\n')
        (programs / name).chmod(0o755)
    return folder


def run_make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PSANET_", "MAKE"))}
    kept = {name: value for name, value in kept.items() if name not in {"HOST", "PORT", "MODEL", "MFLAGS"}}
    kept |= environment
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=kept, capture_output=True, text=True, timeout=60, check=False
    )


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_make_installs_once_and_again_only_when_the_pins_change(tmp_path: Path) -> None:
    folder = stand_in_environment(tmp_path)
    first = run_make(folder, "setup")
    assert "install" in first.stdout
    assert first.returncode == 0, first.stderr
    (folder / "pyproject.toml").touch()
    assert run_make(folder, "--question", "setup").returncode == 0, "a newer date alone installs nothing"
    with (folder / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert run_make(folder, "--question", "setup").returncode == 1


@needs_make
def test_make_serve_installs_nothing_after_make_setup_and_hands_on_what_was_asked(tmp_path: Path) -> None:
    folder = stand_in_environment(tmp_path)
    assert run_make(folder, "setup").returncode == 0
    plain = run_make(folder, "serve")
    assert plain.stdout.split("\n") == ["ran -m service", "PSANET_HOST=127.0.0.1", "PSANET_PORT=8000", ""]
    chosen = run_make(folder, "serve", "HOST=0.0.0.0", "PORT=9000", "MODEL=runs/street")
    assert chosen.stdout.split("\n")[1:-1] == [
        "PSANET_HOST=0.0.0.0",
        "PSANET_MODELS=runs/street",
        "PSANET_PORT=9000",
    ]
    assert "PSANET_PORT=9001" in run_make(folder, "serve", PSANET_PORT="9001").stdout.split("\n")


@needs_make
def test_another_torch_index_is_used_for_torch_alone(tmp_path: Path) -> None:
    folder = stand_in_environment(tmp_path)
    shown = run_make(folder, "setup", "TORCH_INDEX=https://index.example/cpu").stdout
    lines = [line for line in shown.splitlines() if line.startswith("ran") and "index.example" in line]
    assert len(lines) == 1
    assert "--no-deps" in lines[0]
    assert lines[0].endswith(f"torch=={read_pins()['torch']}")


@needs_make
def test_a_python_that_is_too_old_is_refused_with_the_mend(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\ncase "$1" in -V) echo Python 3.9.1;; *) exit 1;; esac\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    run = run_make(tmp_path, "setup", f"PYTHON={old}")
    assert run.returncode != 0
    assert "Python 3.11 or newer is needed" in run.stderr
    assert "Python 3.9.1" in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_distribution_holds_every_top_level_package() -> None:
    wheel = read_pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) == set(PACKAGES)
    assert all((ROOT / package / "__init__.py").is_file() for package in PACKAGES)
