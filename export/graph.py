"""The PSA mask in ONNX: the op `PSAMask` of domain `psanet`, and the function of that name in standard ops.

A runtime that has a kernel of that name may use it; every other one runs the function, which travels in the
file. One body serves both directions and masks of any size: the direction enters the index arithmetically
(there is no `If`), positions beyond a smaller mask are clamped and then set to 0. The index is computed in
the graph, in int32, from the sizes of the features alone, so that a runtime folds it once at load and the
file stays free of large constants.

Not here: exporting a network (`export/onnx.py`).

    python -c "from export.graph import psa_mask_function; print(psa_mask_function())"
"""

from collections.abc import Callable

import onnx
import torch
from onnx import defs, parser
from onnxscript import values

import models.psa_mask  # noqa: F401 - registers torch.ops.psanet.psa_mask

DOMAIN, OP_NAME, VERSION = "psanet", "PSAMask", 1
OPSET = 18
COLLECT, DISTRIBUTE = 0, 1

_DOC = """Attention logits between all pairs of positions, from a map that each position c = (k, l) predicts.
over_completed: (N, mask_h * mask_w, H, W). attention: (N, H * W, H, W): what target takes from source, at
[n, source, target]. With o the other position (s, t), c's value for o lies in channel
(s - k + (mask_h - 1) / 2) * mask_w + (t - l + (mask_w - 1) / 2); a pair beyond the mask is 0.
type 0 (collect): c is the target, o the source; 1 (distribute): c is the source, o the target."""

# Legend: s sources, t targets (both H * W, row-major); r and q their rows, d and u their columns; _1: one
# value as a vector, as shapes have it. Rows and columns are looked at apart, so that only the last few values
# are as large as the attention: of no account for a fixed size, but the index of any size cannot be folded.
# Sizes are read from the first image's map: ONNX Runtime folds only shapes that are known whole; N is not.
_FUNCTION = """
<domain: "psanet", opset_import: ["" : 18]>
PSAMask <mask_h, mask_w, type> (over_completed) => (attention)
{
    zero = Constant <value = int32 {0}> ()
    one = Constant <value = int32 {1}> ()
    two = Constant <value = int32 {2}> ()
    column_axis = Constant <value_ints = [1]> ()
    mask_h_int64 = Constant <value_int: int = @mask_h> ()
    mask_w_int64 = Constant <value_int: int = @mask_w> ()
    type_int64 = Constant <value_int: int = @type> ()
    rows = Cast <to = 6> (mask_h_int64)
    columns = Cast <to = 6> (mask_w_int64)
    distribute = Cast <to = 6> (type_int64)
    twice = Mul (distribute, two)
    sign = Sub (one, twice)

    first = Constant <value_int = 0> ()
    first_map = Gather <axis = 0> (over_completed, first)
    height_1 = Shape <start = 1, end = 2> (first_map)
    width_1 = Shape <start = 2, end = 3> (first_map)
    positions_1 = Mul (height_1, width_1)
    height_int64 = Squeeze (height_1)
    height = Cast <to = 6> (height_int64)
    width_int64 = Squeeze (width_1)
    width = Cast <to = 6> (width_int64)
    positions = Mul (height, width)

    target_q = Range (zero, height, one)
    source_r1 = Unsqueeze (target_q, column_axis)
    down_rq = Sub (source_r1, target_q)
    other_down_rq = Mul (down_rq, sign)
    last_row = Sub (rows, one)
    middle_row = Div (last_row, two)
    row_rq = Add (other_down_rq, middle_row)
    near_row_rq = Clip (row_rq, zero, last_row)
    row_inside_rq = Equal (row_rq, near_row_rq)

    target_u = Range (zero, width, one)
    source_d1 = Unsqueeze (target_u, column_axis)
    right_du = Sub (source_d1, target_u)
    other_right_du = Mul (right_du, sign)
    last_column = Sub (columns, one)
    middle_column = Div (last_column, two)
    column_du = Add (other_right_du, middle_column)
    near_column_du = Clip (column_du, zero, last_column)
    column_inside_du = Equal (column_du, near_column_du)

    row_value = Mul (columns, positions)
    row_start_rq = Mul (near_row_rq, row_value)
    row_shift_rq = Mul (down_rq, distribute)
    centre_row_rq = Add (target_q, row_shift_rq)
    centre_row_start_rq = Mul (centre_row_rq, width)
    row_index_rq = Add (row_start_rq, centre_row_start_rq)
    column_start_du = Mul (near_column_du, positions)
    column_shift_du = Mul (right_du, distribute)
    centre_column_du = Add (target_u, column_shift_du)
    column_index_du = Add (column_start_du, centre_column_du)

    row_axes = Constant <value_ints = [1, 3]> ()
    column_axes = Constant <value_ints = [0, 2]> ()
    row_index_r1q1 = Unsqueeze (row_index_rq, row_axes)
    column_index_1d1u = Unsqueeze (column_index_du, column_axes)
    index_rdqu = Add (row_index_r1q1, column_index_1d1u)
    row_inside_r1q1 = Unsqueeze (row_inside_rq, row_axes)
    column_inside_1d1u = Unsqueeze (column_inside_du, column_axes)
    inside_rdqu = And (row_inside_r1q1, column_inside_1d1u)
    pairs_shape = Concat <axis = 0> (positions_1, positions_1)
    index_st = Reshape (index_rdqu, pairs_shape)
    inside_st = Reshape (inside_rdqu, pairs_shape)

    values = Flatten <axis = 1> (over_completed)
    picked_nst = Gather <axis = 1> (values, index_st)
    outside_float = Constant <value = float {0}> ()
    outside = CastLike (outside_float, picked_nst)
    attention_nst = Where (inside_st, picked_nst, outside)
    batch_1 = Shape <start = 0, end = 1> (over_completed)
    shape = Concat <axis = 0> (batch_1, positions_1, height_1, width_1)
    attention = Reshape (attention_nst, shape)
}
"""


