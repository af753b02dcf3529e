"""The kernels compile for GPUs, on a machine that has none; what they compute is in `test_run.py`."""

import importlib.util
from typing import Any

import pytest

from inference.device.run import MAX_FUSED_CLASSES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
)


def compiled(kernel: Any, capability: int, warps: int, constants: dict[str, Any], **types: str) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    values = {(index,): constants[name] for index, name in enumerate(names) if name in constants}
    source = ASTSource(kernel, signature, constexprs=values)
    return compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


@pytest.mark.parametrize(("classes", "capability"), [(19, 90), (150, 80)])
def test_labels_are_one_kernel_for_any_gpu(classes: int, capability: int) -> None:
    from inference.device import kernels

    tile = kernels.Tile.of(classes)
    constants = {
        "REAL": classes, "COARSE_H": 59, "COARSE_W": 59, "MIRRORS": 2, "ROW_ENTRIES": 30,
        "COLUMN_ENTRIES": 6, "WITH_CONFIDENCE": True, "WITH_PROBABILITIES": classes == 19,
        "CLASSES": kernels.triton.next_power_of_2(classes), "PIXELS": tile.pixels,
    }  # fmt: skip
    floats = {"logits", "row_shares", "column_shares", "confidence", "probabilities"}
    types = dict.fromkeys(floats, "*fp32") | {"labels": "*u8"}
    types |= dict.fromkeys(("slots", "row_places", "column_places"), "*i32")
    assert compiled(kernels._finish, capability, tile.warps, constants, **types).asm["cubin"]


def test_windows_are_one_kernel() -> None:
    from inference.device import kernels

    tables = {"row_taps": "*i32", "column_taps": "*i32", "views": "*i32"}
    floats = dict.fromkeys(("out", "row_fractions", "column_fractions"), "*fp32")
    means = dict.fromkeys(("mean_r", "mean_g", "mean_b"), "fp32")
    assert compiled(kernels._cut, 90, 4, {"BLOCK": 256}, image="*u8", **tables, **floats, **means).asm[
        "cubin"
    ]


def test_a_tile_holds_whole_warps_and_few_values_a_lane() -> None:
    from inference.device.kernels import Tile

    for classes in (1, 2, 19, 32, 33, 150, 256, 257, MAX_FUSED_CLASSES):
        tile = Tile.of(classes)
        padded = 1 << max(classes - 1, 0).bit_length()
        assert tile.warps in (1, 2, 4, 8, 16)
        assert padded * tile.pixels <= 32 * tile.warps * (32 if padded <= 32 else 16)
