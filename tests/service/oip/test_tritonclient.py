"""The Open Inference Protocol as NVIDIA's own client speaks it, with a running server."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.service.fakes import app_of, encoded, live, three_colors, tiny_predictor

IMAGE = three_colors()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(app_of(tiny_predictor(), tiny_predictor("other"), max_bytes=2**20)) as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


def tensor(image: NDArray[np.uint8] = IMAGE, *, binary: bool = True) -> Any:
    made = triton.InferInput("image", list(image.shape), "UINT8")
    made.set_data_from_numpy(image, binary_data=binary)
    return made


def file(content: bytes) -> Any:
    made = triton.InferInput("image", [1], "BYTES")
    made.set_data_from_numpy(np.array([content], np.object_))
    return made


def wanted(*names: str, binary: bool = True) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_the_server_is_live_and_ready_and_says_what_it_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]


def test_models_are_ready_and_say_what_they_take_and_give(client: Any) -> None:
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("absent")
    metadata = client.get_model_metadata("other", "1")
    assert metadata == client.get_model_metadata("other")
    assert metadata["name"] == "other"
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}]
    assert {each["name"]: each["datatype"] for each in metadata["outputs"]} == {
        "labels": "UINT8",
        "confidence": "FP32",
    }


@pytest.mark.parametrize("binary_in", [True, False], ids=["bytes in", "JSON in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["bytes out", "JSON out"])
def test_tensors_in_either_form_give_what_the_predictor_gives(
    client: Any, binary_in: bool, binary_out: bool
) -> None:
    expected = tiny_predictor().predict(IMAGE, confidence=True)
    result = client.infer(
        "tiny",
        [tensor(binary=binary_in)],
        outputs=wanted("labels", "confidence", binary=binary_out),
        request_id="seven",
    )
    assert result.get_response()["id"] == "seven"
    labels, confidence = result.as_numpy("labels"), result.as_numpy("confidence")
    assert (labels.dtype, confidence.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(confidence, expected.confidence)


def test_outputs_of_both_forms_may_be_mixed(client: Any) -> None:
    outputs = [*wanted("confidence", binary=False), *wanted("labels")]
    result = client.infer("tiny", [tensor()], outputs=outputs)
    expected = tiny_predictor().predict(IMAGE, confidence=True)
    np.testing.assert_array_equal(result.as_numpy("labels"), expected.labels)
    np.testing.assert_array_equal(result.as_numpy("confidence"), expected.confidence)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_image_file_may_be_the_input(client: Any, kind: str) -> None:
    result = client.infer("tiny", [file(encoded(IMAGE, kind))])
    np.testing.assert_array_equal(result.as_numpy("labels"), tiny_predictor().predict(IMAGE).labels)


def test_labels_alone_come_where_no_outputs_are_named(client: Any) -> None:
    result = client.infer("tiny", [tensor()])
    assert [each["name"] for each in result.get_response()["outputs"]] == ["labels"]


def test_scales_and_flip_are_parameters_of_the_request(client: Any) -> None:
    result = client.infer(
        "tiny",
        [tensor()],
        outputs=wanted("confidence"),
        parameters={"scales": "0.5,1.5", "flip": True},
    )
    expected = tiny_predictor().predict(IMAGE, scales=(0.5, 1.5), flip=True, confidence=True)
    np.testing.assert_array_equal(result.as_numpy("confidence"), expected.confidence)


@pytest.mark.parametrize("version", ["", "1"])
def test_the_model_and_its_version_are_in_the_answer(client: Any, version: str) -> None:
    response = client.infer("other", [tensor()], model_version=version).get_response()
    assert (response["model_name"], response["model_version"]) == ("other", "1")


def test_many_at_once_each_get_their_own_answer(address: str) -> None:
    images = [np.roll(IMAGE, shift, axis=2) for shift in range(3)] * 3
    with triton.InferenceServerClient(address, concurrency=4) as client:
        pending = [client.async_infer("tiny", [tensor(image)]) for image in images]
        for image, request in zip(images, pending, strict=True):
            got = request.get_result().as_numpy("labels")
            np.testing.assert_array_equal(got, tiny_predictor().predict(image).labels)


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "status", "says"),
    [
        ("absent", [tensor()], None, "404", "there is tiny"),
        ("tiny", [tensor()], wanted("logits"), "400", "labels, confidence"),
        ("tiny", [file(b"%PDF-1.7 and so on")], None, "415", "PDF"),
        ("tiny", [file(encoded(IMAGE)[:-40])], None, "422", "truncated"),
        ("tiny", [tensor(np.zeros((700, 700, 3), np.uint8))], None, "413", "1048576 bytes"),
    ],
)
def test_the_client_shows_what_is_wrong_and_the_mend(
    client: Any, model: str, inputs: list[Any], outputs: Any, status: str, says: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, outputs=outputs)
    assert caught.value.status() == status
    assert says in caught.value.message()


def test_bad_parameters_are_told_by_name(client: Any) -> None:
    for parameters, says in (({"scales": "0.1"}, "0.25"), ({"flop": True}, "flop"), ({"flip": 3}, "flip")):
        with pytest.raises(InferenceServerException, match=says) as caught:
            client.infer("tiny", [tensor()], parameters=parameters)
        assert caught.value.status() == "422"
