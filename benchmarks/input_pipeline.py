"""What the training's input pipeline delivers, in images a second and core, beside what a step takes.

    python benchmarks/input_pipeline.py [--config training/configs/camvid_psanet18.yaml ...] [--data data]

For each configuration, with its published augmentations: one core alone (decoding, augmenting, both from
files, from images kept in memory), then the training's own loader with several numbers of workers, then
augmentation on the training's device (`data.on_device`), then training steps of the configured network on the
GPU, or, where there is none, of a few images on the CPU. The images are the data set's where `--data` has a
folder of its name, else made-up pictures of its usual size, as JPEG (Cityscapes: PNG). Prints a table of what
follows for 8 workers, then one JSON line.
"""

import argparse
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _common import photograph, report
from PIL import Image

from inference.pairs import load_pair, read_list
from models.network import build_network
from training.config import DataConfig, TrainingConfig, read_config
from training.dataset import SegmentationDataset, training_batches
from training.distributed import Processes, choose_device
from training.numerics import decided, numerics
from training.objective import Objective
from training.optimization import build_optimizer
from training.step import gradients
from training.transforms import TrainingTransform

NAMES = ("camvid_psanet18", "ade20k_psanet50", "voc2012_psanet50", "cityscapes_psanet50")
USUAL_HW = {"camvid": (360, 480), "ade20k": (512, 683), "voc2012": (375, 500), "cityscapes": (1024, 2048)}
WORKERS = 8
Pairs = list[tuple[Path, Path]]


def main() -> None:
    args = _arguments()
    torch.manual_seed(0)
    device = choose_device(args.device)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for path in args.config or [Path("training/configs") / f"{name}.yaml" for name in NAMES]:
            config = read_config(path)
            pairs, source = _pairs(config, args.data, Path(scratch), args.images)
            core = one_core(config, pairs, args.repeats)
            asked = step(config, device, args.step_images)
            figures[path.stem] = {
                "images": source,
                "crop_hw": config.model.crop_hw,
                "core": core,
                "loader": {count: loader(config, pairs, count) for count in args.workers},
                "on_device": on_device(config, pairs, device),
                "step": asked,
                "of_8_workers": what_follows(config, core, asked),
            }
    _print(figures, device)
    report(benchmark="input_pipeline", device=_name(device), torch=torch.__version__, figures=figures)


