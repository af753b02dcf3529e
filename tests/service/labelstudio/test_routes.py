"""The ML backend: what Label Studio asks, and that the brush paints what /segment says."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

from inference.errors import EngineError
from tests.service.fakes import (
    FakeEngine,
    app_of,
    encoded,
    live,
    metric,
    three_colors,
    tiny_app,
    tiny_predictor,
)
from tests.service.labelstudio.test_brush import unpacked
from tests.service.running import until

IMAGE = three_colors(60, 90)
FILE = encoded(IMAGE)
INLINE = f"data:image/png;base64,{base64.b64encode(FILE).decode()}"
TORN = INLINE[:182]
LABELS = '<Label value="Red thing"/><Label value="Rest" predicted_values="green thing,blue thing"/>'


def interface(labels: str = LABELS, brush: str = "") -> str:
    return (
        '<View><Image name="image" value="$photo"/>'
        f'<BrushLabels name="brush" toName="image" {brush}>{labels}</BrushLabels></View>'
    )


def tasks(*images: Any) -> dict[str, Any]:
    """As Label Studio sends them, with what the service has no use for."""
    return {
        "tasks": [{"id": number, "data": {"photo": image}} for number, image in enumerate(images)],
        "model_version": None,
        "project": "3.1764150000",
        "label_config": interface(),
        "params": {"login": None, "password": None, "context": None},
    }


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(
        app_of(tiny_predictor(), tiny_predictor("other", source_sha256="0123456789" * 6 + "abcd"))
    )


def mask_of(result: dict[str, Any]) -> Any:
    pixels = np.reshape(unpacked(bytes(result["value"]["rle"])), (60, 90, 4))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0] == 255


def test_it_is_up(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "UP"}


def test_a_project_is_looked_at_and_told_the_version(client: TestClient) -> None:
    body = {
        "project": "3.17",
        "schema": interface(),
        "hostname": "http://localhost:8080",
        "access_token": "t",
    }
    assert client.post("/setup", json=body).json() == {"model_version": "tiny"}
    body["schema"] = interface(brush='model_name="other"')
    assert client.post("/setup", json=body).json() == {"model_version": "other-01234567"}


@pytest.mark.parametrize(
    ("schema", "status", "code"),
    [
        (interface('<Label value="Dog"/>'), 422, "no_common_label"),
        (interface(brush='model_name="absent"'), 404, "unknown_model"),
        ("<View/>", 422, "bad_label_config"),
        (None, 400, "malformed_request"),
    ],
)
def test_a_project_that_cannot_work_is_told_when_it_is_connected(
    client: TestClient, schema: Any, status: int, code: str
) -> None:
    response = client.post("/setup", json={"schema": schema})
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_labels_are_painted_where_the_predictor_sees_their_classes(client: TestClient) -> None:
    expected = tiny_predictor().predict(IMAGE, confidence=True)
    assert expected.confidence is not None
    response = client.post("/predict", json=tasks(INLINE))
    document = response.json()
    assert document["model_version"] == "tiny"
    (prediction,) = document["results"]
    assert prediction["model_version"] == "tiny"
    assert prediction["score"] == pytest.approx(expected.confidence.mean(), abs=1e-5)
    red, rest = prediction["result"]
    assert red["value"]["brushlabels"] == ["Red thing"]
    assert rest["value"]["brushlabels"] == ["Rest"]
    np.testing.assert_array_equal(mask_of(red), expected.labels == 1)
    np.testing.assert_array_equal(mask_of(rest), expected.labels >= 2)
    for each in (red, rest):
        assert each["score"] == pytest.approx(expected.confidence[mask_of(each)].mean(), abs=1e-5)
        assert each["type"] == "brushlabels"
        assert each["value"]["format"] == "rle"
        assert (each["from_name"], each["to_name"]) == ("brush", "image")
        assert (each["original_width"], each["original_height"], each["image_rotation"]) == (90, 60, 0)
    assert red["id"] != rest["id"]
    assert client.post("/predict", json=tasks(INLINE)).content == response.content


def test_labels_that_are_not_there_have_no_region(client: TestClient) -> None:
    document = tasks(INLINE) | {"label_config": interface('<Label value="dark"/><Label value="red thing"/>')}
    (prediction,) = client.post("/predict", json=document).json()["results"]
    assert [each["value"]["brushlabels"] for each in prediction["result"]] == [["red thing"]]


def test_scales_and_flip_of_the_interface_reach_the_predictor(client: TestClient) -> None:
    brush = 'model_scales="0.5,1.5" model_flip="true"'
    document = tasks(INLINE) | {"label_config": interface(brush=brush)}
    expected = tiny_predictor().predict(IMAGE, scales=(0.5, 1.5), flip=True, confidence=True).confidence
    assert expected is not None
    (prediction,) = client.post("/predict", json=document).json()["results"]
    assert prediction["score"] == pytest.approx(expected.mean(), abs=1e-5)


def test_a_task_that_cannot_be_used_does_not_spoil_the_others(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "upload").mkdir()
    turned = np.roll(IMAGE, 1, axis=2)
    (tmp_path / "upload/a.png").write_bytes(encoded(turned))
    images = [
        "/data/upload/a.png",
        "http://example.org/b.png",
        INLINE,
        None,
        TORN,
        "/data/upload/c.png",
    ]
    with TestClient(tiny_app(label_studio_files=tmp_path)) as client:
        response = client.post("/predict", json=tasks(*images))
    results = response.json()["results"]
    assert [each.get("code", "painted") for each in results] == [
        *("painted", "no_task_image", "painted", "no_task_image", "undecodable_image", "no_task_image")
    ]
    assert "data.photo" in results[3]["error"]
    expected = tiny_predictor().predict(turned).labels
    np.testing.assert_array_equal(mask_of(results[0]["result"][0]), expected == 1)


def test_where_no_task_can_be_used_the_first_ones_problem_is_the_answer(client: TestClient) -> None:
    response = client.post("/predict", json=tasks("http://example.org/b.png", "%%%"))
    assert (response.status_code, response.json()["code"]) == (422, "no_task_image")
    assert "example.org" in response.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": []}, "tasks has to hold"),
        ({"tasks": {"id": 1}}, "tasks has to hold"),
        ({"tasks": [{}] * 1001}, "at most 1000"),
        ({"label_config": 3}, "label_config has to hold"),
    ],
)
def test_other_requests_are_refused(client: TestClient, changes: dict[str, Any], says: str) -> None:
    response = client.post("/predict", json=tasks(INLINE) | changes)
    assert response.status_code == 400
    assert says in response.json()["detail"]


def test_what_labellers_do_is_taken_note_of_by_nobody(client: TestClient) -> None:
    event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 3}, "project": {"id": 1}}
    assert client.post("/webhook", json=event).json() == {"status": "ignored"}


def test_nobody_is_told_that_training_has_begun(client: TestClient) -> None:
    response = client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 1}})
    assert (response.status_code, response.json()["code"]) == (422, "no_training")


def test_a_fault_of_the_service_is_one_answer() -> None:
    engine = FakeEngine()
    engine.error = EngineError("it broke")
    client = TestClient(tiny_app(engine), raise_server_exceptions=False)
    response = client.post("/predict", json=tasks(INLINE, INLINE))
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")


def test_images_read_from_the_folder_count_as_held(tmp_path: Path) -> None:
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload/a.png").write_bytes(FILE)
    body = tasks("/data/upload/a.png")
    client = TestClient(tiny_app(label_studio_files=tmp_path, max_bytes=4000, max_buffered_bytes=4000))
    assert client.post("/predict", json=body).status_code == 200
    (tmp_path / "upload/a.png").write_bytes(FILE + bytes(3990 - len(FILE)))
    response = client.post("/predict", json=body)
    assert (response.status_code, response.json()["code"]) == (503, "too_many_uploads")
    assert client.app.state.service.buffers.held == 0  # type: ignore[attr-defined]


def test_predictions_count_as_held_until_the_last_is_there(tmp_path: Path) -> None:
    """Sixty bytes may name a file again, whose prediction has a hundred thousand."""
    (tmp_path / "a.png").write_bytes(FILE)
    app = tiny_app(label_studio_files=tmp_path, max_bytes=10_000, max_buffered_bytes=20_000)
    client = TestClient(app)
    few, many = (tasks(*["/data/local-files/?d=a.png"] * count) for count in (2, 100))
    assert client.post("/predict", json=few).status_code == 200
    response = client.post("/predict", json=many)
    assert (response.status_code, response.json()["code"]) == (503, "too_many_uploads")
    assert app.state.service.buffers.held == 0


def test_work_for_a_client_that_has_left_is_given_up() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    app = tiny_app(engine)
    with live(app) as url:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/predict", json=tasks(*[INLINE] * 8), timeout=0.5)
        engine.gate.set()
        with httpx2.Client(base_url=url) as client:
            until(lambda: metric(client, "psanet_problems_total", code="client_gone") == 1)
    assert engine.calls < 8


def test_label_studio_may_send_its_key_as_a_password(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"labels:{hashlib.sha256(b'secret').hexdigest()}\n")
    client = TestClient(tiny_app(api_keys_file=file))
    assert client.get("/health").status_code == 200
    assert client.post("/setup", json={"schema": interface()}).status_code == 401
    for user in ("", "anybody"):
        response = client.post("/setup", json={"schema": interface()}, auth=(user, "secret"))
        assert response.json() == {"model_version": "tiny"}
    for header in ("Basic", "Basic %%%", "Basic /w==", "Basic " + base64.b64encode(b"secret").decode()):
        headers = {"authorization": header}
        assert client.post("/setup", json={"schema": interface()}, headers=headers).status_code == 401
