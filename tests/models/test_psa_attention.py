"""The op psanet::psa_attention: its form in PyTorch's operations, and what torch.library asks of an op."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models import psa_rows
from models.config import PsaType
from models.context import PSA
from models.psa_attention import attend, psa_attention
from models.psa_blocks import Geometry
from tests.models.networks import fill
from tests.models.psa_oracle import GEOMETRIES, errors, expected, some_inputs

GPU_MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU_MARKS)])
DIRECTIONS = pytest.mark.parametrize("distribute", [False, True], ids=["collect", "distribute"])


def found(inputs: list[Tensor], geometry: Geometry) -> list[Tensor]:
    """Both results of the op, and the gradients of features, weight and values."""
    features, weight, values, grad, grad_log_sums = inputs
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (features, weight, values)]
    results = psa_attention(*leaves, *geometry)
    return [*results, *torch.autograd.grad(results, leaves, (grad, grad_log_sums))]


@DEVICES
@DIRECTIONS
@pytest.mark.parametrize(("feature_hw", "mask_hw"), GEOMETRIES)
def test_both_passes_are_the_plain_form(
    feature_hw: tuple[int, int], mask_hw: tuple[int, int], distribute: bool, device: str
) -> None:
    geometry = Geometry(*feature_hw, *mask_hw, distribute)
    inputs = some_inputs(geometry, dtype=torch.float64, device=device)
    assert max(errors(found(inputs, geometry), expected(inputs, geometry))) < 1e-13


@DIRECTIONS
@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("mask_hw", [(13, 17), (6, 5)], ids=["over-completed", "smaller"])
def test_blocks_add_up(
    rows: int, mask_hw: tuple[int, int], distribute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = Geometry(7, 9, *mask_hw, distribute)
    monkeypatch.setattr(psa_rows, "BLOCK_BYTES", rows * 9 * 63 * 8)
    inputs = some_inputs(geometry, dtype=torch.float64)
    assert max(errors(found(inputs, geometry), expected(inputs, geometry))) < 1e-13


@DIRECTIONS
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1.5e-2), (torch.float16, 2e-3)], ids=str
)
def test_every_type_is_kept_and_summed_in_float32(
    dtype: torch.dtype, tolerance: float, distribute: bool
) -> None:
    geometry = Geometry(6, 7, 11, 13, distribute)
    inputs = some_inputs(geometry, dtype=dtype)
    results = found(inputs, geometry)
    exact = torch.promote_types(dtype, torch.float32)
    assert [result.dtype for result in results] == [dtype, exact, dtype, dtype, dtype]
    assert max(errors(results, expected(inputs, geometry))) < tolerance


@DEVICES
@DIRECTIONS
@pytest.mark.parametrize("mask_hw", [(5, 7), (2, 3)])
def test_gradcheck(mask_hw: tuple[int, int], distribute: bool, device: str) -> None:
    geometry = Geometry(3, 4, *mask_hw, distribute)
    inputs = some_inputs(geometry, images=1, channels=3, width=2, dtype=torch.float64, device=device)[:3]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda *tensors: psa_attention(*tensors, *geometry), leaves)


@DEVICES
@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_op_passes_opcheck(dtype: torch.dtype, distribute: bool, device: str) -> None:
    geometry = Geometry(3, 4, 5, 7, distribute)
    for requires_grad in (False, True):
        inputs = some_inputs(geometry, dtype=dtype, device=device)[:3]
        leaves = [tensor.requires_grad_(requires_grad) for tensor in inputs]
        # The compiled backward pass may be given gradients of other strides, so sums run in another order.
        torch.library.opcheck(psa_attention, (*leaves, *geometry), rtol=1e-2, atol=1e-2)


def test_fake_tensors_know_the_shapes() -> None:
    with FakeTensorMode():
        gathered, log_sums = psa_attention(
            torch.empty(2, 12, 5, dtype=torch.bfloat16),
            torch.empty(35, 5, dtype=torch.bfloat16),
            torch.empty(2, 12, 3, dtype=torch.bfloat16),
            *Geometry(3, 4, 5, 7, False),
        )
    assert (gathered.shape, gathered.dtype) == ((2, 12, 3), torch.bfloat16)
    assert (log_sums.shape, log_sums.dtype) == ((2, 12), torch.float32)


@pytest.mark.parametrize(
    ("shapes", "dtype", "message"),
    [
        (((2, 11, 5), (35, 5), (2, 12, 3)), torch.float32, r"takes features \(N, 3 \* 4, C\)"),
        (((2, 12, 5), (34, 5), (2, 12, 3)), torch.float32, r"takes a weight \(5 \* 7, 5\), not \(34, 5\)"),
        (((2, 12, 5), (35, 5), (1, 12, 3)), torch.float32, r"takes values \(2, 12, 'D'\)"),
        (((2, 12, 5), (35, 5), (2, 12, 3)), torch.float64, "of one type"),
    ],
)
def test_what_does_not_fit_is_refused(
    shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, message: str
) -> None:
    features, weight, values = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        psa_attention(features, weight, values.to(dtype), *Geometry(3, 4, 5, 7, False))


def some_maps(device: str) -> list[Tensor]:
    """Features (N, C, H, W), a convolution's weight, values (N, D, H, W)."""
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 20, 5, 6), (9 * 11, 20, 1, 1), (2, 12, 5, 6))
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


