"""A modest pre-training of a backbone: 202 classes of ImageNet at 64 x 64 pixels; for `train.py`.

Not here: ImageNet at full size (give the published initialisation to `init=` instead), segmentation, or what
is done (`loop.py`).

    python -m training.pretrain --data tiny-imagenet --depth 18 --epochs 6 --out runs/pretrain/resnet18.pth

`--stride 8` dilates the backbone as segmentation does, so that small images keep their detail; it takes four
times the work of the classifier's usual 32.

The folder holds `train-*.npz` and `val.npz`: arrays `data` (WebP files end to end), `offsets` and `labels`.
The same command goes on where it was cut off; SIGTERM and Ctrl-C finish the step, save, and exit with 143 and
130. Prints one JSON line last: {"top1": …, "checkpoint": …}.
"""

import argparse
import json
import logging
import math
from pathlib import Path

import torch

from inference.pairs import DatasetError
from models.checkpoint import CheckpointError
from models.config import DEPTHS, ConfigError
from training.pretrain.classifier import DILATIONS
from training.pretrain.loop import pretrain
from training.signals import InterruptedTraining


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of train-*.npz and val.npz")
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=18)
    parser.add_argument("--stride", type=int, choices=tuple(DILATIONS), default=32)
    parser.add_argument("--epochs", type=_count, default=6)
    parser.add_argument(
        "--seconds", type=_positive, help="what it may take: ends then, with the schedule run to its end"
    )
    parser.add_argument("--batch", type=_count, default=256)
    parser.add_argument("--lr", type=_positive, default=0.2)
    parser.add_argument("--weight-decay", type=float, default=5e-5)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|cuda:N")
    parser.add_argument("--out", type=Path, required=True, help="goes on from it where it is there")
    args = parser.parse_args()
    if not (args.data / "val.npz").is_file() or not list(args.data.glob("train-*.npz")):
        parser.error(f"{args.data} holds no train-*.npz and val.npz")
    if args.out.suffix != ".pth":
        parser.error(f"--out {args.out} must end in .pth")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        print(json.dumps(pretrain(args)))
    except InterruptedTraining as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    except (ConfigError, DatasetError, CheckpointError, FloatingPointError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except torch.OutOfMemoryError as error:
        parser.exit(2, f"{parser.prog}: error: a smaller --batch needs less memory ({error})\n")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes 1 or more, not {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"takes a number above 0, not {text!r}")
    return value


if __name__ == "__main__":
    main()
