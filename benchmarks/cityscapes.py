"""1024x2048 on a GPU, PSANet101 at 705, 19 classes: the whole way from an image to its labels, every engine.

    python benchmarks/cityscapes.py [--seconds 90] [--compile] [--engines torch,tensorrt] [--profile]
    python benchmarks/cityscapes.py --device cpu --tiny --seconds 20      # the same code on a small network

Single scale (8 windows) and six scales with flip (84 windows, twice), against the straightforward protocol
(`_straightforward.py`), with PyTorch's own choice of TF32 for its convolutions; once also without, which is
what labels are held against. Weights are random, which cost what trained ones do, but exaggerate
disagreement. --seconds bounds all of it: what does not fit is left out and says so, and a straightforward run
that is cut short counts in proportion to its windows. Prints a row a side, then one JSON line. Skips aloud,
with exit code 0, where the device is missing.
"""

import argparse
import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import make_checkpoint, make_network, photograph, report
from _gpu import count_flops, describe_gpu, matmul_tflops
from _straightforward import Straight, Straightforward

from inference.engines import open_model
from inference.predictor import Predictor
from models.config import ModelConfig

SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
PROTOCOLS: dict[str, dict[str, Any]] = {
    "single": {"scales": (1.0,), "flip": False},
    "six": {"scales": SIX_SCALES, "flip": True},
}
AT_LEAST_TIMES, AT_MOST_OF_ENGINE, AT_LEAST_OF_CEILING = 30.0, 1.15, 0.5
MOST_REPEATS = 20


