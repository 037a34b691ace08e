"""The least that makes a queue of an ordered key-value store that one process has open.

- The key is a number that grows; the value is the body.  Publishing is a put, an ack a delete.
- The keys of what was published since the opening are in a deque, in the order in which their puts returned,
  so that threads may put at the same time.  What was there before is read in chunks.
- A received message stays in the store until its ack: it comes back when the store is opened again.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from struct import Struct

from benchmarks.bench.peer import Base, Waiting
from benchmarks.bench.waiting import Bell

KEY = Struct(">Q")
FIRST = KEY.pack(0)
LAST = KEY.pack((1 << 64) - 1)
CHUNK = 1000

Pair = tuple[bytes, bytes]


class Pairs(ABC):
    """An ordered key-value store.  A put of one that is to be durable is on the disk when it returns."""

    @abstractmethod
    def put(self, key: bytes, value: bytes) -> None: ...
    @abstractmethod
    def put_many(self, pairs: list[Pair]) -> None: ...
    @abstractmethod
    def get(self, key: bytes) -> bytes: ...
    @abstractmethod
    def delete(self, key: bytes) -> None: ...
    @abstractmethod
    def delete_many(self, keys: list[bytes]) -> None: ...
    @abstractmethod
    def last(self) -> bytes | None:
        """The largest key."""

    @abstractmethod
    def chunk(self, after: bytes, upto: bytes, limit: int) -> list[Pair]:
        """The first *limit* pairs with after < key ≤ upto."""

    @abstractmethod
    def close(self) -> None: ...


class OrderedQueue(Waiting, Base):
    def __init__(self, pairs: Pairs) -> None:
        self.bell = Bell(shared=False)
        self._pairs = pairs
        last = pairs.last() or FIRST
        self._numbers = count(KEY.unpack(last)[0] + 1)
        self._ready: deque[bytes] = deque()
        self._lock = threading.Lock()  # of the backlog
        self._backlog: Iterator[Pair] | None = self._chunks(last)

    def _chunks(self, upto: bytes) -> Iterator[Pair]:
        after = FIRST
        while pairs := self._pairs.chunk(after, upto, CHUNK):
            after = pairs[-1][0]
            yield from pairs

    def publish(self, body: bytes, /) -> None:
        key = KEY.pack(next(self._numbers))
        self._pairs.put(key, body)
        self._ready.append(key)
        if self.bell.waiting:
            self.bell.ring()

    def publish_many(self, bodies: list[bytes], /) -> None:
        pairs = [(KEY.pack(next(self._numbers)), body) for body in bodies]
        self._pairs.put_many(pairs)
        self._ready.extend([key for key, _ in pairs])
        if self.bell.waiting:
            self.bell.ring()

    def take(self) -> Pair | None:
        if self._backlog is not None:
            with self._lock:
                for pair in self._backlog or ():
                    return pair
                self._backlog = None
        try:
            key = self._ready.popleft()
        except IndexError:
            return None
        return key, self._pairs.get(key)

    def receive_many(self, limit: int, /) -> list[Pair]:
        found: list[Pair] = []
        while len(found) < limit and (pair := self.take()) is not None:
            found.append(pair)
        return found

    def body(self, message: Pair, /) -> bytes:
        return message[1]

    def ack(self, message: Pair, /) -> None:
        self._pairs.delete(message[0])

    def ack_many(self, messages: Sequence[Pair], /) -> None:
        self._pairs.delete_many([key for key, _ in messages])

    def remaining(self) -> Iterator[bytes]:
        return (body for _, body in self._chunks(LAST))

    def close(self) -> None:
        self._pairs.close()
