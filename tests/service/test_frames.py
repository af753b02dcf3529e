"""Messages to and from a worker: whole or not at all, and never code on their way back."""

import asyncio
import pickle
import socket
import struct
import threading
from typing import Any

import pytest

from service.frames import BrokenFrameError, Link, pack, read_reply
from service.tasks import Cancel


def received(data: bytes) -> tuple[dict[str, Any], bytes]:
    """What the service makes of these bytes from a worker."""

    async def read() -> tuple[dict[str, Any], bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_reply(reader)

    return asyncio.run(read())


def sent(head: dict[str, Any], body: bytes = b"") -> bytes:
    """The bytes that a worker's link sends."""
    ours, theirs = socket.socketpair()
    with ours:
        writer = threading.Thread(target=lambda: (Link(theirs).send(head, body), theirs.close()))
        writer.start()
        data = b""
        while piece := ours.recv(1 << 20):
            data += piece
        writer.join()
    return data


@pytest.mark.parametrize("body", [b"", b"x", bytes(5_000_000)])
def test_a_reply_arrives_as_it_was_sent(body: bytes) -> None:
    head = {"kind": "answer", "number": 7, "text": "straße\n"}
    assert received(sent(head, body)) == (head, body)


@pytest.mark.parametrize("kept", [0, 5, 12, 20, -1])
def test_a_reply_that_ends_early_is_an_end(kept: int) -> None:
    with pytest.raises(EOFError):
        received(sent({"kind": "answer"}, b"body")[:kept])


@pytest.mark.parametrize(
    "head", [b"", b"no json", b"[]", b"3", b"\xff\xfe", pickle.dumps({"kind": "answer"}), b'{"a":1}{"b":2}']
)
def test_a_reply_that_is_no_json_object_is_refused(head: bytes) -> None:
    with pytest.raises(BrokenFrameError):
        received(struct.pack(">IQ", len(head), 0) + head)


@pytest.mark.parametrize("lengths", [(2**32 - 1, 0), (2, 2**60)])
def test_a_reply_of_absurd_size_is_refused_before_it_is_read(lengths: tuple[int, int]) -> None:
    with pytest.raises(BrokenFrameError):
        received(struct.pack(">IQ", *lengths) + b"{}")


def test_messages_arrive_in_pieces_of_any_size_and_none_follows_the_end() -> None:
    ours, theirs = socket.socketpair()
    link, data = Link(theirs), pack(Cancel(3)) + pack("x" * 100_000)

    def write() -> None:
        for start in range(0, len(data), 7919):
            ours.sendall(data[start : start + 7919])
        ours.close()

    writer = threading.Thread(target=write)
    writer.start()
    assert [link.receive(), len(link.receive()), link.receive()] == [Cancel(3), 100_000, None]
    writer.join()
    theirs.close()


def test_a_message_that_ends_early_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(pack(Cancel(3))[:-1])
    ours.close()
    assert Link(theirs).receive() is None
    theirs.close()
