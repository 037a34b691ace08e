"""A queue in SQLite, by the rules of SQLite: one statement an operation, partial indexes, WAL.

- A receive is one UPDATE … RETURNING that moves the message from one partial index to the other.
- The threads of a process share a connection under a lock: one writer at a time is what SQLite allows
  anyway, and a lock wakes the next one at once, where SQLite's own waiting naps.
- Durable: publishes commit with synchronous=FULL, on a connection of their own; receives and acks with
  NORMAL, which a power cut may undo but never damages.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.bench.peer import Base, Durability, Guarantees, Peer, Waiting
from benchmarks.bench.waiting import Bell

Message = tuple[int, bytes]

LEASE_SECONDS = 30.0
LOOK_SECONDS = 1.0  # between two looks for leases that are over
SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY,
    body BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    lease REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS waiting ON message (id) WHERE lease = 0;
CREATE INDEX IF NOT EXISTS leased ON message (lease) WHERE lease > 0;
"""
PUBLISH = "INSERT INTO message (body) VALUES (?)"
IS_THERE = "SELECT 1 FROM message WHERE lease = 0 LIMIT 1"
RECEIVE = """
UPDATE message SET lease = ?, attempts = attempts + 1
WHERE id = (SELECT id FROM message WHERE lease = 0 ORDER BY id LIMIT 1) RETURNING id, body
"""
RECEIVE_MANY = """
UPDATE message SET lease = ?, attempts = attempts + 1
WHERE id IN (SELECT id FROM message WHERE lease = 0 ORDER BY id LIMIT ?) RETURNING id, body
"""
ACK = "DELETE FROM message WHERE id = ?"
IS_OVER = "SELECT 1 FROM message WHERE lease > 0 AND lease < ? LIMIT 1"
GIVE_BACK = "UPDATE message SET lease = 0 WHERE lease > 0 AND lease < ?"
REMAINING = "SELECT id, body FROM message WHERE lease = 0 AND id > ? ORDER BY id LIMIT 10000"


class SqliteQueue(Waiting, Base):
    def __init__(self, directory: Path, durability: Durability, shared: bool, rest: str = "NORMAL") -> None:
        self.bell = Bell(shared=shared)
        self._lock = threading.Lock()
        self._path = directory / "queue.db"
        self._db = self._publisher = self._connect(rest)
        if durability == "durable":
            self._publisher = self._connect("FULL")
        self._was_empty = False
        self._look_at = time.monotonic() + LOOK_SECONDS

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute("PRAGMA cache_size = -65536")
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        return db

    def publish(self, body: bytes, /) -> None:
        with self._lock:
            self._publisher.execute(PUBLISH, (body,))
        if self.bell.waiting:
            self.bell.ring()

    def publish_many(self, bodies: list[bytes], /) -> None:
        with self._lock, self._publisher:
            self._publisher.execute("BEGIN IMMEDIATE")
            self._publisher.executemany(PUBLISH, [(body,) for body in bodies])
        if self.bell.waiting:
            self.bell.ring()

    def take(self) -> Message | None:
        with self._lock:
            if self._is_idle():
                return None
            found = self._db.execute(RECEIVE, (time.time() + LEASE_SECONDS,)).fetchall()
        self._was_empty = not found
        return found[0] if found else None

    def receive_many(self, limit: int, /) -> list[Message]:
        with self._lock:
            if self._is_idle():
                return []
            found = self._db.execute(RECEIVE_MANY, (time.time() + LEASE_SECONDS, limit)).fetchall()
        self._was_empty = not found
        return sorted(found)

    def _is_idle(self) -> bool:
        """There was nothing, and there is nothing: seen without the lock for writing that an UPDATE takes."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            if self._db.execute(IS_OVER, (time.time(),)).fetchall():
                self._db.execute(GIVE_BACK, (time.time(),))
        return self._was_empty and not self._db.execute(IS_THERE).fetchall()

    def body(self, message: Message, /) -> bytes:
        return message[1]

    def ack(self, message: Message, /) -> None:
        with self._lock:
            self._db.execute(ACK, (message[0],))

    def ack_many(self, messages: Sequence[Message], /) -> None:
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(ACK, [(id,) for id, _ in messages])

    def remaining(self) -> Iterator[bytes]:
        last = -1
        while rows := self._db.execute(REMAINING, (last,)).fetchall():
            last = rows[-1][0]
            yield from (body for _, body in rows)

    def close(self) -> None:
        self._db.close()
        self._publisher.close()


def open_off(directory: Path, durability: Durability, shared: bool) -> SqliteQueue:
    return SqliteQueue(directory, durability, shared, rest="OFF")


PEER = Peer(
    name="sqlite3",
    title="sqlite3",
    guarantees=Guarantees(
        on_return="yes with synchronous=FULL, else (NORMAL) with the kernel",
        killed="nothing",
        power="nothing; OS-buffered: the last commits",
        processes="yes",
        redelivery="after its lease, with attempts counted",
    ),
    open=SqliteQueue,
    version=lambda: sqlite3.sqlite_version,
    processes=True,
)

OFF = replace(
    PEER,
    name="sqlite3-off",
    title="sqlite3, OFF",
    guarantees=PEER.guarantees._replace(
        on_return="no: with the kernel (synchronous=OFF)",
        power="perhaps the whole database, which may be damaged",
    ),
    open=open_off,
    durabilities=("buffered",),
)
