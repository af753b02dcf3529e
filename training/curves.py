"""The curves of trainings as one picture: loss and validation mIoU by step, from what TensorBoard was given.

Not here: writing them (`monitor.py`). The only importer of Matplotlib in training.

    python -m training.curves runs/psanet18_camvid runs/psanet50_camvid --out docs/camvid_curves.svg
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from models.config import ConfigError

Curve = list[tuple[int, float]]

PANELS: Mapping[str, str] = MappingProxyType(
    {"loss/main": "cross entropy of the main logits", "validation/mIoU": "mIoU of the validation images"}
)
"""TensorBoard's tags, and what they are."""

_MEND: Final = "pip install 'psanet-serving[train]'"


def read_curves(run: Path) -> dict[str, Curve]:
    """(step, value) pairs of each tag of PANELS that a training below `run` has written, by step.

    Raises ConfigError where it has written none.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise ConfigError(f"TensorBoard is not installed: {_MEND}") from error

    folder = run / "tensorboard"
    if not folder.is_dir():
        raise ConfigError(f"{run} holds no tensorboard/: name the folder `out` of a training")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in PANELS
        if tag in events.Tags()["scalars"]
    }
    if not found:
        raise ConfigError(f"{folder} holds no curves yet: train on, or name another folder")
    return found


def draw(runs: Mapping[str, Mapping[str, Curve]], out: Path) -> None:
    """Writes a picture of the runs by name, in the format of `out`'s ending; ConfigError for none."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"Matplotlib is not installed: {_MEND}") from error

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (tag, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name, curves in runs.items():
            if tag in curves:
                steps, values = zip(*curves[tag], strict=True)
                axes.plot(steps, values, label=name, marker="o" if len(steps) < 20 else None)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    try:
        figure.savefig(out)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{out} cannot be written: {error}") from error


def _names(runs: Sequence[Path]) -> list[str]:
    """Their folders' names; with the folders above where two are alike, as seeds of an ablation's are."""
    parts = [run.resolve().parts for run in runs]
    depth = 1
    while len({each[-depth:] for each in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(each[-depth:]) for each in parts]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders `out` of trainings")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write: .svg, .png, .pdf")
    args = parser.parse_args(arguments)
    try:
        draw(dict(zip(_names(args.runs), map(read_curves, args.runs), strict=True)), args.out)
    except ConfigError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
