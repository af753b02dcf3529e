"""Which checkpoint a command means: a file, or the one that a bundle was made from, read as the bundle says.

Not here: reading checkpoints (`models/checkpoint.py`).

    source = find_source("psanet18_camvid", dataset=None, options=ArchitectureOptions())
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.errors import SourceError
from inference.bundle import BUNDLED_ROOT, Bundle, ModelInfo, resolve_model
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import ModelConfig
from models.labels import LABEL_SETS
from models.options import ArchitectureOptions


@dataclass(frozen=True)
class Source:
    """A checkpoint that was read, and the folder that an exporter writes to unless told otherwise."""

    checkpoint: Checkpoint
    default_out: Path


def find_source(model: str | Path, *, dataset: str | None, options: ArchitectureOptions) -> Source:
    """Reads what `model` names: a checkpoint file, a bundle folder or a bundled model's name.

    Of a bundle, its data set and architecture stand where `dataset` and `options` are silent. Raises
    SourceError when a bundle's checkpoint is gone or has changed, and what `resolve_model` and
    `load_checkpoint` raise.
    """
    found = resolve_model(model)
    if isinstance(found, Path):
        return Source(load_checkpoint(found, dataset=dataset, options=options), found.with_suffix(""))
    path = _checkpoint_of(found)
    options = _complete(options, found.info.architecture)
    with _labels_of(found.info) as labels:
        checkpoint = load_checkpoint(path, dataset=dataset or labels, options=options)
    if found.info.source_sha256 not in (None, checkpoint.sha256):
        raise SourceError(
            f"{path} is not the file that {found.folder} was made from: its sha256 differs; "
            "give the checkpoint itself"
        )
    # A bundled model's checkpoint lies among the project's own files.
    bundled = found.folder.parent == BUNDLED_ROOT
    return Source(checkpoint, Path(found.info.name) if bundled else path.with_suffix(""))


def relative_source(checkpoint: Path, folder: Path) -> str:
    """What `model.json` in `folder` says of the checkpoint's place, so that it is found there later."""
    return Path(os.path.relpath(checkpoint.resolve(), folder.resolve())).as_posix()


def _checkpoint_of(bundle: Bundle) -> Path:
    name = bundle.info.source_file
    if name is None:
        raise SourceError(
            f"{bundle.folder} does not say which checkpoint it was made from: give the checkpoint file"
        )
    places = [bundle.folder / name, bundle.folder / Path(name).name, bundle.folder.parent / Path(name).name]
    for place in places:
        if place.is_file():
            return Path(os.path.normpath(place))
    raise SourceError(
        f"{bundle.folder} was made from {Path(name).name}, which is neither at {places[0]} nor in or beside "
        "the bundle; bundles hold no PyTorch weights: give the checkpoint file"
    )


def _complete(options: ArchitectureOptions, architecture: ModelConfig) -> ArchitectureOptions:
    known: dict[str, object] = {"crop_hw": architecture.crop_hw}
    if architecture.context == "psa":
        known |= {
            "psa_type": architecture.psa_type,
            "compact": architecture.compact,
            "mask_hw": architecture.psa_mask_hw,
            "shrink_factor": architecture.shrink_factor,
            "normalization_factor": architecture.normalization_factor,
        }
    silent = {key: value for key, value in known.items() if getattr(options, key) in (None, False)}
    return dataclasses.replace(options, **silent)  # type: ignore[arg-type]


@contextmanager
def _labels_of(info: ModelInfo) -> Iterator[str]:
    """The bundle's labels as `load_checkpoint` takes them: a known name, or a JSON file of the user's own."""
    known = LABEL_SETS.get(info.dataset)
    if known is not None and known.class_names == info.class_names and known.palette == info.palette:
        yield info.dataset
        return
    values = {
        "name": info.dataset,
        "class_names": info.class_names,
        "palette": info.palette,
        "base_size": info.base_size,
        "label_ids": info.label_ids,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.json"
        file.write_text(json.dumps(values))
        yield str(file)
