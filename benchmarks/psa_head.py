"""The PSA head plainly (convolution, mask, softmax, product) and in one piece, forward and backward.

    python benchmarks/psa_head.py [--sizes 30x30,45x45,64x128] [--images 2] [--devices cpu,cuda]
    python benchmarks/psa_head.py --devices cuda --types float16,float32 --tune   # and all tiles tried

Time and peak memory of both sides, in turn in one process, for both directions; how far each is from the
plain form in float64; and the share of the matrix products that must be made (2 N (HW)^2 channels each, two
forward, five more backward) in what the device reaches in one large product. `called`: as a loop calls it;
`busy`: the GPU's time alone, its queue filled beforehand. On a CPU also one direction of the module in
training, from 2048 channels to 512, and the whole module. What would take more than --limit-gb on a CPU is
left out and said; the GPU's part skips aloud without one. Prints one JSON line last.
"""

import argparse
import copy
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from _common import report
from torch import Tensor, nn

from models.context import PSA
from models.psa_attention import attend
from models.psa_mask import psa_mask
from models.psa_tiles import TUNER

Head = Callable[[Tensor, Tensor, Tensor, tuple[int, int], bool], Tensor]
PASSES = {"forward": 2, "forward+backward": 7}
"""And how many products of pairs and channels each must make."""


def plain(
    features: Tensor, weight: Tensor, values: Tensor, mask_hw: tuple[int, int], distribute: bool
) -> Tensor:
    """As a straightforward module writes it; softmax in float32 at least."""
    logits = psa_mask(F.conv2d(features, weight), *mask_hw, distribute).flatten(2)
    attention = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return torch.bmm(values.flatten(2), attention.to(values.dtype)).unflatten(2, values.shape[2:])


def in_one_piece(
    features: Tensor, weight: Tensor, values: Tensor, mask_hw: tuple[int, int], distribute: bool
) -> Tensor:
    """The op."""
    return attend(features, weight, values, mask_hw, distribute=distribute)


SIDES: dict[str, Head] = {"plain": plain, "in one piece": in_one_piece}


class PlainPSA(PSA):
    """The module, plain also in training."""

    def _attended(self, reduced: Tensor, attention: nn.Sequential, *, distribute: bool) -> Tensor:
        predict = attention[-1]
        assert isinstance(predict, nn.Conv2d)
        return plain(attention[:-1](reduced), predict.weight, reduced, self.mask_hw, distribute)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="30x30,45x45,64x128")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--types", default="float16", help="on a GPU; a CPU computes in float32")
    parser.add_argument("--devices", default="cpu,cuda")
    parser.add_argument("--repeats", type=int, default=0, help="default: 5 on a CPU, 30 on a GPU")
    parser.add_argument("--limit-gb", type=float, default=6.0)
    parser.add_argument("--tune", action="store_true")
    args = parser.parse_args()
    sizes = [(int(h), int(w)) for h, w in (size.split("x") for size in args.sizes.split(","))]
    figures: dict[str, Any] = {"benchmark": "psa_head", "torch": torch.__version__, "channels": args.channels}
    devices = args.devices.split(",")
    if "cpu" in devices:
        figures["cpu_rows"] = on_cpu(args, sizes)
        figures["threads"] = torch.get_num_threads()
    if "cuda" in devices and not torch.cuda.is_available():
        print("the GPU's part is skipped: PyTorch finds no GPU here")
        figures["gpu"] = "skipped"
    elif "cuda" in devices:
        figures["gpu"] = torch.cuda.get_device_name()
        figures["gpu_rows"] = on_gpu(args, sizes)
    report(**figures)


