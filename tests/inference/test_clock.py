"""Which clock an engine's calls are timed by, and what it counts."""

import time

import numpy as np
import pytest
import torch

from inference.clock import HostClock, engine_clock


@pytest.mark.parametrize("like", [np.zeros(1), torch.zeros(1)], ids=["numpy", "torch"])
def test_on_a_host_the_seconds_inside_blocks_are_summed(like: object) -> None:
    clock = engine_clock(like)
    assert isinstance(clock, HostClock)
    assert clock.seconds() == 0
    for _ in range(2):
        with clock:
            time.sleep(0.02)
        time.sleep(0.05)
    assert 0.04 <= clock.seconds() < 0.09


def test_a_block_that_raises_counts_too() -> None:
    clock = HostClock()

    def fail() -> None:
        with clock:
            time.sleep(0.01)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert clock.seconds() >= 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_its_own_time_is_counted_and_few_blocks_are_open() -> None:
    left = torch.rand(2048, 2048, device="cuda")
    clock = engine_clock(left)
    product = left
    started = time.perf_counter()
    for _ in range(12):
        with clock:
            for _ in range(4):
                product = product @ left
                product /= product.max()
    measured = clock.seconds()
    whole = time.perf_counter() - started
    assert 0 < measured <= whole
    assert measured > 0.5 * whole
    assert clock.seconds() == measured
