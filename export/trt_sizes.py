"""Sizes of images that an engine takes: windows of the crop, or a range of sizes for networks that are tested
on whole images; and what makes TensorRT set aside no more memory for them than they need.

    sizes = parse_sizes("32x32,512x512,1024x1024")   # the least, the usual and the most, each HEIGHTxWIDTH
    sizes = default_sizes(describe(checkpoint))

Not here: building (`export/trt_build.py`), or how a picture gets its size (`inference/mmseg_layout.py`).
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.errors import UnavailableError
from inference.bundle import ModelInfo
from inference.mmseg_layout import box_of, fitted_hw
from inference.tensorrt_library import Profile
from models.config import ModelConfig

Hw = tuple[int, int]

MOST_VALUES = 2**31 - 1
"""Of one of TensorRT's arrays, and of the int32 index into it."""
LONGEST = 2
"""How much longer than wide a picture may be by default."""


@dataclass(frozen=True)
class Sizes:
    """Height and width of the smallest images that an engine takes, of those it is tuned for, of the largest.

    Raises UnavailableError for sizes that are not in that order.
    """

    least: Hw
    usual: Hw
    most: Hw

    def __post_init__(self) -> None:
        for axis, (low, middle, high) in enumerate(zip(*self.all, strict=True)):
            if not 1 <= low <= middle <= high:
                what = ("heights", "widths")[axis]
                raise UnavailableError(
                    f"--sizes {self}: the {what} {low}, {middle}, {high} must not fall: "
                    "give the least, the usual and the most, such as 32x32,512x512,1024x1024"
                )

    def __str__(self) -> str:
        return ",".join(f"{height}x{width}" for height, width in self.all)

    @property
    def all(self) -> tuple[Hw, Hw, Hw]:
        """In ascending order."""
        return self.least, self.usual, self.most

    def nearest(self, size_hw: Hw) -> Hw:
        """The size among them that is nearest to another."""
        height, width = (
            min(max(side, low), high) for low, side, high in zip(self.least, size_hw, self.most, strict=True)
        )
        return height, width


def parse_sizes(text: str) -> Sizes:
    """`LEAST,USUAL,MOST`, each HEIGHTxWIDTH in pixels. Raises UnavailableError."""
    found = [re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", part.strip()) for part in text.split(",")]
    if len(found) != 3 or not all(found):
        raise UnavailableError(
            "--sizes takes LEAST,USUAL,MOST, each HEIGHTxWIDTH, such as 32x32,512x512,1024x1024, "
            f"not {text!r}"
        )
    least, usual, most = ((int(match[1]), int(match[2])) for match in found if match)
    return Sizes(least, usual, most)


def default_sizes(info: ModelInfo) -> Sizes:
    """Of a model for whole images: from the smallest that makes sense to what the test protocol's box allows.

    Usual is a picture of the training crop's shape at scale 1. The most is the box at scale 1, as the crop
    lies (landscape, say), either way up for a square crop, and at most twice as long as wide. Multi-scale
    testing and panoramas need more.
    """
    box, crop_hw, network = box_of(info, None), info.crop_hw, info.architecture
    usual = fitted_hw(crop_hw, box)
    short = box[1] or box[0]
    long = min(box[0], LONGEST * short)
    height, width = (long if side == max(crop_hw) else short for side in crop_hw)
    most = max(height, usual[0]), max(width, usual[1])
    side = 2 * network.output_stride * network.shrink_factor
    return Sizes((min(side, usual[0]), min(side, usual[1])), usual, most)


def check_sizes(sizes: Sizes, network: ModelConfig, max_batch: int) -> None:
    """Raises UnavailableError for images that the network does not take, or whose attention is too large."""
    # Either side of a picture may be the least beside any other.
    if min(network.feature_hw_of(sizes.least)) < network.shrink_factor:
        raise UnavailableError(
            f"--sizes {sizes}: images of {sizes.least} are too small for this network: "
            f"give them sides above {network.output_stride * (network.shrink_factor - 1)}"
        )
    pixels = network.output_stride * network.shrink_factor
    positions = math.prod(math.ceil(side / pixels) for side in sizes.most)
    values = max_batch * positions * max(positions, math.prod(network.psa_mask_hw))
    if values > MOST_VALUES:
        height, width = sizes.most
        raise UnavailableError(
            f"{max_batch} images of {height}x{width} have {values:.3g} values of attention, and TensorRT's "
            f"arrays hold {MOST_VALUES:.3g}: choose a smaller largest size (--sizes LEAST,USUAL,MOST), or "
            "--max-batch 1"
        )


def make_profile(model: onnx.ModelProto, sizes: Sizes | None, max_batch: int) -> Profile:
    """1 to `max_batch` images of `sizes`, None: of the size that the model takes.

    Windows are tuned for half as many: a photograph's rarely fill the last call. Of pictures there are as
    many as a call is allowed: one, or with its mirror image two.
    """
    channels, *sides = (side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim[1:])
    crop_hw = sides[0], sides[1]
    least, usual, most = (crop_hw,) * 3 if sizes is None else sizes.all
    count = (max_batch + 1) // 2 if sizes is None else max_batch
    return Profile((1, channels, *least), (count, channels, *usual), (max_batch, channels, *most))


def with_known_remainders(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model for any size whose remainders, Mod by a constant, are looked up in a list of all that
    they can be.

    TensorRT does not see that x mod 2 is at most 1. Sizes that depend on it (the shrunk features' do, see
    `ModelConfig.shrink_rule`) then have bounds in the hundreds, and attention, their fourth power, would be
    given gigabytes. A look-up in constants has the constants' bounds.
    """
    known = onnx.ModelProto()
    known.CopyFrom(model)
    graph, constants = known.graph, _whole_constants(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        modulus = constants.get(node.input[1]) if node.op_type == "Mod" else None
        if modulus is None:
            nodes.append(node)
            continue
        (name,) = node.output
        listed, found = f"{name}_all", f"{name}_found"
        graph.initializer.append(numpy_helper.from_array(np.arange(modulus, dtype=np.int64), listed))
        nodes.append(helper.make_node("Mod", node.input, [found], name=node.name))
        nodes.append(helper.make_node("Gather", [listed, found], [name], axis=0))
    del graph.node[:]
    graph.node.extend(nodes)
    return known


def _whole_constants(model: onnx.ModelProto) -> dict[str, int]:
    """Those of one whole number, by name."""
    tensors = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    wanted = {name for node in model.graph.node if node.op_type == "Mod" for name in node.input[1:]}
    return {
        name: int(numpy_helper.to_array(tensor))
        for name, tensor in tensors.items()
        if name in wanted and tensor.data_type == onnx.TensorProto.INT64 and not tensor.dims
    }
