"""Memory that jobs share: each takes what it will need before it begins, and waits where there is too little.

First come, first served, so that a large one is not passed over for ever.

    with room.share(plan.peak_bytes, ticket): predictor.predict(image)
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.tickets import Ticket


class Room:
    """size: bytes of all who are inside together; who wants more gets in alone."""

    def __init__(self, size: int) -> None:
        self._size = self.free = size
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def share(self, wanted: int, ticket: Ticket) -> Iterator[None]:
        """Hold that many bytes in the block. Raises PredictionCancelled if the ticket ends before."""
        wanted = min(wanted, self._size)
        self._enter(wanted, ticket)
        try:
            yield
        finally:
            with self._changed:
                self.free += wanted
                self._changed.notify_all()

    def _enter(self, wanted: int, ticket: Ticket) -> None:
        place = object()
        forget = ticket.listen(self._look_again)
        try:
            with self._changed:
                self._queue.append(place)
                try:
                    while self._queue[0] is not place or self.free < wanted:
                        ticket.check()
                        self._changed.wait(ticket.remaining_s)
                    self.free -= wanted
                finally:
                    self._queue.remove(place)
                    self._changed.notify_all()
        finally:
            forget()

    def _look_again(self) -> None:
        with self._changed:
            self._changed.notify_all()
