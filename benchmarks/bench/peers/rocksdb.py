"""RocksDB, by rocksdict."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from benchmarks.bench.peer import Durability, Guarantees, Peer, installed, version_of
from benchmarks.bench.peers.ordered import OrderedQueue, Pair, Pairs


class RocksPairs(Pairs):
    def __init__(self, path: Path, *, sync: bool) -> None:
        from rocksdict import Options, Rdict, WriteBatch, WriteOptions

        self._db = Rdict(str(path), Options(raw_mode=True))
        self._batch = WriteBatch
        self._published, self._acked = WriteOptions(), WriteOptions()
        self._published.sync = sync

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value, self._published)

    def put_many(self, pairs: list[Pair]) -> None:
        batch = self._batch(raw_mode=True)
        for key, value in pairs:
            batch.put(key, value)
        self._db.write(batch, self._published)

    def get(self, key: bytes) -> bytes:
        value: bytes = self._db.get(key)
        return value

    def delete(self, key: bytes) -> None:
        self._db.delete(key, self._acked)

    def delete_many(self, keys: list[bytes]) -> None:
        batch = self._batch(raw_mode=True)
        for key in keys:
            batch.delete(key)
        self._db.write(batch, self._acked)

    def last(self) -> bytes | None:
        return next(iter(self._db.keys(backwards=True)), None)

    def chunk(self, after: bytes, upto: bytes, limit: int) -> list[Pair]:
        pairs = islice(self._db.items(from_key=after), limit + 1)
        return [pair for pair in pairs if after < pair[0] <= upto][:limit]

    def close(self) -> None:
        self._db.close()


def open_queue(directory: Path, durability: Durability, shared: bool) -> OrderedQueue:
    return OrderedQueue(RocksPairs(directory / "rocksdb", sync=durability == "durable"))


PEER = Peer(
    name="rocksdb",
    title="RocksDB",
    guarantees=Guarantees(
        on_return="yes with sync=True, else with the kernel",
        killed="nothing",
        power="nothing; OS-buffered: the last writes",
        processes="no",
        redelivery="when the store is opened again",
    ),
    open=open_queue,
    version=lambda: f"rocksdict {version_of('rocksdict')}",
    missing=lambda: installed("rocksdict"),
)
