"""Images of tasks: carried along, or below one folder; nothing is fetched and nothing else is opened."""

import base64
import os
import socket
from pathlib import Path

import pytest

from service.errors import Problem
from service.labelstudio.files import read_task_image

CONTENT = bytes(range(256))
TEXT = base64.b64encode(CONTENT).decode()
MOST = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Label Studio's folder, with a secret beside it."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "data"
    for name in ("upload/3/1f2e-street.jpg", "streets/so far/ü.jpg", "secret.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CONTENT)
    (folder / "large.jpg").write_bytes(bytes(MOST + 1))
    (folder / "out.jpg").symlink_to(tmp_path / "secret.txt")
    (folder / "inside.jpg").symlink_to(folder / "secret.jpg")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an address was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def problem(value: str, folder: Path | None) -> Problem:
    with pytest.raises(Problem) as caught:
        read_task_image(value, folder, MOST)
    return caught.value


@pytest.mark.parametrize(
    "value",
    [
        f"data:image/jpeg;base64,{TEXT}",
        f"DATA:image/png;name=a.png;BASE64,{TEXT}",
        f"data:;base64,{TEXT}",
        TEXT,
    ],
)
def test_a_task_may_carry_its_image(value: str) -> None:
    assert read_task_image(value, None, MOST) == CONTENT


@pytest.mark.parametrize(
    "value",
    [
        "/data/upload/3/1f2e-street.jpg",
        "/data/upload/3/1f2e%2Dstreet.jpg?token=1",
        "/data/local-files/?d=streets/so%20far/%C3%BC.jpg",
        "/data/local-files/?d=/streets/so+far/ü.jpg",
        "/data/local-files?d=secret.jpg",
    ],
)
def test_files_of_label_studio_lie_below_its_folder(folder: Path, value: str) -> None:
    assert read_task_image(value, folder, MOST) == CONTENT


@pytest.mark.parametrize(
    "value",
    [
        *("/data/local-files/?d=../secret.txt", "/data/local-files/?d=%2e%2e/secret.txt"),
        *("/data/upload/../../secret.txt", "/data/upload/%2e%2e/%2e%2e/secret.txt", "/data/upload/"),
        *("/data/local-files/?d=//secret.jpg", "/data/local-files/?d=", "/data/local-files/?e=secret.jpg"),
        *("/data/local-files/?d=out.jpg", "/data/local-files/?d=inside.jpg"),
        *("/data/local-files/?d=up/secret.txt", "/data/local-files/?d=up/data/secret.jpg"),
        *("/data/local-files/?d=streets", "/data/local-files/?d=absent.jpg", "/data/local-files/?d=pipe.jpg"),
        *("/data/local-files/?d=secret.jpg/x", "/data/local-files/?d=a%00b"),
        "/data/local-files/?d=./secret.jpg",
        "/data/local-files/?d=" + "a/" * 100 + "b",
        "/data/local-files/?d=" + "a" * 5000,
    ],
)  # fmt: skip
def test_nothing_else_is_opened(folder: Path, value: str) -> None:
    found = problem(value, folder)
    assert (found.status, found.code) == (422, "no_task_image")
    assert "secret" not in found.detail.replace(value, "").replace("secret.txt", "").replace("secret.jpg", "")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted by Linux's /proc")
def test_nothing_stays_open(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("streets", "pipe.jpg", "large.jpg", "out.jpg", "streets/absent.jpg", "secret.jpg/x"):
        problem(f"/data/local-files/?d={name}", folder)
    read_task_image("/data/local-files/?d=secret.jpg", folder, MOST)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "value",
    [
        *("http://127.0.0.1:1/a.jpg", "https://example.org/a.jpg", "ftp://example.org/a.jpg"),
        *("file:///etc/passwd", "s3://bucket/a.jpg", "HTTP://example.org/a.jpg"),
    ],
)
def test_no_address_is_fetched(folder: Path, value: str) -> None:
    found = problem(value, folder)
    assert (found.status, found.code) == (422, "no_task_image")
    assert "fetches none" in found.detail


def test_without_a_folder_the_setting_is_named() -> None:
    assert "PSANET_LABEL_STUDIO_FILES" in problem("/data/upload/3/a.jpg", None).detail


@pytest.mark.parametrize(
    "value", ["", "data:image/png,plain", "data:image/png;base64,", "/etc/passwd", "%%%"]
)
def test_what_is_no_image_is_told_so(folder: Path, value: str) -> None:
    assert problem(value, folder).code == "no_task_image"


@pytest.mark.parametrize(
    "value", ["/data/local-files/?d=large.jpg", base64.b64encode(bytes(MOST + 300)).decode()]
)
def test_large_images_are_not_read(folder: Path, value: str) -> None:
    assert problem(value, folder).status == 413
