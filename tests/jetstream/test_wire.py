"""A wire reads what a server says, however it is cut into pieces, and ends at what it does not know."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from engines import PATIENCE

from mq.nats.address import parse
from mq.nats.wire import Frame, Place, Wire

INFO = b'INFO {"headers":true}\r\n'
pytestmark = pytest.mark.usefixtures("patient")  # the server is this test, which may be slow


@contextmanager
def connected(info: bytes = INFO) -> Iterator[tuple[Future[Wire], socket.socket]]:
    """A wire, and the server's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        host, port = server.getsockname()
        place = Place(host, port, host, ssl.create_default_context, lambda nonce: {"sig": nonce})
        wire = pool.submit(Wire, parse("nats://ada:p@h/s"), place, ".*")
        end, _ = server.accept()
        with end:
            end.sendall(info)
            yield wire, end
            if not wire.exception():
                wire.result().close()


def greet(end: socket.socket) -> bytes:
    """Answer what a client says of itself, which is returned."""
    said = b""
    while not said.endswith(b"PING\r\n"):
        said += end.recv(1000)
    end.sendall(b"PONG\r\n")
    return said


def frames(wire: Wire, count: int) -> list[Frame]:
    found: list[Frame] = []
    while len(found) < count:
        frame = wire.frame()
        if frame:
            found.append(frame)
        elif wire.wait(PATIENCE):
            wire.read()
    return found


def test_messages_are_read_in_pieces_of_any_size() -> None:
    sent = (
        b"MSG a.b 1 5\r\nhe\r\no\r\nPING\r\nHMSG c 1 re.ply 14 16\r\nNATS/1.0 100\r\nok\r\n"
        b"+OK\r\nMSG d 1 back 0\r\n\r\n"
    )
    with connected() as (future, end):
        assert b'"user": "ada", "pass": "p"' in greet(end)
        wire = future.result()
        for size in (1, 7, len(sent)):
            for at in range(0, len(sent), size):
                end.sendall(sent[at : at + size])
            assert frames(wire, 3) == [
                Frame(b"a.b", b"", b"", b"he\r\no"),
                Frame(b"c", b"re.ply", b"NATS/1.0 100\r\n", b"ok"),
                Frame(b"d", b"back", b"", b""),
            ]
            assert end.recv(6) == b"PONG\r\n"


@pytest.mark.parametrize("sent", [b"-ERR 'Stale Connection'\r\n", b"MSG a 1 x\r\n\r\n", b"MSG a 1\r\n"])
def test_what_is_not_understood_is_an_error(sent: bytes) -> None:
    with connected() as (future, end):
        greet(end)
        end.sendall(sent)
        with pytest.raises(ValueError):
            frames(future.result(), 1)


def test_a_server_that_ends_the_connection_is_an_error() -> None:
    with connected() as (future, end):
        greet(end)
        end.close()
        with pytest.raises(OSError):
            frames(future.result(), 1)


@pytest.mark.parametrize(
    "info", [b'INFO {"headers":true,"tls_required":true}\r\nPING\r\n', b"INFO {}\r\n", b"HTTP\r\n"]
)
def test_there_is_no_wire_to_a_server_that_wants_more(info: bytes) -> None:
    with connected(info) as (future, _), pytest.raises(ValueError):
        future.result()
