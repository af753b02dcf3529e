"""The checkpoint that a bundle was made from: where it lies, and what to read it with. Free of torch.

Not here: reading it (`models/checkpoint.py`).

    with source_of(read_bundle(folder)) as source: load_checkpoint(source.path, **source.arguments)
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference.bundle import Bundle, ModelInfo
from inference.errors import BundleError
from models.labels import LABEL_SETS, LabelSet
from models.options import ArchitectureOptions

_WITHOUT = "choose --engine onnxruntime, or give the checkpoint itself"
_ANEW = "export the bundle anew, or give the checkpoint itself as the model"


@dataclass(frozen=True)
class Source:
    """A bundle's checkpoint. dataset, options: what its own keys may not tell and `model.json` does, as
    `load_checkpoint` takes them; `dataset` may be a file that is gone with the `with` block."""

    bundle: Bundle
    path: Path
    dataset: str
    options: ArchitectureOptions

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `load_checkpoint`."""
        return {"dataset": self.dataset, "options": self.options}

    def require_same(self, sha256: str, *, mend: str = _ANEW) -> None:
        """Raises BundleError, which ends with `mend`, unless the checkpoint that was read is the one that the
        bundle was made from."""
        if self.bundle.info.source_sha256 not in (None, sha256):
            raise BundleError(
                f"{self.path} is not the file that {self.bundle.folder} was made from (its sha256 differs): "
                f"{mend}"
            )


@contextmanager
def source_of(bundle: Bundle, *, mend: str = _WITHOUT) -> Iterator[Source]:
    """The checkpoint of `bundle`; raises BundleError, which ends with `mend`, where it lies no more."""
    info, folder = bundle.info, bundle.folder
    named = Path(info.source_file or f"{info.name}.safetensors")
    found = (folder / named, folder / named.name, folder.parent / named.name)
    places = dict.fromkeys(Path(os.path.normpath(place)) for place in found)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise BundleError(
            f"{folder} holds no PyTorch weights, and {named.name}, which it was made from, is none of "
            f"{', '.join(map(str, places))}: {mend}"
        )
    with _labels_of(info) as dataset:
        yield Source(bundle, path, dataset, _options_of(info))


def _options_of(info: ModelInfo) -> ArchitectureOptions:
    network = info.architecture
    options = ArchitectureOptions.of(network)
    if network.context != "psa":
        return options
    return replace(
        options,
        align_corners=None if network.aligned_sides else network.align_corners,
        test_mode=info.test_mode if network.any_size else None,
    )


@contextmanager
def _labels_of(info: ModelInfo) -> Iterator[str]:
    """A known name, or a JSON file of labels of the user's own."""
    known = LABEL_SETS.get(info.dataset)
    if known is not None and (known.class_names, known.palette) == (info.class_names, info.palette):
        yield info.dataset
        return
    labels = LabelSet(info.dataset, info.class_names, info.palette, info.base_size, info.label_ids)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.json"
        file.write_text(json.dumps(labels.to_dict()), encoding="utf-8")
        yield str(file)
