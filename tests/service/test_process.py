"""The real process: `python -m service` with a bundle on disk, from its first line to its exit code."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest

from inference.predictor import Predictor
from tests.service.bundles import write_tiny_bundle
from tests.service.fakes import decoded, encoded, three_colors
from tests.service.running import ROOT, environment, refused, started, until

IMAGE = three_colors()
FILE = encoded(IMAGE)
RAW = {"content-type": "application/octet-stream"}

NO_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript", "safetensors"):
            print("imported:", name, file=sys.stderr)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_it_says_where_it_is_answers_like_the_predictor_and_ends_with_0(bundle: Path) -> None:
    begun = time.monotonic()
    with started(bundle) as service:
        assert time.monotonic() - begun < 20
        assert f"curl -F image=@photo.jpg '{service.url}/segment" in service.greeting
        assert httpx2.get(f"{service.url}/readyz").status_code == 200
        response = httpx2.post(f"{service.url}/segment", content=FILE, headers=RAW)
        np.testing.assert_array_equal(decoded(response.content), Predictor.open(bundle).predict(IMAGE).labels)
        assert response.headers["x-model"] == "tiny"
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        assert service.process.stderr is not None
        assert "Traceback" not in service.process.stderr.read()


def test_neither_it_nor_its_workers_need_torch_or_the_exporters_libraries(
    bundle: Path, tmp_path: Path
) -> None:
    """`sitecustomize` is run by every Python that starts."""
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)
    paths = os.pathsep.join((str(tmp_path), str(ROOT)))
    with started(bundle, PYTHONPATH=paths) as service:
        response = httpx2.post(
            f"{service.url}/segment?output=overlay&scales=0.5,1&flip=true", content=FILE, headers=RAW
        )
        assert decoded(response.content).shape == IMAGE.shape
        service.process.send_signal(signal.SIGTERM)
        code, stderr = service.end()
        assert code == 0, stderr
        assert "imported:" not in stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_idles_below_350_mb(bundle: Path) -> None:
    with started(bundle) as service:
        assert httpx2.post(f"{service.url}/segment", content=FILE, headers=RAW).status_code == 200
        assert service.resident_mb() < 350


def test_sigterm_finishes_what_was_accepted(bundle: Path) -> None:
    large = encoded(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3)).astype(np.uint8), "JPEG")
    with started(bundle, PSANET_THREADS="1") as service:
        answers: list[httpx2.Response] = []

        def ask() -> None:
            query = "output=json&scales=0.5,1,2,3&flip=true"
            answers.append(
                httpx2.post(f"{service.url}/segment?{query}", content=large, headers=RAW, timeout=60)
            )

        asking = threading.Thread(target=ask)
        asking.start()
        while "psanet_workers_busy 1.0" not in httpx2.get(f"{service.url}/metrics").text:
            assert asking.is_alive(), "the request was over before it was seen"
        service.process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert [answer.status_code for answer in answers] == [200]
        assert service.process.wait(20) == 0


def test_a_port_in_use_is_told_without_a_traceback(bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, message = refused(PSANET_MODELS=str(bundle), PSANET_PORT=port)
    assert code == 1
    assert f"127.0.0.1:{port} is in use" in message
    assert "PSANET_PORT" in message


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PSANET_WORKERS": "none"}, "PSANET_WORKERS"),
        ({"PSANET_WORKER": "1"}, "did you mean PSANET_WORKERS"),
        ({"PSANET_MODELS": "no_such_model"}, "no_such_model"),
        ({"PSANET_MODELS": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_a_wrong_setting_or_model_ends_it_with_2(variables: dict[str, str], words: str) -> None:
    code, message = refused(**variables)
    assert code == 2
    assert message.rstrip().splitlines()[-1].startswith(("error: ", "`python -m service --help`"))
    assert words in message


def test_a_broken_bundle_ends_it_with_2_and_names_the_file(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "half")
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])
    code, message = refused(PSANET_MODELS=str(folder))
    assert code == 2
    assert "model.onnx" in message


def test_two_models_of_one_name_are_refused(bundle: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other")
    code, message = refused(PSANET_MODELS=f"{bundle},{other}")
    assert code == 2
    assert "called tiny too" in message


def test_several_models_are_served(bundle: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", "second")
    with started(bundle, PSANET_MODELS=f"{bundle} {other}") as service:
        assert [model["name"] for model in httpx2.get(f"{service.url}/models").json()] == ["tiny", "second"]
        response = httpx2.post(f"{service.url}/segment?model=second", content=FILE, headers=RAW)
        assert response.headers["x-model"] == "second"


def test_help_lists_the_settings() -> None:
    command = [sys.executable, "-m", "service", "--help"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "PSANET_MAX_PIXELS  [50000000]" in done.stdout


def test_a_full_disk_under_its_output_changes_nothing(bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    variables = environment(PSANET_MODELS=str(bundle), PSANET_PORT=str(port))
    with open("/dev/full", "w") as full:
        process = subprocess.Popen([sys.executable, "-m", "service"], env=variables, stdout=full, stderr=full)
        try:
            until(lambda: _status(f"http://127.0.0.1:{port}/readyz") == 200)
            response = httpx2.post(f"http://127.0.0.1:{port}/segment", content=FILE, headers=RAW)
            assert response.status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def _status(url: str) -> int:
    try:
        return httpx2.get(url).status_code
    except httpx2.HTTPError:
        return 0
