"""Trains one network as published, on one device; reads top to bottom.

Not here: the network (`models/`), augmentation (`transforms.py`), evaluation (`evaluate.py`).

    python -m training.train --config training/configs/camvid_psanet18.yaml data.root=data/camvid

Starting again with the same `out` goes on from its last checkpoint. Prints one JSON line last:
{"mIoU": …, "checkpoint": …, …}.
"""

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from inference.errors import InferenceError
from models.checkpoint import CheckpointError, load_backbone
from models.config import ConfigError
from models.labels import IGNORE
from models.network import SceneParser, TrainingLogits, build_network
from training.config import TrainingConfig, read_config
from training.dataset import DatasetError, EndlessSampler, SegmentationDataset, read_list
from training.evaluate import evaluate
from training.state import TrainingState, load_state, save_state
from training.transforms import TrainingTransform

logger = logging.getLogger(__name__)


def train(config: TrainingConfig) -> dict[str, Any]:
    """Trains to the end, evaluates on the validation list (scale 1, flip); returns the JSON line's content.

    Raises ConfigError, DatasetError, CheckpointError for what the user can mend, FloatingPointError when the
    loss is not finite (the step is not taken, the last checkpoint stands).
    """
    started = time.monotonic()
    device = choose_device(config.device)
    bf16 = bf16_pays(device) if config.bf16 is None else config.bf16
    root = Path(config.data.root)
    pairs = read_list(root, root / config.data.train_list)
    # A missing image is better known now than after the training.
    read_list(root, root / config.data.val_list)
    total = config.iterations or math.ceil((config.epochs or 0) * len(pairs) / config.batch)

    torch.manual_seed(config.seed)
    network = build_network(config.model)
    if config.init:
        load_backbone(network.backbone, Path(config.init))
    network = network.to(device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(network, config)
    state_path = Path(config.out) / "checkpoint.pth"
    state = TrainingState(network, optimizer, iteration=0)
    if state_path.is_file():
        load_state(state, state_path, config)
        logger.info("going on from iteration %d of %s", state.iteration, state_path)

    transform = TrainingTransform(config.augment, config.model.crop_hw)
    dataset = SegmentationDataset(
        pairs, transform, classes=config.model.classes, seed=config.seed, cache=config.data.cache
    )
    start, stop = state.iteration * config.batch, total * config.batch
    loader = DataLoader(
        dataset,
        config.batch,
        sampler=EndlessSampler(len(pairs), seed=config.seed, start=start, stop=stop),
        num_workers=config.workers,
        worker_init_fn=single_threaded,
        pin_memory=device.type == "cuda",
        drop_last=True,
        # Its own, or making the loader's workers would move the state that resuming puts back.
        generator=torch.Generator().manual_seed(config.seed),
    )

    network.train()
    progress = tqdm(loader, desc=config.preset, initial=state.iteration, total=total, mininterval=5)
    for images, labels in progress:
        set_learning_rate(optimizer, config, state.iteration / total)
        images = images.to(device, non_blocking=True)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = network(images)
        loss = segmentation_loss(logits, labels.to(device, non_blocking=True), config.aux_weight)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss is {loss.item()} at iteration {state.iteration}; lower lr, or bf16=false. "
                f"What was saved stands in {config.out}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        state.iteration += 1
        if state.iteration % config.log_every == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", lr=f"{optimizer.param_groups[0]['lr']:.5f}")
        if state.iteration % config.save_every == 0 or state.iteration == total:
            save_state(state, state_path, config)

    metrics = evaluate(state_path, root=root, list_path=root / config.data.val_list, device=str(device))
    seconds = round(time.monotonic() - started, 1)
    return {**metrics, "checkpoint": str(state_path), "iterations": total, "seconds": seconds}


def single_threaded(worker: int) -> None:
    """Keeps OpenCV to one thread in each of the loader's processes: there are as many as cores already."""
    cv2.setNumThreads(0)


def choose_device(name: str) -> torch.device:
    """The device of that name, for auto the GPU if there is one; ConfigError for a GPU that is not there."""
    device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"PyTorch finds {count} GPUs here, so device {name} cannot be used: device=cpu can")
    return device


def bf16_pays(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; a CPU without AMX is slower in it than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def segmentation_loss(logits: TrainingLogits, labels: Tensor, aux_weight: float) -> Tensor:
    """Cross entropy of the main logits plus `aux_weight` times the auxiliary one's (paper 3.5).

    logits: (N, C, H, W) each; labels: (N, H, W) int64 class ids; IGNORE counts in neither. In float32.
    """
    loss = F.cross_entropy(logits.main.float(), labels, ignore_index=IGNORE)
    if logits.aux is not None:
        loss = loss + aux_weight * F.cross_entropy(logits.aux.float(), labels, ignore_index=IGNORE)
    return loss


def build_optimizer(network: SceneParser, config: TrainingConfig) -> torch.optim.SGD:
    """SGD with momentum, as published: weight decay on batch norm and biases too, a faster head."""
    backbone = list(network.backbone.parameters())
    head = [parameter for name, parameter in network.named_parameters() if not name.startswith("backbone.")]
    groups = [
        {"params": backbone, "factor": 1.0},
        {"params": head, "factor": config.head_lr_factor},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, progress: float) -> None:
    """The poly policy: lr * (1 - progress) ** power, progress in [0, 1)."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["factor"] * (1 - progress) ** config.poly_power


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--config",
        required=True,
        action="append",
        metavar="FILE",
        help="a YAML file, such as those in training/configs; given again, it changes keys of those before",
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        config = read_config(args.config, args.overrides)
        logger.info("configuration: %s", json.dumps(config.to_dict()))
        print(json.dumps(train(config)))
    except (ConfigError, DatasetError, CheckpointError, InferenceError, FloatingPointError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
