"""LMDB: for one process as the other key-value stores, for several with the leases in the store.

LMDB cannot leave out the disk for acks alone: durable, each of them waits too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Any

from benchmarks.bench.peer import (
    Base,
    Durability,
    Guarantees,
    Peer,
    Queue,
    Waiting,
    installed,
    version_of,
)
from benchmarks.bench.peers.ordered import KEY, OrderedQueue, Pair, Pairs
from benchmarks.bench.waiting import Bell

MAP_BYTES = 64 << 30  # of addresses; the file grows with what is in it
LEASE = Struct("<d")
LEASE_SECONDS = 30.0
LOOK_SECONDS = 1.0  # between two looks for leases that are over


def environment(directory: Path, durability: Durability) -> Any:
    import lmdb

    path = str(directory / "lmdb")
    return lmdb.open(path, map_size=MAP_BYTES, max_dbs=2, sync=durability == "durable")


class LmdbPairs(Pairs):
    def __init__(self, env: Any) -> None:
        self._env = env

    def put(self, key: bytes, value: bytes) -> None:
        with self._env.begin(write=True) as txn:
            txn.put(key, value)

    def put_many(self, pairs: list[Pair]) -> None:
        with self._env.begin(write=True) as txn:
            txn.cursor().putmulti(pairs)

    def get(self, key: bytes) -> bytes:
        with self._env.begin() as txn:
            value: bytes = txn.get(key)
        return value

    def delete(self, key: bytes) -> None:
        with self._env.begin(write=True) as txn:
            txn.delete(key)

    def delete_many(self, keys: list[bytes]) -> None:
        with self._env.begin(write=True) as txn:
            for key in keys:
                txn.delete(key)

    def last(self) -> bytes | None:
        with self._env.begin() as txn:
            cursor = txn.cursor()
            return bytes(cursor.key()) if cursor.last() else None

    def chunk(self, after: bytes, upto: bytes, limit: int) -> list[Pair]:
        with self._env.begin() as txn:
            cursor = txn.cursor()
            if not cursor.set_range(after):
                return []
            pairs = islice(cursor.iternext(), limit + 1)
            return [pair for pair in pairs if after < pair[0] <= upto][:limit]

    def close(self) -> None:
        self._env.close()


class SharedQueue(Waiting, Base):
    """A message moves from `ready` to `leased`, in the same transaction for all processes."""

    def __init__(self, env: Any) -> None:
        self.bell = Bell(shared=True)
        self._env = env
        self._ready, self._leased = (env.open_db(name) for name in (b"ready", b"leased"))
        self._look_at = time.monotonic() + LOOK_SECONDS

    def publish(self, body: bytes, /) -> None:
        self.publish_many([body])

    def publish_many(self, bodies: list[bytes], /) -> None:
        with self._env.begin(write=True) as txn:
            number = max(self._last(txn, self._ready), self._last(txn, self._leased)) + 1
            pairs = [(KEY.pack(number + index), body) for index, body in enumerate(bodies)]
            txn.cursor(self._ready).putmulti(pairs, append=True)
        if self.bell.waiting:
            self.bell.ring()

    @staticmethod
    def _last(txn: Any, db: Any) -> int:
        cursor = txn.cursor(db)
        return int(KEY.unpack(cursor.key())[0]) if cursor.last() else 0

    def take(self) -> Pair | None:
        found = self.receive_many(1)
        return found[0] if found else None

    def receive_many(self, limit: int, /) -> list[Pair]:
        self._look()
        with self._env.begin() as txn:  # reading needs no lock
            if not txn.cursor(self._ready).first():
                return []
        until = LEASE.pack(time.time() + LEASE_SECONDS)
        found: list[Pair] = []
        with self._env.begin(write=True) as txn:
            cursor = txn.cursor(self._ready)
            there = cursor.first()
            while there and len(found) < limit:
                key, body = cursor.item()
                txn.put(key, until + body, db=self._leased)
                found.append((key, body))
                there = cursor.delete()
        return found

    def _look(self) -> None:
        if time.monotonic() < self._look_at:
            return
        self._look_at, now = time.monotonic() + LOOK_SECONDS, time.time()
        with self._env.begin() as txn:
            over = [pair for pair in txn.cursor(self._leased) if LEASE.unpack_from(pair[1])[0] < now]
        if over:
            with self._env.begin(write=True) as txn:
                for key, leased in over:
                    if txn.delete(key, db=self._leased):
                        txn.put(key, leased[LEASE.size :], db=self._ready)

    def body(self, message: Pair, /) -> bytes:
        return message[1]

    def ack(self, message: Pair, /) -> None:
        self.ack_many([message])

    def ack_many(self, messages: Sequence[Pair], /) -> None:
        with self._env.begin(write=True) as txn:
            for key, _ in messages:
                txn.delete(key, db=self._leased)

    def remaining(self) -> Iterator[bytes]:
        with self._env.begin() as txn:
            for _, body in txn.cursor(self._ready):
                yield body

    def close(self) -> None:
        self._env.close()


def open_queue(directory: Path, durability: Durability, shared: bool) -> Queue:
    env = environment(directory, durability)
    return SharedQueue(env) if shared else OrderedQueue(LmdbPairs(env))


PEER = Peer(
    name="lmdb",
    title="LMDB",
    guarantees=Guarantees(
        on_return="yes, and each ack too; OS-buffered (sync=False): with the kernel",
        killed="nothing",
        power="nothing; OS-buffered: perhaps the whole database, which may be damaged",
        processes="yes",
        redelivery="after its lease (several processes), or when the store is opened again (one)",
    ),
    open=open_queue,
    version=lambda: version_of("lmdb"),
    missing=lambda: installed("lmdb"),
    processes=True,
)
