"""Requests of every kind that a service meets, valid and not, each with the answers that it may get.

kinds = Traffic().kinds; status = kinds["broken"](port, random)
"""

import http.client
import json
import random
import socket
import time
from collections.abc import Callable

import _paths  # noqa: F401
import numpy as np
from PIL import Image

from tests.service.fakes import encoded

LIMITS = {
    "PSANET_MAX_BYTES": "200000",
    "PSANET_MAX_BUFFERED_BYTES": "200000",
    "PSANET_MAX_PIXELS": "250000",
    "PSANET_MAX_SCALES": "3",
    "PSANET_QUEUE_SIZE": "4",
    "PSANET_RECEIVE_TIMEOUT_S": "1",
    "PSANET_CONNECTION_TIMEOUT_S": "2",
    "PSANET_RATE_PER_MINUTE": "600",
    "PSANET_RATE_BURST": "20",
    "PSANET_TRUSTED_PROXIES": "127.0.0.1",
}
"""Settings of the service that all of this is for; low, so that every limit is met often."""
ADDRESSES = 500
"""Different clients, by X-Forwarded-For; and one that asks too often."""
GREEDY = "10.9.9.9"
LEFT = 0
"""Instead of a status: the client went without waiting for one."""

Kind = Callable[[int, random.Random], int]


class Traffic:
    """kinds: by name, how one request of that kind is made; allowed: the statuses that it may get."""

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
        picture = Image.fromarray(noise).resize((96, 72))
        self._valid = [encoded(picture, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")]
        self._valid += [encoded(Image.fromarray(noise[:, :, 0]), "PNG"), encoded(noise, "JPEG", quality=60)]
        self._many_pixels = encoded(Image.new("L", (600, 600)))
        busy = {200, 503}  # 503: asked for, by more clients than there is room for
        self.kinds: dict[str, tuple[float, Kind, set[int]]] = {
            "valid": (0.40, self._ask_valid, busy),
            "scales and outputs": (0.12, self._ask_much, busy),
            "form": (0.08, self._ask_by_form, busy),
            "broken": (0.14, self._ask_broken, busy | {400, 415, 422}),
            "bad parameter": (0.05, self._ask_nonsense, {422, 404, 503}),
            "too many bytes": (0.03, self._send_too_much, {413, 503}),
            "too many bytes, chunked": (0.01, self._send_too_much_chunked, {413, 503, LEFT}),
            "too many pixels": (0.03, self._send_many_pixels, {422, 503}),
            "no HTTP": (0.01, self._say_nonsense, {400, LEFT}),
            "greedy": (0.05, self._ask_greedily, busy | {429}),
            "abandoned upload": (0.03, self._leave_while_sending, {LEFT}),
            "abandoned": (0.03, self._leave_unanswered, {LEFT}),
            "slow": (0.001, self._send_slowly, {408, 503, LEFT}),
            "pages": (0.019, self._look_around, {200, 404, 405}),
        }

    def _ask_valid(self, port: int, rng: random.Random) -> int:
        return post(port, rng.choice(self._valid), client=_address(rng))

    def _ask_much(self, port: int, rng: random.Random) -> int:
        output = rng.choice(("labels", "overlay", "color", "confidence", "json&polygons=true"))
        scales = rng.choice(("1", "0.5,1", "0.5,1,2"))
        query = f"?output={output}&scales={scales}&flip={rng.choice(('true', 'false'))}"
        return post(port, rng.choice(self._valid), query, client=_address(rng))

    def _ask_by_form(self, port: int, rng: random.Random) -> int:
        body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%s\r\n--b--\r\n'
        content = body % rng.choice(self._valid)
        return post(port, content, media_type="multipart/form-data; boundary=b", client=_address(rng))

    def _ask_broken(self, port: int, rng: random.Random) -> int:
        content = bytearray(rng.choice(self._valid))
        if rng.random() < 0.5:
            del content[rng.randrange(len(content)) :]
        else:
            for _ in range(rng.randint(1, 10)):
                content[rng.randrange(len(content))] = rng.randrange(256)
        return post(port, bytes(content), client=_address(rng))

    def _ask_nonsense(self, port: int, rng: random.Random) -> int:
        queries = (
            "?scales=0",
            "?scales=1,1,1,1",
            "?output=all",
            "?what=1",
            "?alpha=nan",
            "?model=none",
            "?flip=2",
        )
        return post(port, self._valid[0], rng.choice(queries), client=_address(rng))

    def _send_many_pixels(self, port: int, rng: random.Random) -> int:
        return post(port, self._many_pixels, client=_address(rng))

    def _send_too_much(self, port: int, rng: random.Random) -> int:
        return post(port, bytes(250_000), client=_address(rng))

    def _send_too_much_chunked(self, port: int, rng: random.Random) -> int:
        return post(port, iter([bytes(50_000)] * 6), client=_address(rng))

    def _say_nonsense(self, port: int, rng: random.Random) -> int:
        words = rng.choice(
            (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST /segment HTTP/1.1\r\nHost x\r\n\r\n")
        )
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(words)
            return _status(connection.recv(4096))

    def _ask_greedily(self, port: int, rng: random.Random) -> int:
        statuses = [post(port, self._valid[0], client=GREEDY) for _ in range(4)]
        return 429 if 429 in statuses else statuses[-1]

    def _leave_while_sending(self, port: int, rng: random.Random) -> int:
        with _begun(port, 100_000, rng) as connection:
            connection.sendall(bytes(rng.randrange(1, 60_000)))
        return LEFT

    def _leave_unanswered(self, port: int, rng: random.Random) -> int:
        content = rng.choice(self._valid)
        with _begun(port, len(content), rng) as connection:
            connection.sendall(content)
            time.sleep(rng.random() * 0.01)
        return LEFT

    def _send_slowly(self, port: int, rng: random.Random) -> int:
        with _begun(port, 1000, rng) as connection:
            connection.sendall(b"x")
            return _status(connection.recv(4096))

    def _look_around(self, port: int, rng: random.Random) -> int:
        path = rng.choice(
            ("/", "/models", "/healthz", "/readyz", "/metrics", "/openapi.json", "/none", "/segment")
        )
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path, headers={"X-Forwarded-For": _address(rng)})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


def post(
    port: int,
    content: object,
    query: str = "",
    media_type: str = "application/octet-stream",
    client: str = "10.0.0.1",
) -> int:
    """Send an image; its status. What is no problem document where it has to be one counts as 599."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": media_type, "X-Forwarded-For": client}
    try:
        connection.request("POST", f"/segment{query}", content, headers)  # type: ignore[arg-type]
        response = connection.getresponse()
        body = response.read()
    except (BrokenPipeError, ConnectionResetError):
        return LEFT  # refused while it was still sending
    finally:
        connection.close()
    if response.status == 200:
        return 200
    document = json.loads(body)
    sound = document["status"] == response.status and document["detail"] and document["code"]
    if response.status in (429, 503) and "Retry-After" not in response.headers:
        sound = False
    return response.status if sound else 599


def _begun(port: int, size: int, rng: random.Random) -> socket.socket:
    lines = (
        "POST /segment HTTP/1.1",
        "Host: x",
        f"X-Forwarded-For: {_address(rng)}",
        f"Content-Length: {size}",
    )
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall("\r\n".join((*lines, "", "")).encode())
    return connection


def _status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/1.1 ") else LEFT


def _address(rng: random.Random) -> str:
    number = rng.randrange(ADDRESSES)
    return f"10.1.{number // 250}.{1 + number % 250}"
