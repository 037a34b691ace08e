"""huey's SQLite storage: what its workers take tasks from, without the tasks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.bench.peer import Base, Durability, Guarantees, OneByOne, Peer, Waiting, installed, version_of
from benchmarks.bench.waiting import Bell


class HueyStorage(OneByOne, Waiting, Base):
    """A dequeue deletes: there is nothing to ack."""

    def __init__(self, directory: Path, durability: Durability, shared: bool) -> None:
        from huey.storage import SqliteStorage

        self.bell = Bell(shared=shared)
        path = str(directory / "huey.db")
        self._storage = SqliteStorage("bench", filename=path, fsync=durability == "durable", timeout=60)

    def publish(self, body: bytes, /) -> None:
        self._storage.enqueue(body)
        if self.bell.waiting:
            self.bell.ring()

    def take(self) -> bytes | None:
        body: bytes | None = self._storage.dequeue()
        return body

    def body(self, message: bytes, /) -> bytes:
        return message

    def ack(self, message: bytes, /) -> None:
        return None

    def remaining(self) -> Iterable[bytes]:
        bodies: list[bytes] = self._storage.enqueued_items()
        return bodies

    def close(self) -> None:
        self._storage.close()


PEER = Peer(
    name="huey",
    title="huey's SqliteStorage",
    guarantees=Guarantees(
        on_return="yes with fsync=True, else (synchronous=OFF) with the kernel",
        killed="what was received: it is deleted then",
        power="the same; OS-buffered: perhaps the whole database, which may be damaged",
        processes="yes",
        redelivery="none",
    ),
    open=HueyStorage,
    version=lambda: version_of("huey"),
    missing=lambda: installed("huey"),
    processes=True,
    acks=False,
)
