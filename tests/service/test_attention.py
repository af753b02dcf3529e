"""POST /attention: what it tells is what `inference/attention.py` finds, within the limits of /segment."""

import base64
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from inference.attention import Point, attention_at
from inference.heatmap import draw_attention
from inference.predictor import Predictor
from service.attention import compact
from service.openapi.attention import ATTENTION, ATTENTION_SCHEMA
from tests.service.fakes import (
    TellingEngine,
    app_of,
    decoded,
    encoded,
    live,
    metric,
    telling,
    three_colors,
    tiny_app,
    tiny_info,
)

IMAGE = three_colors(60, 96)
FILE = encoded(IMAGE)
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(app_of(telling()))


def ask(client: Any, query: str, content: bytes = FILE) -> Any:
    response = client.post(f"/attention?{query}", content=content, headers=RAW)
    assert response.status_code == 200, response.text
    return response


def weights_in(heat: dict[str, Any]) -> NDArray[np.float64]:
    """As a client reads them."""
    levels = np.frombuffer(base64.b64decode(heat["data"]), np.uint8).reshape(heat["size"])
    return np.asarray(heat["offset"] + heat["scale"] * levels.astype(float))


def test_the_numbers_are_those_of_the_points_within_half_a_step(client: TestClient) -> None:
    found = attention_at(telling(), IMAGE, [Point(10, 5), Point(90, 55)]).points
    response = ask(client, "x=10,90&y=5,55")
    document = response.json()
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-model"] == document["model"] == "tiny"
    assert document["image"] == {"height": 60, "width": 96}
    assert set(document["timings_ms"]) == {"decode", "queue", "infer", "encode"}
    assert [(point["x"], point["y"]) for point in document["points"]] == [(10, 5), (90, 55)]
    for point, seen in zip(document["points"], found, strict=True):
        assert tuple(point["position"]) == seen.position
        assert tuple(point["window"]) == pytest.approx(seen.window)
        assert tuple(point["cells"]) == pytest.approx(seen.cells)
        for direction, weights in seen.weights.items():
            heat = point[direction]
            assert heat["size"] == [5, 5]
            np.testing.assert_allclose(weights_in(heat), weights, atol=heat["scale"] * 0.51)
            assert heat["scale"] == pytest.approx(weights.max() / 255)


def test_one_direction_and_one_scale_may_be_asked_for(client: TestClient) -> None:
    (point,) = ask(client, "x=10&y=5&direction=distribute&scale=0.5").json()["points"]
    (seen,) = attention_at(telling(), IMAGE, [Point(10, 5)], scale=0.5).points
    assert "collect" not in point
    heat = point["distribute"]
    np.testing.assert_allclose(weights_in(heat), seen.weights["distribute"], atol=heat["scale"] * 0.51)


def test_an_overlay_is_the_image_with_the_heat_of_one_point(client: TestClient) -> None:
    (seen,) = attention_at(telling(), IMAGE, [Point(40, 30)]).points
    for query, direction, alpha in (
        ("", "collect", 0.8),
        ("&direction=distribute&alpha=0.3", "distribute", 0.3),
    ):
        response = ask(client, f"x=40&y=30&output=overlay{query}")
        assert response.headers["content-type"] == "image/png"
        expected = draw_attention(IMAGE, seen, direction, alpha=alpha)  # type: ignore[arg-type]
        np.testing.assert_array_equal(decoded(response.content), expected)
    jpeg = ask(client, "x=40&y=30&output=overlay&format=jpeg")
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert decoded(jpeg.content).shape == IMAGE.shape


def test_the_image_may_be_a_form_field_and_the_request_is_counted(client: TestClient) -> None:
    before = metric(client, "psanet_requests_total", route="/attention", code="200")
    windows = metric(client, "psanet_windows_total", model="tiny")
    response = client.post("/attention?x=1,90&y=1,1", files={"image": ("a.png", FILE, "image/png")})
    assert response.status_code == 200
    assert metric(client, "psanet_requests_total", route="/attention", code="200") == before + 1
    assert metric(client, "psanet_windows_total", model="tiny") == windows + 2
    assert "decode;dur=" in response.headers["server-timing"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("y=1", "x"),
        ("x=1", "y"),
        *((f"x={value}&y=1", "x") for value in ("", "-1", "1.5", "one", "1,", "1e3", "٣", "1" * 10)),
        ("x=1&y=1 2", "y"),
        ("x=1,2&y=1", "y"),
        (f"x={'1,' * 16}1&y={'1,' * 16}1", "x"),
        ("x=1,2&y=1,2&output=overlay", "output"),
        ("x=1&y=1&output=labels", "output"),
        ("x=1&y=1&direction=up", "direction"),
        *((f"x=1&y=1&scale={value}", "scale") for value in ("0", "-1", "nan", "inf", "0.2", "3.1", "big")),
        *((f"x=1&y=1&alpha={value}", "alpha") for value in ("-0.1", "1.1", "nan")),
        ("x=1&y=1&format=gif", "format"),
        ("x=1&y=1&flip=true", "flip"),
        ("x=1&x=2&y=1", "x"),
    ],
)
def test_a_bad_parameter_is_422_and_named(client: TestClient, query: str, parameter: str) -> None:
    response = client.post(f"/attention?{query}", content=FILE, headers=RAW)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["code"] == "bad_parameter"
    assert [item["parameter"] for item in document["errors"]] == [parameter]


