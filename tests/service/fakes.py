"""A predictor whose engine needs no network, a service around it, and images to send to it."""

import asyncio
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from inference.bundle import ModelInfo
from inference.predictor import Predictor
from models.config import Direction, ModelConfig
from service.app import create_app
from service.server import Server, build_server
from service.settings import Settings

CLASSES = ("dark", "red thing", "green thing", "blue thing")
PALETTE = ((10, 10, 10), (200, 30, 30), (30, 200, 30), (30, 30, 200))


def tiny_info(name: str = "tiny", **changes: Any) -> ModelInfo:
    """Four classes, windows of 65x65 pixels."""
    values: dict[str, Any] = {
        "architecture": ModelConfig(depth=18, classes=4, crop_hw=(65, 65), head_width=32),
        "dataset": "made",
        "class_names": CLASSES,
        "palette": PALETTE,
        "crop_hw": (65, 65),
        "base_size": 96,
    }
    return ModelInfo(name=name, **(values | changes))


class FakeEngine:
    """Class 1, 2 or 3 where red, green or blue is strongest, class 0 where it is dark; at stride 8.

    gate: `infer` waits for it. error: `infer` raises it. entered: set once `infer` was called.
    """

    name, device, crop_hw, coarse_hw = "fake", "cpu", (65, 65), (9, 9)
    preferred_batch, max_batch, limits_hw = 4, None, None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.calls = 0
        self.closed = False

    def to_device(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        self.entered.set()
        assert self.gate.wait(20), "a test has left the gate shut"
        if self.error is not None:
            raise self.error
        coarse = images[:, :, ::8, ::8] / 10
        return np.concatenate([np.full_like(coarse[:, :1], 5.0), coarse], axis=1)

    def close(self) -> None:
        self.closed = True


class TellingEngine(FakeEngine):
    """Attends by the brightness of positions, other directions in other ways; 5x5 of them in a window."""

    directions: tuple[Direction, ...] = ("collect", "distribute")

    def attend(
        self, images: NDArray[np.float32], directions: Sequence[Direction]
    ) -> dict[Direction, NDArray[np.float32]]:
        self.infer(images)
        places = images[:, :, ::16, ::16].reshape(len(images), 3, 25) / 255
        logits = {
            "collect": places[:, 0, :, None] * places[:, 1, None],
            "distribute": np.einsum("nct,ncs->nts", places, places),
        }
        shares = {direction: np.exp(3 * logits[direction] + np.arange(25) / 9) for direction in directions}
        return {
            direction: (each / each.sum(2, keepdims=True)).astype(np.float32)
            for direction, each in shares.items()
        }


def tiny_predictor(name: str = "tiny", engine: FakeEngine | None = None, **changes: Any) -> Predictor:
    """The real predictor around the fake engine."""
    return Predictor(tiny_info(name, **changes), engine or FakeEngine())


def telling(engine: FakeEngine | None = None, **changes: Any) -> Predictor:
    """The real predictor around an engine that tells of attention."""
    return Predictor(tiny_info(**changes), engine or TellingEngine())


def app_of(*predictors: Predictor, **settings: Any) -> FastAPI:
    """An app that is ready, with these models, the first as the default."""
    return create_app(Settings(**settings), {predictor.info.name: predictor for predictor in predictors})


def tiny_app(engine: FakeEngine | None = None, **settings: Any) -> FastAPI:
    """An app that is ready, with one model `tiny`."""
    return app_of(tiny_predictor(engine=engine), **settings)


@contextmanager
def live(app: FastAPI, settings: Settings | None = None) -> Iterator[str]:
    """The app behind a real server on a free port, in a thread; gives its address."""
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    started = threading.Event()
    server: Server = build_server(app, settings or app.state.service.settings, announce=started.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def three_colors(height: int = 60, width: int = 90) -> NDArray[np.uint8]:
    """Red, green and blue, side by side."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for channel in range(3):
        pixels[:, channel * width // 3 : (channel + 1) * width // 3, channel] = 220
    return pixels


def encoded(pixels: NDArray[Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file's bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> NDArray[Any]:
    """An answer's pixels as they are in the file: palette indices stay indices."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return np.asarray(image)


def metric(client: TestClient, name: str, **labels: str) -> float:
    """One number of /metrics; 0 for labels that were never counted."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and all(sample.labels.get(key) == text for key, text in labels.items()):
                return sample.value
    return 0.0
