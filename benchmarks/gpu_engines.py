"""Engines on a GPU: PSANet50 and 101 at 465x465 (150 classes) and 705x705 (19), the same images in each.

    python benchmarks/gpu_engines.py [--depths 50,101] [--crops 465,705] [--batch 4] [--repeats 20]

Our PyTorch engine in float32, float16, bfloat16 and float16 with torch.compile, eager PyTorch with autocast,
ONNX Runtime's CUDA provider, TensorRT and TensorRT for RTX where they are installed: time of a call and of an
image, memory, agreement with float32, and the share of the GPU's own float16 matrix product. Weights are
random, which cost what trained ones do, but exaggerate disagreement. Images lie on the GPU; a call ends with
synchronisation. Skips aloud, with exit code 0, without a GPU. Prints one JSON line last.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import Timer, make_checkpoint, make_network, report
from _gpu import count_flops, describe_gpu, matmul_tflops, used_bytes

from export.comparison import sample_images
from export.trt import export_trt
from export.trt_models import Wanted
from inference.engines import open_model
from models.config import ModelConfig
from models.network import SceneParser

DATASETS = {465: ("ade20k", 150), 705: ("cityscapes", 19)}
Run = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", default="50,101")
    parser.add_argument("--crops", default="465,705")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: PyTorch finds no GPU here")
        report(benchmark="gpu_engines", skipped="no GPU")
        return
    torch.backends.cudnn.allow_tf32 = False
    ceiling = matmul_tflops(torch.float16)
    rows: list[dict[str, Any]] = []
    for depth in map(int, args.depths.split(",")):
        for crop in map(int, args.crops.split(",")):
            rows += measure(depth, crop, args.batch, args.repeats, ceiling)
    report(
        benchmark="gpu_engines",
        **describe_gpu(),
        batch=args.batch,
        repeats=args.repeats,
        fp16_matmul_tflops=round(ceiling, 1),
        rows=rows,
    )


def measure(depth: int, crop: int, batch: int, repeats: int, ceiling: float) -> list[dict[str, Any]]:
    """A row for every engine that can be had, and for every other what it lacks."""
    dataset, classes = DATASETS[crop]
    config = ModelConfig(depth=depth, classes=classes, crop_hw=(crop, crop), aux=False)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        network = make_network(config, device="cuda")
        checkpoint = make_checkpoint(config, dataset, Path(folder), network=network)
        flops = count_flops(network)
        images = torch.from_numpy(sample_images((crop, crop))).cuda().repeat(batch // 2 + 1, 1, 1, 1)[:batch]
        with torch.inference_mode():
            reference = network.coarse_logits(images)
        for name, make in engines(network, checkpoint, Path(folder), batch).items():
            row: dict[str, Any] = {"depth": depth, "crop": crop, "engine": name}
            torch.cuda.empty_cache()
            before = used_bytes()
            try:
                run, close = make()
                for _ in range(3):
                    logits = run(images)
                row |= agreement(logits, reference)
                timer = Timer()
                for _ in range(repeats):
                    torch.cuda.synchronize()
                    with timer:
                        run(images)
                        torch.cuda.synchronize()
            except Exception as error:  # one engine that fails must not hide the others
                rows.append({**row, "failed": str(error).partition("\n")[0][:300]})
                print(rows[-1], flush=True)
                continue
            seconds = timer.summary()["median"]
            row |= {
                "call_s": timer.summary(),
                "image_ms": round(1000 * seconds / batch, 3),
                "memory_mb": round((used_bytes() - before) / 1e6),
                "of_fp16_matmul": round(flops * batch / seconds / 1e12 / ceiling, 3),
            }
            close()
            rows.append(row)
            print(row, flush=True)
    return rows


def engines(
    network: SceneParser, checkpoint: Path, folder: Path, batch: int
) -> dict[str, Callable[[], tuple[Run, Callable[[], None]]]]:
    """How each is made: a function of images on the GPU, and one that lets go of it."""

    def pytorch(precision: str, compiled: bool = False) -> Callable[[], tuple[Run, Callable[[], None]]]:
        def make() -> tuple[Run, Callable[[], None]]:
            engine = open_model(checkpoint, device="cuda", precision=precision, compiled=compiled)[1]
            return engine.infer, engine.close

        return make

    def exported(runtime: str, precision: Any) -> Callable[[], tuple[Run, Callable[[], None]]]:
        def make() -> tuple[Run, Callable[[], None]]:
            wanted = Wanted(precision=precision, max_batch=batch, runtime=runtime, target="current")
            result = export_trt(checkpoint, folder / f"{runtime}-{precision}", wanted=wanted)
            engine = open_model(result.folder, engine="tensorrt", device="cuda")[1]
            return engine.infer, engine.close

        return make

    def onnxruntime() -> tuple[Run, Callable[[], None]]:
        from export.onnx import export_onnx

        out = export_onnx(checkpoint, folder / "onnx").folder
        engine = open_model(out, engine="onnxruntime", device="cuda")[1]
        return engine.infer, engine.close

    return {
        "torch fp32": pytorch("fp32"),
        "torch fp16": pytorch("fp16"),
        "torch bf16": pytorch("bf16"),
        "torch fp16 compiled": pytorch("fp16", compiled=True),
        "autocast fp16, channels last": lambda: (autocast(network, torch.float16), torch.cuda.empty_cache),
        "onnxruntime fp32": onnxruntime,
        "tensorrt fp32": exported("tensorrt", "fp32"),
        "tensorrt fp16": exported("tensorrt", "fp16"),
        "tensorrt_rtx fp32": exported("tensorrt_rtx", "fp32"),
        "tensorrt_rtx fp16": exported("tensorrt_rtx", "fp16"),
    }


def autocast(network: SceneParser, dtype: torch.dtype) -> Run:
    """The network as one would run it in half precision."""
    ready = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cuda", dtype):
            return ready.coarse_logits(images.contiguous(memory_format=torch.channels_last)).float()

    return run


def agreement(logits: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Of coarse logits with those of float32."""
    error = (logits - reference).abs()
    same = (logits.argmax(1) == reference.argmax(1)).double().mean()
    return {
        "max_logit_error": float(f"{float(error.max()):.3g}"),
        "logit_deviation": round(float(reference.std()), 3),
        "label_agreement": round(float(same), 5),
    }


if __name__ == "__main__":
    main()
