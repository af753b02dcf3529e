"""Workers that are killed, hang, fall silent or run out of memory: theirs get a 503, others go on."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from service import processes
from service.app import create_app
from service.settings import Settings
from tests.service.bundles import FAILS, HANGS, STARVES, write_moody_bundle, write_tiny_bundle
from tests.service.fakes import decoded, encoded, live, three_colors
from tests.service.running import Process, children, facts_of, metric_of, resident_mb, started, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

FILE = encoded(three_colors())
RAW = {"content-type": "application/octet-stream"}


def bright(value: int) -> bytes:
    """An image that a moody network does not survive."""
    return encoded(np.full((65, 65, 3), value, np.uint8))


def ask(url: str, content: bytes = FILE, **options: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/segment", content=content, headers=RAW, timeout=60, **options)


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moody_bundle(tmp_path_factory.mktemp("bundles") / "moody")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def worker_of(service: Process) -> int:
    (pid,) = children(service.process.pid)
    return pid


def hang(service: Process, pool: ThreadPoolExecutor) -> "Future[httpx2.Response]":
    """A request that hangs in the engine."""
    request = pool.submit(ask, service.url, bright(HANGS))
    until(lambda: metric_of(httpx2.get(f"{service.url}/metrics").text, "psanet_workers_busy") == 1)
    time.sleep(0.2)
    return request


def busy(pid: int, seconds: float = 0.5) -> int:
    """How much a process computes: ticks of the clock in that time."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(seconds)
    return ticks() - before


def test_a_killed_worker_is_replaced_and_only_its_requests_are_lost(
    moody: Path, pool: ThreadPoolExecutor
) -> None:
    with started(moody, PSANET_WORKERS="1") as service:
        first, worker = hang(service, pool), worker_of(service)
        queued = [pool.submit(ask, service.url) for _ in range(3)]
        until(lambda: metric_of(httpx2.get(f"{service.url}/metrics").text, "psanet_queue_depth") == 3)
        os.kill(worker, signal.SIGKILL)
        killed = time.monotonic()
        lost = first.result(30)
        assert time.monotonic() - killed < 5
        assert (lost.status_code, lost.json()["code"]) == (503, "worker_lost")
        assert 1 <= int(lost.headers["retry-after"]) <= 30
        assert [request.result(30).status_code for request in queued] == [200] * 3
        assert worker_of(service) != worker, "one worker, and no zombie of the other"
        assert facts_of(worker) is None
        text = httpx2.get(f"{service.url}/metrics").text
        assert metric_of(text, "psanet_worker_restarts_total", reason="crashed") == 1
        assert metric_of(text, "psanet_ready") == 1
        service.process.send_signal(signal.SIGTERM)
        code, stderr = service.end()
        assert code == 0
        assert "killed by SIGKILL" in stderr
        assert "Traceback" not in stderr


def test_a_hanging_engine_call_is_ended_with_its_worker(moody: Path, pool: ThreadPoolExecutor) -> None:
    with started(moody, PSANET_CALL_TIMEOUT_S="1") as service:
        hanging = hang(service, pool)
        lost = hanging.result(30)
        assert (lost.status_code, lost.json()["code"]) == (503, "worker_lost")
        assert ask(service.url).status_code == 200
        text = httpx2.get(f"{service.url}/metrics").text
        assert metric_of(text, "psanet_worker_restarts_total", reason="hung") == 1


def test_of_several_workers_the_others_go_on(moody: Path, pool: ThreadPoolExecutor) -> None:
    with started(moody, PSANET_PROCESSES="2", PSANET_WORKERS="1", PSANET_QUEUE_SIZE="0") as service:
        metrics = f"{service.url}/metrics"
        until(lambda: metric_of(httpx2.get(metrics).text, "psanet_workers") == 2)
        before = children(service.process.pid)
        hanging = hang(service, pool)
        assert ask(service.url).status_code == 200, "the other one takes it"
        os.kill(max(before, key=busy), signal.SIGKILL)
        assert hanging.result(30).json()["code"] == "worker_lost"
        assert ask(service.url).status_code == 200
        until(lambda: metric_of(httpx2.get(metrics).text, "psanet_workers") == 2)
        assert len({*children(service.process.pid), *before}) == 3


def test_an_engine_without_memory_is_503_and_its_worker_goes_on(moody: Path) -> None:
    with started(moody) as service:
        worker = worker_of(service)
        for _ in range(4):
            starved = ask(service.url, bright(STARVES))
            assert (starved.status_code, starved.json()["code"]) == (503, "out_of_memory")
            assert starved.headers["retry-after"]
        assert ask(service.url).status_code == 200
        assert worker_of(service) == worker


def test_a_fault_in_a_worker_is_logged_with_its_traceback_under_the_requests_id(moody: Path) -> None:
    with started(moody) as service:
        headers = RAW | {"X-Request-ID": "run-7"}
        failed = httpx2.post(f"{service.url}/segment", content=bright(FAILS), headers=headers)
        assert (failed.status_code, failed.json()["code"]) == (500, "internal_error")
        assert "Reshape" not in failed.text
        service.process.send_signal(signal.SIGTERM)
        _, stderr = service.end()
        # ONNX Runtime writes a line of its own, which is no JSON.
        lines = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
        (line,) = [line for line in lines if line["level"] == "error"]
        assert line["request_id"] == "run-7"
        assert "Reshape" in line["exception"]


