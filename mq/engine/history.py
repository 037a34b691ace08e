"""Reading back what a topic retains: a part at a time, while others publish and what is over is dropped.

    look   in a turn   which messages come next, some hundred ids and positions; what is over is left out
    read   beside it   their bodies, a block of the log at once

A message may move, or be dropped, between the two.  Then it is looked up again, or left out.  Ids ascend,
and each part begins behind the last id of the one before: nothing comes twice, or out of order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple

from mq.delivery import records
from mq.delivery.backlog import Backlog
from mq.delivery.queue import QueueState
from mq.delivery.retention import first_since
from mq.delivery.traits import PLAIN, Flight
from mq.engine.bodies import more_of
from mq.engine.looking import Shown
from mq.engine.operation import operation
from mq.engine.store import Store

PART_IDS: Final = 1024  # looked up in one turn
KINDS: Final = (records.FANOUT, records.RELOCATE, records.RELOCATE_FANOUT)  # of the records that hold a body


class Wanted(NamedTuple):
    """Which messages of a topic: the first *limit* of those behind an id, or since a time."""

    after: int | None  # an id; None: not asked for
    since_ms: int | None  # wall time; None: not asked for
    limit: int | None  # None: all; without the others, the last ones


class Retained(NamedTuple):
    """A message as its record holds it."""

    id: int
    position: int
    flags: int
    created_ms: int
    published: bytes


class Cursor:
    """How far one reader has come."""

    def __init__(self, topic: str, wanted: Wanted) -> None:
        self.topic = topic
        self._wanted, self._left = wanted, wanted.limit
        self._after: int | None = None  # the id of the last one that was found; None: not begun
        self.before = 0  # what is published from here on is not read
        self.unwanted = 0  # the newest id that is retained, and too old to be wanted; 0: none
        self._held: QueueState | None = None
        self._ids: Sequence[int] = ()  # found, and to be read
        self._positions: Sequence[int] = ()
        self._at = 0  # of those, how many were read
        self._kind = 0  # of the record that was read last: an index of KINDS

    def read_on(self, store: Store) -> list[Retained]:
        """The next messages, as many as stand in one block of the log; none: that was all."""
        while True:
            if self._at >= len(self._ids):
                store.turn.look(partial(self._look, store))
                if not self._ids:
                    return []
            if found := self._read(store):
                if self._left is not None:
                    self._left -= len(found)
                return found

    def _look(self, store: Store) -> None:
        """Find out which ones come next; called in a turn."""
        self._ids, self._positions, self._at = (), (), 0
        held = self._held = store.replica.state.topic(self.topic)
        if held is None or self._left == 0:
            return
        waiting = held.waiting
        begin = store.committer.first_retained(held)
        if self._after is None:
            self._after, self.before = 0, store.replica.log.end
            first, begin = begin, self._begin(store, held, begin)
            self.unwanted = before(waiting, first, begin)
        else:
            begin = max(begin, waiting.rank(self._after + 1))
        count = PART_IDS if self._left is None else min(self._left, PART_IDS)
        ids, positions = waiting.slice(begin, max(0, min(count, waiting.rank(self.before) - begin)))
        if ids:
            self._ids, self._positions, self._after = ids, positions, ids[-1]

    def _begin(self, store: Store, held: QueueState, first: int) -> int:
        """The index of the first message that is wanted; *first*: of the first one that is retained."""
        after, since_ms, limit = self._wanted
        if after is not None:
            return max(first, held.waiting.rank(after + 1))
        if since_ms is not None:
            return first_since(held.waiting, since_ms, partial(store.committer.created_of, held), first)
        return first if limit is None else max(first, len(held.waiting) - limit)

    def _read(self, store: Store) -> list[Retained]:
        """Of those that were found, the next ones; none: the next one is gone."""
        at, reader = self._at, store.replica.log.reader
        for _ in KINDS:
            kind = KINDS[self._kind]
            flags, times, payloads = reader.read_run(self._positions, at, kind)
            if count := len(flags):
                self._at += count
                ids, positions = self._ids[at : at + count], self._positions[at : at + count]
                if kind == records.FANOUT:
                    published = map(records.fanned, payloads)
                    return list(map(Retained, ids, positions, flags, times, published))
                found = map(records.published_of, repeat(kind), flags, times, payloads)
                return [
                    Retained(id, position, flag, *created_and_published)
                    for id, position, flag, created_and_published in zip(
                        ids, positions, flags, found, strict=True
                    )
                ]
            self._kind = (self._kind + 1) % len(KINDS)
        # Not in one block, or moved since, or damaged.
        assert self._held
        id, position = self._ids[at], self._positions[at]
        self._at += 1
        read = store.replica.read(self._held, id, position)
        return [Retained(id, position, *read)] if read else []


def before(waiting: Backlog, first: int, begin: int) -> int:
    """The id before index *begin*, if that is behind *first*; else 0."""
    return waiting.slice(begin - 1, 1)[0][0] if first < begin else 0


def read(store: Store, topic: str, wanted: Wanted) -> Iterator[Shown]:
    """What is retained of *topic*, the oldest first; what is published once this has begun is left out."""
    cursor = Cursor(topic, wanted)
    while found := read_on(store, cursor):
        for id, position, flags, created_ms, published in found:
            raw, more = more_of(flags, published, PLAIN)
            yield Shown(id, Flight(0, 0, 0, position), flags, created_ms, raw, more, "ready")


@operation
def read_on(store: Store, cursor: Cursor) -> list[Retained]:
    return cursor.read_on(store)
