"""The learning rate of a training that has so many steps or so much time.

schedule = Schedule(0.2, steps=1000, seconds=600.0)
while not schedule.over: rate = schedule.step()
"""

import math
import time
from typing import Final


class Schedule:
    """One cycle (Smith and Topin 2018): the rate rises to `lr` in the first 15% and falls to 0, by cosines.

    steps: of the whole training; seconds: what it may take, counted from the second step of each process on,
    since the first compiles; None: as long as it takes. Progress is by whichever is farther on.
    taken, elapsed: steps and seconds so far, in this process and in those before it.
    """

    _RISE: Final = 0.15

    def __init__(self, lr: float, steps: int, seconds: float | None) -> None:
        self._lr, self._steps, self._seconds = lr, steps, seconds
        self.taken, self._before, self._first, self._began = 0, 0.0, 0, math.inf

    def go_on(self, taken: int, elapsed: float) -> None:
        """As if so many steps had been taken, in so many seconds."""
        self.taken = self._first = taken
        self._before = elapsed

    @property
    def elapsed(self) -> float:
        """Seconds so far that count."""
        return self._before + max(0.0, time.monotonic() - self._began)

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        timed = 0.0 if self._seconds is None else self.elapsed / self._seconds
        return min(1.0, max(self.taken / self._steps, timed))

    @property
    def over(self) -> bool:
        """Whether the last step has been taken, or the time is up."""
        return self.progress >= 1

    def step(self) -> float:
        """The rate of the step that is taken now."""
        if self.taken == self._first + 1:
            self._began = time.monotonic()
        done, rise = self.progress, self._RISE
        self.taken += 1
        if done < rise:
            return self._lr * (0.04 + 0.96 * (1 - math.cos(math.pi * done / rise)) / 2)
        return self._lr * (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2
