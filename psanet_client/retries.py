"""When a request is sent again, and after what time. Labelling an image twice does no harm, only work."""

import random
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx2
from httpx2 import Response

_AGAIN = frozenset({429, 502, 503})
_BROKEN = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ReadError, httpx2.WriteError)
"""Connections that did not come about, or broke."""
_MOST_DOUBLINGS = 60


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often to ask again, and how patiently.

    times: after the first try, 0 for never; longest_wait_s: who is told to wait for longer gives up at once;
    backoff_s: before the second try where nobody says how long, then twice that, and so on up to
    longest_wait_s.
    Asked again is where the service has no room (429, 503), a proxy cannot reach it (502), or the connection
    breaks; not where an answer takes longer than the timeout.
    """

    times: int = 4
    longest_wait_s: float = 30.0
    backoff_s: float = 0.5

    def __post_init__(self) -> None:
        if self.times < 0 or self.longest_wait_s < 0 or self.backoff_s <= 0:
            raise ValueError(f"times and longest_wait_s from 0, backoff_s above 0, not {self}")

    def wait_s(self, outcome: Response | httpx2.RequestError, tries: int) -> float | None:
        """Seconds before the next try; None where this outcome is the last. tries: made so far."""
        if tries > self.times or not _is_passing(outcome):
            return None
        told = retry_after_s(outcome) if isinstance(outcome, Response) else None
        # Those who were turned away together do not come back together.
        own = self.backoff_s * 2.0 ** min(tries - 1, _MOST_DOUBLINGS) * random.uniform(0.75, 1.25)
        wait_s = min(own, self.longest_wait_s) if told is None else told
        return wait_s if wait_s <= self.longest_wait_s else None


def _is_passing(outcome: Response | httpx2.RequestError) -> bool:
    if isinstance(outcome, Response):
        return outcome.status_code in _AGAIN
    return isinstance(outcome, (*_BROKEN, httpx2.RemoteProtocolError))


def retry_after_s(response: Response) -> float | None:
    """Seconds in Retry-After, a number or a date; None where there is none."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)  # the oldest of HTTP's three forms has none
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
