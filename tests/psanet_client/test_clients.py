"""Both clients against a running service: every answer is what the service says."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from inference import render
from inference.attention import Point, attention_at
from psanet_client import (
    AsyncClient,
    BusyError,
    Client,
    NoAnswerError,
    RefusedError,
    Retries,
)
from service.keys import make_key
from tests.service.fakes import (
    CLASSES,
    PALETTE,
    app_of,
    decoded,
    encoded,
    live,
    telling,
    three_colors,
    tiny_app,
    tiny_predictor,
)

IMAGE = three_colors(60, 96)
FILE = encoded(IMAGE)
ONCE = Retries(times=0)


class Awaited:
    """`AsyncClient` as tests can use it in place of `Client`: each question in an event loop of its own."""

    def __init__(self, url: str, backend: str, **options: Any) -> None:
        self._url, self._backend, self._options = url, backend, options

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(arguments: Any, options: Any) -> Any:
            async with AsyncClient(self._url, **self._options) as client:
                return await getattr(client, name)(*arguments, **options)

        return lambda *arguments, **options: anyio.run(ask, arguments, options, backend=self._backend)

    def close(self) -> None:
        """There is nothing to close."""


KINDS: dict[str, Callable[..., Any]] = {
    "sync": Client,
    "asyncio": lambda url, **options: Awaited(url, "asyncio", **options),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(app_of(telling(), tiny_predictor("other one"))) as url:
        yield url


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return KINDS[request.param]


@pytest.fixture
def client(kind: Callable[..., Any], address: str) -> Iterator[Any]:
    client = kind(address)
    yield client
    client.close()


def test_models_are_told_the_default_first(client: Any) -> None:
    first, second = client.models()
    assert (first.name, first.default, second.name, second.default) == ("tiny", True, "other one", False)
    assert [each.name for each in first.classes] == list(CLASSES)
    assert tuple(each.color for each in first.classes) == PALETTE
    assert (first.crop_hw, first.base_size, first.attention) == ((65, 65), 96, ("collect", "distribute"))


@pytest.mark.parametrize("form", ["path", "name", "bytes", "array"])
def test_a_prediction_is_the_predictors(client: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / "street.png"
    path.write_bytes(FILE)
    image = {"path": path, "name": str(path), "bytes": FILE, "array": IMAGE}[form]
    expected = tiny_predictor().predict(IMAGE, scales=(0.5, 1.5), flip=True, confidence=True)
    got = client.predict(image, scales=(0.5, 1.5), flip=True, confidence=True)
    np.testing.assert_array_equal(got.labels, expected.labels)
    np.testing.assert_array_equal(got.confidence, expected.confidence)
    assert (got.labels.dtype, got.confidence.dtype) == (np.uint8, np.float32)
    assert got.model == "tiny"
    assert set(got.timings_ms) == {"decode", "queue", "infer", "encode"}
    assert got.request_id
    got.labels[0, 0] = 3  # one's own, not a view of an answer


def test_confidence_comes_when_it_is_asked_for(client: Any) -> None:
    assert client.predict(FILE).confidence is None


def test_views_of_arrays_are_sent_as_they_are_seen(client: Any) -> None:
    turned: NDArray[np.uint8] = IMAGE[::-1, ::2]
    np.testing.assert_array_equal(client.predict(turned).labels, tiny_predictor().predict(turned).labels)
    labels = decoded(client.segment(turned).content)
    np.testing.assert_array_equal(labels, tiny_predictor().predict(turned).labels)


def test_numpys_numbers_are_numbers(client: Any) -> None:
    half = np.float64(0.5)
    picture = client.segment(FILE, output="overlay", alpha=half)
    assert picture.content == client.segment(FILE, output="overlay", alpha=0.5).content
    told = client.attention(FILE, [(3, 4)], scale=half)
    assert told.points[0].window == client.attention(FILE, [(3, 4)], scale=0.5).points[0].window


def test_another_model_is_named(client: Any) -> None:
    assert client.predict(FILE, model="other one").model == "other one"
    assert client.segment(FILE, model="other one").model == "other one"
    assert client.statistics(FILE, model="other one").model == "other one"


@pytest.mark.parametrize("image", [FILE, IMAGE], ids=["file", "array"])
def test_pictures_are_the_services(client: Any, tmp_path: Path, image: Any) -> None:
    labels = tiny_predictor().predict(IMAGE, scales=(0.5, 1), flip=True).labels
    got = client.segment(image, scales=(0.5, 1), flip=True)
    assert got.media_type == "image/png"
    np.testing.assert_array_equal(decoded(got.save(tmp_path / "labels.png").read_bytes()), labels)
    got = client.segment(
        image, output="overlay", alpha=0.25, classes=["red thing", 3], scales=(0.5, 1), flip=True
    )
    expected = render.overlay(IMAGE, labels, PALETTE, alpha=0.25, classes=frozenset({1, 3}))
    np.testing.assert_array_equal(decoded(got.content), expected)
    got = client.segment(image, output="color", format="webp")
    with Image.open(io.BytesIO(got.content)) as picture:
        assert (got.media_type, picture.format, picture.size) == ("image/webp", "WEBP", (96, 60))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_statistics_tell_of_each_class(client: Any) -> None:
    labels = tiny_predictor().predict(IMAGE).labels
    got = client.statistics(FILE, polygons=True)
    assert (got.image_hw, got.model) == ((60, 96), "tiny")
    assert [each.id for each in got.classes] == [1, 2, 3]
    for each in got.classes:
        mask = labels == each.id
        assert (each.name, each.color, each.pixels) == (CLASSES[each.id], PALETTE[each.id], mask.sum())
        assert each.share == pytest.approx(mask.mean())
        np.testing.assert_array_equal(coco.decode(dict(each.rle)), mask)
        assert each.polygons
    assert client.statistics(FILE).classes[0].polygons is None


def test_attention_is_what_the_network_tells(client: Any) -> None:
    points = [(20, 30), (90, 5)]
    expected = attention_at(telling(), IMAGE, [Point(x, y) for x, y in points])
    got = client.attention(FILE, points)
    assert (got.image_hw, got.model) == ((60, 96), "tiny")
    for one, other in zip(got.points, expected.points, strict=True):
        assert ((one.x, one.y), one.position) == ((other.point.x, other.point.y), tuple(other.position))
        assert one.window == pytest.approx(other.window, abs=1e-3)
        for direction in ("collect", "distribute"):
            weights = other.weights[direction]
            assert one.weights[direction].dtype == np.float32
            assert np.abs(one.weights[direction] - weights).max() <= weights.max() / 500
    one = client.attention(FILE, [(20, 30)], direction="distribute", scale=0.5)
    assert set(one.points[0].weights) == {"distribute"}


def test_a_ready_service_is_told_so(client: Any) -> None:
    client.check_ready()


def test_refusals_say_what_to_mend(client: Any) -> None:
    with pytest.raises(RefusedError, match="truncated") as caught:
        client.predict(FILE[:-40])
    assert (caught.value.status, caught.value.code) == (422, "undecodable_image")
    assert caught.value.request_id
    with pytest.raises(RefusedError, match="absent") as caught:
        client.segment(FILE, model="absent")
    assert (caught.value.status, caught.value.code) == (404, "unknown_model")
    with pytest.raises(RefusedError) as caught:
        client.segment(FILE, alpha=3)
    assert list(caught.value.errors) == ["alpha"]


@pytest.mark.parametrize(
    "image", [3, None, IMAGE.astype(np.float32), IMAGE[..., 0], np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_not_sent(client: Any, image: Any) -> None:
    with pytest.raises(TypeError, match="an image is"):
        client.predict(image)


def test_a_missing_file_is_an_error_of_files(client: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.segment(tmp_path / "absent.jpg")


def test_keys_are_sent(kind: Callable[..., Any], tmp_path: Path) -> None:
    key, line = make_key("somebody")
    (tmp_path / "keys").write_text(line)
    with live(tiny_app(api_keys_file=tmp_path / "keys")) as url:
        client = kind(url)
        with pytest.raises(RefusedError, match="API key") as caught:
            client.models()
        assert caught.value.status == 401
        client.close()
        client = kind(url, api_key=key)
        assert client.models()[0].name == "tiny"
        client.close()


def test_a_service_that_drains_is_busy(kind: Callable[..., Any]) -> None:
    app = tiny_app()
    with live(app) as url:
        app.state.service.draining = True
        client = kind(url, retries=ONCE)
        with pytest.raises(BusyError) as caught:
            client.check_ready()
        assert caught.value.code == "draining"
        assert caught.value.retry_after_s is not None
        client.close()


def test_who_has_asked_too_often_is_answered_after_the_time_that_it_takes(kind: Callable[..., Any]) -> None:
    with live(tiny_app(rate_per_minute=120, rate_burst=1)) as url:
        client = kind(url)
        for _ in range(3):
            assert len(client.models()) == 1
        client.close()
        impatient = kind(url, retries=ONCE)
        with pytest.raises(BusyError) as caught:
            impatient.models()
        assert (caught.value.status, caught.value.code) == (429, "rate_limited")
        impatient.close()


def test_a_silent_address_is_told(kind: Callable[..., Any]) -> None:
    client = kind("http://127.0.0.1:1", retries=ONCE)
    with pytest.raises(NoAnswerError, match=r"http://127\.0\.0\.1:1/models gives no answer"):
        client.models()
    client.close()


def test_another_program_behind_the_address_is_told(kind: Callable[..., Any], address: str) -> None:
    client = kind(f"{address}/page", retries=ONCE)
    with pytest.raises(RefusedError) as caught:
        client.models()
    assert caught.value.status == 404
    client.close()


def test_many_tasks_share_a_client(address: str) -> None:
    images = [np.roll(IMAGE, shift, axis=2) for shift in range(3)] * 3
    got: dict[int, Any] = {}

    async def ask() -> None:
        async def one(client: AsyncClient, number: int) -> None:
            got[number] = await client.predict(images[number], model="tiny")

        async with AsyncClient(address) as client, anyio.create_task_group() as group:
            for number in range(len(images)):
                group.start_soon(one, client, number)

    anyio.run(ask)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(got[number].labels, tiny_predictor().predict(image).labels)
