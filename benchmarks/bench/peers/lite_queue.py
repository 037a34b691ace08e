"""litequeue: a queue in SQLite, one connection under a lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench.peer import Base, Durability, Guarantees, OneByOne, Peer, Waiting, installed, version_of
from benchmarks.bench.waiting import Bell

REMAINING = "SELECT rowid, data FROM [Queue] WHERE status = 0 AND rowid > ? ORDER BY rowid LIMIT 10000"


class LiteQueue(OneByOne, Waiting, Base):
    def __init__(self, directory: Path, durability: Durability, shared: bool) -> None:
        import litequeue

        self.bell = Bell(shared=shared)
        self._lock = threading.Lock()
        self._queue = litequeue.LiteQueue(str(directory / "queue.db"), timeout=60)
        if durability == "durable":
            self._queue.conn.execute("PRAGMA synchronous = FULL")  # NORMAL is the library's own

    def publish(self, body: bytes, /) -> None:
        with self._lock:
            self._queue.put(body)
        if self.bell.waiting:
            self.bell.ring()

    def publish_many(self, bodies: list[bytes], /) -> None:
        with self._lock, self._queue.transaction(mode="IMMEDIATE"):
            for body in bodies:
                self._queue.put(body)
        if self.bell.waiting:
            self.bell.ring()

    def take(self) -> Any:
        with self._lock:
            return self._queue.pop()

    def body(self, message: Any, /) -> bytes:
        body: bytes = message.data
        return body

    def ack(self, message: Any, /) -> None:
        with self._lock:
            self._queue.done(message.message_id)

    def ack_many(self, messages: Sequence[Any], /) -> None:
        with self._lock, self._queue.transaction(mode="IMMEDIATE"):
            for message in messages:
                self._queue.done(message.message_id)

    def tidy(self) -> None:
        with self._lock:
            self._queue.prune()

    def remaining(self) -> Iterator[bytes]:
        last = -1
        while rows := self._queue.conn.execute(REMAINING, (last,)).fetchall():
            last = rows[-1][0]
            yield from (row[1] for row in rows)

    def close(self) -> None:
        self._queue.close()


PEER = Peer(
    name="litequeue",
    title="litequeue",
    guarantees=Guarantees(
        on_return="with the kernel; durable: synchronous=FULL is set from outside",
        killed="nothing",
        power="nothing; OS-buffered: the last commits",
        processes="yes",
        redelivery="by hand (list_locked, retry)",
    ),
    open=LiteQueue,
    version=lambda: version_of("litequeue"),
    missing=lambda: installed("litequeue"),
    processes=True,
)
