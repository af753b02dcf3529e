"""What earlier starts of an ablation have left in its folder: taken up where it is the same, else refused.

Not here: what makes two runs the same (`plan.identity`).

    begin(plan, restart=False); done = {run.name: result for run in plan.runs if (result := result_of(run))}
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.errors import ParameterError
from inference.files import write_atomically
from training.ablation.plan import RESULT, SPEC, Plan, Run, differences


def begin(plan: Plan, *, restart: bool) -> None:
    """Makes the runs' folders, each with its `run.json`, and the list that is evaluated.

    restart: drops what is there of these runs, and of those that post-processed them. Raises ParameterError,
    before anything is written, where the folders hold other runs, and where they cannot be written.
    """
    try:
        if restart:
            for run in plan.runs:
                shutil.rmtree(run.folder, ignore_errors=True)
                _drop_dependents(run, plan.settings.out)
        for run in plan.runs:
            _require_same(run)
        write_atomically(plan.settings.out / "validation.txt", plan.validation)
        for run in plan.runs:
            write_atomically(run.folder / SPEC, f"{json.dumps(run.spec, indent=1)}\n".encode())
    except OSError as error:
        raise ParameterError(
            f"{plan.settings.out} cannot be written ({error}): name another --out"
        ) from error


def result_of(run: Run) -> dict[str, Any] | None:
    """What a finished run has written, else None. Raises ParameterError for a damaged file."""
    return _read(run.folder / RESULT)


def _drop_dependents(run: Run, out: Path) -> None:
    for path in out.glob(f"*/seed{run.seed}/{SPEC}"):
        source = (_read(path) or {}).get("source")
        # Not the whole path: the folder may have been moved, or be named otherwise this time.
        if source is not None and Path(source).parts[-2:] == run.folder.parts[-2:]:
            shutil.rmtree(path.parent)


def _require_same(run: Run) -> None:
    result = result_of(run)
    found: Mapping[str, Any] | None = _read(run.folder / SPEC) if result is None else result.get("spec", {})
    changed = [] if found is None else differences(found, run.spec)
    if changed:
        raise ParameterError(
            f"{run.folder} holds another run ({'; '.join(changed)}): give its own settings, name another "
            "--out, or drop it with --restart"
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except (ValueError, TypeError) as error:
        raise ParameterError(f"{path} is damaged ({error}): --restart begins that run anew") from error
