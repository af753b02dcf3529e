"""The nuclio function that hands CVAT's images to a PSANet service; needs nothing but Python.

CVAT sends {"image": base64, "threshold": 0.5}, which POST /cvat takes as it is, and answers with a list of
shapes. Set up by function.yaml beside it: PSANET_URL, PSANET_QUERY, PSANET_KEY.
"""

import json
import os
import time
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

TRIES = 4
TIMEOUT_S = 100
LONGEST_WAIT_S = 10


def handler(context, event):
    """Ask the service, again where it says that it is busy."""
    body = event.body if isinstance(event.body, bytes) else json.dumps(event.body).encode()
    content, status = ask(body)
    if status != 200:
        context.logger.error(f"the PSANet service answered {status}: {content[:500]!r}")
    return context.Response(body=content, headers={}, content_type="application/json", status_code=status)


def ask(body):
    """Content and status of the service's answer."""
    url = f"{os.environ['PSANET_URL'].rstrip('/')}/cvat?{os.environ.get('PSANET_QUERY', '')}"
    headers = {"Content-Type": "application/json"}
    if os.environ.get("PSANET_KEY"):
        headers["Authorization"] = f"Bearer {os.environ['PSANET_KEY']}"
    tries = 0
    while True:
        tries += 1
        try:
            with urlopen(Request(url, body, headers), timeout=TIMEOUT_S) as response:
                return response.read(), response.status
        except HTTPError as error:
            wait_s = error.headers.get("Retry-After")
            if error.code not in (429, 503) or wait_s is None or tries == TRIES:
                return error.read(), error.code
        except (URLError, TimeoutError) as error:
            text = f"The PSANet service at {os.environ['PSANET_URL']} does not answer: {error}"
            return json.dumps({"detail": text}).encode(), 502
        # A proxy may write a date in place of seconds.
        time.sleep(min(int(wait_s), LONGEST_WAIT_S) if wait_s.isdecimal() else LONGEST_WAIT_S)
