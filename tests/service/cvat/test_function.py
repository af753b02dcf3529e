"""The nuclio function in docs/cvat: its list of classes, and what it hands on, with a running server."""

import base64
import importlib.util
import json
from collections.abc import Iterator
from email.message import Message
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml

from inference.bundle import read_bundle
from service.cvat.__main__ import main
from service.cvat.function import function_yaml
from tests.service.fakes import CLASSES, encoded, live, three_colors, tiny_app
from tests.service.running import ROOT

FOLDER = ROOT / "docs/cvat"
BODY = {"image": base64.b64encode(encoded(three_colors())).decode(), "threshold": 0.2}


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("cvat_function", FOLDER / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PSANET_QUERY", "model=tiny&min_pixels=1")
    return module


@pytest.fixture
def context() -> Any:
    """As nuclio gives it."""
    return SimpleNamespace(
        Response=lambda **facts: SimpleNamespace(**facts),
        logger=SimpleNamespace(error=lambda text: None),
    )


@pytest.fixture
def address() -> Iterator[str]:
    with live(tiny_app()) as url:
        yield url


def test_the_function_in_docs_is_the_bundled_models() -> None:
    info = read_bundle(ROOT / "models/bundled/psanet18_camvid").info
    text = (FOLDER / "function.yaml").read_text(encoding="utf-8")
    query = "model=psanet18_camvid&scales=1&flip=false&min_pixels=100"
    assert text == function_yaml(info.name, info.class_names, "http://host.docker.internal:8000", query)


def test_the_command_asks_a_running_service(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--url", "http://psanet:8000", "--scales", "0.5,1", "--flip", "--min-pixels", "7"]
    assert main([address, *options]) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    labels = json.loads(document["metadata"]["annotations"]["spec"])
    assert labels == [{"id": i, "name": name, "type": "mask"} for i, name in enumerate(CLASSES)]
    assert document["metadata"]["annotations"]["type"] == "detector"
    assert document["metadata"]["name"] == "psanet-tiny"
    variables = {each["name"]: each["value"] for each in document["spec"]["env"]}
    assert variables["PSANET_URL"] == "http://psanet:8000"
    assert variables["PSANET_QUERY"] == "model=tiny&scales=0.5,1&flip=true&min_pixels=7"


def test_the_command_says_what_it_could_not_do(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([address, "--model", "absent"]) == 2
    assert "it has tiny" in capsys.readouterr().err
    assert main(["http://127.0.0.1:1"]) == 2
    assert "does not tell its models" in capsys.readouterr().err


def test_a_service_that_does_not_answer_in_time_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def waits(*_: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr("service.cvat.__main__._models", waits)
    assert main(["http://127.0.0.1:8000"]) == 2
    assert "does not tell its models: timed out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["file:///etc/passwd"])


@pytest.mark.parametrize("parsed", [True, False], ids=["parsed by nuclio", "bytes"])
def test_images_are_handed_on(
    function: Any, context: Any, address: str, monkeypatch: pytest.MonkeyPatch, parsed: bool
) -> None:
    monkeypatch.setenv("PSANET_URL", f"{address}/")
    event = SimpleNamespace(body=BODY if parsed else json.dumps(BODY).encode())
    answer = function.handler(context, event)
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert {shape["label"] for shape in json.loads(answer.body)} == set(CLASSES[1:])


def test_a_busy_service_is_asked_again(
    function: Any, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(function.time, "sleep", waits.append)
    with live(tiny_app(rate_per_minute=1, rate_burst=1)) as url:
        monkeypatch.setenv("PSANET_URL", url)
        event = SimpleNamespace(body=BODY)
        assert function.handler(context, event).status_code == 200
        assert function.handler(context, event).status_code == 429
    assert waits == [function.LONGEST_WAIT_S] * (function.TRIES - 1)


def test_a_proxys_date_is_waited_for(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    date = Message()
    date["Retry-After"] = "Wed, 21 Oct 2026 07:28:00 GMT"

    def busy(request: Any, timeout: float) -> None:
        raise HTTPError(request.full_url, 503, "busy", date, BytesIO(b"later"))

    monkeypatch.setattr(function.time, "sleep", waits.append)
    monkeypatch.setattr(function, "urlopen", busy)
    monkeypatch.setenv("PSANET_URL", "http://psanet")
    assert function.ask(b"{}") == (b"later", 503)
    assert waits == [function.LONGEST_WAIT_S] * (function.TRIES - 1)


def test_problems_of_the_service_reach_cvat(
    function: Any, context: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSANET_URL", address)
    answer = function.handler(context, SimpleNamespace(body={"image": ""}))
    assert (answer.status_code, json.loads(answer.body)["code"]) == (400, "no_image")
    monkeypatch.setenv("PSANET_URL", "http://127.0.0.1:1")
    assert function.handler(context, SimpleNamespace(body=BODY)).status_code == 502


def test_a_key_is_sent_along(
    function: Any, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.keys import make_key

    key, line = make_key("cvat")
    (tmp_path / "keys").write_text(line)
    with live(tiny_app(api_keys_file=tmp_path / "keys")) as url:
        monkeypatch.setenv("PSANET_URL", url)
        assert function.handler(context, SimpleNamespace(body=BODY)).status_code == 401
        monkeypatch.setenv("PSANET_KEY", key)
        assert function.handler(context, SimpleNamespace(body=BODY)).status_code == 200
