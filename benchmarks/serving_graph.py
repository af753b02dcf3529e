"""The PSA module's tail in ONNX Runtime on the CPU: rewritten (`pairs`) against plain (`function`).

    python benchmarks/serving_graph.py [--crop 465] [--width 512] [--threads 2] [--repeats 10]
    python benchmarks/serving_graph.py --network [--depth 50] [--crop 465] [--width 512]

Both files run in this process, in turn, on one image with random weights: the PSA module alone, given 512
channels, or with --network all of PSANet. Times are minima: of the clock, and of the processor, which other
programs on the machine disturb less but which hides what waits for one thread. Prints one JSON line last.
"""

import argparse
import os
import time

import numpy as np
import onnxruntime
import torch
from _common import report
from numpy.typing import NDArray
from torch import Tensor, nn

from export.build import PsaForm, to_onnx
from export.comparison import sample_images
from inference.engines.onnxruntime import session_options
from models.config import ModelConfig
from models.network import SceneParser, build_network

PLAIN: PsaForm = "function"
REWRITTEN: PsaForm = "pairs"


class _Features(nn.Module):
    """In a backbone's place: 512 channels at an eighth of the size, for next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Conv2d(3, 512, 1, stride=8)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.spread(images)
        return features, features


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", action="store_true", help="the whole network, not the PSA module alone")
    parser.add_argument("--depth", type=int, default=50, choices=(18, 34, 50, 101, 152))
    parser.add_argument("--crop", type=int, default=465)
    parser.add_argument("--width", type=int, default=512, help="channels in the head")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    network = _network(args)
    images = sample_images(network.config.crop_hw)[1:]
    files = {form: to_onnx(network, psa_form=form).SerializeToString() for form in (PLAIN, REWRITTEN)}
    sessions = {form: _session(content, args.threads) for form, content in files.items()}
    with torch.inference_mode():
        own = network.coarse_logits(torch.from_numpy(images)).numpy()
    errors = {form: float(abs(_run(session, images) - own).max()) for form, session in sessions.items()}
    seconds: dict[str, list[tuple[float, float]]] = {form: [] for form in files}
    for _ in range(args.repeats):
        for form, session in sessions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            _run(session, images)
            seconds[form].append((time.perf_counter() - wall, time.process_time() - cpu))
    wall_s, cpu_s = (
        {form: round(min(pair[clock] for pair in pairs), 4) for form, pairs in seconds.items()}
        for clock in (0, 1)
    )
    report(
        benchmark="serving_graph",
        model=f"PSANet{args.depth}" if args.network else "PSA module",
        crop=args.crop,
        attention_hw=network.config.attention_hw,
        width=args.width,
        threads=args.threads,
        repeats=args.repeats,
        wall_s=wall_s,
        cpu_s=cpu_s,
        ratio_wall=round(wall_s[PLAIN] / wall_s[REWRITTEN], 3),
        ratio_cpu=round(cpu_s[PLAIN] / cpu_s[REWRITTEN], 3),
        max_error=errors,
        deviation=round(float(own.std()), 3),
        bytes={form: len(content) for form, content in files.items()},
    )


def _network(args: argparse.Namespace) -> SceneParser:
    torch.manual_seed(0)
    side = (args.crop, args.crop)
    depth = args.depth if args.network else 18
    network = build_network(
        ModelConfig(depth=depth, classes=21, crop_hw=side, head_width=args.width, aux=False)
    )
    if not args.network:
        network.backbone, network.cls = _Features(), nn.Identity()  # type: ignore[assignment]
    return network.eval()


def _session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, session_options(threads), providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> NDArray[np.float32]:
    (logits,) = session.run(["logits"], {"image": images})
    result: NDArray[np.float32] = logits
    return result


if __name__ == "__main__":
    main()
