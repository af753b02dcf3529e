"""How far the building of an engine is: a bar on a terminal, lines in a log where there is none.

Not here: building (`export/trt_build.py`).

    progress = show_progress(sys.stderr)
    library.build(model, request, progress)
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import IO, Protocol

from tqdm import tqdm

from inference.tensorrt_library import Progress

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0
"""A log is read by people, too: a build of ten minutes makes sixty lines at most."""


class Shown(Progress, Protocol):
    """A progress that can be stopped, and closed once the build has ended."""

    def stop(self) -> None:
        """Gives the build up at its next step."""

    def close(self) -> None:
        """Nothing follows; what was shown stays."""


def show_progress(file: IO[str]) -> Shown:
    """A bar where `file` is a terminal, else lines of this module's logger."""
    return Bar(file) if file.isatty() else Lines()


class Bar:
    """One bar: the steps of the outermost phase, and the innermost by name. From any thread."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self._bar = tqdm(file=file, desc="building", bar_format="{desc:32.32} {bar} {elapsed}")
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._phases: list[str] = []

    def stop(self) -> None:
        """Gives the build up at its next step."""
        self._stopped.set()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """See `Progress`."""
        with self._lock:
            if not self._phases:
                self._bar.reset(steps)
            self._phases.append(phase)
            self._bar.set_description_str(phase)

    def step(self, phase: str, done: int) -> bool:
        """See `Progress`."""
        with self._lock:
            if self._phases[:1] == [phase]:
                self._bar.update(done + 1 - self._bar.n)
        return not self._stopped.is_set()

    def finish(self, phase: str) -> None:
        """See `Progress`."""
        with self._lock:
            _remove_latest(self._phases, phase)
            if not self._phases and self._bar.total:
                self._bar.update(self._bar.total - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


class Lines:
    """A line now and then: the innermost phase, the steps of the outermost, the time. From any thread."""

    def __init__(self, every_s: float = LINE_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._started = self._said = clock()
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._phases: list[str] = []
        self._done = self._steps = 0

    def stop(self) -> None:
        """Gives the build up at its next step."""
        self._stopped.set()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """See `Progress`."""
        with self._lock:
            if not self._phases:
                self._done, self._steps = 0, steps
            self._phases.append(phase)
            self._say()

    def step(self, phase: str, done: int) -> bool:
        """See `Progress`."""
        with self._lock:
            if self._phases[:1] == [phase]:
                self._done = done + 1
            self._say()
        return not self._stopped.is_set()

    def finish(self, phase: str) -> None:
        """See `Progress`."""
        with self._lock:
            _remove_latest(self._phases, phase)

    def close(self) -> None:
        """The last line of a build that was long enough to have any."""
        if self._said > self._started:
            log.info("the build has ended after %.0f s", self._clock() - self._started)

    def _say(self) -> None:
        now = self._clock()
        if now - self._said >= self._every_s:
            self._said = now
            log.info(
                "building: %s, step %d of %d, %.0f s",
                self._phases[-1] if self._phases else "…",
                self._done,
                self._steps,
                now - self._started,
            )


def _remove_latest(phases: list[str], phase: str) -> None:
    """Phases of one name may be open twice; it is the latest that ends."""
    if phase in phases:
        del phases[len(phases) - 1 - phases[::-1].index(phase)]
