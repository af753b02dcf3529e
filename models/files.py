"""Checkpoint files: bytes to a mapping, never running code from them.

Not here: what a mapping's keys mean (`models/inspection.py`, `models/checkpoint.py`).

    content = read_file(Path("psanet50.pth")); state = tensors_of(content, Path("psanet50.pth"))
"""

import hashlib
import json
import pickle
import re
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from models.errors import CheckpointError, NotACheckpointError

FORMAT = "psanet-serving"
"""Value of `format` in this project's own checkpoints."""

_FORBIDDEN = re.compile(r"GLOBAL:?\s+(\S+)")
"""How PyTorch names what it did not read."""


def read_file(path: Path) -> dict[str, Any]:
    """The mapping that a `.pth` or `.safetensors` file holds; never runs code from it.

    Raises CheckpointError for a missing file, NotACheckpointError for one that is none, or half one.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file itself")
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}")
    if path.stat().st_size == 0:
        raise NotACheckpointError(f"{path} is empty; copy or download it again")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)


def tensors_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors under `state_dict`, or of the mapping itself. NotACheckpointError for anything else."""
    state = content.get("state_dict", content)
    named = isinstance(state, Mapping) and len(state) > 0
    if not named or not all(isinstance(value, Tensor) for value in state.values()):
        raise NotACheckpointError(
            f"{path} holds no `state_dict` of tensors, but {sorted(map(str, content))[:3]} …; "
            "give a checkpoint of a segmentation network"
        )
    return {str(key): value for key, value in state.items()}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes the file atomically: a reader sees the old file or the whole new one."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        temporary.chmod(0o644)
        temporary.replace(path)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Skipped:
    """Stands in the place of an object that is not wanted: takes whatever it is given and keeps nothing."""

    def __new__(cls, *arguments: object) -> Self:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


_SKIPPED = (
    *("mmengine.logging.history_buffer.HistoryBuffer", "mmengine.config.config.ConfigDict"),
    *("builtins.getattr", "numpy.ndarray", "numpy.dtype"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)
"""What the logs in MMSegmentation's unpublished checkpoints are made of: never run, never made."""
_SKIPPING = threading.Lock()
"""PyTorch has one list of what may stand in a file, for the whole process."""


def _load(path: Path) -> Any:
    """What `torch.load` reads, its weights alone; logs beside them are skipped."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _FORBIDDEN.search(str(error))
        if found is None or not {found[1], f"builtins.{found[1]}"} & set(_SKIPPED):
            raise
    stubs: list[Any] = [(_Skipped, name) for name in _SKIPPED]
    with _SKIPPING, torch.serialization.safe_globals(stubs):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_pth(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == pickle.PROTO and start[1:] >= b"\x04":
        # PyTorch reads these in no case, and warns at length before it says so.
        raise NotACheckpointError(
            f"{path} is a plain pickle, which could run code and is not read. Save the weights alone: "
            "torch.save(network.state_dict(), path)"
        )
    try:
        content = _load(path)
    except Exception as error:
        # A file that is cut off or is something else fails anywhere in there: struct.error, IndexError, …
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise NotACheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint's mapping")
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        raise _unreadable(path, error) from error
    if metadata.get("format") != FORMAT:
        return {"state_dict": state}
    try:
        content = {key: json.loads(metadata[key]) for key in ("config", "labels")}
        if "protocol" in metadata:
            content["protocol"] = json.loads(metadata["protocol"])
    except (KeyError, ValueError) as error:
        raise NotACheckpointError(
            f"{path}: its metadata hold no readable config and labels ({error!r}); copy or write it again"
        ) from error
    return {"format": FORMAT, **content, "state_dict": state}


def _unreadable(path: Path, error: Exception) -> NotACheckpointError:
    """What to say of a file that cannot be read; not PyTorch's text where that advises to run its code."""
    if isinstance(error, pickle.UnpicklingError) and (found := _FORBIDDEN.search(str(error))):
        return NotACheckpointError(
            f"{path} holds Python objects ({found[1]}), which could run code and are not read, or was not "
            "copied or downloaded whole. Save the weights alone: torch.save(network.state_dict(), path)"
        )
    reason = "" if isinstance(error, pickle.UnpicklingError) else ": " + (str(error).splitlines() or [""])[0]
    return NotACheckpointError(
        f"{path} cannot be read; is it a checkpoint, and was it copied or downloaded whole? "
        f"({type(error).__name__}{reason})"
    )
