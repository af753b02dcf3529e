"""What an evaluation's counts depend on, so that only the same one is gone on with.

Not here: the file that keeps it (`ledger.py`); changed images, whose files' times are kept beside the counts.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference.bundle import MODEL_JSON, Bundle, resolve_model
from inference.predictor import Predictor
from models.options import ArchitectureOptions


def identity_of(
    model: str | Path,
    predictor: Predictor,
    list_path: Path,
    dataset: str | None,
    options: ArchitectureOptions | None,
) -> dict[str, Any]:
    """Plain values: what the model and the list hold, the engine, and how a checkpoint was understood."""
    found = resolve_model(model)
    files = [found.folder / MODEL_JSON, found.onnx_path] if isinstance(found, Bundle) else [found]
    device = predictor.engine.device.partition(":")[0]
    return {
        "model": predictor.info.name,
        "model's sha256": _sha256(files),
        "engine": f"{predictor.engine.name} on {device}",
        "list's sha256": _sha256([list_path]),
        "dataset": dataset,
        "options": asdict(options or ArchitectureOptions()),
    }


def _sha256(paths: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
