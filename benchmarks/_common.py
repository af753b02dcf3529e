"""What the benchmarks share: clocks, a made-up photograph, a random checkpoint, the JSON line."""

import json
import os
import platform
import resource
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from models.config import ModelConfig


class Timer:
    """Collects seconds: `with timer: …`, or `timer.add(seconds)`.

    processor: of all the process' threads, in the same blocks; other programs disturb them less.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.processor: list[float] = []
        self._started = self._processor = 0.0

    def __enter__(self) -> "Timer":
        self._started, self._processor = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.add(time.perf_counter() - self._started)
        self.processor.append(time.process_time() - self._processor)

    def add(self, seconds: float) -> None:
        """One more measurement."""
        self.seconds.append(seconds)

    def summary(self) -> dict[str, float]:
        """Minimum, median and maximum, rounded to a tenth of a millisecond."""
        values = sorted(self.seconds)
        return {
            "min": round(values[0], 4),
            "median": round(values[len(values) // 2], 4),
            "max": round(values[-1], 4),
        }


def photograph(size_hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 RGB with the softness and grain of a photograph, so that it compresses like one."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    image = np.full((height, width, 3), 110, np.float32)
    for cells, strength in ((4, 90), (16, 45), (64, 25)):
        coarse = rng.normal(0, strength, (cells, 2 * cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 3, image.shape).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8)


def make_network(config: ModelConfig, *, device: str = "cpu") -> Any:
    """A network in eval mode with random weights, for figures that weights do not change.

    Its normalisation has seen a picture: fresh, activations would double from block to block, out of the
    range of float16 at last.
    """
    import torch

    from models.network import build_network

    torch.manual_seed(0)
    network = build_network(config).to(device).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    pixels = torch.from_numpy(photograph(config.crop_hw)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        network(torch.cat((pixels, pixels.flip(3))).to(device))
    return network.eval()


def make_checkpoint(config: ModelConfig, dataset: str, folder: Path, *, network: Any = None) -> Path:
    """A checkpoint of `config` with random weights, those of `network` where one is given."""
    import torch

    from models.checkpoint import FORMAT
    from models.labels import get_label_set
    from models.network import build_network

    torch.manual_seed(0)
    network = build_network(config) if network is None else network
    content = {
        "format": FORMAT,
        "config": config.to_dict(),
        "labels": get_label_set(dataset).to_dict(),
        "state_dict": {name: value.cpu() for name, value in network.state_dict().items()},
    }
    path = folder / f"random_{dataset}.pth"
    torch.save(content, path)
    return path


class PeakResident:
    """The most memory that the process held inside the block, sampled."""

    def __enter__(self) -> "PeakResident":
        self.most, self._done = resident_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, resident_bytes())


def resident_bytes() -> int:
    """What the process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def report(**figures: Any) -> None:
    """Prints the figures, with the machine they were taken on, as one JSON line."""
    machine = {"cpu": _processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    today = time.strftime("%Y-%m-%d", time.gmtime())
    print(json.dumps({**figures, **machine, "date": today, "command": _command()}), flush=True)


def _command() -> str:
    """As it was called; of folders elsewhere, the last two names."""
    script = Path(sys.argv[0]).resolve().relative_to(Path(__file__).parents[1].resolve())
    words = ["python", script.as_posix(), *sys.argv[1:]]
    return " ".join("/".join(Path(word).parts[-2:]) if word.startswith("/") else word for word in words)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
