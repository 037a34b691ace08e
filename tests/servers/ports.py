"""Ports of loopback that stay free for a server, however often it is started again."""

from __future__ import annotations

import socket


class Ports:
    """Ports that the kernel gives to no other program, though no server listens on them yet.

    A bound socket that does not listen keeps its port from all other programs, but not from a server that
    sets SO_REUSEADDR.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self) -> int:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self._held.append(held)
        return int(held.getsockname()[1])

    def close(self) -> None:
        for held in self._held:
            held.close()
