"""Messages between the service and a worker process, over a socket that only they have.

    frame = length of the head (4 bytes), length of the body (8), head, body

To the worker go pickles, from it come JSON and bytes, never pickles: it handles what strangers have sent, and
should that ever take it over, nothing that it says can run in the service.
"""

import asyncio
import json
import pickle  # nosec B403 - see above: only what this service itself has written is read
import socket
import struct
import threading
from typing import Any

_LENGTHS = struct.Struct(">IQ")
MOST_HEAD, MOST_BODY = 1 << 26, 1 << 33


class BrokenFrameError(Exception):
    """What arrived is no frame."""


def pack(message: object) -> bytes:
    """A frame to a worker."""
    head = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTHS.pack(len(head), 0) + head


async def read_reply(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """The next frame from a worker: its head and its body.

    Raises IncompleteReadError at the end, and BrokenFrameError.
    """
    head_size, body_size = _sizes(await reader.readexactly(_LENGTHS.size))
    head = await reader.readexactly(head_size)
    body = await reader.readexactly(body_size)
    try:
        document = json.loads(head)
    except ValueError as error:
        raise BrokenFrameError(f"no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BrokenFrameError("no JSON object")
    return document, body


class Link:
    """A worker's end of the socket. Any thread may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._lock = end, threading.Lock()

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Send a frame. Raises OSError once the service is gone."""
        text = json.dumps(head, ensure_ascii=False).encode()
        with self._lock:
            self._end.sendall(_LENGTHS.pack(len(text), len(body)) + text)
            if body:
                self._end.sendall(body)

    def receive(self) -> Any:
        """The next message; None once the service has closed its end or is gone."""
        lengths = self._exactly(_LENGTHS.size)
        if lengths is None:
            return None
        head = self._exactly(_sizes(lengths)[0])
        return None if head is None else pickle.loads(head)  # nosec B301 - see the top of this file

    def _exactly(self, size: int) -> bytearray | None:
        """That many bytes; None where the stream ends before."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._end.recv_into(view)
            if not count:
                return None
            view = view[count:]
        return data


def _sizes(lengths: bytes | bytearray) -> tuple[int, int]:
    head, body = _LENGTHS.unpack(lengths)
    if head > MOST_HEAD or body > MOST_BODY:
        raise BrokenFrameError(f"a frame of {head} and {body} bytes")
    return head, body
