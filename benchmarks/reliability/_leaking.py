"""A service that leaks on purpose: the negative control of `soak.py`, which has to catch it.

    PSANET_PORT=8000 python benchmarks/reliability/_leaking.py

Of each request that is to be queued it keeps some memory, now and then a descriptor and a thread.
"""

import itertools
import sys
import threading
from typing import Any

import _paths  # noqa: F401

from service import __main__, routes

KEPT_BYTES, EVERY_DESCRIPTOR, EVERY_THREAD = 4000, 20, 200
_kept: list[Any] = []
_numbers = itertools.count(1)
_order_of = routes.order_of


async def _leak(*arguments: Any) -> Any:
    number = next(_numbers)
    _kept.append(bytearray(b"x" * KEPT_BYTES))
    if number % EVERY_DESCRIPTOR == 0:
        _kept.append(open("/dev/null"))  # noqa: SIM115
    if number % EVERY_THREAD == 0:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    return await _order_of(*arguments)


if __name__ == "__main__":
    routes.order_of = _leak
    sys.exit(__main__.main())
