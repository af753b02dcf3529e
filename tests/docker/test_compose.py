"""The compose files: what the schema does not know, and what docker compose is told to do by default."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from entrypoint import DEFAULT_STORE
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
GPU, CPU = ROOT / "compose.yaml", ROOT / "docker" / "compose.cpu.yaml"
both = pytest.mark.parametrize("path", [GPU, CPU], ids=["gpu", "cpu"])


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def merged(below: Any, above: Any) -> Any:
    """As `extends` does it for mappings and plain values."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: merged(below.get(key), value) for key, value in above.items()}
    return above


def service(path: Path, name: str) -> dict[str, Any]:
    """A service with what it extends."""
    found: dict[str, Any] = read(path)["services"][name]
    if "extends" not in found:
        return found
    extends = found.pop("extends")
    source = path.parent / extends["file"] if "file" in extends else path
    result: dict[str, Any] = merged(service(source, extends["service"]), found)
    return result


def services(path: Path) -> dict[str, dict[str, Any]]:
    """All services of a file and of those that it includes."""
    loaded = read(path)
    found = {name: service(path, name) for name in loaded["services"]}
    for included in loaded.get("include", []):
        found |= services(path.parent / included)
    return found


@both
def test_the_service_alone_starts_unless_more_is_asked_for(path: Path) -> None:
    assert {name for name, found in services(path).items() if "profiles" not in found} == {"psanet"}
    asked = {profile for found in services(path).values() for profile in found.get("profiles", [])}
    assert asked == ({"cpu", "monitoring"} if path == GPU else {"monitoring"})


@both
def test_every_service_is_confined(path: Path) -> None:
    for name, found in services(path).items():
        assert found["read_only"] is True, name
        assert found["cap_drop"] == ["ALL"], name
        assert found["security_opt"] == ["no-new-privileges:true"], name
        assert found["restart"] == "unless-stopped", name
        assert set(found["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert [entry.partition(":")[0] for entry in found["tmpfs"]] == ["/tmp"], name
        assert "privileged" not in found
        assert "network_mode" not in found


@both
def test_every_port_is_this_machines_alone_by_default(path: Path) -> None:
    ports = [port for found in services(path).values() for port in found["ports"]]
    assert len(ports) == len(services(path))
    assert all(port.startswith("${BIND:-127.0.0.1}:${") for port in ports)
    numbers = [re.findall(r"PORT:-(\d+)\}:", port)[0] for port in ports]
    assert len(set(numbers)) == len(numbers), "all of them at the same time"


@both
def test_images_of_others_are_pinned_and_ours_are_built_from_here(path: Path) -> None:
    for name, found in services(path).items():
        if "build" in found:
            assert (ROOT / found["build"]["dockerfile"]).is_file()
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", found["image"]), name


@both
def test_what_is_mounted_lies_in_the_repository(path: Path) -> None:
    for found in services(path).values():
        for volume in found.get("volumes", []):
            if volume.startswith("./"):
                source, _, rights = volume.split(":")
                assert (ROOT / "docker" / source).exists()
                assert rights == "ro"


def test_the_gpu_service_has_the_gpus_and_a_volume_for_its_engines() -> None:
    found = service(GPU, "psanet")
    (devices,) = found["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "${GPUS:-all}", "capabilities": ["gpu"]}
    assert f"engines:{DEFAULT_STORE}" in found["volumes"]
    assert found["environment"]["PSANET_DEVICE"] == "cuda"
    assert found["build"]["dockerfile"] == "docker/Dockerfile.gpu"


def test_the_cpu_service_is_one_and_the_same_in_both_files() -> None:
    ours, beside = service(CPU, "psanet"), service(GPU, "cpu")
    for key in ("image", "environment", "deploy", "tmpfs", "stop_grace_period", "env_file"):
        assert ours[key] == beside[key]
    assert ours["environment"]["PSANET_THREADS"] == ours["deploy"]["resources"]["limits"]["cpus"]
    assert "reservations" not in ours["deploy"]["resources"]


@both
def test_docker_waits_longer_than_the_service_drains(path: Path) -> None:
    (seconds,) = re.findall(r"^\$\{STOP_AFTER:-(\d+)s\}$", service(path, "psanet")["stop_grace_period"])
    drain_s = Settings.model_fields["drain_s"].default
    assert float(seconds) >= drain_s + 10, "answers that are written leave after that, and Python ends"


@both
def test_only_settings_that_exist_are_set(path: Path) -> None:
    known = {f"PSANET_{name.upper()}" for name in Settings.model_fields}
    environ = service(path, "psanet")["environment"]
    assert {name for name in environ if name.startswith("PSANET_")} <= known
    assert environ["PSANET_PORT"] == "8000"
    models = re.findall(r"^\$\{PSANET_MODELS:-(.*)\}$", environ["PSANET_MODELS"])
    assert tuple(models) == Settings.model_fields["models"].default


@both
def test_prometheus_finds_the_service_by_the_name_that_it_looks_for(path: Path) -> None:
    jobs = {job["job_name"]: job for job in read(ROOT / "docker" / "prometheus.yml")["scrape_configs"]}
    (lookup,) = jobs["psanet"]["dns_sd_configs"]
    assert lookup["names"] == ["psanet"]
    assert lookup["port"] == 8000
    for name, found in services(path).items():
        if "build" in found and name != "psanet":
            assert found["networks"]["default"]["aliases"] == ["psanet"]
