"""POST /segment: every output says what the predictor says, of the image's own size."""

import json
import re
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from starlette.requests import Request
from starlette.testclient import TestClient

from inference.predictor import Predictor
from inference.render import overlay
from service import work
from service.app import create_app
from service.errors import Problem
from service.settings import Settings
from tests.inference.fakes import AnySizeEngine
from tests.service.fakes import PALETTE, decoded, encoded, three_colors, tiny_app, tiny_info, tiny_predictor

IMAGE = three_colors()
FILE = encoded(IMAGE)
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(tiny_app())


@pytest.fixture(scope="module")
def labels() -> NDArray[Any]:
    return tiny_predictor().predict(IMAGE).labels


def ask(client: TestClient, query: str = "", content: bytes = FILE) -> Any:
    response = client.post(f"/segment{query}", content=content, headers=RAW)
    assert response.status_code == 200, response.text
    return response


def test_labels_are_a_palette_png_whose_pixels_are_class_ids(
    client: TestClient, labels: NDArray[Any]
) -> None:
    response = ask(client)
    assert response.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(decoded(response.content), labels)
    assert set(np.unique(labels)) == {1, 2, 3}
    import io

    with Image.open(io.BytesIO(response.content)) as image:
        assert image.mode == "P"
        assert tuple((image.getpalette() or [])[:12]) == tuple(value for color in PALETTE for value in color)


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "image/png", "application/octet-stream", "IMAGE/X-ANYTHING", None]
)
def test_the_image_may_be_the_body(client: TestClient, labels: NDArray[Any], kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = client.post("/segment", content=FILE, headers=headers)
    np.testing.assert_array_equal(decoded(response.content), labels)


def test_the_image_may_be_a_form_field(client: TestClient, labels: NDArray[Any]) -> None:
    response = client.post("/segment", files={"image": ("street.jpg", FILE, "image/jpeg")})
    np.testing.assert_array_equal(decoded(response.content), labels)


def test_color_shows_the_palette(client: TestClient, labels: NDArray[Any]) -> None:
    np.testing.assert_array_equal(
        decoded(ask(client, "?output=color").content), np.asarray(PALETTE, np.uint8)[labels]
    )


def test_overlay_mixes_by_alpha_and_shows_only_the_chosen_classes(
    client: TestClient, labels: NDArray[Any]
) -> None:
    for query, classes in (("", None), ("&classes=1", {1}), ("&classes=red thing,3", {1, 3})):
        pixels = decoded(ask(client, f"?output=overlay&alpha=0.25{query}").content)
        np.testing.assert_array_equal(pixels, overlay(IMAGE, labels, PALETTE, alpha=0.25, classes=classes))


def test_confidence_is_grey_and_high_inside_a_flat_area(client: TestClient) -> None:
    confidence = decoded(ask(client, "?output=confidence").content)
    assert confidence.shape == IMAGE.shape[:2]
    assert confidence[30, 15] > 240


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
@pytest.mark.parametrize("output", ["overlay", "color", "confidence"])
def test_pictures_come_in_the_format_that_was_asked_for(
    client: TestClient, output: str, name: str, kind: str
) -> None:
    import io

    response = ask(client, f"?output={output}&format={name}")
    assert response.headers["content-type"] == f"image/{name}"
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.format, image.size) == (kind, (90, 60))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_json_counts_and_masks_agree_with_the_labels(client: TestClient, labels: NDArray[Any]) -> None:
    document = ask(client, "?output=json").json()
    assert document["model"] == "tiny"
    assert document["image"] == {"height": 60, "width": 90}
    assert set(document["timings_ms"]) == {"decode", "queue", "infer", "encode"}
    assert [entry["id"] for entry in document["classes"]] == [1, 2, 3]
    assert sum(entry["share"] for entry in document["classes"]) == pytest.approx(1)
    for entry in document["classes"]:
        assert entry["pixels"] == (labels == entry["id"]).sum()
        assert tuple(entry["color"]) == PALETTE[entry["id"]]
        np.testing.assert_array_equal(coco.decode(entry["rle"]), labels == entry["id"])
        assert "polygons" not in entry


def test_json_has_polygons_on_request(client: TestClient) -> None:
    document = ask(client, "?output=json&polygons=true").json()
    assert all(entry["polygons"] for entry in document["classes"])


def test_scales_and_flip_reach_the_predictor(client: TestClient) -> None:
    predictor = tiny_predictor()
    expected = predictor.predict(IMAGE, scales=(0.5, 1.5), flip=True, confidence=True).confidence
    assert expected is not None
    got = decoded(ask(client, "?output=confidence&scales=0.5,1.5&flip=true").content)
    assert np.abs(got - expected * 255).max() <= 0.51
    assert not np.array_equal(got, decoded(ask(client, "?output=confidence").content))


def test_headers_name_the_model_and_the_time_that_each_part_took(client: TestClient) -> None:
    headers = ask(client).headers
    assert headers["x-model"] == "tiny"
    duration = r"dur=\d+\.\d"
    pattern = rf"decode;{duration}, queue;{duration}, infer;{duration}, encode;{duration}"
    assert re.fullmatch(pattern, headers["server-timing"])


