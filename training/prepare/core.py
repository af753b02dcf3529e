"""From a plan to a prepared folder: what all data sets share.

Lists appear only once all their files are there. A run that was cut short goes on where it was; one that was
finished is recognised by `prepared.json` and not repeated. Not here: what lies where in which archive (a file
for each data set), or writing images and labels (`convert.py`).

    summary = prepare(plan, sources, out=Path("data/ade20k"))
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.files import write_atomically
from training.prepare.archives import Source
from training.prepare.convert import convert, is_there
from training.prepare.errors import PrepareError
from training.prepare.plan import Check, Plan

STATE_NAME = "prepared.json"
_FORMAT = 1  # of the prepared folder; another is not gone on with
_REPORTED = ("lists", "complete", "left_out", "notes")
_STALE_S = 3600.0


def prepare(
    plan: Plan, sources: Sequence[Source], *, out: Path, workers: int = 0, allow_partial: bool = False
) -> dict[str, Any]:
    """Makes what the plan says below `out` and returns what the command line prints.

    workers: processes that convert labels beside this one. allow_partial: go on with what is there and
    usable; the summary then says complete: false. Raises PrepareError: a count that is not the published one,
    files that are damaged or do not fit, no space, a folder that holds something else.
    """
    started = time.monotonic()
    check_counts(plan, allow_partial=allow_partial)
    begun = {
        "format": _FORMAT,
        "dataset": plan.dataset,
        "sources": _fingerprint(sources),
        "options": dict(plan.options),
        "complete": False,
    }
    _claim(out, begun)
    _remove_leavings(out)
    pairs = {pair.image_target: pair for listed in plan.lists.values() for pair in listed}
    failures = convert(
        list(pairs.values()), out, title=plan.dataset, workers=workers, allow_partial=allow_partial
    )
    counts = {}
    for name, listed in plan.lists.items():
        kept = [pair for pair in listed if pair.image_target not in failures]
        lines = [f"{pair.image_target} {pair.label_target}\n" for pair in kept]
        write_atomically(_list_path(out, name), "".join(lines).encode())
        counts[name] = len(lines)
    state = begun | {
        "complete": not failures and all(check.holds for check in plan.checks),
        "lists": counts,
        "left_out": [*plan.left_out, *failures.values()],
        "notes": list(plan.notes),
    }
    _write_state(out, state)
    return _summary(state, out, seconds=time.monotonic() - started)


def finished_summary(
    dataset: str, sources: Sequence[Source], *, out: Path, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What an earlier run reported, if it was complete, had the same sources, and all its files are there."""
    state = _read_state(out)
    wanted = {
        "format": _FORMAT,
        "dataset": dataset,
        "sources": _fingerprint(sources),
        "options": dict(options),
        "complete": True,
    }
    if state is None or any(state.get(key) != value for key, value in wanted.items()):
        return None
    targets: set[str] = set()
    for name, count in state["lists"].items():
        path = _list_path(out, name)
        listed = path.read_text().split() if path.is_file() else []
        if len(listed) != 2 * count:
            return None
        targets.update(listed)
    if not all(is_there(out / target) for target in targets):
        return None
    return _summary(state, out, seconds=0.0)


def check_counts(plan: Plan, *, allow_partial: bool) -> None:
    """PrepareError where nothing was found, or not what was published."""
    if not any(plan.lists.values()):
        raise PrepareError(f"{plan.dataset}: no image with labels was found: {plan.mend}")
    wrong = [check for check in plan.checks if not check.holds]
    if not wrong or allow_partial:
        return
    alone = ""
    if plan.unpaired:
        alone = f"; {len(plan.unpaired):,} files lack their image or label, the first {plan.unpaired[0]}"
    raise PrepareError(
        f"{plan.dataset}: {'; '.join(map(_difference, wrong))}{alone}: {plan.mend}; --allow-partial goes on "
        "with what is there"
    )


def _difference(check: Check) -> str:
    published = " or ".join(f"{count:,}" for count in check.allowed)
    return f"{check.found:,} {check.what} where {published} were published"


def _claim(out: Path, begun: Mapping[str, Any]) -> None:
    """Marks the folder as this data set's: files of another origin must not pass for finished ones."""
    state = _read_state(out)
    try:
        if state is None and out.exists() and any(out.iterdir()):
            raise PrepareError(
                f"{out} is not empty and was not begun by this command: give --out a new or empty folder"
            )
        if state is not None and any(
            state.get(key) != begun[key] for key in ("dataset", "format", "options")
        ):
            raise PrepareError(
                f"{out} holds {state['dataset']} prepared in another way (see {STATE_NAME} in it): give "
                "--out another folder"
            )
        _write_state(out, begun)
    except OSError as error:
        raise PrepareError(
            f"--out {out} cannot be written ({error.strerror}): name another folder"
        ) from error


def _fingerprint(sources: Sequence[Source]) -> list[list[Any]]:
    """Name and content of each source, as far as sizes tell it, wherever it lies."""
    return [
        [source.path.resolve().name, len(source.members), sum(member.size for member in source.members)]
        for source in sources
    ]


def _read_state(out: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((out / STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and "dataset" in state else None


def _write_state(out: Path, state: Mapping[str, Any]) -> None:
    write_atomically(out / STATE_NAME, (json.dumps(state, indent=2) + "\n").encode())


def _summary(state: Mapping[str, Any], out: Path, *, seconds: float) -> dict[str, Any]:
    reported = {key: state[key] for key in _REPORTED}
    return {"dataset": state["dataset"], "out": str(out), **reported, "seconds": round(seconds, 1)}


def _list_path(out: Path, name: str) -> Path:
    return out / "list" / f"{name}.txt"


def _remove_leavings(out: Path) -> None:
    """Temporary files of a run that was killed; young ones may be another run's."""
    for parent, _, names in os.walk(out):
        for name in names:
            if name.startswith(".") and name.endswith(".part"):
                path = Path(parent, name)
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > _STALE_S:
                        path.unlink()
