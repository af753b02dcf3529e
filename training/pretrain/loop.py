"""The pre-training itself: steps, epochs, and the share of validation images that are right.

Not here: the command line (`__main__.py`), what is saved and when the rate falls (`state.py`, `schedule.py`).

    result = pretrain(args)  # of the command line
"""

import argparse
import logging
import time
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.config import ConfigError
from training.distributed import choose_device
from training.numerics import bf16_pays
from training.pretrain.classifier import Classifier
from training.pretrain.images import Normalizer, augment, fingerprint, load, order, step_generator
from training.pretrain.schedule import Schedule
from training.pretrain.state import Pretraining
from training.signals import InterruptedTraining, StopSignals

logger = logging.getLogger(__name__)

_SAVE_S: Final = 60.0


def pretrain(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, keeps the last weights, and returns the JSON line's content.

    Raises ConfigError, DatasetError, CheckpointError and OSError for what the user can mend,
    FloatingPointError when the loss is not finite, InterruptedTraining after SIGTERM or SIGINT.
    """
    started = time.monotonic()
    device = choose_device(args.device)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    images, labels = (each.to(device) for each in load(sorted(args.data.glob("train-*.npz"))))
    if args.batch > len(labels):
        raise ConfigError(f"--batch {args.batch} is more than the {len(labels)} images that there are")
    val_images, val_labels = (each.to(device) for each in load([args.data / "val.npz"]))
    run = _begin(args, device, images, labels)
    if (finished := run.go_on()) is not None:
        logger.info("%s is finished", args.out)
        return finished
    if args.compile:
        run.classifier.compile(dynamic=False)
    normalize, top1 = Normalizer(device), None
    judged = partial(evaluate, run.classifier, val_images, val_labels, normalize, args.batch)
    with StopSignals() as stop:
        while not run.schedule.over:
            epoch, speed = _epoch(run, images, labels, normalize, stop)
            with stop.at_once(_goes_on(run)):
                top1 = judged()
            logger.info(
                "epoch %d: loss %.4f, top-1 %.4f, %.0f images/s", epoch + 1, run.mean_loss, top1, speed
            )
        with stop.at_once(_goes_on(run)):  # cut off after the last step: evaluated now
            top1 = judged() if top1 is None else top1
            result = {
                "top1": round(top1, 4),
                "checkpoint": str(args.out),
                "epochs": round(run.schedule.taken * args.batch / len(labels), 2),
                "seconds": round(time.monotonic() - started, 1),
            }
            run.save(top1, result)
    return result


def _begin(args: argparse.Namespace, device: torch.device, images: Tensor, labels: Tensor) -> Pretraining:
    classifier = Classifier(args.depth, int(labels.max()) + 1, args.stride).to(device)
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        classifier.parameters(), lr=args.lr, momentum=0.9, weight_decay=args.weight_decay, nesterov=True
    )
    names = ("depth", "stride", "epochs", "seconds", "batch", "lr", "weight_decay", "seed")
    settings = {name: getattr(args, name) for name in names} | {"data": fingerprint(images, labels)}
    schedule = Schedule(args.lr, args.epochs * (len(labels) // args.batch), args.seconds)
    return Pretraining(classifier, optimizer, schedule, args.out, settings)


def _epoch(
    run: Pretraining, images: Tensor, labels: Tensor, normalize: Normalizer, stop: StopSignals
) -> tuple[int, float]:
    """The rest of the epoch, saved at its end; returns its number from 0 on, and images per second."""
    batch, seed, schedule = run.settings["batch"], run.settings["seed"], run.schedule
    epoch, first = divmod(schedule.taken, len(labels) // batch)
    indices = order(len(labels), seed=seed, epoch=epoch)
    run.losses.clear()
    began = saved = time.monotonic()
    for step in tqdm(range(first, len(labels) // batch), desc=f"epoch {epoch + 1}", mininterval=10):
        if schedule.over:
            break
        generator = step_generator(seed=seed, step=schedule.taken)
        chosen = indices[step * batch : (step + 1) * batch].to(normalize.device, non_blocking=True)
        run.optimizer.param_groups[0]["lr"] = schedule.step()
        run.losses.append(_step(run, augment(normalize(images[chosen]), generator), labels[chosen]))
        if stop.received or time.monotonic() - saved > _SAVE_S:
            run.save()
            saved = time.monotonic()
        if stop.received:
            raise InterruptedTraining(stop.received, _goes_on(run))
    run.save()
    return epoch, len(run.losses) * batch / (time.monotonic() - began)


def _step(run: Pretraining, inputs: Tensor, truth: Tensor) -> Tensor:
    """One of the optimizer; returns the loss, on the device."""
    with _autocast(inputs.device):
        logits = run.classifier(inputs.contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(logits.float(), truth, label_smoothing=0.1)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    run.optimizer.step()
    return loss.detach()


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16_pays(device))


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, normalize: Normalizer, batch: int) -> float:
    """Share of images whose class is the most likely one."""
    model.eval()
    right = 0
    with torch.inference_mode(), _autocast(normalize.device):
        for start in range(0, len(labels), batch):
            # Not `model()`: what was compiled would be compiled anew for evaluation and for the last batch.
            logits = model.forward(normalize(images[start : start + batch]))
            right += int((logits.argmax(1) == labels[start : start + batch]).sum())
    model.train()
    return right / len(labels)


def _goes_on(run: Pretraining) -> str:
    return f"step {run.schedule.taken} is saved in {run.out}; the same command goes on from there"
