"""LevelDB, by plyvel."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from benchmarks.bench.peer import Durability, Guarantees, Peer, installed, version_of
from benchmarks.bench.peers.ordered import OrderedQueue, Pair, Pairs


class LevelPairs(Pairs):
    def __init__(self, path: Path, *, sync: bool) -> None:
        import plyvel

        self._db = plyvel.DB(str(path), create_if_missing=True)
        self._sync = sync

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value, sync=self._sync)

    def put_many(self, pairs: list[Pair]) -> None:
        with self._db.write_batch(sync=self._sync) as batch:
            for key, value in pairs:
                batch.put(key, value)

    def get(self, key: bytes) -> bytes:
        value: bytes = self._db.get(key)
        return value

    def delete(self, key: bytes) -> None:
        self._db.delete(key)

    def delete_many(self, keys: list[bytes]) -> None:
        with self._db.write_batch() as batch:
            for key in keys:
                batch.delete(key)

    def last(self) -> bytes | None:
        with self._db.iterator(reverse=True, include_value=False) as keys:
            return next(keys, None)

    def chunk(self, after: bytes, upto: bytes, limit: int) -> list[Pair]:
        with self._db.iterator(start=after, stop=upto, include_start=False, include_stop=True) as pairs:
            return list(islice(pairs, limit))

    def close(self) -> None:
        self._db.close()


def open_queue(directory: Path, durability: Durability, shared: bool) -> OrderedQueue:
    return OrderedQueue(LevelPairs(directory / "leveldb", sync=durability == "durable"))


PEER = Peer(
    name="leveldb",
    title="LevelDB",
    guarantees=Guarantees(
        on_return="yes with sync=True, else with the kernel",
        killed="nothing",
        power="nothing; OS-buffered: the last writes",
        processes="no",
        redelivery="when the store is opened again",
    ),
    open=open_queue,
    version=lambda: f"plyvel {version_of('plyvel')}",
    missing=lambda: installed("plyvel"),
)
