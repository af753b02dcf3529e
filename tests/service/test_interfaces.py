"""Every client of a service as it is run, worker processes and all: each has the labels of /segment."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.http as triton

from psanet_client import Client
from tests.service.bundles import write_tiny_bundle
from tests.service.cvat.test_routes import painted
from tests.service.fakes import CLASSES, decoded, encoded, three_colors
from tests.service.labelstudio.test_brush import unpacked
from tests.service.running import started

IMAGE = three_colors(130, 200)
FILE = encoded(IMAGE)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "upload").mkdir()
    (folder / "upload/street.png").write_bytes(FILE)
    bundle = write_tiny_bundle(folder / "tiny")
    with started(bundle, PSANET_LABEL_STUDIO_FILES=str(folder)) as process:
        yield process.url


@pytest.fixture(scope="module")
def labels(url: str) -> Any:
    response = httpx2.post(f"{url}/segment", content=FILE, headers={"content-type": "image/png"})
    labels = decoded(response.content)
    assert set(np.unique(labels)) == {1, 2, 3}
    return labels


@pytest.mark.parametrize("image", [FILE, IMAGE], ids=["file", "array"])
def test_the_python_client(url: str, labels: Any, image: Any) -> None:
    with Client(url) as client:
        np.testing.assert_array_equal(client.predict(image, confidence=True).labels, labels)
        assert sum(each.pixels for each in client.statistics(image).classes) == labels.size


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "JSON"])
def test_tritonclient(url: str, labels: Any, binary: bool) -> None:
    image = triton.InferInput("image", list(IMAGE.shape), "UINT8")
    image.set_data_from_numpy(IMAGE, binary_data=binary)
    output = triton.InferRequestedOutput("labels", binary_data=binary)
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        answer = client.infer("tiny", [image], outputs=[output])
    np.testing.assert_array_equal(answer.as_numpy("labels"), labels)


def test_label_studio(url: str, labels: Any) -> None:
    tags = "".join(f'<Label value="{name}"/>' for name in CLASSES)
    brush = f'<BrushLabels name="brush" toName="image">{tags}</BrushLabels>'
    interface = f'<View><Image name="image" value="$image"/>{brush}</View>'
    task = {"id": 1, "data": {"image": "/data/upload/street.png"}}
    response = httpx2.post(f"{url}/predict", json={"tasks": [task], "label_config": interface})
    for region in response.json()["results"][0]["result"]:
        rgba = np.reshape(unpacked(bytes(region["value"]["rle"])), (*labels.shape, 4))
        class_id = CLASSES.index(region["value"]["brushlabels"][0])
        np.testing.assert_array_equal(rgba[..., 3] == 255, labels == class_id)


def test_cvat(url: str, labels: Any) -> None:
    body = {"image": base64.b64encode(FILE).decode()}
    shapes = httpx2.post(f"{url}/cvat?min_pixels=1", json=body).json()
    np.testing.assert_array_equal(painted(shapes, labels.shape), labels)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(url: str, labels: Any, tmp_path: Path) -> None:
    (tmp_path / "street.png").write_bytes(FILE)
    command = ["curl", "-sSf", "-F", "image=@street.png"]
    done = subprocess.run([*command, f"{url}/segment"], cwd=tmp_path, capture_output=True, check=True)
    np.testing.assert_array_equal(decoded(done.stdout), labels)
    query = "output=json&polygons=true"
    done = subprocess.run([*command, f"{url}/segment?{query}"], cwd=tmp_path, capture_output=True, check=True)
    pixels = {each["id"]: each["pixels"] for each in json.loads(done.stdout)["classes"]}
    assert pixels == {class_id: (labels == class_id).sum() for class_id in (1, 2, 3)}
