"""The app around /segment: health, models, metrics, documentation, headers, problems for everything else."""

import logging
import re
import time

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from inference.errors import EngineError, MemoryBudgetError, ParameterError, UndecodableImageError
from inference.predictor import Predictor
from service import memory, state
from service.app import create_app
from service.errors import problem_of
from service.hosting import warm_up
from service.settings import Settings
from tests.inference.fakes import AnySizeEngine, ConvolutionEngine, made_info
from tests.service.fakes import (
    PALETTE,
    FakeEngine,
    encoded,
    metric,
    three_colors,
    tiny_app,
    tiny_info,
    tiny_predictor,
)

FILE = encoded(three_colors())
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture
def app() -> FastAPI:
    return tiny_app()


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app)


def test_models_are_described(client: TestClient) -> None:
    (model,) = client.get("/models").json()
    assert model["name"] == "tiny"
    assert model["dataset"] == "made"
    assert model["classes"][1] == {"id": 1, "name": "red thing", "color": list(PALETTE[1])}
    assert (model["crop"], model["precision"], model["engine"]) == ([65, 65], "fp32", "fake")
    assert (model["test_mode"], model["protocol"]) == ("sliding", "published")
    assert (model["base_size"], model["base_short"]) == (96, None)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_a_ready_service_is_healthy(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 200


def test_a_draining_service_is_alive_but_takes_no_work(app: FastAPI, client: TestClient) -> None:
    app.state.service.begin_drain()
    assert client.get("/healthz").status_code == 200
    for response in (client.get("/readyz"), client.post("/segment", content=FILE, headers=RAW)):
        assert (response.status_code, response.json()["code"]) == (503, "draining")
        assert int(response.headers["retry-after"]) >= 1
    assert metric(client, "psanet_ready") == 0


def test_a_service_without_its_models_is_alive_but_not_ready() -> None:
    client = TestClient(create_app(Settings()))  # not entered, so that nothing is loaded
    assert client.get("/healthz").status_code == 200
    assert client.get("/models").json() == []
    for response in (client.get("/readyz"), client.post("/segment", content=FILE, headers=RAW)):
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")


def test_a_model_that_cannot_be_opened_is_kept_as_the_reason_to_end() -> None:
    app = create_app(Settings(models=("no_such_model",)))
    with TestClient(app) as client:
        while app.state.service.failure is None:
            assert client.get("/readyz").status_code == 503
    assert "no_such_model" in app.state.service.failure


def test_engines_are_closed_with_the_app() -> None:
    engine = FakeEngine()
    with TestClient(tiny_app(engine)):
        assert not engine.closed
    assert engine.closed


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/segment/", 404, "not_found"),
        ("GET", "/page/nothing.js", 404, "not_found"),
        ("GET", "/page/../settings.py", 404, "not_found"),
        ("GET", "/page/%2e%2e/settings.py", 404, "not_found"),
        ("GET", "/segment", 405, "method_not_allowed"),
        ("POST", "/models", 405, "method_not_allowed"),
        ("DELETE", "/", 405, "method_not_allowed"),
    ],
)
def test_every_wrong_address_is_a_problem(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json()["request_id"] == response.headers["x-request-id"]
    if status == 405:
        assert response.headers["allow"]


def test_a_fault_of_ours_is_a_500_that_tells_nothing_and_is_logged_under_its_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine()
    engine.error = EngineError("secret: /srv/models/key")
    client = TestClient(tiny_app(engine))
    with caplog.at_level(logging.ERROR):
        response = client.post("/segment", content=FILE, headers=RAW | {"X-Request-ID": "abc-1"})
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == "abc-1"
    assert "secret" not in response.text
    assert "secret" in caplog.text
    engine.error = None
    assert client.post("/segment", content=FILE, headers=RAW).status_code == 200
    assert metric(client, "psanet_problems_total", code="internal_error") == 1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UndecodableImageError("the file ends early"), 422, "undecodable_image"),
        (ParameterError("no"), 422, "bad_parameter"),
        (MemoryBudgetError("too much"), 422, "over_memory_budget"),
        (MemoryError(), 503, "out_of_memory"),
        (EngineError("broken"), 500, "internal_error"),
        (RuntimeError("broken"), 500, "internal_error"),
    ],
)
def test_exceptions_are_mapped_in_one_place(error: Exception, status: int, code: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)


