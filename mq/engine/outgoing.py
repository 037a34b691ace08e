"""What a store holds, to be put into another one: read a part at a time, and nothing is taken.

    look   in a turn   which messages come next, by their ids, and what the state knows of them
    read   beside it   their bodies, one at a time

Ids ascend, and each part begins behind the last id of the one before.  So what was read once is known by
one number, and all that is held at once is a part of the ids and one body.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from msgspec.structs import replace

from mq.delivery import records
from mq.delivery.attributes import NO_ATTRIBUTES
from mq.delivery.options import TOPIC_KEY, Declaration
from mq.delivery.queue import QueueState, State
from mq.delivery.schedules import Schedule
from mq.delivery.state import declaration_of
from mq.delivery.traits import PLAIN
from mq.delivery.transfer import Parcel, following, tried
from mq.delivery.under_way import DESTINATION, MOVER, UnderWay, under_way
from mq.engine import received
from mq.engine.looking import Seen, Shown, see, show, skew_ms
from mq.engine.operation import operation
from mq.engine.store import Store
from mq.errors import CorruptStore

COPIED: Final = "mq.copied "  # in a queue's meta, before a store and its queue: how far that was brought here
MOVED: Final = "mq.moved "  # the same: which messages were moved here last
OF_TOPICS: Final = ""  # instead of a queue's key: what belongs to none
NOTES: Final = (COPIED, MOVED, DESTINATION, MOVER)


class Definition(NamedTuple):
    """What is known of a queue, or of what a topic retains, beside its messages."""

    declaration: Declaration  # its meta without NOTES, which are of this store alone
    subscriptions: dict[str, dict[str, str]]  # the pattern, and the headers that a message needs
    messages: int
    published: int = 0  # how many messages have come to it so far
    end: int = 0  # where the log ends


class Walk:
    """All messages of a queue that is there when it begins, or of what a topic retains, behind an id."""

    def __init__(self, store: Store, key: str, after: int) -> None:
        """*key*: see mq/delivery/options.py, `key_of`."""
        self._store, self._key, self._after = store, key, after
        self._behind = 0  # the log's end when it began
        self._held: QueueState | None = None
        self._others: list[int] = []
        self._skew = 0
        self.expired = 0  # messages that were passed over, since they have
        self.damaged = 0  # messages that were passed over, since they cannot be read
        self.error: CorruptStore | None = None  # that of the first of these

    def __iter__(self) -> Iterator[tuple[Parcel, State]]:
        """Each message, and in which state it is there."""
        while seen := _next(self._store, self):
            for each in seen:
                try:
                    shown = self._show(each)
                except CorruptStore as error:
                    self.damaged += 1
                    self.error = self.error or error
                    continue
                if shown:
                    yield _parcel(shown, self._received(each), self._skew), each.state

    def _show(self, seen: Seen) -> Shown | None:
        assert self._held
        return _read(self._store, self._held, seen)

    def _received(self, seen: Seen) -> int:
        receipt = seen.traits.first or seen.receipt
        return _received_ms(self._store, self._held, seen.id, receipt) or 0 if receipt else 0

    def look(self) -> list[Seen]:
        """What comes next; called in a turn."""
        store = self._store
        held, now = store.replica.state.named(self._key), store.clock.now()
        self._behind = self._behind or store.replica.log.end
        if held is None:
            return []
        held.advance(now)
        if held is not self._held:
            self._held, self._others = held, sorted(tried(held))
        self._skew = skew_ms(store)
        while ids := following(held, self._after, self._behind, self._others):
            self._after = ids[-1]
            here = [id for id in ids if id in held]
            lasting = [id for id in here if not held.has_expired(id)]
            self.expired += len(here) - len(lasting)
            if lasting:
                return [see(held, id, now, self._skew) for id in lasting]
        return []


@operation
def _next(store: Store, walk: Walk) -> list[Seen]:
    return store.turn.look(walk.look)


@operation
def _read(store: Store, held: QueueState, seen: Seen) -> Shown | None:
    return show(store, held, seen)


@operation
def _received_ms(store: Store, held: QueueState | None, id: int, receipt: int) -> int | None:
    return store.turn.look(lambda: received.received_ms(store.replica.log, held, id, receipt))


def _parcel(shown: Shown, received: int, skew: int) -> Parcel:
    said, traits = (shown.more.said, shown.more.traits) if shown.more else (NO_ATTRIBUTES, PLAIN)
    if said.dedup_id is not None:
        said = replace(said, dedup_until=said.dedup_until + skew)
    due = shown.known.deadline if shown.state == "delayed" else 0
    failures = tuple(replace(each, at=each.at + skew) for each in traits.failures)
    return Parcel(
        shown.id, shown.flags & records.BODY_BITS, shown.raw, shown.created_ms, shown.known.attempts, due,
        traits.expires, traits.origin, failures, received, said,
    )  # fmt: skip


@operation
def definition(store: Store, key: str) -> Definition | None:
    """None if there is no such queue."""
    return store.turn.look(partial(_definition, store, key))


def _definition(store: Store, key: str) -> Definition | None:
    held = store.replica.state.named(key)
    if held is None or held.is_to_go(store.clock.now()):
        return None
    matches = {each.pattern: dict(each.match) for each in held.subscriptions.values()}
    own = {name: text for name, text in held.options.meta.items() if not name.startswith(NOTES)}
    return Definition(
        replace(declaration_of(held), meta=own), matches, held.total(), held.totals.published,
        store.replica.log.end,
    )  # fmt: skip


@operation
def moving(store: Store, name: str) -> UnderWay | None:
    """What a move to another store has not brought to its end, from the queue *name* or in it."""
    return store.turn.look(lambda: under_way(store.replica.state, name))


@operation
def topics(store: Store) -> list[str]:
    """Those that retain something, sorted."""
    return store.turn.look(lambda: sorted(store.replica.state.topics()))


def topic_key(topic: str) -> str:
    """Under which what a topic retains is kept."""
    return TOPIC_KEY + topic


class Remembered(NamedTuple):
    """A dedup id whose message is gone, or was published to a topic."""

    key: str  # of a topic: see mq/delivery/attributes.py, `topic_key`
    until: int  # wall time, ms


@operation
def remembered(store: Store, key: str) -> list[Remembered]:
    """The dedup ids that a queue remembers, of messages that are not in it any more.

    *key*: OF_TOPICS: those of all topics.
    """
    return store.turn.look(partial(_remembered, store, key))


def _remembered(store: Store, key: str) -> list[Remembered]:
    state, now, skew = store.replica.state, store.clock.store_ms(), skew_ms(store)
    held = state.named(key) if key else state.exchange()
    return [
        Remembered(name, each.until + skew)
        for name, each in (held.dedup.items() if held else ())
        if held and each.until > now and each.id not in held
    ]


class Scheduled(NamedTuple):
    """A schedule, and the body of its messages."""

    schedule: Schedule
    flags: int
    body: bytes


@operation
def schedules(store: Store) -> list[Scheduled]:
    """All, by name."""
    return store.turn.look(partial(_schedules, store))


def _schedules(store: Store) -> list[Scheduled]:
    found = []
    for entry in store.replica.state.calendar:
        if entry.position is not None:
            stored = store.replica.log.read(entry.position)
            found.append(Scheduled(entry.schedule, *records.scheduled_body(stored.flags, stored.payload)))
    return sorted(found, key=lambda each: each.schedule.name)
