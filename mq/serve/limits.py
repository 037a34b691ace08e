"""Limits: what one server lets its clients make it hold, and what a client is told that asks for more.

    connections    so many at once; fewer, if the system does not let this process have so many descriptors
    head           bytes of a request's line and headers (431), seconds until they are complete (closed)
    body           bytes, by its Content-Length or as it comes (413); seconds until it is complete (408)
    memory         bytes of all bodies together (503: try again)
    pipeline       requests that a client sends ahead; more of them close the connection
    slow reader    bytes of a long response that are taken in so many seconds; less closes the connection

How many requests are in flight needs no limit of its own: there is one on a connection, and a limit on
connections.  connection.py keeps to all this.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

HEAD_BYTES_MAX: Final = 64 << 10
PIPELINED_MAX: Final = 32
READ_BYTES_MIN: Final = 1 << 20
FILES_KEPT: Final = 256  # descriptors that connections leave to the store


@dataclass
class Limits:
    """*memory_bytes*: what the bodies hold now."""

    connections_max: int = 4096
    body_bytes_max: int = 8 << 20
    memory_bytes_max: int = 256 << 20
    head_seconds: float = 15.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            self.connections_max = min(self.connections_max, max(1, soft - FILES_KEPT))


def _refusal(status: int, phrase: str, text: str, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n{more}"
    return f"{head}content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}".encode()


REFUSALS: Final = {
    408: _refusal(408, "Request Timeout", "The body of the request took too long."),
    413: _refusal(413, "Content Too Large", "The body of the request is too long."),
    431: _refusal(431, "Request Header Fields Too Large", "The request head is too long."),
    503: _refusal(
        503, "Service Unavailable", "The server has too many requests in memory: try again.",
        "retry-after: 1\r\n",
    ),
}  # fmt: skip
"""Whole responses, by status."""
