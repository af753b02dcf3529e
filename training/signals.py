"""SIGTERM and Ctrl-C: noted, so that the step can be finished and saved before the process ends.

Not here: what is saved (`state.py`) or how processes agree on the step (`distributed.py`).

    with StopSignals() as stop: ...; raise InterruptedTraining(stop.received, "saved")
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class InterruptedTraining(BaseException):  # noqa: N818 - nothing went wrong
    """A signal ended the training, which was saved before; the message says what the next start does.

    No Exception: raised anywhere inside `at_once`, it must not be taken for the failure of what it cuts off.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(signum, message)
        self.signum, self.message = signum, message

    def __str__(self) -> str:
        return f"{signal.Signals(self.signum).name}: {self.message}"

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.signum


class StopSignals:
    """Notes SIGTERM and SIGINT in `received`, 0 where none came; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.received = 0
        self._at_once: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # only there Python takes handlers
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """Inside, a signal raises InterruptedTraining: for work that may be cut off anywhere."""
        self._at_once = message
        try:
            if self.received:
                raise InterruptedTraining(self.received, message)
            yield
        finally:
            self._at_once = None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        again = self.received == signal.SIGINT == signum
        self.received = int(signum)
        if self._at_once is not None:
            raise InterruptedTraining(signum, self._at_once)
        if again:
            raise KeyboardInterrupt
