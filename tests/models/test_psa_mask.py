"""The op psanet::psa_mask against loops over all pairs, and what torch.library asks of an op."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.psa_mask import psa_mask, psa_mask_backward

DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
            ],
        ),
    ],
)
DIRECTIONS = pytest.mark.parametrize("distribute", [False, True], ids=["collect", "distribute"])
SIZES = pytest.mark.parametrize(
    ("feature_hw", "mask_hw"),
    [
        pytest.param((4, 4), (7, 7), id="over-completed"),
        pytest.param((3, 5), (5, 9), id="over-completed, not square"),
        pytest.param((5, 3), (3, 3), id="smaller"),
        pytest.param((4, 6), (1, 5), id="smaller, not square"),
        pytest.param((4, 4), (1, 1), id="a position alone"),
        pytest.param((4, 3), (4, 2), id="even"),
        pytest.param((2, 3), (6, 8), id="even and larger"),
        pytest.param((3, 2), (9, 11), id="larger than needed"),
        pytest.param((2, 6), (9, 5), id="larger one way, smaller the other"),
        pytest.param((1, 1), (1, 1), id="one position"),
        pytest.param((1, 5), (1, 9), id="one row"),
    ],
)


def all_pairs(map_nmhw: Tensor, mask_hw: tuple[int, int], distribute: bool) -> Tensor:
    """The definition, pair by pair: what the map at a centre says of the position at an offset from it."""
    n, _, h, w = map_nmhw.shape
    mask_h, mask_w = mask_hw
    out = torch.zeros(n, h * w, h, w, dtype=map_nmhw.dtype)
    for k in range(h):
        for l in range(w):  # noqa: E741 - the paper's letter
            for s in range(h):
                for t in range(w):
                    row, column = s - k + (mask_h - 1) // 2, t - l + (mask_w - 1) // 2
                    if not (0 <= row < mask_h and 0 <= column < mask_w):
                        continue
                    value = map_nmhw[:, row * mask_w + column, k, l]
                    if distribute:  # the centre is the source
                        out[:, k * w + l, s, t] = value
                    else:  # the centre is the target
                        out[:, s * w + t, k, l] = value
    return out


def some_map(
    feature_hw: tuple[int, int], mask_hw: tuple[int, int], dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, mask_hw[0] * mask_hw[1], *feature_hw, generator=generator).to(dtype)


@DIRECTIONS
@SIZES
def test_every_pair_reads_its_place_in_the_map(
    feature_hw: tuple[int, int], mask_hw: tuple[int, int], distribute: bool
) -> None:
    map_nmhw = some_map(feature_hw, mask_hw)
    assert torch.equal(psa_mask(map_nmhw, *mask_hw, distribute), all_pairs(map_nmhw, mask_hw, distribute))


def test_collect_is_equation_9_of_the_paper() -> None:
    h, w = 3, 4
    map_nmhw = some_map((h, w), (2 * h - 1, 2 * w - 1))
    attention = psa_mask(map_nmhw, 2 * h - 1, 2 * w - 1, False).view(2, h, w, h, w)
    pictures = map_nmhw.view(2, 2 * h - 1, 2 * w - 1, h, w)
    for k in range(h):
        for column in range(w):
            # The paper counts rows and columns from 1: its H - k + s is H - 1 - k + s counted from 0.
            region = pictures[:, h - 1 - k : 2 * h - 1 - k, w - 1 - column : 2 * w - 1 - column, k, column]
            assert torch.equal(attention[:, :, :, k, column], region)


def test_distribute_is_collect_transposed() -> None:
    map_nmhw = some_map((3, 4), (5, 5))
    collect = psa_mask(map_nmhw, 5, 5, False).flatten(2)
    distribute = psa_mask(map_nmhw, 5, 5, True).flatten(2)
    assert torch.equal(collect.mT, distribute)


@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_is_kept_and_no_value_is_rounded(dtype: torch.dtype, distribute: bool) -> None:
    map_nmhw = some_map((3, 4), (3, 7), dtype)
    out = psa_mask(map_nmhw, 3, 7, distribute)
    assert out.dtype == dtype
    assert torch.equal(out, all_pairs(map_nmhw, (3, 7), distribute))


@DIRECTIONS
@pytest.mark.parametrize("mask_hw", [(5, 7), (3, 3)])
def test_memory_layout_and_slices_make_no_difference(mask_hw: tuple[int, int], distribute: bool) -> None:
    map_nmhw = some_map((3, 4), mask_hw)
    expected = all_pairs(map_nmhw, mask_hw, distribute)
    channels_last = map_nmhw.contiguous(memory_format=torch.channels_last)
    inner = torch.nn.functional.pad(map_nmhw, (1, 1, 1, 1), value=9.0)[:, :, 1:-1, 1:-1]
    for other in (channels_last, inner, channels_last[1:]):
        out = psa_mask(other, *mask_hw, distribute)
        assert torch.equal(out, expected[-len(other) :])
        assert out.is_contiguous()


def test_the_input_is_neither_changed_nor_shared() -> None:
    map_nmhw = some_map((2, 2), (3, 3)).contiguous(memory_format=torch.channels_last)
    before = map_nmhw.clone()
    psa_mask(map_nmhw, 3, 3, False).zero_()
    assert torch.equal(map_nmhw, before)


@DIRECTIONS
@SIZES
def test_gradients_of_first_and_second_order(
    feature_hw: tuple[int, int], mask_hw: tuple[int, int], distribute: bool
) -> None:
    map_nmhw = some_map(feature_hw, mask_hw, torch.float64)[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: psa_mask(x, *mask_hw, distribute), map_nmhw, fast_mode=True)
    # The op is linear: squared, its second derivative is not zero.
    assert torch.autograd.gradgradcheck(
        lambda x: psa_mask(x, *mask_hw, distribute) ** 2, map_nmhw, fast_mode=True
    )


@DEVICES
@DIRECTIONS
def test_the_full_jacobian_is_right(distribute: bool, device: str) -> None:
    map_nmhw = some_map((2, 3), (3, 3), torch.float64).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: psa_mask(x, 3, 3, distribute), map_nmhw)


@DEVICES
@DIRECTIONS
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_ops_pass_opcheck(layout: torch.memory_format, distribute: bool, device: str) -> None:
    map_nmhw = some_map((3, 4), (5, 3)).to(device).contiguous(memory_format=layout)
    for requires_grad in (False, True):
        arguments = (map_nmhw.detach().requires_grad_(requires_grad), 5, 3, distribute)
        torch.library.opcheck(torch.ops.psanet.psa_mask.default, arguments)
    gradient = torch.randn(2, 12, 3, 4, device=device).contiguous(memory_format=layout).requires_grad_()
    torch.library.opcheck(torch.ops.psanet.psa_mask_backward.default, (gradient, 5, 3, distribute))


@DIRECTIONS
def test_fake_tensors_have_the_real_shapes_and_strides(distribute: bool) -> None:
    with FakeTensorMode():
        map_nmhw = torch.empty(2, 15, 3, 4, dtype=torch.bfloat16).contiguous(
            memory_format=torch.channels_last
        )
        out = psa_mask(map_nmhw, 5, 3, distribute)
        back = psa_mask_backward(out, 5, 3, distribute)
    assert (out.shape, out.dtype, out.stride()) == ((2, 12, 3, 4), torch.bfloat16, (144, 12, 4, 1))
    assert (back.shape, back.dtype, back.stride()) == ((2, 15, 3, 4), torch.bfloat16, (180, 12, 4, 1))


def test_an_exported_program_keeps_the_op_as_one_node() -> None:
    class Mask(torch.nn.Module):
        def forward(self, map_nmhw: Tensor) -> Tensor:
            out: Tensor = psa_mask(map_nmhw, 5, 5, True)
            return out

    batch = {0: torch.export.Dim("n", min=1, max=8)}
    program = torch.export.export(Mask(), (some_map((3, 3), (5, 5)),), dynamic_shapes=(batch,))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.psanet.psa_mask.default]
    alone = some_map((3, 3), (5, 5))[:1]
    assert torch.equal(program.module()(alone), all_pairs(alone, (5, 5), True))


@pytest.mark.parametrize("fake", [False, True])
def test_channels_that_are_no_mask_are_refused(fake: bool) -> None:
    map_nmhw = torch.zeros(1, 8, 3, 3, device="meta" if fake else "cpu")
    with pytest.raises(ValueError, match=r"3 \* 3 = 9.*\(1, 8, 3, 3\)"):
        psa_mask(map_nmhw, 3, 3, False)
    with pytest.raises(ValueError, match="1 x 1 or more"):
        psa_mask(map_nmhw, -2, -4, False)
    with pytest.raises(ValueError, match=r"\(9, 3, 3\)"):
        psa_mask(torch.zeros(9, 3, 3), 3, 3, False)
