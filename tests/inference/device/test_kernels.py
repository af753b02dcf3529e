"""The kernels compile for GPUs, on a machine that has none; what they compute is in `test_run.py`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
)


def test_kernels_compile_for_gpus_and_their_tiles_fit() -> None:
    """In a process of its own: in this one Triton may interpret them."""
    run = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import compile_all; compile_all()"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["labels", "labels", "windows"]


def compile_all() -> None:
    from inference.device import kernels
    from inference.device.run import MAX_FUSED_CLASSES

    for classes in (1, 2, 19, 32, 33, 150, 256, 257, MAX_FUSED_CLASSES):
        tile, padded = kernels.Tile.of(classes), 1 << (classes - 1).bit_length()
        assert tile.warps in (1, 2, 4, 8, 16)
        assert padded * tile.pixels <= 32 * tile.warps * (32 if padded <= 32 else 16)
    for classes, capability in ((19, 90), (150, 80)):
        assert labels_kernel(kernels, classes, capability)
        print("labels")
    assert windows_kernel(kernels)
    print("windows")


def labels_kernel(kernels: Any, classes: int, capability: int) -> bytes:
    tile = kernels.Tile.of(classes)
    constants = {
        "REAL": classes, "COARSE_H": 59, "COARSE_W": 59, "MIRRORS": 2, "ROW_ENTRIES": 30,
        "COLUMN_ENTRIES": 6, "WITH_CONFIDENCE": True, "WITH_PROBABILITIES": classes == 19,
        "CLASSES": 1 << (classes - 1).bit_length(), "PIXELS": tile.pixels,
    }  # fmt: skip
    floats = ("logits", "row_shares", "column_shares", "confidence", "probabilities")
    types = dict.fromkeys(floats, "*fp32") | {"labels": "*u8"}
    types |= dict.fromkeys(("slots", "row_places", "column_places"), "*i32")
    return compiled(kernels._finish, capability, tile.warps, constants, types)


def windows_kernel(kernels: Any) -> bytes:
    types = {"image": "*u8", "row_taps": "*i32", "column_taps": "*i32", "views": "*i32"}
    types |= dict.fromkeys(("out", "row_fractions", "column_fractions"), "*fp32")
    types |= dict.fromkeys(("mean_r", "mean_g", "mean_b"), "fp32")
    return compiled(kernels._cut, 90, 4, {"BLOCK": 256}, types)


def compiled(
    kernel: Any, capability: int, warps: int, constants: dict[str, Any], types: dict[str, str]
) -> bytes:
    """Machine code; arguments of no type are int32."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    values = {(index,): constants[name] for index, name in enumerate(names) if name in constants}
    source = ASTSource(kernel, signature, constexprs=values)
    target = GPUTarget("cuda", capability, 32)
    result: bytes = compile(source, target=target, options={"num_warps": warps}).asm["cubin"]
    return result
