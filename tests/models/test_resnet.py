"""The dilated backbone: sizes, where the dilations lie, and parameters counted by hand."""

import pytest
import torch
from torch import nn

from models.resnet import BasicBlock, Bottleneck, ResNet
from tests.models.networks import fill

DEPTHS = (18, 34, 50, 101, 152)


def meta_resnet(depth: int, **options: tuple[int, int]) -> ResNet:
    with torch.device("meta"):
        return ResNet(depth, **options)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(
    ("dilations", "stride4", "stride5"),
    [((2, 4), 8, 8), ((1, 1), 16, 32), ((1, 2), 16, 16), ((2, 1), 8, 16)],
)
def test_the_output_stride_follows_the_dilations(
    depth: int, dilations: tuple[int, int], stride4: int, stride5: int
) -> None:
    backbone = meta_resnet(depth, dilations=dilations)
    stage4, stage5 = backbone(torch.empty(2, 3, 65, 97, device="meta"))
    channels = 512 if depth < 50 else 2048
    assert stage4.shape == (2, channels // 2, 64 // stride4 + 1, 96 // stride4 + 1)
    assert stage5.shape == (2, channels, 64 // stride5 + 1, 96 // stride5 + 1)
    assert (backbone.stage4_channels, backbone.stage5_channels) == (channels // 2, channels)


def test_the_stride_is_eight_unless_told_otherwise() -> None:
    stage4, stage5 = meta_resnet(18)(torch.empty(1, 3, 465, 705, device="meta"))
    assert stage4.shape[2:] == stage5.shape[2:] == (59, 89)


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_3x3_convolution_of_stages_4_and_5_is_dilated_as_published(depth: int) -> None:
    backbone = meta_resnet(depth)
    for stage, dilation in (
        (backbone.layer1, 1),
        (backbone.layer2, 1),
        (backbone.layer3, 2),
        (backbone.layer4, 4),
    ):
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert len(convolutions) == len(stage) * (2 if depth < 50 else 1)
        for convolution in convolutions:
            assert convolution.dilation == convolution.padding == (dilation, dilation)
    for stage in (backbone.layer3, backbone.layer4):
        strides = {m.stride for m in stage.modules() if isinstance(m, nn.Conv2d)}
        assert strides == {(1, 1)}


def test_a_bottleneck_strides_in_its_3x3_convolution() -> None:
    block = meta_resnet(50).layer2[0]
    assert isinstance(block, Bottleneck)
    assert block.downsample is not None
    assert isinstance(block.downsample[0], nn.Conv2d)
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
    assert block.downsample[0].stride == (2, 2)


@pytest.mark.parametrize("depth", DEPTHS)
def test_short_cuts_are_projected_only_where_the_size_changes(depth: int) -> None:
    backbone = meta_resnet(depth)
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        projected = [block.downsample is not None for block in stage]
        assert projected == [True] + [False] * (len(stage) - 1)


# torchvision's published counts, with a classifier of 1000 classes behind a stem of one 7x7 convolution.
@pytest.mark.parametrize(
    ("depth", "published"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameters_are_the_published_ones_but_for_the_stem(depth: int, published: int) -> None:
    features = 512 if depth < 50 else 2048
    classifier = features * 1000 + 1000
    plain_stem = 3 * 64 * 7 * 7 + 2 * 64
    deep_stem = (3 * 64 + 64 * 64 + 64 * 128) * 3 * 3 + 2 * (64 + 64 + 128)
    # The first block takes 128 channels for 64; a basic one needs a projection for that, 1x1 with batch norm.
    wider = 64 * 64 * 9 + (128 * 64 + 2 * 64) if depth < 50 else 64 * 64 + 64 * 256
    expected = published - classifier - plain_stem + deep_stem + wider
    assert sum(parameter.numel() for parameter in meta_resnet(depth).parameters()) == expected


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_adds_its_input_before_the_last_relu(block: type[BasicBlock | Bottleneck]) -> None:
    width = 4
    module = block(width * block.expansion, width, stride=1, dilation=2)
    fill(module)
    module.eval()
    last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    x = torch.randn(1, width * block.expansion, 5, 5)
    before = x.clone()
    assert torch.equal(module(x), x.relu())
    assert torch.equal(x, before)


def test_a_dilated_stage_looks_where_the_paper_says() -> None:
    """Through the two 3x3 convolutions of a basic block dilated by 2, a pixel reaches 0, ±2 and ±4."""
    block = BasicBlock(1, 1, stride=1, dilation=2).eval()
    for convolution in (block.conv1, block.conv2):
        nn.init.ones_(convolution.weight)
    pixel = torch.zeros(1, 1, 13, 13)
    pixel[0, 0, 6, 6] = 1.0
    reached = block(pixel)[0, 0].nonzero()
    assert sorted({int(row) - 6 for row, _ in reached}) == [-4, -2, 0, 2, 4]
    assert len(reached) == 25
