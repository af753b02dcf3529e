"""Trains one network as published, on one device or on many; reads top to bottom.

Not here: the network (`models/`), how it is made ready (`setup.py`), what a step computes (`step.py`,
`optimization.py`), augmentation (`transforms.py`), what processes tell one another (`distributed.py`),
evaluation (`evaluate.py`).

    python -m training.train --config training/configs/camvid_psanet18.yaml data.root=data/camvid
    torchrun --nproc-per-node 8 -m training.train --config training/configs/ade20k_psanet50.yaml

Starting again with the same `out` goes on from its last checkpoint. SIGTERM and Ctrl-C finish the step, save
and exit with 143 and 130. Prints one JSON line last: {"mIoU": …, "checkpoint": …, …}.
"""

import argparse
import json
import logging
import math
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from inference.errors import InferenceError
from inference.pairs import DatasetError, read_list
from models.checkpoint import CheckpointError
from models.config import ConfigError
from training.config import TrainingConfig, read_config
from training.dataset import training_batches
from training.distributed import ElsewhereError, Processes, open_processes, speaks, who
from training.evaluate import evaluate
from training.monitor import Monitor
from training.numerics import decided, numerics, undisturbed
from training.objective import build_objective
from training.optimization import set_learning_rate
from training.setup import build_model, build_state, make_folder, share_of, warn_of_long_average
from training.signals import InterruptedTraining, StopSignals
from training.state import TrainingState, random_state, save_state
from training.step import gradients, grouped

logger = logging.getLogger(__name__)


def train(config: TrainingConfig, *, validates: bool = True) -> dict[str, Any]:
    """Trains to the end, evaluates on the validation list (scale 1, flip); returns the JSON line's content.

    validates: False leaves the evaluation at the end, and its figures, to the caller.
    Under torchrun every process calls it, and only the first evaluates and returns more than {}.
    Longer than most functions, because it is what one reads to know how this project trains.

    Raises ConfigError, DatasetError, CheckpointError for what the user can mend, FloatingPointError when the
    loss is not finite (the step is not taken, the last checkpoint stands), InterruptedTraining after SIGTERM
    or SIGINT (the step was finished and saved), and ElsewhereError in the processes that have nothing to say.
    """
    started = time.monotonic()
    with (
        open_processes(config.device) as processes,
        numerics(processes.device, deterministic=config.deterministic),
        ExitStack() as opened,
    ):
        config = decided(config, processes.device)
        with processes.together():
            share = share_of(config, processes)
            root = Path(config.data.root)
            pairs = read_list(root, root / config.data.train_list)
            # A missing image is better known now than after the training.
            read_list(root, root / config.data.val_list)
            make_folder(config)
            total = config.iterations or math.ceil((config.epochs or 0) * len(pairs) / config.batch)
            if processes.first:
                warn_of_long_average(config, total)
            # Before the state, which puts random states back: making a teacher draws numbers.
            objective = build_objective(config, pairs, processes.device)
            state = build_state(config, processes)
            # The loader's workers are made before the monitor has threads and signals are noted.
            batches = training_batches(
                pairs, config, processes, share=share, start=state.iteration, stop=total
            )
            steps = grouped(opened.enter_context(closing(batches)), config.accumulate)
            monitor = Monitor(config, start=state.iteration, total=total, speaks=processes.first)

        model = build_model(state, config, processes).train()
        logger.info("iteration %d of %d, %s", state.iteration, total, processes.device)
        with closing(monitor), StopSignals() as stop:
            for parts in processes.each(steps):
                lr = set_learning_rate(state.optimizer, config, state.iteration / total)
                state.optimizer.zero_grad(set_to_none=True)
                losses = gradients(model, parts, objective, config, processes)
                (loss, main, aux), signum = processes.agree(losses, stop.received)
                if not math.isfinite(loss):
                    with processes.together():
                        raise FloatingPointError(
                            f"the loss is {loss} at iteration {state.iteration}; give another out and a "
                            "lower lr, or bf16=false. What was saved before, if anything, stands in "
                            f"{config.out}"
                        )
                state.optimizer.step()
                if state.average is not None:
                    state.average.update_parameters(state.network)
                state.iteration += 1
                monitor.step(state.iteration, loss=loss, main=main, aux=aux, lr=lr)

                done = state.iteration == total
                validating = not done and state.iteration % (config.evaluate_every or total) == 0
                if signum or done or validating or state.iteration % config.save_every == 0:
                    save(state, config, processes)
                if signum:
                    with processes.together():
                        raise InterruptedTraining(signum, _goes_on(state, config))
                if validating:
                    metrics = validate(state, config, processes, stop, monitor)
                    logger.info("iteration %d: %s", state.iteration, json.dumps(metrics))
            if stop.received and not validates:  # it came while the last step was saved
                raise InterruptedTraining(stop.received, _goes_on(state, config))
            metrics = validate(state, config, processes, stop, monitor) if validates else {}
    if not processes.first:
        return {}
    seconds = round(time.monotonic() - started, 1)
    return {**metrics, "checkpoint": str(config.checkpoint), "iterations": total, "seconds": seconds}


def save(state: TrainingState, config: TrainingConfig, processes: Processes) -> None:
    """Writes the whole state, in the first process; the others wait for it."""
    rng_states = processes.gather(random_state(processes.device))
    with processes.together():
        if processes.first:
            save_state(state, config.checkpoint, config, rng_states)


def validate(
    state: TrainingState, config: TrainingConfig, processes: Processes, stop: StopSignals, monitor: Monitor
) -> dict[str, Any]:
    """Figures and pictures of what was saved, in the first process; {} in the others, which wait for it.

    A signal cuts it off: nothing is lost.
    """
    if not processes.first:
        with processes.together():
            return {}
    root, device = Path(config.data.root), str(processes.device)
    list_path = root / config.data.val_list
    with processes.together(), stop.at_once(_goes_on(state, config)), undisturbed(processes.device):
        metrics = evaluate(config.checkpoint, root=root, list_path=list_path, device=device)
        monitor.evaluated(state.iteration, metrics)
        monitor.pictures(state.iteration, config.checkpoint, read_list(root, list_path), device)
        monitor.resume_clock()
    return metrics


def _goes_on(state: TrainingState, config: TrainingConfig) -> str:
    return f"iteration {state.iteration} is saved in {config.out}; the same command goes on from there"


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
    parser.add_argument("--deterministic", action="store_true", help="for deterministic=true")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    args = parser.parse_intermixed_args()  # overrides may stand on either side of a flag
    level = logging.INFO if speaks() else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    overrides = [*args.overrides, *(["deterministic=true"] if args.deterministic else [])]
    try:
        config = read_config(args.config, overrides)
        logger.info("configuration: %s", json.dumps(config.to_dict()))
        result = train(config)
    except ElsewhereError as error:
        parser.exit(error.exit_code)
    except InterruptedTraining as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    except (ConfigError, DatasetError, CheckpointError, InferenceError, FloatingPointError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {who()}error: {error}\n")
    except torch.OutOfMemoryError as error:
        mend = "a smaller batch, or more parts of it with accumulate=N, needs less memory"
        parser.exit(2, f"{parser.prog}: {who()}error: {mend} ({error})\n")
    if result:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
