"""How fast requests get done, as measured: what tells a new one how long it will wait.

pace.begin(); …; pace.count(cost_s)      then      pace.seconds(backlog_s)
"""

import time

_FORGETTING = 0.95
"""What the past counts after one more request: the last twenty or so decide."""


class Pace:
    """Engine seconds of work that get done in one second with work to do, by the last requests."""

    def __init__(self) -> None:
        self._done_s = self._busy_s = self._mark = 0.0

    def begin(self) -> None:
        """There is work from now on, and there was none."""
        self._mark = time.monotonic()

    def count(self, cost_s: float) -> None:
        """A request of that much work has ended."""
        now = time.monotonic()
        self._done_s = self._done_s * _FORGETTING + cost_s
        self._busy_s = self._busy_s * _FORGETTING + now - self._mark
        self._mark = now

    def seconds(self, cost_s: float) -> float:
        """How long that much work will take; 0 where nothing is known yet."""
        return 0.0 if not self._done_s else cost_s * self._busy_s / self._done_s
