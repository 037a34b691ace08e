"""Appends over a wire of their own: the thread that appends sends, and reads the answer, by itself.

An append that is one message is tried here first, once.  Whatever is not an answer ends the wire, and
sending.py goes on over the loop.  The next wire is to the server that the loop's connection has by then.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from mq.nats.connection import REQUEST_SECONDS, Connection
from mq.nats.wire import Wire, place_of

AGAIN_SECONDS: Final = 10.0  # until another wire is tried, where none could be had
STATUS: Final = b"NATS/1.0 "  # begins the headers of the answer that no server has the stream at hand


class Direct:
    """Used by the thread that has the turn, but for `close`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wire: Wire | None = None
        self._number = 0  # of the last request
        self._again_at = 0.0  # monotonic seconds

    def ask(self, subject: str, data: bytes, headers: dict[str, str]) -> dict[str, Any] | None:
        """The answer; None if nothing was sent, or nothing took it.  OSError: sent, and no answer came."""
        wire = self._wire_at_hand() or self._new_wire()
        if wire is None:
            return None
        try:
            return self._ask(wire, subject, data, headers)
        except ValueError as error:  # no such thing is said by a server that has it
            self.close()
            raise OSError(str(error)) from error
        except BaseException:  # an answer that comes after this would be taken for the next one's
            self.close()
            raise

    def _ask(self, wire: Wire, subject: str, data: bytes, headers: dict[str, str]) -> dict[str, Any] | None:
        self._number += 1
        reply = f"{wire.inbox}.{self._number}".encode()
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        head = f"NATS/1.0\r\n{lines}\r\n".encode()
        wire.send(
            b"HPUB %b %b %d %d\r\n%b%b\r\n"
            % (subject.encode(), reply, len(head), len(head) + len(data), head, data)
        )
        give_up = time.monotonic() + REQUEST_SECONDS
        while (frame := wire.frame()) is None or frame.subject != reply:
            if frame is None:
                if not wire.wait(max(0.0, give_up - time.monotonic())):
                    raise TimeoutError("no answer")
                wire.read()
        return None if frame.headers.startswith(STATUS) else json.loads(frame.body)

    def _wire_at_hand(self) -> Wire | None:
        """The wire, unless the server has ended it; what it has said meanwhile is heard."""
        wire = self._wire
        if wire is None:
            return None
        try:
            wire.read()
            wire.frame()
        except BlockingIOError:  # nothing has come
            return wire
        except (OSError, ValueError):
            self.close()
        return self._wire

    def _new_wire(self) -> Wire | None:
        if time.monotonic() < self._again_at or (place := place_of(self._connection)) is None:
            return None
        try:
            self._wire = Wire(self._connection.address, place, ".*")
        except (OSError, ValueError):
            self._again_at = time.monotonic() + AGAIN_SECONDS
        return self._wire

    def close(self) -> None:
        """End the wire; the next request makes another one."""
        wire, self._wire = self._wire, None
        if wire:
            wire.close()
