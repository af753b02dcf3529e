"""Carries out the runs of an ablation, several at a time, each in a process of its own.

Not here: what such a process does (`run.py`).

    failed = carry_out(plan.runs, parallel=2, stop=stop, lock=lock, finished=lambda run: None)
"""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from inference.errors import ParameterError
from training.ablation.plan import Run
from training.ablation.results import result_of
from training.signals import StopSignals

logger = logging.getLogger(__name__)

LOG: Final = "log.txt"
_POLL_S: Final = 0.1
_GRACE_S: Final = 120.0  # for a step to be finished and saved

Command = Callable[[Run], Sequence[str]]


def command_of(run: Run) -> list[str]:
    """What carries out a run."""
    return [sys.executable, "-m", "training.ablation.run", str(run.folder)]


@contextmanager
def alone(out: Path) -> Iterator[int]:
    """Holds the folder for this ablation; gives the lock's file descriptor, which its runs inherit.

    So a run that outlives a killed ablation keeps others off until it ends. Raises ParameterError where the
    folder is held, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise ParameterError(f"{out} cannot be written ({error}): name another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ParameterError(
                f"another ablation is at work in {out}, or a run that it left behind: wait until it has ended"
            ) from error
        yield file.fileno()


class _Process:
    """A run's process. It has a session of its own: a terminal's Ctrl-C is the scheduler's affair."""

    def __init__(self, run: Run, command: Sequence[str], lock: int, threads: int | None) -> None:
        self.run, self.started = run, time.monotonic()
        environment = dict(os.environ)
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        with (run.folder / LOG).open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=(lock,),
            )

    def failure(self) -> str | None:
        """Why the process that has ended left no result, None where it did."""
        code = self.process.returncode
        if code == 0 and result_of(self.run) is not None:
            return None
        if code < 0:
            return f"it was killed by {signal.Signals(-code).name}; {self.run.folder / LOG} has its output"
        text = (self.run.folder / LOG).read_text(encoding="utf-8", errors="replace")
        lines = re.split(r"[\r\n]+", text.strip())  # progress bars rewrite theirs
        return lines[-1] or f"exit code {code}"

    def send(self, signum: signal.Signals) -> None:
        """Passes a signal on, to whatever it has started too where it is to end at once."""
        if self.process.poll() is None:
            kill = os.killpg if signum == signal.SIGKILL else os.kill
            kill(self.process.pid, signum)


def carry_out(
    runs: Sequence[Run],
    *,
    parallel: int,
    stop: StopSignals,
    lock: int,
    finished: Callable[[Run, float], None],
    command: Command = command_of,
) -> dict[str, str]:
    """Starts each run once what it builds on is finished; returns, by run, why some have failed.

    finished: called with a run that has left a result, and its seconds. A run that fails takes those along
    that build on it; the others go on. A signal in `stop` is passed on, and ends this when all have ended.
    lock: a file descriptor that the processes inherit.
    """
    waiting, working = list(runs), list[_Process]()
    failed: dict[str, str] = {}
    threads = max(1, (os.cpu_count() or 1) // parallel) if parallel > 1 else None
    try:
        while (waiting or working) and not stop.received:
            for run in _ready(waiting, working, failed, parallel):
                logger.info("%s: started", run.name)
                working.append(_Process(run, command(run), lock, threads))
            time.sleep(_POLL_S)
            for process in [each for each in working if each.process.poll() is not None]:
                working.remove(process)
                failure = process.failure()
                if failure is None:
                    finished(process.run, time.monotonic() - process.started)
                else:
                    failed[process.run.name] = failure
                    logger.error("%s: failed: %s", process.run.name, failure)
        _end(working)
        for process in working:
            if result_of(process.run) is not None:
                finished(process.run, time.monotonic() - process.started)
    finally:
        _end(working)
    return failed


def _end(working: Sequence[_Process]) -> None:
    """Lets each finish its step and save; kills what has not ended then."""
    try:
        for process in working:
            process.send(signal.SIGTERM)
        for process in working:
            with suppress(subprocess.TimeoutExpired):
                process.process.wait(_GRACE_S)
    finally:  # a second Ctrl-C
        for process in working:
            process.send(signal.SIGKILL)


def _ready(
    waiting: list[Run], working: Sequence[_Process], failed: dict[str, str], parallel: int
) -> Iterator[Run]:
    """Takes out of `waiting` what can be started now, and puts what never can among the failed."""
    free = parallel - len(working)
    for run in list(waiting):
        source = run.source
        if source is not None and source.name in failed:
            waiting.remove(run)
            failed[run.name] = f"{source.name}, which it builds on, has failed"
            logger.error("%s: failed: %s", run.name, failed[run.name])
        elif free > 0 and (source is None or result_of(source) is not None):
            waiting.remove(run)
            free -= 1
            yield run