class Clock:
    """What is left of the time."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    @property
    def left_s(self) -> float:
        return self._end - time.perf_counter()


def main() -> None:
    args = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.device != "cpu" and not torch.cuda.is_available():
        print("skipped: PyTorch finds no GPU here (--device cpu --tiny runs the same code on a CPU)")
        report(benchmark="cityscapes", skipped="no GPU")
        return
    clock = Clock(args.seconds)
    config, image_hw = ModelConfig(depth=101, classes=19, crop_hw=(705, 705), aux=False), (1024, 2048)
    if args.tiny:
        config, image_hw = ModelConfig(depth=18, classes=19, crop_hw=(65, 65), aux=False), (128, 256)
    image = photograph(image_hw)
    network = make_network(config, device=args.device)
    flops = count_flops(network)
    ceiling = matmul_tflops(torch.float16) if args.device != "cpu" else None
    straight, reference = straightforward(network, image, args.device, clock)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(config, "cityscapes", Path(folder), network=network)
        del network
        for name, make in sides(checkpoint, args, Path(folder)).items():
            row = measured(name, make, image, reference, clock, base_size=max(image_hw), profile=args.profile)
            judge(row, straight, flops, ceiling)
            rows.append(row)
            print(row, flush=True)
    report(
        benchmark="cityscapes",
        model=f"PSANet{config.depth}, 19 classes, crop {config.crop_hw[0]}, random weights",
        image_hw=image_hw,
        device=args.device,
        **(describe_gpu() if args.device != "cpu" else {"torch": torch.__version__}),
        fp16_matmul_tflops=None if ceiling is None else round(ceiling, 1),
        gflop_a_window=round(flops / 1e9, 1),
        straightforward=straight,
        rows=rows,
        **summary(rows),
    )


def straightforward(
    network: Any, image: np.ndarray, device: str, clock: Clock
) -> tuple[dict[str, Any], dict[str, np.ndarray | None]]:
    """Seconds by protocol, and labels; those of a single scale without TF32 are exact."""
    found, labels = {}, {}
    base_size = max(image.shape[:2])
    for name, tf32, share in (("single", False, 0.2), ("single", True, 0.2), ("six", True, 0.4)):
        side = Straightforward(network, device, base_size=base_size, **PROTOCOLS[name])
        with _tf32(tf32):
            side.run(image[: network.config.crop_hw[0], : network.config.crop_hw[1]], 5.0)
            result = side.run(image, max(clock.left_s * share, 1.0))
        labels[name] = result.labels if not tf32 or name not in labels else labels[name]
        key = f"{name} tf32" if tf32 else f"{name} fp32"
        found[key] = _told(result)
        print(f"straightforward, {key}: {found[key]}", flush=True)
    return found, labels


def _told(result: Straight) -> dict[str, Any]:
    return {
        "seconds": round(result.estimate_s, 3),
        "network_s": round(result.network_s * result.of / max(result.done, 1), 3),
        "windows": result.done,
        "of": result.of,
        "estimated": result.done < result.of,
    }


def sides(checkpoint: Path, args: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Predictor]]:
    """How each predictor is made; what cannot be raises."""

    def pytorch(precision: str, compiled: bool = False) -> Callable[[], Predictor]:
        return lambda: Predictor.open(
            checkpoint, engine="torch", device=args.device, precision=precision, compiled=compiled
        )

    def onnxruntime(precision: Any) -> Callable[[], Predictor]:
        def make() -> Predictor:
            from export.onnx import export_onnx
            from inference.onnxruntime_library import onnxruntime as library

            if args.device != "cpu" and "CUDAExecutionProvider" not in library.get_available_providers():
                raise RuntimeError("this ONNX Runtime has no CUDA")
            out = export_onnx(checkpoint, folder / f"onnx-{precision}", precision=precision).folder
            return Predictor(*open_model(out, engine="onnxruntime", device=args.device))

        return make

    def tensorrt(runtime: str) -> Callable[[], Predictor]:
        def make() -> Predictor:
            from export.trt import export_trt
            from export.trt_models import Wanted

            if importlib.util.find_spec(runtime) is None and runtime == "tensorrt":
                raise RuntimeError("TensorRT is not installed")
            wanted = Wanted(precision="fp16", max_batch=8, runtime=runtime, target="current")  # type: ignore[arg-type]
            out = export_trt(checkpoint, folder / runtime, wanted=wanted).folder
            return Predictor(*open_model(out, engine="tensorrt", device=args.device))

        return make

    found: dict[str, Callable[[], Predictor]] = {}
    engines = args.engines.split(",")
    if "torch" in engines:
        found["torch fp16"] = pytorch("fp16")
        found["torch fp32"] = pytorch("fp32")
        found["torch bf16"] = pytorch("bf16")
        if args.compile:
            found["torch fp16 compiled"] = pytorch("fp16", compiled=True)
    if "tensorrt" in engines and args.device != "cpu":
        found["tensorrt fp16"] = tensorrt("tensorrt")
    if "onnxruntime" in engines:
        found["onnxruntime fp32"] = onnxruntime("fp32")
    return found


def measured(
    name: str,
    make: Callable[[], Predictor],
    image: np.ndarray,
    reference: dict[str, np.ndarray | None],
    clock: Clock,
    *,
    base_size: int,
    profile: bool,
) -> dict[str, Any]:
    """Seconds of the whole way and of the engine in it, by protocol, and what labels agree."""
    row: dict[str, Any] = {"side": name}
    if clock.left_s <= 0:
        return {**row, "skipped": "no time left (--seconds)"}
    try:
        started = time.perf_counter()
        predictor = make()
        row["opened_s"] = round(time.perf_counter() - started, 1)
        for protocol, options in PROTOCOLS.items():
            if clock.left_s <= 0:
                row[protocol] = {"skipped": "no time left (--seconds)"}
                continue
            started = time.perf_counter()
            prediction = predictor.predict(image, base_size=base_size, **options)
            row[protocol] = {"first_s": round(time.perf_counter() - started, 2)}
            whole, engine = [], []
            for _ in range(MOST_REPEATS):
                if whole and clock.left_s < 2 * whole[-1]:
                    break
                started = time.perf_counter()
                prediction = predictor.predict(image, base_size=base_size, **options)
                whole.append(time.perf_counter() - started)
                engine.append(prediction.engine_s)
                if sum(whole) > 4.0:
                    break
            best = int(np.argmin(whole))
            labels = reference.get(protocol)
            agreement = None if labels is None else round(float((prediction.labels == labels).mean()), 5)
            row[protocol] |= {
                "seconds": round(whole[best], 4),
                "median_s": round(sorted(whole)[len(whole) // 2], 4),
                "engine_s": round(engine[best], 4),
                "windows": prediction.windows,
                "runs": len(whole),
                "agreement": agreement,
            }
            if profile and predictor.engine.device != "cpu":
                _print_profile(predictor, image, {"base_size": base_size, **options})
        form = getattr(predictor.engine, "form", None)
        if form is not None:
            row["form"] = form(predictor.engine.preferred_batch)
        predictor.close()
    except Exception as error:  # one side that fails leaves the others
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        row["failed"] = f"{type(error).__name__}: {said}"[:300]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


def judge(row: dict[str, Any], straight: dict[str, Any], flops: float, ceiling: float | None) -> None:
    """Adds ratios and shares to a row."""
    for protocol in PROTOCOLS:
        found = row.get(protocol, {})
        if "seconds" not in found:
            continue
        found["times_straightforward"] = round(straight[f"{protocol} tf32"]["seconds"] / found["seconds"], 2)
        found["over_engine"] = round(found["seconds"] / found["engine_s"], 3)
        tflops = flops * found["windows"] / found["engine_s"] / 1e12
        found["engine_tflops"] = round(tflops, 1)
        if ceiling is not None:
            found["of_ceiling"] = round(tflops / ceiling, 3)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest side at six scales, against the targets."""
    done = [row for row in rows if "seconds" in row.get("six", {})]
    if not done:
        return {"best": None, "met": None}
    best = min(done, key=lambda row: float(row["six"]["seconds"]))
    reached = {
        "six_times": best["six"]["times_straightforward"],
        "single_over_engine": best["single"]["over_engine"],
        "of_ceiling": best["six"].get("of_ceiling"),
    }
    return {
        "best": best["side"],
        **reached,
        "targets": [AT_LEAST_TIMES, AT_MOST_OF_ENGINE, AT_LEAST_OF_CEILING],
        "met": {
            "six_times": reached["six_times"] >= AT_LEAST_TIMES,
            "single_over_engine": reached["single_over_engine"] <= AT_MOST_OF_ENGINE,
            "of_ceiling": (reached["of_ceiling"] or 0) >= AT_LEAST_OF_CEILING,
        },
    }


def _print_profile(predictor: Predictor, image: np.ndarray, options: dict[str, Any]) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        predictor.predict(image, **options)
    print(recorded.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=60))


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=90.0, help="of all of it (default: 90)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a small network on a small image")
    parser.add_argument("--compile", action="store_true", help="also what torch.compile makes of it")
    parser.add_argument("--engines", default="torch,tensorrt,onnxruntime")
    parser.add_argument("--profile", action="store_true", help="print where the GPU's time goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
