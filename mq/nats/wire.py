"""A connection to a server without nats-py: what is sent and read all the time goes over these.

    appends     the thread that appends sends, and reads the answer, by itself (direct.py)
    arrivals    what the stream delivers, read by the thread that has a turn, or as it comes (arrivals.py)

nats-py hands each message through two tasks and a queue, and a thread that asks it for something wakes the
loop's thread and is woken by it: that takes longer than a server on this network.  This is a small part of
the protocol (docs.nats.io, "client protocol") and nothing else: no second server, no reconnecting.  Whatever
is not as expected ends a wire, and nats-py is there for all that follows.

TLS is Python's, and begins where the server asks for it, or the address does.  Credentials and nkeys are read
by nats-py, which signs what the server gives each connection to sign.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from nats.errors import Error as NatsError

from mq.nats.address import Address
from mq.nats.connection import Connection

CONNECT_SECONDS: Final = 2.0
SEND_SECONDS: Final = 2.0
READ_BYTES: Final = 256 << 10
LINE_BYTES_MAX: Final = 1 << 20
END: Final = b"\r\n"
BUSY: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
QUIET: Final = frozenset({b"PONG", b"INFO", b"+OK"})  # what a server says, and nothing is to be done


class Place(NamedTuple):
    """A server, as the connection of nats-py has found it."""

    host: str
    port: int
    name: str  # that its certificate has
    context: Callable[[], ssl.SSLContext]
    sign: Callable[[str], dict[str, str]]  # what a client says of itself to a server that gives it this


class Frame(NamedTuple):
    """A message of the server's."""

    subject: bytes
    reply: bytes  # b"": none
    headers: bytes  # as they came, with their first line; b"": none
    body: bytes


class Wire:
    """Used by one thread at a time."""

    def __init__(self, address: Address, place: Place, below: str = "") -> None:
        """Connect, and hear what is sent to `inbox` or, with ".*", below.  OSError, ValueError: no wire.

        Where a stream delivers to has to be the very subject that is heard.
        """
        self.inbox = f"_INBOX.{os.urandom(12).hex()}"
        self._read = bytearray()  # what has come, and is not used yet
        self.socket = socket.create_connection((place.host, place.port), CONNECT_SECONDS)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._introduce(address, place, self.inbox + below)
            # From here on nothing but `wait` waits: with a time limit each step would ask the system twice.
            self.socket.setblocking(False)
            self._in, self._out = select.poll(), select.poll()
            self._in.register(self.socket, select.POLLIN)
            self._out.register(self.socket, select.POLLOUT)
        except BaseException:
            self.socket.close()
            raise

    def _introduce(self, address: Address, place: Place, subject: str) -> None:
        while (line := self._line()) is None:
            self.read()
        word, _, text = line.partition(b" ")
        info = json.loads(text)
        if word != b"INFO" or not info.get("headers"):
            raise ValueError("it is none of those that can be used here")
        if info.get("tls_required") or address.secure:
            if self._read:
                raise ValueError("it says more than is to be said in the clear")
            self.socket = place.context().wrap_socket(self.socket, server_hostname=place.name)
        secrets = {"user": address.user, "pass": address.password, "auth_token": address.token}
        if "nonce" in info:
            secrets |= place.sign(info["nonce"])
        said = {
            "verbose": False, "pedantic": False, "lang": "python3", "version": "mq", "protocol": 1,
            "headers": True, "no_responders": True, "name": "mq wire",
            **{key: value for key, value in secrets.items() if value is not None},
        }  # fmt: skip
        self.send(f"CONNECT {json.dumps(said)}\r\nSUB {subject} 1\r\nPING\r\n".encode())
        while (line := self._line()) != b"PONG":
            if line is None:
                self.read()
            else:
                self._hear(line)

    def send(self, data: bytes) -> None:
        """OSError: there is no connection, or none that takes it."""
        sent = 0
        while sent < len(data):
            try:
                sent += self.socket.send(data[sent:] if sent else data)
            except BUSY:
                if not self._out.poll(SEND_SECONDS * 1000):
                    raise TimeoutError("the server takes nothing") from None

    def wait(self, seconds: float) -> bool:
        """Whether something has come by then, or the connection has ended."""
        return bool(self._in.poll(seconds * 1000))

    def read(self) -> None:
        """Have what has come.  BlockingIOError: nothing; another OSError: there is no connection."""
        try:
            more = self.socket.recv(READ_BYTES)
        except BUSY as error:
            raise BlockingIOError from error
        if not more:
            raise ConnectionResetError("the server has ended the connection")
        self._read += more

    def frame(self) -> Frame | None:
        """The next message, if it has come; ValueError if the server says what it does not say to this."""
        while (line := self._line(keep=True)) is not None:
            verb, *words = line.split() or [b""]
            if verb not in (b"MSG", b"HMSG"):
                del self._read[: len(line) + len(END)]
                self._hear(line)
                continue
            subject, _, *reply, size = words
            begin = body = len(line) + len(END)
            stop = begin + int(size)
            if len(self._read) < stop + len(END):
                return None
            if verb == b"HMSG":
                body += int(reply.pop())
            found = Frame(
                subject, b"".join(reply), bytes(self._read[begin:body]), bytes(self._read[body:stop])
            )
            del self._read[: stop + len(END)]
            return found
        return None

    def _line(self, *, keep: bool = False) -> bytes | None:
        at = self._read.find(END)
        if at < 0:
            if len(self._read) > LINE_BYTES_MAX:
                raise ValueError("it says too much")
            return None
        line = bytes(self._read[:at])
        if not keep:
            del self._read[: at + len(END)]
        return line

    def _hear(self, line: bytes) -> None:
        """What a server says by itself."""
        word = line.partition(b" ")[0]
        if word == b"PING":
            self.send(b"PONG\r\n")
        elif word not in QUIET:
            raise ValueError(f"the server says {line[:100]!r}")

    def close(self) -> None:
        """In the child of a fork this closes the child's own descriptor: the parent's connection stays."""
        self.socket.close()


def place_of(connection: Connection) -> Place | None:
    """The server that *connection* has now."""
    nc: Any = connection.nc
    url = nc.connected_url
    if url is None or not url.hostname or not url.port:
        return None
    # What has an underscore may be missing in another version: then the server refuses the wire.
    name = getattr(getattr(nc, "_current_server", None), "tls_name", None) or url.hostname
    return Place(url.hostname, url.port, name, lambda: nc.ssl_context, lambda nonce: _signed(nc, nonce))


def _signed(nc: Any, nonce: str) -> dict[str, str]:
    """What *nc* says of itself to a server that gives this *nonce*, if it has credentials or an nkey."""
    sign, token, key = (getattr(nc, name, None) for name in ("_signature_cb", "_user_jwt_cb", "_public_nkey"))
    if sign is None:
        return {}
    from nkeys import NkeysError  # which nats-py has loaded, too

    try:
        found = {"sig": sign(nonce).decode()}
        if token:
            return found | {"jwt": token().decode()}
        return found | {"nkey": key} if key else found
    except (NkeysError, NatsError) as error:  # the file has changed
        raise ValueError(str(error)) from error
