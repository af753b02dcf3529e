"""Asks the service in this container whether it takes work: exit code 0, or 1 and the reason.

Standard library alone. What HEALTHCHECK of both images runs:

    python /opt/psanet/healthcheck.py
"""

import http.client
import os
import sys
from collections.abc import Mapping

TIMEOUT_S = 4.0
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def check(environ: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> str | None:
    """None when `/readyz` says 200, else why not. environ: PSANET_HOST, PSANET_PORT, as for the service."""
    host = environ.get("PSANET_HOST", "")
    try:
        port = int(environ.get("PSANET_PORT") or 8000)
        connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=timeout_s)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    return None if answer.status == 200 else f"{answer.status} {answer.read(500).decode(errors='replace')}"


def main() -> int:
    """The exit code that Docker reads."""
    problem = check(os.environ)
    print(problem or "ready")
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main())