@DEVICES
@DIRECTIONS
def test_memory_layout_and_slices_make_no_difference(distribute: bool, device: str) -> None:
    inputs = some_maps(device)

    def found(features: Tensor, weight: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in (features, weight, values)]
        out = attend(*leaves, (9, 11), distribute=distribute)
        return (out, *torch.autograd.grad(out.square().sum(), leaves))

    features, weight, values = inputs
    wanted = found(features, weight, values)
    for change in (
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: torch.nn.functional.pad(x, (1, 2, 3, 4), value=9.0)[:, :, 3:-4, 1:-2],
        lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    ):
        got = found(change(features), weight, change(values))
        assert max(errors(got, [tensor.detach().double() for tensor in wanted])) < 1e-5


@DEVICES
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_and_gradients_are_laid_out_as_what_they_are_of(
    layout: torch.memory_format, device: str
) -> None:
    """Otherwise the convolutions around would bring what they hold to another layout, and hold it twice."""
    features, weight, values = (
        tensor.contiguous(memory_format=layout).requires_grad_() for tensor in some_maps(device)
    )
    out = attend(features, weight, values, (9, 11), distribute=False)
    grads = torch.autograd.grad(out.sum(), (features, weight, values))
    for tensor in (out, grads[0], grads[2]):
        assert tensor.is_contiguous(memory_format=layout)


@DEVICES
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_brings_all_to_its_type(lower: torch.dtype, device: str) -> None:
    features, weight, values = some_maps(device)
    weight.requires_grad_()
    with torch.autocast(device, lower):
        out = attend(features, weight, values.to(lower), (9, 11), distribute=False)
    assert out.dtype == lower
    out.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    wanted = attend(features, weight, values, (9, 11), distribute=False)
    assert (out - wanted).abs().mean() < 0.02 * wanted.std()


@DEVICES
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")
def test_it_compiles_in_one_graph(device: str) -> None:
    features, weight, values = (tensor.requires_grad_() for tensor in some_maps(device))

    def head(features: Tensor, weight: Tensor, values: Tensor) -> Tensor:
        return attend(features.relu(), weight, values, (9, 11), distribute=False) * 2

    wanted = torch.autograd.grad(head(features, weight, values).square().sum(), (features, weight, values))
    backend = "aot_eager" if device == "cpu" else "inductor"
    compiled = torch.compile(head, fullgraph=True, backend=backend)
    got = torch.autograd.grad(compiled(features, weight, values).square().sum(), (features, weight, values))
    assert max(errors(got, [grad.double() for grad in wanted])) < 1e-5


@DEVICES
@pytest.mark.parametrize("psa_type", ["collect", "distribute", "bidirectional"])
def test_the_module_is_the_same_in_one_piece_and_plainly(psa_type: PsaType, device: str) -> None:
    """Training takes the op, evaluation on a CPU the plain form; no batch is looked at here."""
    module = PSA(6, 4, mask_hw=(5, 9), psa_type=psa_type, normalization_factor=2.0).double()
    fill(module)
    module.eval()
    features = torch.randn(2, 6, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = module(features)
    wanted_grads = torch.autograd.grad(wanted.square().sum(), list(module.parameters()))
    module.training = True
    module.to(device)
    got = module(features.to(device))
    grads = torch.autograd.grad(got.square().sum(), list(module.parameters()))
    assert torch.allclose(got.cpu(), wanted, atol=1e-12)
    assert max(errors([grad.cpu() for grad in grads], wanted_grads)) < 1e-12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@DIRECTIONS
def test_a_gpu_gives_the_same_bits_again_when_that_is_asked_for(distribute: bool) -> None:
    geometry = Geometry(30, 30, 59, 59, distribute)
    inputs = some_inputs(geometry, channels=128, width=128, dtype=torch.float16, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first, again = found(inputs, geometry), found(inputs, geometry)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_cuda_graph_can_hold_it() -> None:
    geometry = Geometry(13, 17, 25, 33, False)
    inputs = some_inputs(geometry, channels=64, width=64, dtype=torch.float16, device="cuda")
    wanted = psa_attention(*inputs[:3], *geometry)[0]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = psa_attention(*inputs[:3], *geometry)[0]
    captured.zero_()
    graph.replay()
    assert torch.allclose(captured, wanted, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_holds_little_more_than_inputs_and_results() -> None:
    geometry = Geometry(64, 128, 127, 255, False)
    inputs = some_inputs(geometry, images=1, channels=256, width=256, dtype=torch.float16, device="cuda")
    found(inputs, geometry)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found(inputs, geometry)
    attention = geometry.positions**2 * 2
    assert torch.cuda.max_memory_allocated() - before < 1.5 * attention
