"""Kernels are used where they run and are right, and PyTorch's operations where they are not."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models import psa_rows
from models.psa_choice import agrees, form_for

CPU = torch.device("cpu")
TYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)


def scaled(results: tuple[Tensor, ...], place: int, factor: float) -> tuple[Tensor, ...]:
    return tuple(result * factor if index == place else result for index, result in enumerate(results))


class Kernels:
    """Like `psa_rows`, but for a factor on what is gathered, and one on a gradient."""

    def __init__(self, result: float = 1, place: int = -1, gradient: float = 1) -> None:
        self._result, self._place, self._gradient = result, place, gradient

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return scaled(psa_rows.forward(*inputs), 0, self._result)

    def backward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return scaled(psa_rows.backward(*inputs), self._place, self._gradient)


class Broken:
    def forward(self, *_: Any) -> tuple[Tensor, ...]:
        raise RuntimeError("PTX was compiled with an unsupported version")


@TYPES
def test_kernels_that_are_right_are_used(dtype: torch.dtype) -> None:
    assert agrees(Kernels(), CPU, dtype)


@TYPES
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_gradient_that_is_off_is_found_and_said(
    place: int, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    assert not agrees(Kernels(place=place, gradient=1.1), CPU, dtype)
    assert "PyTorch's operations take their place" in caplog.text


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_result_that_is_off_or_no_number_is_found(factor: float) -> None:
    assert not agrees(Kernels(factor), CPU, torch.float32)


def test_a_compiler_that_fails_is_no_end_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    assert not agrees(broken, CPU, torch.float32)
    assert not agrees(broken, CPU, torch.float32)
    assert caplog.text.count("unsupported version") == 1


def test_a_cpu_gets_pytorchs_operations() -> None:
    assert form_for(torch.zeros(1)) is psa_rows


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@TYPES
def test_a_gpu_gets_Kernels(dtype: torch.dtype) -> None:
    from models import psa_launch

    assert form_for(torch.zeros(1, dtype=dtype, device="cuda")) is psa_launch
