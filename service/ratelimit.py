"""So many requests a minute for each client: token buckets, of which only so many are kept.

Not here: who a client is (`addresses.py`, `keys.py`).
"""

import time
from collections import OrderedDict

MOST_CLIENTS = 10_000
"""A bucket takes about 200 bytes. The one that was used longest ago makes room: it is the fullest."""


class RateLimit:
    """per_minute: requests that a client may make in the long run; burst: at once, after a pause."""

    def __init__(self, per_minute: float, burst: int, *, most_clients: int = MOST_CLIENTS) -> None:
        self._per_s, self._burst, self._most = per_minute / 60, burst, most_clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Count a request: 0 where it is allowed, else the seconds until one would be."""
        now = time.monotonic()
        tokens, at = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._per_s)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._per_s
        self._buckets[client] = (tokens - 1 if wait_s == 0 else tokens, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return wait_s