def psa_mask_schema() -> defs.OpSchema:
    """What `PSAMask` takes and gives, as an ONNX schema of domain `psanet`, version 1."""
    parameter, attribute = defs.OpSchema.FormalParameter, defs.OpSchema.Attribute
    whole = defs.OpSchema.AttrType.INT
    return defs.OpSchema(
        OP_NAME,
        DOMAIN,
        VERSION,
        doc=_DOC,
        inputs=[parameter("over_completed", "T", "(N, mask_h * mask_w, H, W)")],
        outputs=[parameter("attention", "T", "(N, H * W, H, W)")],
        type_constraints=[("T", ["tensor(float16)", "tensor(float)", "tensor(double)"], "floating point")],
        attributes=[
            attribute("mask_h", whole, "rows of the map", required=True),
            attribute("mask_w", whole, "columns of the map", required=True),
            attribute("type", whole, "0: collect, 1: distribute", required=True),
        ],
    )


def psa_mask_function() -> onnx.FunctionProto:
    """`PSAMask` in standard ops of opset 18, for a file's local functions."""
    function = parser.parse_function(_FUNCTION)
    function.doc_string = _DOC
    return function


def translation_table() -> dict[Callable[..., object], Callable[..., object]]:
    """How `torch.onnx.export` writes this project's torch op: its `custom_translation_table`."""
    op = values.Op(values.Opset(DOMAIN, VERSION), OP_NAME, psa_mask_schema())

    def psa_mask(map_nmhw: object, mask_h: int, mask_w: int, distribute: bool) -> object:
        return op(map_nmhw, mask_h=mask_h, mask_w=mask_w, type=DISTRIBUTE if distribute else COLLECT)

    return {torch.ops.psanet.psa_mask.default: psa_mask}


def has_psa_mask(model: onnx.ModelProto) -> bool:
    """Whether the graph holds a PSAMask node."""
    return any((node.domain, node.op_type) == (DOMAIN, OP_NAME) for node in model.graph.node)


def add_psa_mask_function(model: onnx.ModelProto) -> None:
    """Puts the function into a model whose graph holds PSAMask nodes; others stay as they are."""
    if has_psa_mask(model):
        model.functions.append(psa_mask_function())


def strip_provenance(model: onnx.ModelProto) -> None:
    """Removes the exporter's notes on every node, stack traces with paths of this machine among them."""
    graph = model.graph
    named = (*graph.input, *graph.output, *graph.value_info)
    for holder in (model, graph, *graph.node, *named, *graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
