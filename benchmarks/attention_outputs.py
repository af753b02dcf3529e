"""What the attention outputs of a bundle's file cost those who do not ask for them, and those who do.

    python benchmarks/attention_outputs.py [--model psanet18_camvid] [--threads 2] [--repeats 100]
    python benchmarks/attention_outputs.py --depth 18 --crop 465 [--width 64] [--repeats 20]

Three sides in this process, in turn, on one image in ONNX Runtime: the file without these outputs, asked for
logits; the file as it is, asked for logits; the same asked for attention. The file is a bundle's, or with
--crop that of a network with random weights. Times are medians and minima, of the clock and of the processor;
the logits of the first two must be equal. Prints one JSON line last.
"""

import argparse
import os
import time

import numpy as np
import onnx
import onnxruntime
import torch
from _common import report

from export.build import build_model
from export.comparison import sample_images
from inference.bundle import Bundle, resolve_model
from inference.engines.onnxruntime import session_options
from models.config import ModelConfig
from models.network import build_network

SIDES = ("without", "not asked", "asked")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="psanet18_camvid", metavar="BUNDLE|NAME")
    parser.add_argument("--crop", type=int, help="a network with random weights in place of --model")
    parser.add_argument("--depth", type=int, default=18, choices=(18, 34, 50, 101, 152))
    parser.add_argument("--width", type=int, default=64, help="channels in its head")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=100)
    args = parser.parse_args()
    name, model, crop_hw = _model(args)
    attention = [output.name for output in model.graph.output][1:]
    if not attention:
        parser.error(f"{name} gives logits alone: export its checkpoint anew")
    whole = _session(model.SerializeToString(), args.threads)
    del model.graph.output[1:]
    plain = _session(model.SerializeToString(), args.threads)
    calls = {
        "without": (plain, ["logits"]), "not asked": (whole, ["logits"]), "asked": (whole, attention),
    }  # fmt: skip
    images = sample_images(crop_hw)[1:]
    logits = [session.run(names, {"image": images})[0] for session, names in list(calls.values())[:2]]
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for turn in range(args.repeats):
        for side in SIDES[:: 1 - 2 * (turn % 2)]:
            session, names = calls[side]
            wall, cpu = time.perf_counter(), time.process_time()
            session.run(names, {"image": images})
            seconds[side].append((time.perf_counter() - wall, time.process_time() - cpu))
    report(
        benchmark="attention_outputs",
        model=name,
        crop_hw=crop_hw,
        outputs=attention,
        threads=args.threads,
        repeats=args.repeats,
        **{f"wall_s_{kind}": _each(seconds, 0, kind) for kind in ("median", "min")},
        **{f"cpu_s_{kind}": _each(seconds, 1, kind) for kind in ("median", "min")},
        ratio_cpu=round(_median(seconds["not asked"], 1) / _median(seconds["without"], 1), 3),
        same_logits=bool(np.array_equal(*logits)),
    )


def _model(args: argparse.Namespace) -> tuple[str, onnx.ModelProto, tuple[int, int]]:
    if args.crop is not None:
        torch.manual_seed(0)
        hw = (args.crop, args.crop)
        config = ModelConfig(depth=args.depth, classes=21, crop_hw=hw, head_width=args.width, aux=False)
        model = build_model(build_network(config).eval(), psa_form="pairs", attention=True)
        return f"PSANet{args.depth}", model, hw
    found = resolve_model(args.model)
    assert isinstance(found, Bundle), "a bundle's folder or name"
    return found.info.name, onnx.load(found.onnx_path), found.info.crop_hw


def _session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, session_options(threads), providers=["CPUExecutionProvider"])


def _each(seconds: dict[str, list[tuple[float, float]]], clock: int, kind: str) -> dict[str, float]:
    pick = _median if kind == "median" else _least
    return {side: round(pick(found, clock), 4) for side, found in seconds.items()}


def _median(found: list[tuple[float, float]], clock: int) -> float:
    return float(np.median([pair[clock] for pair in found]))


def _least(found: list[tuple[float, float]], clock: int) -> float:
    return min(pair[clock] for pair in found)


if __name__ == "__main__":
    main()