def one_core(config: TrainingConfig, pairs: Pairs, repeats: int) -> dict[str, float]:
    """Images in a second of one core's time, in turn, the best of `repeats` passes over `pairs`.

    The core's time, not the clock's: what other programs take is no part of it.
    """
    cv2.setNumThreads(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transform = TrainingTransform(config.augment, config.model.crop_hw)
    classes = config.model.classes
    files, memory = (
        SegmentationDataset(pairs, transform, classes=classes, seed=0, cache=cache) for cache in (False, True)
    )
    sides: dict[str, Callable[[int], object]] = {
        "decode": lambda index: load_pair(pairs[index], classes),
        "augment": lambda index: memory[index, index],
        "files": lambda index: files[index, index],
    }
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(repeats):
        for name, side in sides.items():
            started = time.process_time()
            for index in range(len(pairs)):
                side(index)
            best[name] = min(best[name], (time.process_time() - started) / len(pairs))
    cv2.setNumThreads(-1)
    torch.set_num_threads(threads)
    return {name: round(1 / seconds, 1) for name, seconds in best.items()}


def loader(config: TrainingConfig, pairs: Pairs, workers: int) -> dict[str, float]:
    """Images a second of the training's loader from files and from memory."""
    config = dataclasses.replace(config, workers=workers, prefetch=2)
    cpu = torch.device("cpu")
    return {
        name: batches_rate(config, pairs, cpu, dataclasses.replace(config.data, cache=cache))
        for name, cache in (("files", False), ("memory", True))
    }


def on_device(config: TrainingConfig, pairs: Pairs, device: torch.device) -> float:
    """Images a second that the device augments by itself, while it does nothing else."""
    data = dataclasses.replace(config.data, cache=False, on_device=True)
    return batches_rate(dataclasses.replace(config, workers=0), pairs, device, data)


def batches_rate(config: TrainingConfig, pairs: Pairs, device: torch.device, data: DataConfig) -> float:
    """Images a second of what a training takes its batches from, once all are at work.

    Batches are as small as the pipeline's speed allows: a worker sends each as a whole.
    """
    warm, timed, share = 2 * max(1, config.workers), 6 * max(2, config.workers), 4
    config = dataclasses.replace(config, data=data, batch=share)
    # More are under way when the clock stops, as when it starts.
    stop = 2 * warm + timed
    batches = training_batches(pairs, config, Processes(device), share=share, start=0, stop=stop)
    for _ in itertools.islice(batches, warm):
        pass
    _wait(device)
    started = time.perf_counter()
    count = sum(len(images) for images, _ in itertools.islice(batches, timed))
    _wait(device)
    return round(count / (time.perf_counter() - started), 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step(config: TrainingConfig, device: torch.device, cpu_images: int) -> dict[str, Any]:
    """Seconds of a training step, and the images a second that it asks for.

    The batch is the configuration's on a GPU, halved until it fits its memory, and `cpu_images` on a CPU.
    """
    batch = config.batch if device.type == "cuda" else cpu_images
    while True:
        try:
            seconds = _timed_step(config, device, batch)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if batch == 1:
                raise
            batch //= 2
            continue
        return {"batch": batch, "seconds": round(seconds, 4), "images_per_s": float(f"{batch / seconds:.3g}")}


def _timed_step(config: TrainingConfig, device: torch.device, batch: int) -> float:
    warm, timed = (5, 15) if device.type == "cuda" else (1, 2)
    config = decided(config, device)
    with numerics(device, deterministic=False):
        network = build_network(config.model).to(device).train()
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(network, config)
        # In pinned memory of the host, as the loader gives them.
        images = torch.rand(batch, 3, *config.model.crop_hw) * 255
        labels = torch.randint(0, config.model.classes, (batch, *config.model.crop_hw))
        if device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        objective = Objective(config.aux_weight)
        seconds = []
        for _ in range(warm + timed):
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            gradients(network, [(images, labels)], objective, config, Processes(device))
            optimizer.step()
            _wait(device)
            seconds.append(time.perf_counter() - started)
        return min(seconds[warm:])


def what_follows(config: TrainingConfig, core: dict[str, float], asked: dict[str, Any]) -> dict[str, float]:
    """What 8 workers with a core each would deliver, and how many times that is what a step asks for.

    By the configuration's own choice of files or memory.
    """
    files, memory = WORKERS * core["files"], WORKERS * core["augment"]
    ratio = (memory if config.data.cache else files) / asked["images_per_s"]
    return {"files": round(files), "memory": round(memory), "times_what_is_asked": float(f"{ratio:.3g}")}


def _pairs(config: TrainingConfig, data: Path, scratch: Path, count: int) -> tuple[Pairs, str]:
    """Images and labels, and what they are in words."""
    name = config.data.dataset
    root = data / name
    if (root / config.data.train_list).is_file():
        pairs = read_list(root, root / config.data.train_list)
        return pairs[:: max(1, len(pairs) // count)][:count], f"{name}'s own"
    size_hw = USUAL_HW[name]
    folder, suffix = scratch / name, "png" if name == "cityscapes" else "jpg"
    folder.mkdir()
    rng = np.random.default_rng(0)
    made = []
    for index in range(min(count, 8)):
        image, labels = folder / f"{index}.{suffix}", folder / f"{index}_labels.png"
        Image.fromarray(photograph(size_hw, seed=index)).save(image, quality=92)
        blocks = rng.integers(0, config.model.classes, (9, 12)).astype(np.uint8)
        Image.fromarray(cv2.resize(blocks, size_hw[::-1], interpolation=cv2.INTER_NEAREST)).save(labels)
        made.append((image, labels))
    chosen = list(itertools.islice(itertools.cycle(made), count))
    return chosen, f"made up, {size_hw[0]} x {size_hw[1]}, {suffix}"


def _print(figures: dict[str, Any], device: torch.device) -> None:
    print(f"Images a second; a step on {_name(device)}; 8 workers as 8 times one core.")
    print("| | one core, files | memory | on device | a step asks for | 8 workers, files | memory | factor |")
    print("|---|---|---|---|---|---|---|---|")
    for name, each in figures.items():
        core, follows = each["core"], each["of_8_workers"]
        cells = [
            core["files"],
            core["augment"],
            each["on_device"],
            each["step"]["images_per_s"],
            *follows.values(),
        ]
        print(f"| {name} | {' | '.join(map(str, cells))} |")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", type=Path, action="append", metavar="FILE", help="default: the four data sets'")
    add("--data", type=Path, default=Path("data"), help="folder of data sets' folders, by their names")
    add("--images", type=int, default=16, help="different images, or their number in a pass")
    add("--repeats", type=int, default=3)
    add("--workers", type=int, nargs="*", default=_worker_counts(), help="of the loader")
    add("--step-images", type=int, default=1, help="images of a step on a CPU")
    add("--device", default="auto")
    return parser.parse_args()


def _worker_counts() -> list[int]:
    cores = os.cpu_count() or 1
    return sorted({count for count in (1, 2, 4, WORKERS) if count <= cores})


if __name__ == "__main__":
    main()
