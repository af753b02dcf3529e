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

# Legend: s sources, t targets (both H * W, row-major); _1: one value as a vector, as shapes have it.
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

    first = Constant <value_int = 0> ()
    first_map = Gather <axis = 0> (over_completed, first)
    height_1 = Shape <start = 1, end = 2> (first_map)
    width_1 = Shape <start = 2, end = 3> (first_map)
    positions_1 = Mul (height_1, width_1)
    width_int64 = Squeeze (width_1)
    width = Cast <to = 6> (width_int64)
    positions_int64 = Squeeze (positions_1)
    positions = Cast <to = 6> (positions_int64)

    target_t = Range (zero, positions, one)
    target_row_t = Div (target_t, width)
    target_column_t = Mod (target_t, width)
    source_s1 = Unsqueeze (target_t, column_axis)
    source_row_s1 = Unsqueeze (target_row_t, column_axis)
    source_column_s1 = Unsqueeze (target_column_t, column_axis)

    twice = Mul (distribute, two)
    sign = Sub (one, twice)
    down_st = Sub (source_row_s1, target_row_t)
    right_st = Sub (source_column_s1, target_column_t)
    other_down_st = Mul (down_st, sign)
    other_right_st = Mul (right_st, sign)

    last_row = Sub (rows, one)
    last_column = Sub (columns, one)
    middle_row = Div (last_row, two)
    middle_column = Div (last_column, two)
    row_st = Add (other_down_st, middle_row)
    column_st = Add (other_right_st, middle_column)
    near_row_st = Clip (row_st, zero, last_row)
    near_column_st = Clip (column_st, zero, last_column)
    row_inside_st = Equal (row_st, near_row_st)
    column_inside_st = Equal (column_st, near_column_st)
    inside_st = And (row_inside_st, column_inside_st)

    row_start_st = Mul (near_row_st, columns)
    channel_st = Add (row_start_st, near_column_st)
    apart_st = Sub (source_s1, target_t)
    shift_st = Mul (apart_st, distribute)
    centre_st = Add (target_t, shift_st)
    channel_start_st = Mul (channel_st, positions)
    index_st = Add (channel_start_st, centre_st)

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