def test_several_models_are_chosen_by_name_and_the_first_is_the_default() -> None:
    predictors = {
        name: tiny_predictor(name, palette=PALETTE[::order]) for name, order in (("a", 1), ("b", -1))
    }
    client = TestClient(create_app(Settings(), predictors))
    assert ask(client).headers["x-model"] == "a"
    assert ask(client, "?model=b").headers["x-model"] == "b"
    assert [(entry["name"], entry["default"]) for entry in client.get("/models").json()] == [
        ("a", True),
        ("b", False),
    ]
    unknown = client.post("/segment?model=c", content=FILE, headers=RAW)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_model")
    assert "a, b" in unknown.json()["detail"]


def test_a_model_may_have_any_name() -> None:
    for name, header in (("straße 模型\n", "stra%C3%9Fe%20%E6%A8%A1%E5%9E%8B%0A"), ("a b,c", "a b,c")):
        client = TestClient(create_app(Settings(), {name: tiny_predictor(name)}))
        assert ask(client).headers["x-model"] == header
        response = client.post("/segment", params={"model": name}, content=FILE, headers=RAW)
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        *(
            (f"scales={value}", "scales")
            for value in ("0", "-1", "nan", "100", "inf", "", "1,,1", "one", "0.2", "3.1")
        ),
        ("scales=1,1,1,1,1,1,1,1,1", "scales"),
        ("flip=perhaps", "flip"),
        *((f"alpha={value}", "alpha") for value in ("-0.1", "1.1", "nan", "inf", "half")),
        ("output=everything", "output"),
        ("format=gif", "format"),
        ("output=labels&format=jpeg", "format"),
        ("format=webp", "format"),
        ("output=overlay&classes=unicorn", "classes"),
        ("output=overlay&classes=4", "classes"),
        ("output=overlay&classes=-1", "classes"),
        ("output=overlay&classes=", "classes"),
        (f"output=overlay&classes={'9' * 5000}", "classes"),
        ("colour=red", "colour"),
        ("scales=1&scales=2", "scales"),
        ("polygons=2", "polygons"),
    ],
)
def test_a_bad_parameter_is_422_and_named(client: TestClient, query: str, parameter: str) -> None:
    response = client.post(f"/segment?{query}", content=FILE, headers=RAW)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["code"] == "bad_parameter"
    assert [item["parameter"] for item in document["errors"]] == [parameter]
    assert document["detail"].startswith(parameter)


def test_a_query_of_thousands_of_parameters_gets_a_short_answer(client: TestClient) -> None:
    query = "&".join(f"x{index}=1" for index in range(6_000))
    response = client.post(f"/segment?{query}", content=FILE, headers=RAW)
    assert response.status_code == 422
    assert len(response.content) < 10_000


def test_a_parameter_repeated_thousands_of_times_is_refused_at_once() -> None:
    request = Request({"type": "http", "query_string": b"alpha=0&" * 60_000})
    started = time.monotonic()
    with pytest.raises(Problem, match="more than once"):
        work.refuse_repeated(request)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("query", ["scales=0.25,3", "scales= 1 , 0.5", "alpha=0", "flip=false", "scales=1,1"])
def test_what_lies_on_the_edge_of_a_limit_is_taken(client: TestClient, query: str) -> None:
    ask(client, f"?{query}")


def test_json_is_valid_for_any_class_name() -> None:
    predictor = tiny_predictor(class_names=("a", 'q"uote', "ünï", "d"))
    client = TestClient(create_app(Settings(), {"tiny": predictor}))
    names = [entry["name"] for entry in json.loads(ask(client, "?output=json").content)["classes"]]
    assert names == ['q"uote', "ünï", "d"]


def test_models_of_whole_images_are_served_as_others_are() -> None:
    info = tiny_info(protocol="mmsegmentation", test_mode="whole", base_short=64, align_corners=False)
    predictor = Predictor(info, AnySizeEngine(4))
    client = TestClient(create_app(Settings(), {"tiny": predictor}))
    (model,) = client.get("/models").json()
    assert (model["test_mode"], model["protocol"], model["base_short"]) == ("whole", "mmsegmentation", 64)
    for height, width in ((60, 90), (90, 61), (7, 200)):
        image = three_colors(height, width)
        found = decoded(ask(client, "?scales=0.5,1&flip=true", encoded(image)).content)
        np.testing.assert_array_equal(found, predictor.predict(image, scales=(0.5, 1), flip=True).labels)


def test_a_whole_image_too_large_for_attention_is_a_422_that_names_the_mend() -> None:
    predictor = Predictor(
        tiny_info(protocol="mmsegmentation", test_mode="whole", base_size=2048, base_short=1024),
        AnySizeEngine(4),
    )
    client = TestClient(create_app(Settings(), {"tiny": predictor}))
    response = client.post("/segment?scales=3", content=encoded(three_colors(64, 128)), headers=RAW)
    assert (response.status_code, response.json()["code"]) == (422, "over_memory_budget")
    assert "attention maps" in response.json()["detail"]
    assert "smaller" in response.json()["detail"]