def test_an_engine_that_does_nothing_but_fail_is_replaced(moody: Path) -> None:
    with started(moody) as service:
        worker = worker_of(service)
        for count in range(5):
            assert ask(service.url, bright(FAILS)).status_code == 500
            if count == 1:
                assert ask(service.url).status_code == 200, "what works in between counts"
        until(lambda: children(service.process.pid) not in ([worker], []))
        assert ask(service.url).status_code == 200


def test_a_worker_that_says_nothing_is_replaced(moody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SILENCE_S", 2.0)
    with live(create_app(Settings(models=(str(moody),)))) as url:
        (worker,) = children(os.getpid())
        os.kill(worker, signal.SIGSTOP)
        lost = ask(url)
        assert (lost.status_code, lost.json()["code"]) == (503, "worker_lost")
        assert ask(url).status_code == 200
        assert (
            metric_of(httpx2.get(f"{url}/metrics").text, "psanet_worker_restarts_total", reason="silent") == 1
        )
    assert children(os.getpid()) == []


def test_a_worker_cannot_outlive_the_service(moody: Path, pool: ThreadPoolExecutor) -> None:
    with started(moody) as service:
        hanging, worker = hang(service, pool), worker_of(service)
        service.process.kill()
        service.process.wait(10)
        until(lambda: facts_of(worker) is None or facts_of(worker)[0] == "Z")  # type: ignore[index]
        with pytest.raises(httpx2.HTTPError):
            hanging.result(10)


def test_a_second_sigterm_ends_everything_at_once(moody: Path, pool: ThreadPoolExecutor) -> None:
    with started(moody) as service:
        hanging, worker = hang(service, pool), worker_of(service)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: httpx2.get(f"{service.url}/readyz").status_code == 503)
        assert httpx2.get(f"{service.url}/healthz").status_code == 200
        assert service.process.poll() is None
        second = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        answer = hanging.result(10)
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        code, _ = service.end()
        assert (code, time.monotonic() - second < 10) == (0, True)
        assert facts_of(worker) is None


def test_a_worker_that_cannot_be_started_again_is_tried_again_and_said(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny")
    model = (folder / "model.onnx").read_bytes()
    with started(folder) as service:
        (folder / "model.onnx").write_bytes(model[:100])
        os.kill(worker_of(service), signal.SIGKILL)
        waiting = ask(service.url)
        assert (waiting.status_code, waiting.json()["code"]) == (503, "no_worker")
        assert httpx2.get(f"{service.url}/readyz").status_code == 503
        assert httpx2.get(f"{service.url}/healthz").status_code == 200
        (folder / "model.onnx").write_bytes(model)
        until(lambda: httpx2.get(f"{service.url}/readyz").status_code == 200)
        assert ask(service.url).status_code == 200


def test_models_are_exchanged_without_a_lost_request(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny")
    new = write_tiny_bundle(tmp_path / "new", strongest=3)
    with started(folder) as service:
        worker = worker_of(service)
        done, statuses, seen = threading.Event(), [], []

        def client() -> None:
            while not done.is_set():
                response = ask(service.url)
                statuses.append(response.status_code)
                seen.append(int(decoded(response.content)[30, 15]))

        clients = [pool.submit(client) for _ in range(4)]
        service.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert children(service.process.pid) == [worker], "nothing has changed"
        shutil.copy(new / "model.onnx", folder / "model.onnx")
        service.process.send_signal(signal.SIGHUP)
        until(lambda: 3 in seen[-4:])
        until(lambda: len(children(service.process.pid)) == 1)
        done.set()
        for each in clients:
            each.result(30)
        assert set(statuses) == {200}
        assert set(seen) == {1, 3}
        assert worker_of(service) != worker
        text = httpx2.get(f"{service.url}/metrics").text
        assert metric_of(text, "psanet_reloads_total", outcome="done") == 1
        assert metric_of(text, "psanet_worker_restarts_total") == 0


def test_a_broken_model_leaves_the_old_one_serving(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny")
    model = (folder / "model.onnx").read_bytes()
    with started(folder) as service:
        worker = worker_of(service)
        (folder / "model.onnx").write_bytes(model[: len(model) // 2])
        service.process.send_signal(signal.SIGHUP)
        metrics = f"{service.url}/metrics"
        until(lambda: metric_of(httpx2.get(metrics).text, "psanet_reloads_total", outcome="failed") == 1)
        assert ask(service.url).status_code == 200
        assert worker_of(service) == worker
        service.process.send_signal(signal.SIGTERM)
        code, stderr = service.end()
        assert code == 0
        assert "go on being served" in stderr
        assert "model.onnx" in stderr


def test_the_service_itself_holds_no_images_and_stays_small(moody: Path) -> None:
    with started(moody) as service:
        assert ask(service.url).status_code == 200
        assert resident_mb(service.process.pid) < 90
        libraries = Path(f"/proc/{service.process.pid}/maps").read_text()
        for name in ("numpy", "cv2", "PIL", "onnxruntime"):
            assert f"/{name}/" not in libraries, name
