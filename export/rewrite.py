"""The PSA module's tail as runtimes like it best: the same function, each position's values side by side.

Plainly, the last 1x1 convolution gives maps (N, M, H, W), the op PSAMask gathers logits over all of memory,
softmax runs along a slow axis, and a product follows. Here that convolution is a matrix product that gives
(N, H * W, M), the op `PSAPairs` picks each position's values out of one short row, and softmax runs along the
last axis. Both directions share one index. Compact networks need no op: transposes alone.

Not here: PSAMask itself, whose rule the op shares (`export/graph.py`), or exporting (`export/build.py`).

    with_serving_tail(network)   # a network for `torch.onnx.export`, of the same weights
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnx import defs, parser
from onnxscript import opset18, values
from torch import Tensor, nn

from export.graph import DOMAIN, VERSION
from models.context import PSA
from models.network import SceneParser
from models.psa_mask import psa_mask

PAIRS = "PSAPairs"

_DOC = """PSAMask of maps whose positions come first and whose values lie together.
over_completed: (N, H * W, mask_h * mask_w). features_hw: H and W. pairs: (N, H * W, H * W), what position c
predicts for position o, at [n, c, o]; pairs beyond the mask are 0. Collect reads c as the target and o as the
source, distribute c as the source and o as the target."""

# Legend: c centres, o others (both H * W, row-major); k and r their rows, l and d their columns. The index is
# computed as PSAMask's is; `features_hw` is one value for all nodes, so that their indices are one.
_FUNCTION = """
<domain: "psanet", opset_import: ["" : 18]>
PSAPairs <mask_h, mask_w> (over_completed, features_hw) => (pairs)
{
    zero = Constant <value = int32 {0}> ()
    one = Constant <value = int32 {1}> ()
    two = Constant <value = int32 {2}> ()
    first = Constant <value_int = 0> ()
    second = Constant <value_int = 1> ()
    centre_axis = Constant <value_ints = [1]> ()
    mask_h_int64 = Constant <value_int: int = @mask_h> ()
    mask_w_int64 = Constant <value_int: int = @mask_w> ()
    rows = Cast <to = 6> (mask_h_int64)
    columns = Cast <to = 6> (mask_w_int64)
    height_int64 = Gather (features_hw, first)
    height = Cast <to = 6> (height_int64)
    width_int64 = Gather (features_hw, second)
    width = Cast <to = 6> (width_int64)

    row_r = Range (zero, height, one)
    row_k1 = Unsqueeze (row_r, centre_axis)
    down_kr = Sub (row_r, row_k1)
    last_row = Sub (rows, one)
    middle_row = Div (last_row, two)
    mask_row_kr = Add (down_kr, middle_row)
    near_row_kr = Clip (mask_row_kr, zero, last_row)
    row_inside_kr = Equal (mask_row_kr, near_row_kr)
    row_start_kr = Mul (near_row_kr, columns)

    column_d = Range (zero, width, one)
    column_l1 = Unsqueeze (column_d, centre_axis)
    right_ld = Sub (column_d, column_l1)
    last_column = Sub (columns, one)
    middle_column = Div (last_column, two)
    mask_column_ld = Add (right_ld, middle_column)
    near_column_ld = Clip (mask_column_ld, zero, last_column)
    column_inside_ld = Equal (mask_column_ld, near_column_ld)

    row_axes = Constant <value_ints = [1, 3]> ()
    column_axes = Constant <value_ints = [0, 2]> ()
    row_start_k1r1 = Unsqueeze (row_start_kr, row_axes)
    near_column_1l1d = Unsqueeze (near_column_ld, column_axes)
    channel_klrd = Add (row_start_k1r1, near_column_1l1d)
    row_inside_k1r1 = Unsqueeze (row_inside_kr, row_axes)
    column_inside_1l1d = Unsqueeze (column_inside_ld, column_axes)
    inside_klrd = And (row_inside_k1r1, column_inside_1l1d)
    keep_dims = Constant <value_ints = [0]> ()
    positions_1 = ReduceProd <keepdims = 1> (features_hw, keep_dims)
    pairs_shape = Concat <axis = 0> (positions_1, positions_1)
    channel_co = Reshape (channel_klrd, pairs_shape)
    inside_co = Reshape (inside_klrd, pairs_shape)

    batch_1 = Shape <start = 0, end = 1> (over_completed)
    batched_shape = Concat <axis = 0> (batch_1, pairs_shape)
    channel_nco = Expand (channel_co, batched_shape)
    picked_nco = GatherElements <axis = 2> (over_completed, channel_nco)
    outside_float = Constant <value = float {0}> ()
    outside = CastLike (outside_float, picked_nco)
    pairs = Where (inside_co, picked_nco, outside)
}
"""


class ServingPSA(PSA):
    """A PSA module's own parts, with its tail in the other layout; for exporting, not for training."""

    def __init__(self, psa: PSA) -> None:
        nn.Module.__init__(self)
        own = {key: value for key, value in vars(psa).items() if key not in vars(self)}
        self.__dict__.update(own, _modules=dict(psa._modules))
        self.attention = _last_as_product(psa.attention)
        if psa.attention_p is not None:
            self.attention_p = _last_as_product(psa.attention_p)

    def attention_weights(self, map_nhwm: Tensor, *, distribute: bool) -> Tensor:
        """As PSA's, of a map (N, h, w, mask_h * mask_w)."""
        return self.target_weights(map_nhwm, distribute=distribute).mT

    def target_weights(self, map_nhwm: Tensor, *, distribute: bool) -> Tensor:
        """The same as (N, t, s), as it lies in memory."""
        h, w = map_nhwm.shape[1:3]
        map_ncm = map_nhwm.flatten(1, 2)
        pairs_nco = map_ncm if self.compact else psa_pairs(map_ncm, h, w, *self.mask_hw)
        logits_nts = pairs_nco.mT if distribute else pairs_nco
        return torch.softmax(logits_nts, -1) if self.softmax else logits_nts


