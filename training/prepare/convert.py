"""Writes the pairs of a plan, here or in several processes; each file appears whole or not at all.

The archives are read by one process from front to back (a compressed tar knows no other way); what costs
time, decoding and encoding labels, is what the others do.
"""

import errno
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from inference.errors import ImageError
from inference.files import write_atomically
from inference.image_headers import read_container
from training.prepare.archives import Member
from training.prepare.errors import PrepareError
from training.prepare.labels import Ids, encode_ids
from training.prepare.plan import Pair

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def convert(
    pairs: Sequence[Pair], out: Path, *, title: str, workers: int = 0, allow_partial: bool = False
) -> dict[str, str]:
    """Writes all pairs that are not there yet. Returns what is wrong with those left out, by image target.

    workers: processes beside this one; 0 works here. allow_partial: leave damaged pairs out; else the first
    is a PrepareError, as is a full disk always.
    """
    failures: dict[str, str] = {}
    pending = sorted((pair for pair in pairs if not _is_done(pair, out)), key=lambda pair: pair.order)
    _check_space(pending, out)
    executor = _pool(workers) if workers else _Inline()
    running: dict[Future[None], Pair] = {}
    with tqdm(
        total=len(pairs), initial=len(pairs) - len(pending), desc=title, unit="image", mininterval=1
    ) as bar:

        def settle(at_most: int) -> None:
            while len(running) > at_most:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    pair = running.pop(future)
                    if error := future.exception():
                        failures[pair.image_target] = _reason(error, pair, out)
                        if not allow_partial:
                            raise PrepareError(failures[pair.image_target]) from error
                    bar.update()

        try:
            for pair in pending:
                running[_begin(executor, pair, out)] = pair
                settle(4 * workers)
            settle(0)
        finally:
            executor.shutdown(cancel_futures=True)
    return failures


def is_there(path: Path) -> bool:
    """A file with content: one of zero bytes is what a machine leaves that lost its power."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _is_done(pair: Pair, out: Path) -> bool:
    # The image is written first, but either may have been deleted since.
    return is_there(out / pair.label_target) and is_there(out / pair.image_target)


def _check_space(pending: Sequence[Pair], out: Path) -> None:
    """Before hours of work; the images are nearly all of it."""
    needed = sum(
        pair.label_bytes + (0 if _can_link(pair.image, out) else pair.image.size) for pair in pending
    )
    free = shutil.disk_usage(out).free
    if needed > free:
        raise PrepareError(
            f"{out} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are still to be written: free "
            "some space, or give --out a folder on another disk"
        )


def _can_link(image: Member, out: Path) -> bool:
    return image.path is not None and image.path.stat().st_dev == out.stat().st_dev


def _begin(executor: Executor, pair: Pair, out: Path) -> Future[None]:
    """What goes wrong on the way to the executor comes back on the same road as what goes wrong there."""
    try:
        data = pair.image.read()
        hw = _image_hw(data, pair.image)
        _place(pair.image, data, out / pair.image_target)
        return executor.submit(_write_label, pair.read_label(), pair.decode, hw, out / pair.label_target)
    except Exception as error:
        failed: Future[None] = Future()
        failed.set_exception(error)
        return failed


def _image_hw(data: bytes, image: Member) -> tuple[int, int]:
    """(height, width) as training will read it, from the header; ImageError for what is cut short."""
    try:
        container = read_container(data)
    except ImageError as error:
        raise PrepareError(f"{image} is no usable image: {error}") from error
    if not container.whole:
        raise PrepareError(f"{image} is cut short: download the archive again")
    return container.header.upright_hw


def _place(image: Member, data: bytes, target: Path) -> None:
    """A loose file is linked where that can be, which takes no space; else its bytes are written."""
    if is_there(target):
        return
    if image.path is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            os.link(os.path.realpath(image.path), temporary)
        except OSError:
            pass  # another disk, or one that knows no links: the bytes are written below
        else:
            os.replace(temporary, target)
            return
    write_atomically(target, data)


def _write_label(data: bytes, decode: Callable[[bytes], Ids], hw: tuple[int, int], target: Path) -> None:
    """Runs in any process. ValueError says what is wrong with the labels."""
    ids = decode(data)
    if ids.shape != hw:
        raise ValueError(f"is {ids.shape[0]}x{ids.shape[1]} (height x width), its image {hw[0]}x{hw[1]}")
    write_atomically(target, encode_ids(ids))


def _reason(error: BaseException, pair: Pair, out: Path) -> str:
    """What is wrong with a pair, in words; raises what no pair is to blame for."""
    if isinstance(error, PrepareError):
        return str(error)
    if isinstance(error, ValueError):
        return f"{pair.label_name} {error}"
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        raise PrepareError(
            f"no space is left on {out}: free some and give the same command again, it goes on from here"
        ) from error
    if isinstance(error, OSError):
        raise PrepareError(f"{out} cannot be written: {error}") from error
    if isinstance(error, BrokenProcessPool):
        raise PrepareError(
            "a process that converts labels was ended from outside, for want of memory perhaps: give the "
            "same command again with fewer --workers"
        ) from error
    raise error


class _Inline(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not forked: tqdm may run a thread. Ctrl-C is the first process's to handle.
    return ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
