"""Inference requests of the Open Inference Protocol: what is taken, and what is said about the rest."""

import json
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from inference.errors import EngineError
from models.config import ModelConfig
from service.errors import Problem
from service.oip.requests import read_request
from service.settings import Settings
from tests.service.fakes import (
    FakeEngine,
    app_of,
    decoded,
    encoded,
    metric,
    three_colors,
    tiny_app,
    tiny_predictor,
)

IMAGE = three_colors(6, 9)
VALUES = IMAGE.ravel().tolist()
TENSOR: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [6, 9, 3]}
PATH = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(tiny_app())


def as_json(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**TENSOR, "data": VALUES}], **changes}


def asked(client: TestClient, document: Any, behind: bytes | None = None, **headers: str) -> Any:
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    if behind is not None:
        headers = {"inference-header-content-length": str(len(head))} | headers
    return client.post(PATH, content=head + (behind or b""), headers=headers)


def sized(count: Any, **changes: Any) -> dict[str, Any]:
    return {"inputs": [{**TENSOR, "parameters": {"binary_data_size": count}, **changes}]}


@pytest.mark.parametrize("data", [VALUES, IMAGE.tolist()], ids=["flat", "nested"])
def test_values_may_be_flat_or_nested_as_the_shape_is(client: TestClient, data: Any) -> None:
    (labels,) = asked(client, as_json(inputs=[{**TENSOR, "data": data}])).json()["outputs"]
    np.testing.assert_array_equal(
        np.reshape(labels["data"], labels["shape"]), tiny_predictor().predict(IMAGE).labels
    )


def test_keys_may_come_in_any_order_and_with_any_space(client: TestClient) -> None:
    text = json.dumps({"inputs": [{"data": VALUES, **TENSOR}], "id": 'a "data": [1, 2] b'}, indent=2)
    response = asked(client, text.encode())
    assert response.status_code == 200, response.text
    assert response.json()["id"] == 'a "data": [1, 2] b'


def test_bytes_follow_the_json_both_ways(client: TestClient) -> None:
    document = sized(IMAGE.size) | {"parameters": {"binary_data_output": True}}
    response = asked(client, document, IMAGE.tobytes())
    size = int(response.headers["inference-header-content-length"])
    (labels,) = json.loads(response.content[:size])["outputs"]
    assert labels["parameters"] == {"binary_data_size": 54}
    assert response.content[size:] == tiny_predictor().predict(IMAGE).labels.tobytes()
    assert response.headers["content-type"] == "application/octet-stream"


def test_labels_of_many_classes_are_16_bits() -> None:
    names = tuple(f"class {number}" for number in range(300))
    architecture = ModelConfig(depth=18, classes=300, crop_hw=(65, 65), head_width=32)

    class Wide(FakeEngine):
        def infer(self, images: Any) -> Any:
            narrow = super().infer(images)
            wide = np.zeros((len(narrow), 300, *narrow.shape[2:]), np.float32)
            wide[:, 290:294] = narrow
            return wide

    predictor = tiny_predictor(
        engine=Wide(), class_names=names, palette=((1, 2, 3),) * 300, architecture=architecture
    )
    client = TestClient(app_of(predictor))
    (labels,) = asked(client, as_json()).json()["outputs"]
    assert labels["datatype"] == "UINT16"
    assert set(labels["data"]) == {291, 292, 293}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "inputs has to hold one tensor"),
        (as_json(inputs=[]), "one tensor"),
        (as_json(inputs=[TENSOR, TENSOR]), "one tensor"),
        (as_json(inputs=[{**TENSOR, "name": "x", "data": VALUES}]), "its name is image"),
        (as_json(inputs=[{**TENSOR, "datatype": "FP32", "data": VALUES}]), "UINT8"),
        (as_json(inputs=[{**TENSOR, "shape": [6, 9], "data": VALUES}]), "[height, width, 3]"),
        (as_json(inputs=[{**TENSOR, "shape": [6, True, 3], "data": VALUES}]), "[height, width, 3]"),
        (as_json(inputs=[{**TENSOR, "shape": [0, 9, 3], "data": []}]), "[height, width, 3]"),
        (as_json(inputs=[{**TENSOR, "shape": [10**400, 1, 3], "data": [1]}]), "[height, width, 3]"),
        (as_json(inputs=[TENSOR]), "neither data nor binary_data_size"),
        (as_json(inputs=[{**TENSOR, "data": ["1", "2"]}]), "one list of numbers"),
        (as_json(inputs=[{**TENSOR, "data": VALUES, "parameters": {"binary_data_size": 162}}]), "both"),
        (as_json(inputs=[{**TENSOR, "datatype": "BYTES", "shape": [1], "data": ["abc"]}]), "as bytes after"),
        (as_json(inputs=[{**TENSOR, "datatype": "BYTES", "shape": [2]}]), "is [1]"),
        (as_json(id=7), "id has to be a text"),
        (as_json(id="\ud800"), "id has to be a text"),
        (as_json(outputs="labels"), "objects with a name"),
        (as_json(outputs=[{"name": "labels"}] * 2), "named twice"),
        (as_json(outputs=[{"name": "labels"}] * 1000), "named twice"),
        (as_json(outputs=[{"name": "logits"}]), "labels, confidence"),
        (as_json(outputs=[{"name": "labels", "shape": [1]}]), "no \"shape\""),
        (as_json(extra=1), "no \"extra\""),
        (as_json(parameters=[1]), "have to be an object"),
        (b"[1]", "holds no object"),
        (b"{", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b'{"inputs": ' + b"[" * 40_000, "nested too deeply"),
        (as_json(id="x" * 70_000), "at most 65536"),
    ],
)  # fmt: skip
def test_malformed_requests_are_refused_with_the_mend(client: TestClient, document: Any, says: str) -> None:
    response = asked(client, document)
    assert response.status_code == 400, response.text
    problem = response.json()
    assert says in problem["detail"]
    assert problem["error"] == problem["detail"]


