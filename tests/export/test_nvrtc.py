"""The kernel compiles to PTX for every generation of GPUs, with no GPU there."""

import re
import sys
from pathlib import Path

import pytest

from export import nvrtc
from export.errors import UnavailableError
from export.nvrtc import compile_ptx
from export.plugin import ENTRIES, KERNEL

SOURCE = 'extern "C" __global__ void nothing(int* out) { out[threadIdx.x] = 1; }'


@pytest.fixture
def installed() -> None:
    try:
        nvrtc._library()
    except UnavailableError as error:
        pytest.skip(f"NVRTC is not installed: {error}")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 100, 120])
def test_the_kernel_becomes_ptx_that_holds_both_entries(capability: int) -> None:
    ptx = compile_ptx(KERNEL.read_text(), KERNEL.name, capability=capability)
    assert f".target sm_{capability}\n" in ptx
    assert set(re.findall(r"\.visible \.entry (\w+)\(", ptx)) == set(ENTRIES.values())
    # Five scalars between the tensors, as TensorRT lays arguments out.
    for entry in ENTRIES.values():
        parameters = re.search(rf"\.entry {entry}\((.*?)\)", ptx, re.DOTALL)
        assert parameters is not None
        kinds = re.findall(r"\.param \.(\w+)", parameters.group(1))
        assert kinds == ["u64", "u32", "u32", "u32", "u32", "u32", "u64"]


@pytest.mark.usefixtures("installed")
def test_the_kernel_calls_nothing_that_an_engine_would_have_to_bring() -> None:
    ptx = compile_ptx(KERNEL.read_text(), KERNEL.name, capability=80)
    assert ".extern" not in ptx
    assert "call" not in ptx


@pytest.mark.usefixtures("installed")
def test_a_capability_that_is_not_known_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(UnavailableError, match=r"75.*90.*, not 19"):
        compile_ptx(SOURCE, "nothing.cu", capability=19)


@pytest.mark.usefixtures("installed")
def test_a_source_that_does_not_compile_gives_the_compilers_words() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)wrong\.cu does not compile: .*wrong\.cu\(1\).*undefined"):
        compile_ptx("__global__ void k() { undefined(); }", "wrong.cu", capability=80)


def test_nvrtc_missing_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["/nowhere/libnvrtc.so.12"]))
    with pytest.raises(UnavailableError, match=r"pip install '\.\[plugin\]'"):
        compile_ptx(SOURCE, "nothing.cu", capability=80)


def test_wheels_go_before_the_system_and_older_ones_before_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = [
        tmp_path / "nvidia" / name for name in ("cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12")
    ]
    for wheel in wheels:
        wheel.parent.mkdir(parents=True)
        wheel.touch()
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = list(nvrtc._candidates())
    assert found[:2] == [str(wheel) for wheel in reversed(wheels)]
    assert found[2:] == ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"]
