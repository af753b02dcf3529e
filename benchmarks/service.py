"""What the service adds to the predictor, and what it weighs: the bundled model, a 2048x1024 JPEG.

    python benchmarks/service.py [--requests 30]

Added is the client's whole latency less the time that the predictor took in that very request (the span
`infer` of Server-Timing): receiving, decoding, queueing, encoding and sending. As a check, calls of the
predictor in this process come in turn with the requests, on the same bytes: `beside_predictor_ms`, which also
holds the noise between two processes. Also: seconds from starting the process until it is ready, and the
resident memory of it and its workers at rest. Prints one JSON line last.
"""

import argparse
import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
from _common import Timer, photograph, report

from inference.images import decode_image
from inference.predictor import Predictor

IMAGE_HW = (1024, 2048)
LIMITS = {"added_ms": 30.0, "idle_mb": 350.0, "ready_s": 5.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--model", default="psanet18_camvid")
    args = parser.parse_args()
    pixels = cv2.cvtColor(photograph(IMAGE_HW), cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    port = free_port()
    environment = {**os.environ, "PSANET_PORT": str(port), "PSANET_MODELS": args.model}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until_ready(port, process)
        ready_s = time.perf_counter() - started
        time.sleep(2)
        idle_mb = resident_mb(process.pid)
        predictor = Predictor.open(args.model)
        request(port, jpeg), predictor.predict(decode_image(jpeg))
        service, alone, added, beside = Timer(), Timer(), Timer(), Timer()
        for _ in range(args.requests):
            with service:
                infer_s = request(port, jpeg)
            added.add(service.seconds[-1] - infer_s)
            image = decode_image(jpeg)
            with alone:
                predictor.predict(image)
            beside.add(service.seconds[-1] - alone.seconds[-1])
        after_mb = resident_mb(process.pid)
    finally:
        process.terminate()
        code = process.wait(30)
    added_ms = 1000 * added.summary()["median"]
    report(
        benchmark="service",
        model=args.model,
        image=f"2048x1024 JPEG of {len(jpeg) / 1e6:.1f} MB, scale 1, no flip, label PNG back",
        service_s=service.summary(),
        predictor_s=alone.summary(),
        added_ms=round(added_ms, 1),
        beside_predictor_ms=round(1000 * beside.summary()["median"], 1),
        ready_s=round(ready_s, 2),
        idle_mb=round(idle_mb),
        after_mb=round(after_mb),
        exit_code=code,
        limits=LIMITS,
        met=added_ms <= LIMITS["added_ms"] and idle_mb <= LIMITS["idle_mb"] and ready_s <= LIMITS["ready_s"],
    )


def request(port: int, jpeg: bytes) -> float:
    """Sends one picture, takes the label PNG; seconds that the predictor took of it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/segment", jpeg, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {body[:200]!r}")
        spans = dict(span.strip().split(";dur=") for span in response.headers["Server-Timing"].split(","))
        return float(spans["infer"]) / 1000
    finally:
        connection.close()


def wait_until_ready(port: int, process: subprocess.Popen[bytes], limit_s: float = 60) -> None:
    """Returns once /readyz answers 200."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with code {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"the service was not ready after {limit_s} s")


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its children in MB (Linux)."""
    facts = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    own = int(facts["VmRSS"].split()[0]) * 1024 / 1e6
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(resident_mb(int(child)) for child in children)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
