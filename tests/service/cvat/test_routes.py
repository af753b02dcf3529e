"""The contract of CVAT's detectors: its own reading of the answer gives the labels of /segment."""

import base64
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.service.fakes import CLASSES, app_of, encoded, three_colors, tiny_app, tiny_predictor

IMAGE = three_colors(60, 90)
FILE = encoded(IMAGE)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(app_of(tiny_predictor(), tiny_predictor("other")))


def sent(content: bytes = FILE, **more: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(content).decode(), **more}


def asked(client: TestClient, query: str = "", body: Any = None) -> Any:
    response = client.post(f"/cvat{query}", json=sent() if body is None else body)
    assert response.status_code == 200, response.text
    return response.json()


def painted(shapes: list[dict[str, Any]], image_hw: tuple[int, int]) -> Any:
    """Class ids as CVAT has them of masks: 0 and 1, row by row, then left, top, right, bottom inside."""
    labels = np.full(image_hw, 255)
    for shape in shapes:
        *values, left, top, right, bottom = shape["mask"]
        mask = np.reshape(values, (bottom - top + 1, right - left + 1)).astype(bool)
        inside = labels[top : bottom + 1, left : right + 1]
        assert (inside[mask] == 255).all()
        inside[mask] = CLASSES.index(shape["label"])
    return labels


def test_masks_make_up_the_labels(client: TestClient) -> None:
    shapes = asked(client, "?min_pixels=1")
    assert {shape["type"] for shape in shapes} == {"mask"}
    np.testing.assert_array_equal(painted(shapes, (60, 90)), tiny_predictor().predict(IMAGE).labels)
    assert all(0 <= float(shape["confidence"]) <= 1 for shape in shapes)


def test_masks_bring_the_outline_that_cvat_makes_polygons_of(client: TestClient) -> None:
    masks, polygons = asked(client), asked(client, "?type=polygon")
    assert {shape["type"] for shape in polygons} == {"polygon"}
    assert [shape["points"] for shape in masks] == [shape["points"] for shape in polygons]
    assert not any("mask" in shape for shape in polygons)


def test_small_and_doubtful_areas_are_left_out(client: TestClient) -> None:
    every = asked(client, "?min_pixels=1")
    assert len(asked(client, "?min_pixels=5000")) < len(every)
    confidences = sorted(float(shape["confidence"]) for shape in every)
    threshold = confidences[-1] - 0.0001
    left = asked(client, "?min_pixels=1", sent(threshold=threshold))
    assert 0 < len(left) < len(every)
    assert all(float(shape["confidence"]) >= threshold - 1e-4 for shape in left)
    assert asked(client, "?min_pixels=1", sent(threshold=0)) == every


def test_the_model_scales_and_flip_stand_in_the_query(client: TestClient) -> None:
    shapes = asked(client, "?min_pixels=1&scales=0.5,1.5&flip=true&model=other")
    expected = tiny_predictor().predict(IMAGE, scales=(0.5, 1.5), flip=True).labels
    np.testing.assert_array_equal(painted(shapes, (60, 90)), expected)


def test_masks_that_would_be_too_much_are_refused_with_the_mend() -> None:
    """Nested squares: every box holds all the smaller ones."""
    rows, columns = np.indices((240, 240))
    ring = np.maximum(abs(rows - 120), abs(columns - 120)) // 8 % 2
    nested = np.where(ring[..., None] > 0, (220, 0, 0), (0, 220, 0)).astype(np.uint8)
    client = TestClient(tiny_app())
    many = client.post("/cvat?min_pixels=1&scales=2.5", json=sent(encoded(nested)))
    assert many.status_code == 422, many.text[:200]
    assert "type=polygon" in many.json()["detail"]
    assert client.post("/cvat?type=polygon&scales=2.5", json=sent(encoded(nested))).status_code == 200


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("", {}, 400, "no_image"),
        ("", {"image": 3}, 400, "no_image"),
        ("", {"image": "%%%"}, 400, "no_image"),
        ("", [], 400, "malformed_json"),
        ("", sent(b"%PDF-1.7"), 415, "unsupported_image"),
        ("", sent(FILE[:-40]), 422, "undecodable_image"),
        ("", sent(threshold=2), 422, "bad_parameter"),
        ("", sent(threshold="0.5"), 422, "bad_parameter"),
        ("", sent(threshold=True), 422, "bad_parameter"),
        ("?scales=99", sent(), 422, "bad_parameter"),
        ("?min_pixels=0", sent(), 422, "bad_parameter"),
        ("?type=box", sent(), 422, "bad_parameter"),
        ("?flip=true&flip=false", sent(), 422, "bad_parameter"),
        ("?model=absent", sent(), 404, "unknown_model"),
    ],
)
def test_what_cannot_be_done_is_refused(
    client: TestClient, query: str, body: Any, status: int, code: str
) -> None:
    response = client.post(f"/cvat{query}", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
