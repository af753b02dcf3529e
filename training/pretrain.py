"""A modest pre-training of a backbone: 202 classes of ImageNet at 64 x 64 pixels; for `train.py`.

Not here: ImageNet at full size (give the published initialisation to `init=` instead) or segmentation.

    python -m training.pretrain --data tiny-imagenet --depth 18 --epochs 6 --out runs/pretrain/resnet18.pth

`--stride 8` dilates the backbone as segmentation does, so that small images keep their detail; it takes four
times the work of the classifier's usual 32.

The folder holds `train-*.npz` and `val.npz`: arrays `data` (WebP files end to end), `offsets` and `labels`.
Prints one JSON line last: {"top1": …, "checkpoint": …}.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Final
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from inference.pairs import DatasetError
from models.config import DEPTHS, MEAN_RGB, STD_RGB, ConfigError
from models.resnet import ResNet, initialise
from training.distributed import choose_device
from training.state import save_atomically

logger = logging.getLogger(__name__)

_DILATIONS: Mapping[int, tuple[int, int]] = MappingProxyType({8: (2, 4), 16: (1, 2), 32: (1, 1)})
"""Of stages 4 and 5, by the pixels that a feature of the last stage stands for."""


class Classifier(nn.Module):
    """A ResNet with a linear layer on the mean of its last features."""

    def __init__(self, depth: int, classes: int, stride: int) -> None:
        super().__init__()
        self.backbone = ResNet(depth, dilations=_DILATIONS[stride])
        initialise(self.backbone)
        self.fc = nn.Linear(self.backbone.stage5_channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised to (N, classes)."""
        logits: Tensor = self.fc(self.backbone(images)[1].mean((2, 3)))
        return logits