def test_a_point_outside_the_image_is_422_with_the_images_size(client: TestClient) -> None:
    response = client.post("/attention?x=96&y=0", content=FILE, headers=RAW)
    assert (response.status_code, response.json()["code"]) == (422, "bad_parameter")
    assert "outside the image of 96x60 pixels" in response.json()["detail"]
    ask(client, "x=95&y=59")


def test_a_model_that_does_not_tell_is_422_before_the_body_is_looked_at() -> None:
    silent = TestClient(tiny_app())
    response = silent.post("/attention?x=1&y=1", content=b"no image", headers=RAW)
    assert (response.status_code, response.json()["code"]) == (422, "no_attention")
    assert "gives logits alone" in response.json()["detail"]
    assert silent.get("/models").json()[0]["attention"] == []
    one_branch = tiny_info().architecture.replace(psa_type="collect")
    collecting = TellingEngine()
    collecting.directions = ("collect",)
    other = TestClient(app_of(telling(collecting, architecture=one_branch)))
    assert other.get("/models").json()[0]["attention"] == ["collect"]
    response = other.post("/attention?x=1&y=1&direction=distribute", content=FILE, headers=RAW)
    assert (response.status_code, response.json()["code"]) == (422, "no_attention")
    (point,) = ask(other, "x=1&y=1").json()["points"]
    assert "distribute" not in point


def test_models_say_what_they_tell(client: TestClient) -> None:
    assert client.get("/models").json()[0]["attention"] == ["collect", "distribute"]
    unknown = client.post("/attention?x=1&y=1&model=x", content=FILE, headers=RAW)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_model")


def test_limits_are_those_of_segment(client: TestClient) -> None:
    for settings, content, status, code in (
        ({"max_bytes": 100, "max_buffered_bytes": 100}, FILE * 10, 413, "too_many_bytes"),
        ({"max_pixels": 100}, FILE, 422, "too_many_pixels"),
        ({}, FILE[: len(FILE) // 2], 422, "undecodable_image"),
        ({}, b"text", 415, "unsupported_image"),
        ({}, b"", 400, "empty_body"),
    ):
        limited = TestClient(app_of(telling(), **settings))
        response = limited.post("/attention?x=1&y=1", content=content, headers=RAW)
        assert (response.status_code, response.json()["code"]) == (status, code)
    few = TestClient(app_of(telling(), max_points=1))
    assert few.post("/attention?x=1,2&y=1,2", content=FILE, headers=RAW).status_code == 422


def test_a_deadline_ends_the_wait() -> None:
    engine = TellingEngine()
    engine.gate.clear()
    with live(app_of(telling(engine), deadline_s=0.3)) as address:
        response = httpx2.post(f"{address}/attention?x=1&y=1", content=FILE, headers=RAW, timeout=20)
        assert (response.status_code, response.json()["code"]) == (504, "deadline")
        engine.gate.set()


@pytest.mark.parametrize("weights", [np.zeros((2, 3)), np.array([[-1.0, 3.0], [0.5, 2.0]]), np.ones((1, 1))])
def test_any_weights_survive_as_bytes(weights: NDArray[np.float64]) -> None:
    heat = compact(weights.astype(np.float32))
    np.testing.assert_allclose(weights_in(heat), weights, atol=heat["scale"] * 0.51)
    assert heat["offset"] <= 0


def test_the_documents_example_can_be_read_as_its_schema_says() -> None:
    content = ATTENTION[200]["content"]["application/json"]
    (point,) = content["examples"]["json"]["value"]["points"]
    needed = ATTENTION_SCHEMA["properties"]["points"]["items"]["required"]
    assert set(needed) <= set(point)
    assert weights_in(point["collect"]).shape == (2, 3)


def test_the_bundled_model_tells_through_a_real_server() -> None:
    predictor = Predictor.open("psanet18_camvid", threads=1)
    image = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    (seen,) = attention_at(predictor, image, [Point(150, 40)]).points
    with live(app_of(predictor)) as address:
        assert httpx2.get(f"{address}/models").json()[0]["attention"] == ["collect", "distribute"]
        answer = httpx2.post(
            f"{address}/attention?x=150&y=40",
            files={"image": ("a.png", encoded(image), "image/png")},
            timeout=60,
        )
        labels = httpx2.post(f"{address}/segment", content=encoded(image), headers=RAW, timeout=60)
    (point,) = answer.json()["points"]
    for direction, weights in seen.weights.items():
        heat = point[direction]
        np.testing.assert_allclose(weights_in(heat), weights, atol=heat["scale"] * 0.51)
    assert decoded(labels.content).shape == (120, 200)
