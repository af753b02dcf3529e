"""What batching across requests brings on a GPU: a worker's own path, without HTTP, from many threads.

    python benchmarks/gpu_batching.py [--model BUNDLE|CKPT] [--device cuda] [--engine auto] [--seconds 3]
    python benchmarks/gpu_batching.py --device cpu --model psanet18_camvid        # the same on a CPU

Each thread asks for the labels of an image that is one window, a JPEG in and a PNG out, again and again: 1, 8
and 32 threads, with one window in a call and with up to eight, waiting for more or not. Mixed: four such
threads beside one that asks for six scales and the mirror image of 2048x1024. First the labels are held
against the predictor alone. Without --model, a PSANet50 of random weights (465x465, 19 classes). It needs
neither fastapi nor pydantic. Prints one JSON line last.
"""

import argparse
import io
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from _common import make_checkpoint, photograph, report
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/service.py would be taken for the package

from inference.images import decode_image  # noqa: E402
from inference.predictor import DEFAULT_BUDGET_BYTES, Predictor  # noqa: E402
from models.config import ModelConfig  # noqa: E402
from service.tasks import Job, Order, SegmentTask, WorkerSpec  # noqa: E402
from service.tickets import Ticket  # noqa: E402
from service.workbench import Workbench  # noqa: E402

SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
CASES = {"one by one": (1, 0.0), "batches": (8, 0.0), "batches, waiting 2 ms": (8, 0.002)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--threads", default="1,8,32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = ModelConfig(depth=50, classes=19, crop_hw=(465, 465))
        model = args.model or str(make_checkpoint(config, "cityscapes", Path(folder)))
        figures = {}
        for name, (max_batch, max_wait_s) in CASES.items():
            try:
                figures[name] = measured(open_bench(args, model, max_batch, max_wait_s), args)
            except Exception as error:  # one that fails must not hide the others
                figures[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            print(name, figures[name], flush=True)
    report(
        benchmark="gpu_batching", model=args.model or "random PSANet50", device=args.device, figures=figures
    )


def open_bench(args: argparse.Namespace, model: str, max_batch: int, max_wait_s: float) -> Workbench:
    """A worker's bench, warm."""
    return Workbench.open(
        WorkerSpec(
            models=(model,),
            engine=args.engine,
            device=args.device,
            threads=None,
            checkpoint_options="",
            memory_budget=DEFAULT_BUDGET_BYTES,
            max_batch=max_batch,
            max_wait_s=max_wait_s,
            workers=None,
            log_level="warning",
            log_format="text",
        )
    )


def measured(bench: Workbench, args: argparse.Namespace) -> dict[str, object]:
    """Figures of all cases, and whether the labels are the predictor's own."""
    (hosted,) = bench.models
    height, width = hosted.info.crop_hw
    scale = max(height, width) / hosted.info.base_size
    small = ask(bench, jpeg_of((height, width)), (scale,))
    large = ask(bench, jpeg_of((1024, 2048)), SIX_SCALES, flip=True)
    figures: dict[str, object] = {"agreement": agreement(bench, scale)}
    try:
        for count in map(int, args.threads.split(",")):
            bench.take_uses()
            seconds, busy_s = run([small] * count, args.seconds)
            (use,) = bench.take_uses().values()
            windows = sum(size * calls for size, calls in use.sizes.items())
            figures[str(count)] = summary(seconds, busy_s) | {
                "windows_a_call": round(windows / sum(use.sizes.values()), 2)
            }
        together, busy_s = run([small] * 4, args.seconds, beside=large)
        figures["mixed"] = summary(together, busy_s)
    finally:
        bench.close()
    return figures


def ask(bench: Workbench, jpeg: bytes, scales: tuple[float, ...], flip: bool = False) -> Callable[[], bytes]:
    """What one request does."""
    task = SegmentTask(
        output="labels",
        scales=scales,
        flip=flip,
        alpha=0.5,
        format="png",
        classes=None,
        polygons=False,
        max_pixels=50_000_000,
    )
    order = Order(
        model=bench.models[0].info.name, task=task, data=jpeg, image_hw=decode_image(jpeg).shape[:2]
    )
    job = Job(number=0, order=order, remaining_s=600, queue_s=0)
    return lambda: bench.do(job, Ticket(600)).content


def run(
    clients: list[Callable[[], bytes]], seconds: float, beside: Callable[[], bytes] | None = None
) -> tuple[list[float], float]:
    """Seconds of each request of all clients at once, and how long that took."""
    end, taken, lock = time.perf_counter() + seconds, [], threading.Lock()

    def work(client: Callable[[], bytes], counts: bool) -> None:
        while (started := time.perf_counter()) < end:
            client()
            with lock:
                if counts:
                    taken.append(time.perf_counter() - started)

    began = time.perf_counter()
    with ThreadPoolExecutor(len(clients) + 1) as pool:
        waiting = [pool.submit(work, client, True) for client in clients]
        if beside is not None:
            waiting.append(pool.submit(work, beside, False))
        for each in waiting:
            each.result()
    return taken, time.perf_counter() - began


def agreement(bench: Workbench, scale: float) -> float:
    """Share of labels of eight pictures at once that are those of each alone."""
    (hosted,) = bench.models
    predictor: Predictor = bench._predictors[hosted.info.name]
    jpegs = [jpeg_of(hosted.info.crop_hw, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda jpeg: ask(bench, jpeg, (scale,))(), jpegs))
    shares = []
    for jpeg, png in zip(jpegs, together, strict=True):
        labels = predictor.predict(decode_image(jpeg), scales=(scale,)).labels
        shares.append(float((np.asarray(Image.open(io.BytesIO(png))) == labels).mean()))
    return round(float(np.mean(shares)), 6)


def summary(seconds: list[float], busy_s: float) -> dict[str, object]:
    """Answers a second, median and 95th percentile in milliseconds."""
    values = sorted(seconds)
    return {
        "per_s": round(len(values) / busy_s, 2),
        "p50_ms": round(1000 * values[len(values) // 2], 1),
        "p95_ms": round(1000 * values[min(len(values) - 1, int(0.95 * len(values)))], 1),
    }


def jpeg_of(size_hw: tuple[int, int], seed: int = 0) -> bytes:
    """A made-up photograph as a JPEG."""
    pixels = cv2.cvtColor(photograph(size_hw, seed), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


if __name__ == "__main__":
    main()
