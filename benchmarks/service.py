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
import time

from _common import Timer, report
from _serving import jpeg_of, resident_mb, segment, serving

from inference.images import decode_image
from inference.predictor import Predictor

IMAGE_HW = (1024, 2048)
LIMITS = {"added_ms": 30.0, "idle_mb": 350.0, "ready_s": 5.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--model", default="psanet18_camvid")
    args = parser.parse_args()
    jpeg = jpeg_of(IMAGE_HW)
    with serving(variables={"PSANET_MODELS": args.model}) as running:
        time.sleep(2)
        idle_mb = resident_mb(running.process.pid)
        predictor = Predictor.open(args.model)
        request(running.port, jpeg), predictor.predict(decode_image(jpeg))
        service, alone, added, beside = Timer(), Timer(), Timer(), Timer()
        for _ in range(args.requests):
            with service:
                infer_s = request(running.port, jpeg)
            added.add(service.seconds[-1] - infer_s)
            image = decode_image(jpeg)
            with alone:
                predictor.predict(image)
            beside.add(service.seconds[-1] - alone.seconds[-1])
        after_mb = resident_mb(running.process.pid)
    added_ms, ready_s = 1000 * added.summary()["median"], running.ready_s
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
        exit_code=running.process.returncode,
        limits=LIMITS,
        met=added_ms <= LIMITS["added_ms"] and idle_mb <= LIMITS["idle_mb"] and ready_s <= LIMITS["ready_s"],
    )


def request(port: int, jpeg: bytes) -> float:
    """Sends one picture, takes the label PNG; seconds that the predictor took of it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        status, timing = segment(connection, jpeg)
        if status != 200:
            raise RuntimeError(f"status {status}")
        return float(dict(span.strip().split(";dur=") for span in timing.split(","))["infer"]) / 1000
    finally:
        connection.close()


if __name__ == "__main__":
    main()
