"""The OpenAPI document: valid, committed as it is, and every example is what the schemas and the code say."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from inference import render
from service.openapi.problems import CODES
from tests.service.fakes import decoded, encoded, three_colors, tiny_app
from tests.service.running import ROOT, environment

COMMITTED = ROOT / "docs/openapi.json"
FILE = encoded(three_colors())
PNG = {"content-type": "image/png"}
OF_NO_ROUTE = {"not_found", "method_not_allowed", "client_gone"}


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(tiny_app())


@pytest.fixture(scope="module")
def document(client: TestClient) -> Any:
    return client.get("/openapi.json").json()


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def contents(document: Any) -> Iterator[tuple[str, Any]]:
    """Every body and answer, with where it stands."""
    for path, method, operation in operations(document):
        for name, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{method} {path} {name}", content
        for status, answer in operation["responses"].items():
            for name, content in answer.get("content", {}).items():
                yield f"{method} {path} {status} {name}", content


def examples(document: Any, content: Any) -> Iterator[Any]:
    if "example" in content:
        yield content["example"]
    for example in content.get("examples", {}).values():
        if "$ref" in example:
            example = document["components"]["examples"][example["$ref"].rpartition("/")[2]]
        if "value" in example:
            yield example["value"]


def check(document: Any, value: Any, schema: Any) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def test_the_committed_document_is_what_one_command_writes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.openapi"],
        env=environment(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode() == COMMITTED.read_text(encoding="utf-8"), (
        "python -m service.openapi > docs/openapi.json"
    )


def test_the_document_is_what_a_running_service_tells(document: Any) -> None:
    assert document == json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_it_is_valid_openapi(document: Any) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_operation_has_its_own_id_a_summary_and_an_example(document: Any) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for path, method, operation in operations(document):
        assert operation["summary"], (path, method)
        for status, answer in operation["responses"].items():
            for name, content in answer["content"].items():
                told = content.get("examples") or content.get("example") or content.get("schema")
                assert told, (path, method, status, name)


def test_every_example_is_as_its_schema_says(document: Any) -> None:
    count = 0
    for place, content in contents(document):
        for value in examples(document, content):
            if "schema" in content:
                check(document, value, content["schema"])
                assert isinstance(value, str | list | dict), place
                count += 1
    assert count > 100


@pytest.mark.parametrize("output", ["labels", "overlay", "color", "confidence", "json"])
def test_every_output_of_segment_has_an_example(document: Any, output: str) -> None:
    contents = document["paths"]["/segment"]["post"]["responses"]["200"]["content"]
    found = [content["examples"][output] for content in contents.values() if output in content["examples"]]
    assert found


def test_pictures_among_the_examples_can_be_looked_at(document: Any) -> None:
    statistics = document["paths"]["/segment"]["post"]["responses"]["200"]["content"]["application/json"]
    size = statistics["examples"]["json"]["value"]["image"]
    count = 0
    for place, content in contents(document):
        for example in content.get("examples", {}).values():
            if "externalValue" not in example:
                continue
            head, _, text = example["externalValue"].partition(";base64,")
            assert head.removeprefix("data:") in place
            assert decoded(base64.b64decode(text)).shape[:2] == (size["height"], size["width"]), place
            count += 1
    assert count >= 6


def test_the_example_of_statistics_is_of_the_example_of_labels(document: Any) -> None:
    contents = document["paths"]["/segment"]["post"]["responses"]["200"]["content"]
    _, _, text = contents["image/png"]["examples"]["labels"]["externalValue"].partition(";base64,")
    labels = decoded(base64.b64decode(text))
    told = contents["application/json"]["examples"]["polygons"]["value"]["classes"]
    for entry in told:
        mask = labels == entry["id"]
        assert (entry["pixels"], entry["share"]) == (mask.sum(), mask.mean())
        assert entry["polygons"] == render.outlines(mask.astype(np.uint8))
    assert {entry["id"] for entry in told} == set(np.unique(labels).tolist())


def test_every_problem_that_the_code_raises_is_described() -> None:
    raised = {}
    for path in (ROOT / "service").rglob("*.py"):
        for status, code in re.findall(r'Problem\(\s*(\d{3}),\s*"(\w+)"', path.read_text(encoding="utf-8")):
            raised[code] = int(status)
    assert set(raised) - OF_NO_ROUTE <= set(CODES), "service/openapi/problems.py"
    assert all(CODES[code][0] == status for code, status in raised.items() if code in CODES)
    assert set(CODES) <= set(raised)


@pytest.mark.parametrize(
    ("method", "path", "status", "options"),
    [
        ("post", "/segment?output=json&polygons=true", 200, {"content": FILE, "headers": PNG}),
        ("post", "/segment", 422, {"content": FILE[:-30], "headers": PNG}),
        ("get", "/models", 200, {}),
        ("get", "/healthz", 200, {}),
        ("get", "/readyz", 200, {}),
        ("get", "/health", 200, {}),
        ("post", "/webhook", 200, {"json": {"action": "ANNOTATION_CREATED"}}),
        ("get", "/v2", 200, {}),
        ("get", "/v2/health/live", 200, {}),
        ("get", "/v2/health/ready", 200, {}),
        ("get", "/v2/models/tiny", 200, {}),
        ("get", "/v2/models/tiny/versions/1/ready", 200, {}),
        ("get", "/v2/models/absent", 404, {}),
        ("post", "/cvat?min_pixels=1", 200, {"json": {"image": base64.b64encode(FILE).decode()}}),
    ],
)
def test_answers_are_as_their_schemas_say(
    client: TestClient, document: Any, method: str, path: str, status: int, options: Any
) -> None:
    response = client.request(method, path, **options)
    assert response.status_code == status, response.text
    template = re.sub("/(tiny|absent)", "/{model}", re.sub("/1/", "/{version}/", path.partition("?")[0]))
    answers = document["paths"][template][method]["responses"][str(status)]["content"]
    kind = response.headers["content-type"].partition(";")[0]
    check(document, response.json(), answers[kind]["schema"])


@pytest.mark.parametrize("path", ["/v2/models/{model}/infer", "/predict", "/setup", "/cvat", "/segment"])
def test_work_may_fail_in_every_way_that_has_a_status(document: Any, path: str) -> None:
    responses = document["paths"][path]["post"]["responses"]
    assert {"200", "400", "401", "408", "413", "415", "422", "429", "500", "503"} <= set(responses)
    for status in ("429", "503"):
        assert "Retry-After" in responses[status]["headers"]
