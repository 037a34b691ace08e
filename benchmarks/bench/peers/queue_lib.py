"""queuelib's FifoDiskQueue, under a lock: the library is for one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench.peer import Base, Durability, Guarantees, OneByOne, Peer, Waiting, installed, version_of
from benchmarks.bench.waiting import Bell


class QueueLib(OneByOne, Waiting, Base):
    """A pop takes for good: there is nothing to ack."""

    def __init__(self, directory: Path, durability: Durability, shared: bool) -> None:
        from queuelib import FifoDiskQueue

        self.bell = Bell(shared=shared)
        self._lock = threading.Lock()
        self._queue = FifoDiskQueue(str(directory / "queue"))

    def publish(self, body: bytes, /) -> None:
        with self._lock:
            self._queue.push(body)
        if self.bell.waiting:
            self.bell.ring()

    def take(self) -> bytes | None:
        with self._lock:
            body: bytes | None = self._queue.pop()
        return body

    def body(self, message: bytes, /) -> bytes:
        return message

    def ack(self, message: bytes, /) -> None:
        return None

    def remaining(self) -> Iterator[bytes]:
        return iter(self.take, None)

    def close(self) -> None:
        self._queue.close()


PEER = Peer(
    name="queuelib",
    title="queuelib",
    guarantees=Guarantees(
        on_return="no: it is known from the next close on",
        killed="all that was published since it was opened",
        power="the same, or more",
        processes="no",
        redelivery="none",
    ),
    open=QueueLib,
    version=lambda: version_of("queuelib"),
    missing=lambda: installed("queuelib"),
    durabilities=("buffered",),
    survives=False,
    acks=False,
)
