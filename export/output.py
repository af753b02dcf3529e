"""The folder that a bundle is written to: at once or not at all.

with staged_bundle(Path("psanet50")) as folder:
    ...  # write model.onnx and model.json into folder; an exception leaves nothing behind
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import OutputError
from inference.bundle import MODEL_JSON, MODEL_ONNX

PLANS = "*.plan"


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


@contextmanager
def staged_bundle(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that becomes it once the body ends well.

    An existing folder keeps its other files, but not engines (`*.plan`) that were built from the old model.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield staging
        _publish(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, out: Path) -> None:
    if not out.exists():
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        staging.replace(out)
        return
    for plan in out.glob(PLANS):
        plan.unlink()
    for name in (MODEL_ONNX, MODEL_JSON):
        (staging / name).replace(out / name)
