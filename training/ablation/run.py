"""One run of an ablation, in a process of its own: trains, releases the weights, evaluates them.

Not here: which runs there are (`plan.py`) and when they are started (`schedule.py`).

    python -m training.ablation.run runs/ablation/collect/seed0

Reads `run.json` in the folder and leaves `result.json` and `weights.safetensors` (fp16), which is what was
evaluated; the checkpoint with the optimizer's state is gone then. Cut off anywhere, it goes on from there.
"""

import argparse
import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from inference.errors import InferenceError
from inference.files import write_atomically
from models.checkpoint import CheckpointError
from models.config import ConfigError
from training.ablation.plan import RESULT, SPEC
from training.config import TrainingConfig, config_from_dict
from training.densecrf import DenseCRFParameters
from training.distributed import choose_device
from training.evaluate import evaluate
from training.numerics import decided
from training.release import parameters, release
from training.signals import InterruptedTraining, StopSignals
from training.train import train

WEIGHTS: Final = "weights.safetensors"
_SECONDS: Final = "seconds.json"


def carry_out(folder: Path) -> dict[str, Any]:
    """Does what is left of the run; returns what it writes into `result.json`.

    Raises what `train` and `evaluate` raise.
    """
    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    config = config_from_dict(spec["config"])
    source = spec.get("source")
    weights = (folder if source is None else Path(source)) / WEIGHTS
    if not weights.is_file():
        if source is not None:
            raise CheckpointError(f"{weights} is not there: train that row too")
        with _counted(folder / _SECONDS):
            train(config, validates=False)
        release(config.checkpoint, weights)
    figures = _evaluated(spec, config, weights, folder)
    result = {
        **figures,
        "parameters": parameters(config.model),
        "training_seconds": _seconds(folder / _SECONDS) if source is None else None,
        "environment": environment(config),
        "spec": spec,
    }
    write_atomically(folder / RESULT, f"{json.dumps(result, indent=1)}\n".encode())
    config.checkpoint.unlink(missing_ok=True)
    return result


def _evaluated(
    spec: Mapping[str, Any], config: TrainingConfig, weights: Path, folder: Path
) -> dict[str, dict[str, Any]]:
    """The figures of each set of scales; with those by class below the folder of its name."""
    evaluation = spec["evaluation"]
    return {
        name: evaluate(
            weights,
            root=Path(config.data.root),
            list_path=Path(spec["list"]),
            scales=scales,
            flip=evaluation["flip"],
            base_size=evaluation["base_size"],
            device=str(choose_device(config.device)),
            out=folder / name,
            densecrf=DenseCRFParameters(**spec["densecrf"]) if "densecrf" in spec else None,
            worst_count=0,
        )
        for name, scales in evaluation["scales"].items()
    }


def environment(config: TrainingConfig) -> dict[str, Any]:
    """What the figures were computed on and with."""
    device = choose_device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = None if device.type == "cuda" else torch.get_num_threads()
    return {
        "device": f"{device.type}, {name}",
        "threads": threads,
        "training": "bfloat16" if decided(config, device).bf16 else "float32",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@contextmanager
def _counted(path: Path) -> Iterator[None]:
    """Adds the seconds inside to those that the file holds, however they end."""
    before, started = _seconds(path), time.monotonic()
    try:
        yield
    finally:
        write_atomically(path, json.dumps(round(before + time.monotonic() - started, 1)).encode())


def _seconds(path: Path) -> float:
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0


def main() -> None:
    """The command line; exit codes as those of `training.train`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "folder", type=Path, help="with the run.json that `python -m training.ablation` wrote"
    )
    folder = parser.parse_args().folder
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        # A training takes signals into its own hands, and finishes its step; all else may end anywhere.
        with StopSignals() as stop, stop.at_once("what was done is kept"):
            result = carry_out(folder)
    except InterruptedTraining as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    except (ConfigError, CheckpointError, InferenceError, FloatingPointError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except torch.OutOfMemoryError as error:
        parser.exit(2, f"{parser.prog}: error: fewer runs at a time need less memory ({error})\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
