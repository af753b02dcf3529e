"""One request's right to go on working: until it is given up, or its deadline passes.

Not here: what the request is told then (`dispatch.py`).

    ticket = Ticket(60.0); predictor.predict(image, check=ticket.check)
"""

import threading
import time
from collections.abc import Callable

from inference.errors import PredictionCancelled

GIVEN_UP, PASSED = "given up", "deadline passed"


class Ticket:
    """May be used from any thread. remaining_s: seconds until the deadline."""

    def __init__(self, remaining_s: float) -> None:
        self._expires = time.monotonic() + remaining_s
        self._lock = threading.Lock()
        self._since: float | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, 0 once it has passed or the work was given up."""
        return 0.0 if self._since is not None else max(0.0, self._expires - time.monotonic())

    @property
    def overdue_s(self) -> float:
        """For how long the work should have stopped."""
        ended = self._expires if self._since is None else min(self._since, self._expires)
        return max(0.0, time.monotonic() - ended)

    def give_up(self) -> None:
        """Let the next `check` fail, and tell who listens."""
        with self._lock:
            if self._since is not None:
                return
            self._since = time.monotonic()
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when the work is given up, at once if it was; returns what ends that."""
        with self._lock:
            if self._since is None:
                self._listeners.append(listener)
                return lambda: self._forget(listener)
        listener()
        return lambda: None

    def check(self) -> None:
        """Raise PredictionCancelled once the work was given up or its deadline has passed."""
        if self._since is not None:
            raise PredictionCancelled(GIVEN_UP)
        if time.monotonic() >= self._expires:
            raise PredictionCancelled(PASSED)

    def _forget(self, listener: Callable[[], None]) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
