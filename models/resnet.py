"""Dilated ResNet-18 … 152 with the three-convolution stem: the backbone of the published networks.

Not here: a classifier for ImageNet (`training/pretrain/` puts one on top) or weights.

    python -c "from models.resnet import ResNet; print(sum(p.numel() for p in ResNet(50).parameters()))"
"""

from torch import Tensor, nn

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ResNet(nn.Module):
    """Features of stage 4 and stage 5.

    depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
    dilations: of stages 4 and 5. Above 1 every 3x3 convolution of the stage is dilated by it and the stage's
        stride is 1; (2, 4) gives an output stride of 8 (paper 4.2), (1, 1) the ordinary 32.
    stem_width: channels that the stem gives; its first two convolutions have half of them.
    contract_dilation: the first block of a dilated stage is dilated by half of that (MMSegmentation).
    """

    def __init__(
        self,
        depth: int,
        *,
        dilations: tuple[int, int] = (2, 4),
        stem_width: int = 128,
        contract_dilation: bool = False,
    ) -> None:
        super().__init__()
        block = BasicBlock if depth < 50 else Bottleneck
        blocks = _BLOCKS[depth]
        self.layer0 = nn.Sequential(
            *_conv_bn_relu(3, stem_width // 2, stride=2),
            *_conv_bn_relu(stem_width // 2, stem_width // 2),
            *_conv_bn_relu(stem_width // 2, stem_width),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        e = block.expansion
        self.layer1 = _stage(block, stem_width, 64, blocks[0], stride=1, dilations=(1, 1))
        self.layer2 = _stage(block, 64 * e, 128, blocks[1], stride=2, dilations=(1, 1))
        d4, d5 = ((max(d // 2, 1) if contract_dilation else d, d) for d in dilations)
        self.layer3 = _stage(block, 128 * e, 256, blocks[2], stride=2 if d4[1] == 1 else 1, dilations=d4)
        self.layer4 = _stage(block, 256 * e, 512, blocks[3], stride=2 if d5[1] == 1 else 1, dilations=d5)
        self.stage4_channels, self.stage5_channels = 256 * e, 512 * e

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: (N, 3, H, W), normalised.

        Returns stage 4's and stage 5's features: (N, stage4_channels, h, w) and (N, stage5_channels, h, w);
        h = (H-1)//8 + 1 and w = (W-1)//8 + 1 when dilated by (2, 4).
        """
        stage4 = self.layer3(self.layer2(self.layer1(self.layer0(images))))
        return stage4, self.layer4(stage4)


def initialise(backbone: ResNet) -> None:
    """He initialisation (fan out) of every convolution, in place, as the official code has it."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a short cut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, width, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _short_cut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a short cut; the stride is the 3x3's."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride=stride, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _short_cut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, 4 * width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        result: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


def _stage(
    block: type[BasicBlock | Bottleneck],
    inputs: int,
    width: int,
    blocks: int,
    *,
    stride: int,
    dilations: tuple[int, int],
) -> nn.Sequential:
    """dilations: of the first block and of the others."""
    first, others = dilations
    layers = [block(inputs, width, stride=stride, dilation=first)]
    layers += [block(width * block.expansion, width, stride=1, dilation=others) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


def _short_cut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def _conv3x3(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _conv_bn_relu(inputs: int, outputs: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    return _conv3x3(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