@pytest.mark.parametrize(
    ("document", "behind", "header", "says"),
    [
        (sized(162), b"", None, "has 162 bytes"),
        (sized(162), bytes(161), None, "has 162 bytes"),
        (sized(161), bytes(162), None, "binary_data_size says 161"),
        (sized("162"), bytes(162), None, 'says "162"'),
        (sized(162), bytes(162), "0", "has to be how many"),
        (sized(162), bytes(162), "-1", "has to be how many"),
        (sized(162), bytes(162), "9" * 30, "has to be how many"),
        (as_json(), b"more", None, "4 bytes follow"),
        (sized(8, datatype="BYTES", shape=[1]), b"\5\0\0\0abcd", None, "the length is 5"),
        (sized(9, datatype="BYTES", shape=[1]), b"\4\0\0\0abcd", None, "8 bytes follow"),
        (sized(4, datatype="BYTES", shape=[1]), b"\0\0\0\0", None, "its length"),
        (sized(2, datatype="BYTES", shape=[1]), b"\0\0", None, "its length"),
    ],
)
def test_bytes_that_do_not_match_what_is_said_of_them_are_refused(
    client: TestClient, document: Any, behind: bytes, header: str | None, says: str
) -> None:
    headers = {} if header is None else {"inference-header-content-length": header}
    response = asked(client, document, behind, **headers)
    assert response.status_code == 400, response.text
    assert says in response.json()["detail"]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (as_json(inputs=[{**TENSOR, "data": [256, *VALUES[1:]]}]), "0 to 255"),
        (as_json(inputs=[{**TENSOR, "data": VALUES[1:]}]), "162 whole numbers"),
        (
            as_json(inputs=[{**TENSOR, "data": IMAGE.reshape(6, 27).tolist()}]),
            "or nested as",
        ),
        (as_json(inputs=[{**TENSOR, "data": []}]), "162 whole numbers"),
        (as_json(parameters={"scales": "9"}), "scales"),
        (as_json(parameters={"scales": {"a": 1}}), "scales"),
        (as_json(parameters={"flip": "maybe"}), "flip"),
        (as_json(parameters={"sequence_id": 4}), "binary_data_output, flip, scales"),
        (as_json(inputs=[{**TENSOR, "shape": [100_000, 100_000, 3], "data": [1]}]), "megapixels"),
    ],
)
def test_values_and_parameters_that_mean_nothing_are_422(
    client: TestClient, document: Any, says: str
) -> None:
    response = asked(client, document)
    assert response.status_code == 422, response.text
    assert says in response.json()["error"]


