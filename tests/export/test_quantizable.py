"""What of a graph becomes integers: every kind of place that a convolution can have."""

import pytest
from onnx import parser

from export.quantizable import Layout, Scale, lay_out

# Shapes do not matter here; w0 … w4 are constants.
GRAPH = """
<ir_version: 8, opset_import: ["" : 18]>
network (float[N, 4, 9, 9] image) => (float[N, 4, h, w] logits)
<float[1] w0 = {1}, float[1] w1 = {1}, float[1] w2 = {1}, float[1] w3 = {1}, float[1] w4 = {1}>
{ %s }
"""
STEM = "a = Conv (image, w0) b = Relu (a)"
LOGITS = "logits = Conv ({}, w4)"


def laid_out(body: str) -> Layout:
    return lay_out(parser.parse_model(GRAPH % body))


def convolutions(body: str) -> list[str]:
    return [node.input[1] for node in laid_out(body).convolutions]


def test_the_stem_and_the_last_convolution_stay_float() -> None:
    layout = laid_out(f"{STEM} c = Conv (b, w1) d = Relu (c) {LOGITS.format('d')}")
    assert [node.input[1] for node in layout.convolutions] == ["w1"]
    assert layout.tensors == ["b", "d"]


def test_a_residual_sum_is_integers_on_both_sides() -> None:
    body = f"{STEM} c = Conv (b, w1) d = Conv (b, w2) e = Add (c, d) f = Relu (e) {LOGITS.format('f')}"
    layout = laid_out(body)
    assert [node.input[1] for node in layout.convolutions] == ["w1", "w2"]
    assert layout.tensors == ["b", "c", "d", "f"]


@pytest.mark.parametrize(
    "behind",
    [
        "d = Softmax (c)",
        "d = Sigmoid (c)",
        "d = Add (c, b)",
        "d = Add (c, w3) e = Relu (d)",
        "d = Relu (c) e = Softmax (c)",
    ],
    ids=["softmax", "sigmoid", "sum without ReLU", "sum with a constant", "ReLU and another"],
)
def test_a_convolution_that_predicts_stays_float(behind: str) -> None:
    assert convolutions(f"{STEM} c = Conv (b, w1) {behind} {LOGITS.format('d')}") == []


def test_an_output_of_the_model_is_nothing_to_round() -> None:
    assert convolutions("a = Conv (image, w0) logits = Conv (a, w1) b = Relu (logits)") == []


def test_weights_that_are_computed_stay_as_they_are() -> None:
    assert convolutions(f"{STEM} w5 = Neg (w1) c = Conv (b, w5) d = Relu (c) {LOGITS.format('d')}") == []


def test_pooling_and_joining_share_one_scale() -> None:
    body = f"{STEM} p = MaxPool <kernel_shape = [3, 3]> (b) c = Conv (p, w1) d = Relu (c)"
    layout = laid_out(
        f"{body} r = Neg (d) j = Concat <axis = 1> (d, r) e = Conv (j, w2) f = Relu (e) {LOGITS.format('f')}"
    )
    assert layout.tensors == ["b", "p", "d", "r", "j", "f"]
    ranges = {"b": (0.0, 255.0), "p": (0.0, 200.0), "d": (0.0, 51.0), "r": (-51.0, 0.0), "j": (-51.0, 51.0)}
    scales = layout.scales({**ranges, "f": (0.0, 25.5)})
    assert scales["b"] == scales["p"] == Scale(1.0, 0)
    assert scales["d"] == scales["r"] == scales["j"]
    assert scales["j"].size == pytest.approx(0.4)
    assert scales["f"].size == pytest.approx(0.1)


def test_joining_floats_alone_is_done_in_floats() -> None:
    body = f"{STEM} r = Neg (b) t = Abs (b) j = Concat <axis = 1> (r, t) c = Conv (j, w1) d = Relu (c)"
    assert laid_out(f"{body} {LOGITS.format('d')}").tensors == ["j", "d"]


@pytest.mark.parametrize(
    ("extremes", "expected"),
    [
        ((0.0, 255.0), Scale(1.0, 0)),
        ((2.0, 255.0), Scale(1.0, 0)),
        ((-255.0, 0.0), Scale(1.0, 255)),
        ((-100.0, 155.0), Scale(1.0, 100)),
        ((0.0, 0.0), Scale(1.0, 0)),
        ((0.0, 1e-40), Scale(1.0, 0)),
    ],
)
def test_a_scale_reaches_both_ends_and_holds_0_exactly(
    extremes: tuple[float, float], expected: Scale
) -> None:
    assert Scale.of(extremes) == expected
