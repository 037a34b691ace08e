"""A connection for appends alone: the thread that appends sends, and reads the answer, by itself.

    a thread of the program ── HPUB ──► the server      no event loop in between, and no other thread
                            ◄── MSG ───

The way over the loop (connection.py) wakes two threads and some tasks, which takes longer than a server on
this network does.  So an append that is one message is tried here first.  This knows nothing of other servers
or of second attempts: whatever is not an answer ends this connection, and sending.py goes on over the loop.
The next one is made to the server that the loop's connection has by then.

With TLS, credentials or an nkey there is none: nats-py alone knows these.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from typing import Any, Final

from mq.nats.connection import REQUEST_SECONDS, Connection

CONNECT_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 10.0  # until another connection is tried, where none could be had
READ_BYTES: Final = 64 << 10
LINE_BYTES_MAX: Final = 1 << 20  # of what a server says of itself
STATUS: Final = b"NATS/1.0 "  # begins the answer that no server has the stream at hand


class Direct:
    """Used by the thread that has the turn, but for `close` and `after_fork`."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._address = connection, connection.address
        self._socket: socket.socket | None = None
        self._read = b""  # what has come, and is not used yet
        self._inbox = f"_INBOX.{os.urandom(12).hex()}"
        self._number = 0  # of the last request
        self._again_at = 0.0  # monotonic seconds
        self._is_usable = not self._address.secure and not self._address.files

    def ask(self, subject: str, data: bytes, headers: dict[str, str]) -> dict[str, Any] | None:
        """The answer; None if nothing was sent, or nothing took it.  OSError: sent, and no answer came."""
        if not self._is_usable or not self._is_connected():
            return None
        self._number += 1
        try:
            return self._ask(subject, data, headers, f"{self._inbox}.{self._number}")
        except ValueError as error:  # no such thing is said by a server that has it
            self.close()
            raise OSError(str(error)) from error
        except BaseException:  # an answer that comes after this would be taken for the next one's
            self.close()
            raise

    def _ask(self, subject: str, data: bytes, headers: dict[str, str], reply: str) -> dict[str, Any] | None:
        assert self._socket
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        head = f"NATS/1.0\r\n{lines}\r\n".encode()
        self._socket.settimeout(REQUEST_SECONDS)
        self._socket.sendall(
            b"HPUB %b %b %d %d\r\n%b%b\r\n"
            % (subject.encode(), reply.encode(), len(head), len(head) + len(data), head, data)
        )
        answer = self._answer(reply.encode())
        return None if answer.startswith(STATUS) else json.loads(answer)

    def _answer(self, reply: bytes) -> bytes:
        """What was answered there; ValueError if that is an error of the protocol."""
        while True:
            words = self._line().split()
            if words[:1] in ([b"MSG"], [b"HMSG"]):
                body = self._exactly(int(words[-1]) + 2)[:-2]
                if words[1] == reply:
                    return body
            else:
                self._hear(words)

    def _hear(self, words: list[bytes]) -> None:
        """What a server says by itself."""
        if words == [b"PING"]:
            assert self._socket
            self._socket.sendall(b"PONG\r\n")
        elif words[:1] not in ([b"PONG"], [b"INFO"], [b"+OK"]):
            raise ValueError(f"the server says {b' '.join(words)[:100]!r}")

    # ── being connected ────────────────────────────────────────────────────────────

    def _is_connected(self) -> bool:
        """Whether there is a connection; it is made, if one can be had."""
        if self._socket is not None and not self._is_over():
            return True
        if time.monotonic() < self._again_at:
            return False
        url = self._connection.nc.connected_url
        if url is None or url.hostname is None or url.port is None:
            return False
        try:
            self._connect(url.hostname, url.port)
        except (OSError, ValueError):
            self.close()
            self._again_at = time.monotonic() + AGAIN_SECONDS
            return False
        return True

    def _is_over(self) -> bool:
        """Whether the server has ended it; what it has said meanwhile is heard."""
        assert self._socket
        try:
            self._socket.settimeout(0.0)
            while more := self._socket.recv(READ_BYTES):
                self._read += more
        except BlockingIOError:
            if not self._read:
                return False
            with suppress(OSError, ValueError):
                self._socket.settimeout(REQUEST_SECONDS)
                self._hear_all()
                return False
        except OSError:
            pass
        self.close()
        return True

    def _hear_all(self) -> None:
        while self._read:
            self._hear(self._line().split())

    def _connect(self, host: str, port: int) -> None:
        self.close()
        self._socket = socket.create_connection((host, port), CONNECT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        word, _, text = self._line().partition(b" ")
        info = json.loads(text)
        if word != b"INFO" or info.get("tls_required") or not info.get("headers"):
            raise ValueError("it is none of those that can be used here")
        said = {
            "verbose": False, "pedantic": False, "lang": "python3", "version": "mq", "protocol": 1,
            "headers": True, "no_responders": True, "name": "mq appends", **self._secrets(),
        }  # fmt: skip
        self._socket.sendall(
            b"CONNECT %b\r\nSUB %b.* 1\r\nPING\r\n" % (json.dumps(said).encode(), self._inbox.encode())
        )
        while (words := self._line().split()) != [b"PONG"]:
            self._hear(words)

    def _secrets(self) -> dict[str, str]:
        address = self._address
        found = {"user": address.user, "pass": address.password, "auth_token": address.token}
        return {key: value for key, value in found.items() if value is not None}

    # ── bytes ──────────────────────────────────────────────────────────────────────

    def _line(self) -> bytes:
        while b"\r\n" not in self._read:
            if len(self._read) > LINE_BYTES_MAX:
                raise ValueError("it says too much")
            self._read += self._more()
        line, _, self._read = self._read.partition(b"\r\n")
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            self._read += self._more()
        found, self._read = self._read[:size], self._read[size:]
        return found

    def _more(self) -> bytes:
        assert self._socket
        if more := self._socket.recv(READ_BYTES):
            return more
        raise ConnectionResetError("the server has ended the connection")

    # ── leaving ────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """End this connection; the next request makes another one."""
        self._read = b""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    after_fork = close  # in a child: its own descriptor alone is closed, and the parent's connection stays
