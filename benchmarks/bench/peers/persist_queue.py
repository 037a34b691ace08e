"""persist-queue: its SQLiteAckQueue, the one that has acks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench.peer import Base, Durability, Guarantees, OneByOne, Peer, Waiting, installed, version_of
from benchmarks.bench.waiting import Bell

READY = (0, 1)  # AckStatus.inited, AckStatus.ready


class PersistQueue(OneByOne, Waiting, Base):
    """It waits by the bell: the library clears its event too late, and may sleep ten seconds then."""

    def __init__(self, directory: Path, durability: Durability, shared: bool) -> None:
        from persistqueue import SQLiteAckQueue
        from persistqueue.exceptions import Empty

        self.bell = Bell(shared=shared)
        self._empty: type[Exception] = Empty
        self._queue = SQLiteAckQueue(str(directory / "queue"), multithreading=True, auto_commit=True)
        if durability == "buffered":
            self._queue._putter.execute("PRAGMA synchronous = NORMAL")  # FULL is the library's own

    def publish(self, body: bytes, /) -> None:
        self._queue.put(body)
        if self.bell.waiting:
            self.bell.ring()

    def take(self) -> dict[str, Any] | None:
        try:
            message: dict[str, Any] = self._queue.get(block=False, raw=True)
        except self._empty:
            return None
        return message

    def body(self, message: dict[str, Any], /) -> bytes:
        body: bytes = message["data"]
        return body

    def ack(self, message: dict[str, Any], /) -> None:
        self._queue.ack(id=message["pqid"])

    def tidy(self) -> None:
        self._queue.clear_acked_data(max_delete=1_000_000, keep_latest=0)

    def remaining(self) -> Iterator[bytes]:
        return (row["data"] for row in self._queue.queue() if row["status"] in READY)

    def close(self) -> None:
        self._queue.close()


PEER = Peer(
    name="persist-queue",
    title="persist-queue",
    guarantees=Guarantees(
        on_return="yes (SQLite's default); OS-buffered: NORMAL is set from outside",
        killed="nothing",
        power="nothing; OS-buffered: the last commits",
        processes="no: two of them may get the same message",
        redelivery="when the store is opened again",
    ),
    open=PersistQueue,
    version=lambda: version_of("persist-queue"),
    missing=lambda: installed("persistqueue"),
)