def load(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """All images (N, 3, 64, 64) uint8 RGB and labels (N,) int64 of these archives.

    Raises DatasetError, which names the archive that cannot be read.
    """
    images, labels = [], []
    for path in paths:
        try:
            with path.open("rb") as file, np.load(file) as archive:
                labels.append(archive["labels"].astype(np.int64))
                images.append(_decoded(archive["data"], archive["offsets"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DatasetError(f"{path} cannot be read ({error}): fetch the archive again") from error
    return torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2), torch.from_numpy(
        np.concatenate(labels)
    )


def _decoded(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(_decode, np.split(data, offsets[1:-1]))))


def _decode(encoded: np.ndarray) -> np.ndarray:
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if len(encoded) else None
    if image is None:
        raise ValueError("an image cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) to the same size: a crop of 25 to 100% of the area, of aspect 3/4 to 4/3; a mirror."""
    n = images.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    area, aspect = uniform(0.25, 1.0), torch.exp(uniform(-math.log(4 / 3), math.log(4 / 3)))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros(n)
    theta = torch.stack([torch.stack([width * mirror, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of whole batches of a shuffled epoch."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, normalize: "Normalizer", batch: int) -> float:
    """Share of images whose class is the most likely one."""
    model.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(labels), batch):
            # Not `model()`: what was compiled would be compiled anew for evaluation and for the last batch.
            logits = model.forward(normalize(images[start : start + batch]))
            right += int((logits.argmax(1) == labels[start : start + batch]).sum())
    model.train()
    return right / len(labels)


class Normalizer:
    """uint8 to normalised floats on the device, channels last."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mean = torch.tensor(MEAN_RGB, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(STD_RGB, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        floats = images.to(self.device, non_blocking=True).float()
        return ((floats - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


class Schedule:
    """One cycle (Smith and Topin 2018): the rate rises to `lr` in the first 15% and falls to 0, by cosines.

    steps: of the whole training; seconds: what it may take, counted from the second step on, since the first
    compiles; None: as long as it takes. Progress is by whichever is farther on.
    """

    _RISE: Final = 0.15

    def __init__(self, lr: float, steps: int, seconds: float | None) -> None:
        self._lr, self._steps, self._seconds = lr, steps, seconds
        self.taken, self._began = 0, math.inf

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        elapsed = 0.0 if self._seconds is None else (time.monotonic() - self._began) / self._seconds
        return min(1.0, max(self.taken / self._steps, elapsed))

    @property
    def over(self) -> bool:
        """Whether the last step has been taken, or the time is up."""
        return self.progress >= 1

    def step(self) -> float:
        """The rate of the step that is taken now."""
        if self.taken == 1:
            self._began = time.monotonic()
        done, rise = self.progress, self._RISE
        self.taken += 1
        if done < rise:
            return self._lr * (0.04 + 0.96 * (1 - math.cos(math.pi * done / rise)) / 2)
        return self._lr * (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2


def pretrain(args: argparse.Namespace) -> dict[str, object]:
    """Trains, keeps the last weights, and returns the JSON line's content.

    Raises ConfigError, DatasetError and OSError for what the user can mend, FloatingPointError when the loss
    is not finite.
    """
    started = time.monotonic()
    device = choose_device(args.device)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    images, labels = (each.to(device) for each in load(sorted(args.data.glob("train-*.npz"))))
    if args.batch > len(labels):
        raise ConfigError(f"--batch {args.batch} is more than the {len(labels)} images that there are")
    val_images, val_labels = (each.to(device) for each in load([args.data / "val.npz"]))
    classifier = Classifier(args.depth, int(labels.max()) + 1, args.stride).to(device)
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if args.compile:
        classifier.compile(dynamic=False)
    optimizer = torch.optim.SGD(
        classifier.parameters(), lr=args.lr, momentum=0.9, weight_decay=args.weight_decay, nesterov=True
    )
    schedule = Schedule(args.lr, args.epochs * (len(labels) // args.batch), args.seconds)
    normalize, top1 = Normalizer(device), 0.0
    for epoch in range(1, args.epochs + 1):
        began, losses = time.monotonic(), []
        for index in tqdm(
            list(batches(len(labels), args.batch, generator)), desc=f"epoch {epoch}", mininterval=10
        ):
            if schedule.over:
                break
            optimizer.param_groups[0]["lr"] = schedule.step()
            chosen = index.to(device, non_blocking=True)
            inputs = augment(normalize(images[chosen]), generator)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = classifier(inputs.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        loss_mean = float(torch.stack(losses).mean()) if losses else 0.0  # the time was up with the epoch
        if not math.isfinite(loss_mean):
            raise FloatingPointError(f"the loss is {loss_mean} in epoch {epoch}; lower --lr")
        speed = len(losses) * args.batch / (time.monotonic() - began)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            top1 = evaluate(classifier, val_images, val_labels, normalize, args.batch)
        logger.info("epoch %d: loss %.4f, top-1 %.4f, %.0f images/s", epoch, loss_mean, top1, speed)
        state = {key: value.cpu() for key, value in classifier.backbone.state_dict().items()}
        save_atomically({"depth": args.depth, "top1": top1, "state_dict": state}, args.out)
        if schedule.over:
            break
    return {
        "top1": round(top1, 4),
        "checkpoint": str(args.out),
        "epochs": round(schedule.taken * args.batch / len(labels), 2),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of train-*.npz and val.npz")
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=18)
    parser.add_argument("--stride", type=int, choices=tuple(_DILATIONS), default=32)
    parser.add_argument("--epochs", type=_count, default=6)
    parser.add_argument(
        "--seconds", type=float, help="what it may take: ends then, with the schedule run to its end"
    )
    parser.add_argument("--batch", type=_count, default=256)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--weight-decay", type=float, default=5e-5)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|cuda:N")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not (args.data / "val.npz").is_file() or not list(args.data.glob("train-*.npz")):
        parser.error(f"{args.data} holds no train-*.npz and val.npz")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        print(json.dumps(pretrain(args)))
    except (ConfigError, DatasetError, FloatingPointError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes 1 or more, not {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
