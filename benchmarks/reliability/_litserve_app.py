"""The same predictor behind LitServe, for `load.py`: run by an interpreter that has litserve.

    PYTHONPATH=. OTHER_VENV/bin/python benchmarks/reliability/_litserve_app.py MODEL PORT WORKERS

Decoding, engine, stitching and encoding are this project's own, so that what differs is the serving. Images
come as base64 in JSON, as in LitServe's examples.
"""

import base64
import os
import sys
from typing import Any

import litserve
from starlette.responses import Response

from inference import render
from inference.images import decode_image
from inference.predictor import Predictor


class Segment(litserve.LitAPI):  # type: ignore[misc]
    """Decode, predict, encode; one request at a time in each worker."""

    def __init__(self, model: str, threads: int | None) -> None:
        super().__init__()
        self._model, self._threads = model, threads

    def setup(self, device: str) -> None:
        """Open the model, in a worker."""
        self._predictor = Predictor.open(self._model, threads=self._threads)

    def decode_request(self, request: dict[str, Any]) -> tuple[Any, list[float], bool]:
        """Pixels, scales, mirror image."""
        return decode_image(base64.b64decode(request["image"])), request["scales"], request["flip"]

    def predict(self, x: tuple[Any, list[float], bool]) -> Any:
        """Labels."""
        image, scales, flip = x
        return self._predictor.predict(image, scales=scales, flip=flip).labels

    def encode_response(self, output: Any) -> Response:
        """A palette PNG."""
        return Response(render.label_png(output, self._predictor.info.palette), media_type="image/png")


if __name__ == "__main__":
    name, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    cores = len(os.sched_getaffinity(0))
    threads = None if workers == 1 else max(1, cores // workers)
    server = litserve.LitServer(
        Segment(name, threads), accelerator="cpu", workers_per_device=workers, timeout=120, fast_queue=False
    )
    server.run(
        host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", num_api_servers=1
    )
