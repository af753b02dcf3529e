"""How the fastest form of a network is found and used, on a stand-in for CUDA graphs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.engines.gpu_network import GpuNetwork
from tests.inference.engines.test_folding import made_network


class Replayed:
    """A function that is run again where a graph would be replayed."""

    def __init__(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> None:
        self._forward, self.images = forward, images.clone()

    def run(self) -> Tensor:
        return self._forward(self.images)


class HostGraphs:
    """seconds: of the forms, in the order in which they are tried; an exception is raised instead."""

    def __init__(self, *seconds: float | Exception) -> None:
        self._seconds, self.shapes, self.settled = list(seconds), [], 0

    def capture(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Replayed:
        self.shapes.append(tuple(images.shape))
        if self._seconds and isinstance(self._seconds[0], Exception):
            raise self._seconds.pop(0)  # type: ignore[misc]
        return Replayed(forward, images)

    @contextmanager
    def turn(self) -> Iterator[None]:
        yield

    def seconds(self, run: Callable[[], object]) -> float:
        return self._seconds.pop(0) if self._seconds else 1.0  # type: ignore[return-value]

    def settle(self) -> None:
        self.settled += 1


def made(graphs: HostGraphs, *, dtype: torch.dtype = torch.float32, **options: Any) -> GpuNetwork:
    return GpuNetwork(made_network(depth=18), torch.device("cpu"), dtype, graphs=graphs, **options)


def some_images(count: int, side: int = 33) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 255


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_any_batch_runs_as_powers_of_two_whose_forms_are_found_once(caplog: pytest.LogCaptureFixture) -> None:
    graphs = HostGraphs()
    network, exact = made(graphs), made_network(depth=18)
    with caplog.at_level(logging.INFO):
        for count in (13, 1, 13, 3):
            found, expected = network(some_images(count)), exact.coarse_logits(some_images(count))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert [shape[0] for shape in graphs.shapes] == [8, 4, 1, 2]
    said = [record.getMessage() for record in caplog.records if "to find out" in record.getMessage()]
    assert len(said) == 4
    assert said[0].startswith("batches of 8 run as graph, which took ")


def test_images_of_another_size_run_as_they_are() -> None:
    graphs = HostGraphs()
    network, exact = made(graphs), made_network(depth=18)
    expected = exact.coarse_logits(some_images(2, 41))
    torch.testing.assert_close(network(some_images(2, 41)), expected, rtol=1e-3, atol=1e-3)
    assert not graphs.shapes


def test_the_fastest_form_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    assert made(HostGraphs(0.002, 0.001), compiled=True).form(4) == "compiled graph"
    assert made(HostGraphs(0.001, 0.002), compiled=True).form(4) == "graph"


def test_a_form_that_fails_is_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(function: Any, dynamic: bool) -> Any:
        raise RuntimeError("no compiler\nmore of it")

    monkeypatch.setattr(torch, "compile", broken)
    graphs = HostGraphs()
    with caplog.at_level(logging.WARNING):
        assert made(graphs, compiled=True).form(1) == "graph"
    assert [record.getMessage() for record in caplog.records] == [
        "the network does not run as compiled graph here, others do its work: no compiler"
    ]
    assert graphs.settled == 1


def test_a_form_that_gives_other_logits_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda images: function(images) * 1.5)
    with caplog.at_level(logging.WARNING):
        assert made(HostGraphs(2.0, 1.0), compiled=True).form(1) == "graph"
    assert "its logits differ by" in caplog.text


def test_where_nothing_can_be_captured_the_network_runs_as_it_is() -> None:
    network = made(HostGraphs(RuntimeError("no graphs")))
    expected = made_network(depth=18).coarse_logits(some_images(3))
    torch.testing.assert_close(network(some_images(3)), expected, rtol=1e-3, atol=1e-3)
    assert (network.form(2), network.form(1)) == ("eager", "graph")


def test_float16_tries_fused_convolutions_and_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    network = made(HostGraphs(), dtype=torch.float16)
    with caplog.at_level(logging.WARNING):
        logits = network(some_images(1))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert "graph of fused convolutions here, others do its work" in caplog.text
    assert network.form(1) == "graph"


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_attention_is_the_networks_own_in_float32_whatever_it_computes_in(
    dtype: torch.dtype, atol: float
) -> None:
    network, exact = made(HostGraphs(), dtype=dtype), made_network(depth=18)
    found, expected = network.attention(some_images(2)), exact.attention(some_images(2))
    assert list(found) == list(expected) == ["collect", "distribute"]
    for direction, weights in found.items():
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights, expected[direction], rtol=0, atol=atol)