class _MatrixProduct(nn.Module):
    """A 1x1 convolution without bias, (N, C, h, w) to (N, h, w, M)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1).T.contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) @ self.weight


def _last_as_product(attention: nn.Sequential) -> nn.Sequential:
    *layers, predict = attention
    assert isinstance(predict, nn.Conv2d), "a PSA branch ends with a convolution"
    return nn.Sequential(*layers, _MatrixProduct(predict))


def with_serving_tail(network: SceneParser) -> SceneParser:
    """A network of the same weights whose PSA module is a `ServingPSA`; other networks as they are."""
    if not isinstance(network.context, PSA):
        return network
    serving = copy.copy(network)
    serving.__dict__["_modules"] = dict(network._modules)
    serving.context = ServingPSA(network.context).eval()
    return serving


@torch.library.custom_op("psanet::psa_pairs", mutates_args=())
def psa_pairs(map_ncm: Tensor, h: int, w: int, mask_h: int, mask_w: int) -> Tensor:
    """What each position predicts for every other: (N, h * w, mask_h * mask_w) to (N, h * w, h * w)."""
    pairs: Tensor = psa_mask(map_ncm.mT.unflatten(2, (h, w)), mask_h, mask_w, True).flatten(2)
    return pairs


@psa_pairs.register_fake
def _(map_ncm: Tensor, h: int, w: int, mask_h: int, mask_w: int) -> Tensor:
    return map_ncm.new_empty(map_ncm.shape[0], map_ncm.shape[1], map_ncm.shape[1])


def psa_pairs_schema() -> defs.OpSchema:
    """What `PSAPairs` takes and gives, as an ONNX schema of domain `psanet`, version 1."""
    parameter, attribute = defs.OpSchema.FormalParameter, defs.OpSchema.Attribute
    whole = defs.OpSchema.AttrType.INT
    return defs.OpSchema(
        PAIRS,
        DOMAIN,
        VERSION,
        doc=_DOC,
        inputs=[
            parameter("over_completed", "T", "(N, H * W, mask_h * mask_w)"),
            parameter("features_hw", "tensor(int64)", "(2): H, W"),
        ],
        outputs=[parameter("pairs", "T", "(N, H * W, H * W)")],
        type_constraints=[("T", ["tensor(float16)", "tensor(float)", "tensor(double)"], "floating point")],
        attributes=[
            attribute("mask_h", whole, "rows of the map", required=True),
            attribute("mask_w", whole, "columns of the map", required=True),
        ],
    )


def psa_pairs_function() -> onnx.FunctionProto:
    """`PSAPairs` in standard ops of opset 18, for a file's local functions."""
    function = parser.parse_function(_FUNCTION)
    function.doc_string = _DOC
    return function


def has_psa_pairs(model: onnx.ModelProto) -> bool:
    """Whether the graph holds a PSAPairs node."""
    return any((node.domain, node.op_type) == (DOMAIN, PAIRS) for node in model.graph.node)


def add_psa_pairs_function(model: onnx.ModelProto) -> None:
    """Puts the function into a model whose graph holds PSAPairs nodes; others stay as they are."""
    if has_psa_pairs(model):
        model.functions.append(psa_pairs_function())


def pairs_translation_table() -> dict[Callable[..., object], Callable[..., object]]:
    """How `torch.onnx.export` writes `psa_pairs`: its `custom_translation_table`."""
    op = values.Op(values.Opset(DOMAIN, VERSION), PAIRS, psa_pairs_schema())

    def translated(map_ncm: Any, h: Any, w: Any, mask_h: int, mask_w: int) -> object:
        return op(map_ncm, _vector((h, w)), mask_h=mask_h, mask_w=mask_w)

    return {torch.ops.psanet.psa_pairs.default: translated}


def _vector(sizes: Sequence[Any]) -> Any:
    """Sizes, numbers or values of the graph, as one value."""
    opset: Any = opset18
    if all(isinstance(size, int) for size in sizes):
        return opset.Constant(value_ints=list(sizes))
    one = opset.Constant(value_ints=[1])
    return opset.Concat(*(opset.Reshape(size, one) for size in sizes), axis=0)