def test_a_shape_without_its_numbers_never_reaches_a_worker() -> None:
    """A worker that took it at its word would make gigabytes of commas to compare with."""
    document = as_json(inputs=[{**TENSOR, "shape": [50_000_000, 1, 3], "data": [1]}])
    with pytest.raises(Problem) as caught:
        read_request(json.dumps(document).encode(), None, Settings())
    assert (caught.value.status, caught.value.code) == (422, "bad_parameter")
    assert "150000000 whole numbers" in caught.value.detail


@pytest.mark.parametrize("data", [b"[1,2,3,4,5,6]", b"[[[1,2,3],[4,5,6]]]"])
def test_the_shortest_text_that_holds_all_numbers_is_taken(data: bytes) -> None:
    body = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,2,3],"data":%b}]}' % data
    start, end = read_request(body, None, Settings()).span
    assert body[start:end] == data


@pytest.mark.parametrize("scales", ["0.5,1", [0.5, 1], ["0.5", 1]])
def test_scales_may_be_a_text_or_a_list(scales: Any) -> None:
    body = json.dumps(as_json(parameters={"scales": scales, "flip": "True"})).encode()
    task = read_request(body, None, Settings())
    assert (task.scales, task.flip) == ((0.5, 1.0), True)


def test_a_file_is_seen_upright_and_its_pixels_are_counted() -> None:
    tall = encoded(three_colors(200, 100), "JPEG", exif=b"Exif\0\0" + _exif_of_rotation())
    with TestClient(tiny_app(max_pixels=20_000)) as client:
        document = sized(len(tall) + 4, datatype="BYTES", shape=[1])
        response = asked(client, document, len(tall).to_bytes(4, "little") + tall)
        assert response.json()["outputs"][0]["shape"] == [100, 200]
        wide = encoded(three_colors(201, 100))
        document = sized(len(wide) + 4, datatype="BYTES", shape=[1])
        response = asked(client, document, len(wide).to_bytes(4, "little") + wide)
        assert response.json()["code"] == "too_many_pixels"


def _exif_of_rotation() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes().removeprefix(b"Exif\0\0")


def test_what_was_asked_is_counted_by_tritons_names() -> None:
    engine = FakeEngine()
    client = TestClient(tiny_app(engine), raise_server_exceptions=False)

    def count(name: str, **labels: str) -> float:
        return metric(client, f"nv_inference_{name}", model="tiny", version="1", **labels)

    assert count("request_success") == 0
    for _ in range(2):
        assert asked(client, as_json()).status_code == 200
    assert asked(client, as_json(id=7)).status_code == 400
    engine.error = EngineError("it broke")
    assert asked(client, as_json()).status_code == 500
    assert count("request_success") == count("count") == count("exec_count") == 2
    assert count("request_failure", reason="OTHER") == 1
    assert count("request_failure", reason="BACKEND") == 1
    assert count("request_failure", reason="REJECTED") == 0
    parts = [
        count(f"{part}_duration_us") for part in ("queue", "compute_input", "compute_infer", "compute_output")
    ]
    assert 0 < sum(parts) <= count("request_duration_us")
    assert metric(client, "nv_inference_request_success", model="absent") == 0
    client.post("/segment", content=encoded(IMAGE), headers={"content-type": "image/png"})
    assert count("count") == 2


def test_a_draining_service_is_live_and_not_ready() -> None:
    app = tiny_app()
    client = TestClient(app)
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    app.state.service.draining = True
    answers = [asked(client, as_json()), client.get("/v2/health/ready"), client.get("/v2/models/tiny/ready")]
    for response in answers:
        assert (response.status_code, response.json()["code"]) == (503, "draining")
        assert int(response.headers["retry-after"]) > 0
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/models/tiny").status_code == 200
    labels = {"model": "tiny", "reason": "REJECTED"}
    assert metric(client, "nv_inference_request_failure", **labels) == 1


def test_labels_equal_those_of_segment(client: TestClient) -> None:
    response = client.post("/segment", content=encoded(IMAGE), headers={"content-type": "image/png"})
    (labels,) = asked(client, as_json()).json()["outputs"]
    np.testing.assert_array_equal(np.reshape(labels["data"], labels["shape"]), decoded(response.content))
