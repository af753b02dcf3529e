"""Which checkpoint a command means: a file, or the one that a bundle was made from, read as the bundle says.

Not here: reading checkpoints (`models/checkpoint.py`), finding a bundle's (`inference/source.py`).

    source = find_source("psanet18_camvid", dataset=None, options=ArchitectureOptions())
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from inference.bundle import BUNDLED_ROOT, resolve_model
from inference.source import source_of
from models.checkpoint import Checkpoint, load_checkpoint
from models.options import ArchitectureOptions


@dataclass(frozen=True)
class Source:
    """A checkpoint that was read, and the folder that an exporter writes to unless told otherwise."""

    checkpoint: Checkpoint
    default_out: Path


def find_source(model: str | Path, *, dataset: str | None, options: ArchitectureOptions) -> Source:
    """Reads what `model` names: a checkpoint file, a bundle folder or a bundled model's name.

    Of a bundle, its data set and architecture stand where `dataset` and `options` are silent. Raises
    BundleError when a bundle's checkpoint is gone or has changed, and what `resolve_model` and
    `load_checkpoint` raise.
    """
    found = resolve_model(model)
    if isinstance(found, Path):
        return Source(load_checkpoint(found, dataset=dataset, options=options), found.with_suffix(""))
    with source_of(found) as source:
        filled = _filled(options, source.options)
        checkpoint = load_checkpoint(source.path, dataset=dataset or source.dataset, options=filled)
    source.require_same(checkpoint.sha256)
    # A bundled model's checkpoint lies among the project's own files.
    bundled = found.folder.parent == BUNDLED_ROOT
    return Source(checkpoint, Path(found.info.name) if bundled else source.path.with_suffix(""))


def relative_source(checkpoint: Path, folder: Path) -> str:
    """What `model.json` in `folder` says of the checkpoint's place, so that it is found there later."""
    return Path(os.path.relpath(checkpoint.resolve(), folder.resolve())).as_posix()


def _filled(options: ArchitectureOptions, known: ArchitectureOptions) -> ArchitectureOptions:
    """`options`, and `known` where they are silent."""
    given = {key for key, value in vars(options).items() if value is not None and value is not False}
    return dataclasses.replace(options, **{key: vars(known)[key] for key in vars(known) if key not in given})
