"""The folder that a bundle is written to: at once or not at all.

with staged_bundle(Path("psanet50")) as folder:
    ...  # write model.onnx and model.json into folder; an exception leaves nothing behind
"""

import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import OutputError
from inference.bundle import (
    MODEL_JSON,
    MODEL_ONNX,
    PLAN_SUFFIX,
    Bundle,
    ModelInfo,
    PlanInfo,
    write_model_json,
)
from inference.files import write_atomically

PLANS = f"*{PLAN_SUFFIX}"


def check_out(out: Path, checkpoint: Path) -> None:
    """Raises OutputError where a bundle made from `checkpoint` must not be written to `out`.

    A folder may be missing, empty, a bundle (which is replaced), or the checkpoint's own.
    """
    if out.is_dir():
        others = [path for path in out.iterdir() if not path.name.startswith(".")]
        if others and not (out / MODEL_JSON).is_file() and checkpoint.resolve().parent != out.resolve():
            raise OutputError(
                f"{out} holds other things and no bundle ({MODEL_JSON}): name another folder with --out"
            )
    elif out.exists() or out.is_symlink():
        raise OutputError(f"{out} is there and no folder: name another with --out")
    else:
        place = next(parent for parent in out.absolute().parents if parent.exists())
        if not place.is_dir():
            raise OutputError(f"{out} cannot be made, {place} is no folder: name another with --out")


@contextmanager
def staged_bundle(out: Path) -> Iterator[Path]:
    """A new folder that becomes `out` once the body ends well.

    An existing folder keeps its other files, but not engines (`*.plan`) that were built from the old model.
    Raises OutputError where it cannot be written, on a full disk say.
    """
    there = out.is_dir()
    parent = out if there else out.parent  # where renaming never crosses file systems
    with _written_to(out):
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=parent))
        try:
            yield staging
            _publish(staging, out, there=there)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _written_to(out: Path) -> Iterator[None]:
    """Says the mend of what goes wrong in writing; what else fails in the body stays as it is."""
    try:
        yield
    except OSError as error:
        # A full disk is told of by a write, which knows no name.
        named = str(error.filename or "").startswith(str(out.parent))
        if not named and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        reason = error.strerror or error
        raise OutputError(
            f"{out} cannot be written ({reason}): make room, or name another folder with --out"
        ) from error


def _publish(staging: Path, out: Path, *, there: bool) -> None:
    if not there:
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        staging.replace(out)
        return
    old, new = ({path.name for path in folder.glob(PLANS)} for folder in (out, staging))
    # Whatever model.json lies there, the engines that it names do, too.
    for name in (*new, MODEL_ONNX, MODEL_JSON):
        (staging / name).replace(out / name)
    for name in old - new:
        (out / name).unlink()


def add_plan(bundle: Bundle, plan: PlanInfo, content: bytes) -> ModelInfo:
    """Puts an engine into a bundle, in place of one for the same library, GPUs and precision; returns what
    `model.json` says now. At once or not at all: whatever happens, every engine that it names is there.
    Raises OutputError where it cannot be written.
    """
    folder, info = bundle.folder, bundle.info
    kind = (plan.runtime, plan.target, plan.precision)
    replaced = [old for old in info.plans if (old.runtime, old.target, old.precision) == kind]
    path, new = folder / plan.file, not (folder / plan.file).exists()
    changed = dataclasses.replace(info, plans=(*(old for old in info.plans if old not in replaced), plan))
    with _written_to(folder):
        try:
            write_atomically(path, content)
            write_model_json(folder, changed)
        except BaseException:
            if new:
                path.unlink(missing_ok=True)
            raise
    for old in replaced:
        if old.file != plan.file:
            (folder / old.file).unlink(missing_ok=True)
    return changed