def on_gpu(args: argparse.Namespace, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """A row for each type, size, direction and pass."""
    rows = []
    torch.backends.cudnn.allow_tf32 = False  # of the plain form's convolution
    for name in args.types.split(","):
        dtype = getattr(torch, name)
        ceiling = tflops(dtype, 8192, "cuda")
        print(f"\n{torch.cuda.get_device_name()}, {name}, one product of 8192: {ceiling:.0f} TFLOP/s")
        for size in sizes:
            for distribute in (False, True):
                rows += measured(args, size, distribute, dtype, "cuda", ceiling)
    for key, trials in TUNER.trials.items() if args.tune else ():
        print("\n", *key)
        for trial in sorted(trials, key=lambda trial: trial.milliseconds):
            print(f"    {trial.milliseconds:9.3f} ms  {trial.tiles}  {trial.failure}")
    return rows


def on_cpu(args: argparse.Namespace, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """A row for each size, direction and pass, and for the module in training."""
    ceiling = tflops(torch.float32, 2048, "cpu")
    print(f"\nCPU, float32, {torch.get_num_threads()} threads, one product of 2048: {ceiling:.3f} TFLOP/s")
    rows = []
    for size in sizes:
        for distribute in (False, True):
            rows += measured(args, size, distribute, torch.float32, "cpu", ceiling)
    small = [size for size in sizes if size[0] * size[1] <= 45 * 45]
    parts = ("collect", "distribute", "module")
    return rows + [trained(args, size, part) for size in small for part in parts]


def measured(
    args: argparse.Namespace,
    size: tuple[int, int],
    distribute: bool,
    dtype: torch.dtype,
    device: str,
    ceiling: float,
) -> Iterator[dict[str, Any]]:
    """Rows for both passes of one direction."""
    (h, w), mask_hw = size, (2 * size[0] - 1, 2 * size[1] - 1)
    positions, places = h * w, mask_hw[0] * mask_hw[1]
    images = args.images if device == "cuda" or positions <= 45 * 45 else 1
    generator = torch.Generator().manual_seed(0)
    shapes = ((images, args.channels, h, w), (places, args.channels, 1, 1), (images, args.channels, h, w))
    drawn = [torch.randn(shape, generator=generator) for shape in (*shapes, shapes[0])]
    drawn[1] *= 2 / args.channels**0.5
    features, weight, values, grad = (tensor.to(device, dtype) for tensor in drawn)
    if device == "cuda":  # as the network's convolutions leave them in half precision
        features, values, grad = (
            x.contiguous(memory_format=torch.channels_last) for x in (features, values, grad)
        )
    inputs = [features, weight, values]
    # The map, its gradient and their copies, as the plain form has them at most.
    plain_gb = {"forward": 2.6, "forward+backward": 4.6}
    for name, products in PASSES.items():
        backward = name != "forward"
        gigabytes = plain_gb[name] * images * positions * places * dtype.itemsize / 1e9
        sides = dict(SIDES)
        row: dict[str, Any] = {
            "device": device, "type": str(dtype).removeprefix("torch."), "features": f"{h}x{w}",
            "images": images, "part": "distribute" if distribute else "collect", "pass": name,
        }  # fmt: skip
        if device == "cpu" and gigabytes > args.limit_gb:
            del sides["plain"]
            row["left_out"] = f"plain: about {gigabytes:.1f} GB"
        wanted = outputs(
            in_one_piece, [x.double() for x in inputs], grad.double(), mask_hw, distribute, backward
        )
        runs = {
            side: partial(outputs, head, inputs, grad, mask_hw, distribute, backward)
            for side, head in sides.items()
        }
        for side, run in runs.items():
            got = run()
            row[f"{side} error"] = max(distance(a, b) for a, b in zip(got, wanted, strict=True))
            del got
            row[f"{side} MB"] = round(peak_bytes(run, device) / 1e6, 1)
        del wanted
        repeats = args.repeats or (30 if device == "cuda" else 5 if positions <= 2025 else 1)
        for kind, times in clock(runs, repeats, device).items():
            for side, seconds in times.items():
                row[f"{side} {kind} ms"] = round(1000 * seconds, 3)
        ideal = products * 2 * images * positions**2 * args.channels
        seconds = row.get("in one piece busy ms", row["in one piece called ms"]) / 1000
        row["of ceiling"] = round(ideal / seconds / 1e12 / ceiling, 3)
        compare(row)
        yield row


def outputs(
    head: Head,
    inputs: Sequence[Tensor],
    grad: Tensor,
    mask_hw: tuple[int, int],
    distribute: bool,
    backward: bool,
) -> list[Tensor]:
    """What the head gives, and with `backward` the gradients of all inputs."""
    if not backward:
        with torch.no_grad():
            return [head(inputs[0], inputs[1], inputs[2], mask_hw, distribute)]
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = head(leaves[0], leaves[1], leaves[2], mask_hw, distribute)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def trained(args: argparse.Namespace, size: tuple[int, int], part: str) -> dict[str, Any]:
    """Of the module in training on the CPU: one direction, from 2048 channels to 512, or all of it."""
    h, w = size
    options: dict[str, Any] = {"mask_hw": (2 * h - 1, 2 * w - 1), "shrink_factor": 1}
    if part != "module":
        options["psa_type"] = part
    sides: dict[str, PSA] = {
        "plain": PlainPSA(2048, 512, **options),
        "in one piece": PSA(2048, 512, **options),
    }
    sides["in one piece"].load_state_dict(sides["plain"].state_dict())
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(args.images, 2048, h, w, generator=generator).requires_grad_()
    grad = torch.randn(args.images, 4096 if part == "module" else 512, h, w, generator=generator)

    def step(network: PSA, features: Tensor, grad: Tensor) -> list[Tensor]:
        network.train()
        if part == "module":
            out = network(features)
        else:
            out = network._gather(
                features, network.reduce, network.attention, distribute=part == "distribute"
            )
        used = [p for name, p in network.named_parameters() if part == "module" or "proj" not in name]
        return [out.detach(), *torch.autograd.grad(out, [features, *used], grad)]

    row: dict[str, Any] = {
        "device": "cpu", "type": "float32", "features": f"{h}x{w}", "images": args.images,
        "part": f"training, {part}", "pass": "forward+backward",
    }  # fmt: skip
    exact = copy.deepcopy(sides["plain"]).double()
    wanted = step(exact, features.detach().double().requires_grad_(), grad.double())
    runs = {side: partial(step, network, features, grad) for side, network in sides.items()}
    for side, run in runs.items():
        row[f"{side} error"] = max(distance(a, b) for a, b in zip(run(), wanted, strict=True))
    del wanted, exact
    for side, run in runs.items():
        row[f"{side} MB"] = round(peak_bytes(run, "cpu") / 1e6, 1)
    for side, seconds in clock(runs, args.repeats or 5, "cpu")["called"].items():
        row[f"{side} called ms"] = round(1000 * seconds, 3)
    compare(row)
    return row


def compare(row: dict[str, Any]) -> None:
    """Adds the ratios and prints the row."""
    for what in ("called ms", "busy ms", "MB"):
        if f"plain {what}" in row:
            row[f"ratio {what}"] = round(row[f"plain {what}"] / row[f"in one piece {what}"], 2)
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def clock(runs: dict[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, dict[str, float]]:
    """Seconds of each: the least of those taken in turn on a CPU; on a GPU medians, called and busy."""
    if device == "cpu":
        least = dict.fromkeys(runs, float("inf"))
        for _ in range(repeats):
            for side, run in runs.items():
                started = time.perf_counter()
                run()
                least[side] = min(least[side], time.perf_counter() - started)
        return {"called": least}
    times: dict[str, dict[str, list[float]]] = {
        kind: {side: [] for side in runs} for kind in ("called", "busy")
    }
    repeats = max(1, repeats // 3)
    for _ in range(3):
        for side, run in runs.items():
            for kind in times:
                run()
                torch.cuda.synchronize()
                if kind == "busy":
                    torch.cuda._sleep(40_000_000)
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                for _ in range(repeats):
                    run()
                end.record()
                end.synchronize()
                times[kind][side].append(start.elapsed_time(end) / 1000 / repeats)
    return {kind: {side: sorted(of)[1] for side, of in sides.items()} for kind, sides in times.items()}


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """The most that PyTorch holds in a run above what it held before: tensors, not libraries' own memory."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        held = run()
    del held
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0))


def distance(found: Tensor, wanted: Tensor) -> float:
    """The length of the difference over the length of what is wanted."""
    wanted = wanted.double()
    return float(f"{float((found.double() - wanted).norm() / wanted.norm()):.2g}")


def tflops(dtype: torch.dtype, size: int, device: str) -> float:
    """What the device reaches in one large product."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    runs: dict[str, Callable[[], Any]] = {"product": lambda: left @ right}
    return 2 * size**3 / clock(runs, 12, device)["called"]["product"] / 1e12


if __name__ == "__main__":
    main()