def test_memory_that_runs_out_is_503_and_the_service_goes_on() -> None:
    engine = FakeEngine()
    engine.error = MemoryError()
    client = TestClient(tiny_app(engine))
    response = client.post("/segment", content=FILE, headers=RAW)
    assert (response.status_code, response.json()["code"]) == (503, "out_of_memory")
    assert response.headers["retry-after"]
    engine.error = None
    assert client.post("/segment", content=FILE, headers=RAW).status_code == 200


def test_a_sane_request_id_is_kept_and_any_other_replaced(client: TestClient) -> None:
    assert (
        client.get("/models", headers={"X-Request-ID": "run-7:a.b_c"}).headers["x-request-id"]
        == "run-7:a.b_c"
    )
    for odd in (b"", b"a b", b"x" * 65, b'a"b', b"<script>", "ü".encode()):
        made = client.get("/models", headers={b"X-Request-ID": odd}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/models", "/nowhere", "/segment", "/page/app.js", "/metrics"]
)
def test_security_headers_are_on_everything(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy or "script-src 'self';" in policy
    assert "access-control-allow-origin" not in headers


def test_other_sites_get_no_permission(client: TestClient) -> None:
    headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    response = client.options("/segment", headers=headers)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere_and_have_no_script_of_their_own(
    client: TestClient, path: str
) -> None:
    page = client.get(path).text
    links = re.findall(r'<(?!a\s)[^>]*?\s(?:src|href)="([^"#]+)"', page)  # <a> loads nothing by itself
    assert links
    for link in links:
        assert link.startswith("/")
        if not link.endswith("/docs"):
            assert client.get(link).status_code == 200, link
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"\son\w+=|\sstyle=", page)


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/segment", {"model", "output", "scales", "flip", "alpha", "format", "classes", "polygons"}),
        ("/attention", {"model", "x", "y", "direction", "output", "scale", "alpha", "format"}),
    ],
)
def test_the_openapi_document_describes_work_on_images_and_its_problems(
    client: TestClient, path: str, parameters: set[str]
) -> None:
    operation = client.get("/openapi.json").json()["paths"][path]["post"]
    assert {item["name"] for item in operation["parameters"]} == parameters
    assert set(operation["requestBody"]["content"]) == {
        *("multipart/form-data", "application/octet-stream", "image/*")
    }
    problems = {status for status, answer in operation["responses"].items() if status != "200"}
    assert problems == {"400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504"}
    for status in problems:
        assert list(operation["responses"][status]["content"]) == ["application/problem+json"]


def test_the_openapi_document_lists_all_there_is(client: TestClient) -> None:
    model = "/v2/models/{model}"
    version = f"{model}/versions/{{version}}"
    paths = {
        *("/segment", "/attention", "/models", "/healthz", "/readyz", "/metrics"),
        *("/v2", "/v2/health/live", "/v2/health/ready", model, f"{model}/ready", f"{model}/infer"),
        *(version, f"{version}/ready", f"{version}/infer"),
        *("/health", "/setup", "/predict", "/webhook", "/cvat"),
    }
    assert set(client.get("/openapi.json").json()["paths"]) == paths


def test_memory_is_given_back_after_work_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(state, "_TIDY_EVERY_S", 0.01)
    monkeypatch.setattr(memory, "give_back", lambda: calls.append(1))
    with TestClient(tiny_app()) as client:
        time.sleep(0.1)
        assert calls == []
        for count in (1, 2):
            client.post("/segment", content=FILE, headers=RAW)
            end = time.monotonic() + 5
            while len(calls) < count and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.1)
            assert len(calls) == count


def test_warming_up_is_one_engine_call_with_one_window() -> None:
    engine = FakeEngine()
    assert 0 < warm_up(tiny_predictor(engine=engine), batch=4) < 10
    assert engine.calls == 1


def test_on_a_gpu_warming_up_shows_the_engine_every_number_of_images() -> None:
    engine = ConvolutionEngine()
    engine.device = "cuda:0"  # type: ignore[misc]
    warm_up(Predictor(made_info(), engine), batch=3)
    assert engine.batches == [1, 2, 3, 1]


def test_warming_up_a_model_of_whole_images_takes_a_small_one() -> None:
    engine = AnySizeEngine(4)
    info = tiny_info(
        protocol="mmsegmentation", test_mode="whole", crop_hw=(512, 1024), base_size=2048, base_short=1024
    )
    warm_up(Predictor(info, engine), batch=4)
    ((count, _, height, width),) = engine.shapes
    assert count == 1
    assert max(height, width) <= 64
