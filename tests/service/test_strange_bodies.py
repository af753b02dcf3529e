"""Bodies that no client sends, to the interfaces that read them: refused, and nothing else happens."""

import base64
import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.testclient import TestClient

from tests.service.fakes import FakeEngine, encoded, three_colors, tiny_app

FILE = encoded(three_colors(8, 9))
IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 3], "data": [1, 2, 3, 4, 5, 6]}
BASE64 = base64.b64encode(FILE).decode()
BRUSH = '<BrushLabels name="b" toName="i"><Label value="dark"/></BrushLabels>'
INTERFACE = f'<View><Image name="i" value="$i"/>{BRUSH}</View>'
BODIES: dict[str, Any] = {
    "/v2/models/tiny/infer": {
        "id": "1",
        "parameters": {"scales": "0.5,1", "flip": True},
        "inputs": [IMAGE],
        "outputs": [{"name": "confidence", "parameters": {"binary_data": True}}],
    },
    "/predict": {"tasks": [{"id": 1, "data": {"i": BASE64}}], "label_config": INTERFACE, "params": {}},
    "/setup": {"schema": INTERFACE, "project": "1.1"},
    "/webhook": {"action": "START_TRAINING"},
    "/cvat": {"image": BASE64, "threshold": 0.5},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    folder: Path = tmp_path_factory.mktemp("files")
    return TestClient(tiny_app(label_studio_files=folder))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


def check(client: TestClient, path: str, body: bytes, **headers: str) -> None:
    response = client.post(path, content=body, headers=headers)  # raises what the service would log as 500
    assert response.status_code in (200, 400, 413, 415, 422), response.text
    if response.status_code != 200:
        assert response.json()["detail"]


@pytest.mark.parametrize("path", ["/predict", "/cvat"])
def test_what_a_body_held_is_let_go_before_the_work(path: str) -> None:
    """Small values are 28 times as large once read, and nobody has booked that."""
    left: list[int] = []

    class Looking(FakeEngine):
        def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            kinds = (each for each in gc.get_objects() if type(each) is dict)
            left.append(sum(each.keys() == {"chaff"} for each in kinds))
            return super().infer(images)

    body = BODIES[path] | {"extra": [{"chaff": []} for _ in range(100)]}
    text = json.dumps(body).encode()
    del body
    response = TestClient(tiny_app(Looking())).post(path, content=text)
    assert response.status_code == 200, response.text
    assert left
    assert set(left) == {0}


@pytest.mark.parametrize("path", BODIES)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_value_in_any_place(client: TestClient, path: str, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(places(BODIES[path])))
    document = replaced(BODIES[path], place, data.draw(JSON))
    check(client, path, json.dumps(document).encode())


@pytest.mark.parametrize("path", BODIES)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_bytes_changed_cut_or_moved(client: TestClient, path: str, data: st.DataObject) -> None:
    body = json.dumps(BODIES[path]).encode()
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 30)))
    changed = body[:start] + data.draw(st.binary(max_size=12)) + body[end:]
    size = data.draw(st.sampled_from([str(len(body)), str(start), "", "1e3"]) | st.none())
    headers = {} if size is None else {"inference-header-content-length": size}
    check(client, path, changed, **headers)
