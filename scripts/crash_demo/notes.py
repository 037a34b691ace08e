"""Notes: what a worker saw happen, in a file beside the store that mq knows nothing of.

Each note is one line, written to the kernel before the worker goes on, so that it outlives
the worker as surely as the store claims to.

    published   <line of the input> <id> <digest>     after publish returned
    consumed    got <id> <attempts> <digest>          before the ack
                acked <id>                            after ack returned
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Notes:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._counted_bytes = self.count = 0

    def add(self, *words: object) -> None:
        os.write(self._fd, " ".join(map(str, words)).encode() + b"\n")

    def look(self) -> int:
        """How many notes there are by now."""
        while fresh := os.pread(self._fd, 1 << 16, self._counted_bytes):
            self._counted_bytes += len(fresh)
            self.count += fresh.count(b"\n")
        return self.count

    def read(self) -> list[list[str]]:
        """All notes.  One that the kill cut short never happened, and is cut off."""
        text = self.path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self.path, whole)
            self._counted_bytes = min(self._counted_bytes, whole)
        return [line.split() for line in text[:whole].decode().splitlines()]
