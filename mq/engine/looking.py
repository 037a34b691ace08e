"""Looking at a queue without taking anything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from struct import error as StructError
from typing import TYPE_CHECKING, Any, NamedTuple

from mq.api.message import Message, more_of
from mq.api.options import QueueOptions, options_of
from mq.delivery import dead, records
from mq.delivery.now import Now
from mq.delivery.options import Declaration
from mq.delivery.queue import QueueState, State
from mq.delivery.traits import Flight, Traits
from mq.engine.channel import Channel
from mq.engine.operation import operation
from mq.engine.store import Store
from mq.errors import CorruptStore, UsageError

if TYPE_CHECKING:
    from mq.api.queue import Queue


class Stats(NamedTuple):
    """Counts now; totals since the queue was created."""

    ready: int  # those included that wait for the turn of their group
    in_flight: int
    delayed: int
    bytes: int  # of all that is not settled: bodies, and attributes if there are any
    oldest_age: float  # seconds since the oldest ready message was published; 0 if none is ready
    paused: bool
    published: int  # here, or moved here: as a dead letter, or back by `replay`
    acked: int
    failed: int  # attempts that were nacked or rejected, or timed out and were delivered again or died
    expired: int
    dead_lettered: int
    dropped: int  # because there were too many


class Seen(NamedTuple):
    """What the state knows of one message."""

    id: int
    position: int
    attempts: int
    state: State
    due: int | None
    traits: Traits


def peek(queue: Queue[Any], limit: int, state: State) -> list[Message[Any]]:
    return _look(queue._store, queue, lambda held, now: held.ids(state, now, limit))


def get(queue: Queue[Any], id: int) -> Message[Any] | None:
    def choose(held: QueueState, now: Now) -> list[int]:
        held.advance(now)
        return [id] if id in held and not held.has_expired(id) else []

    found = _look(queue._store, queue, choose)
    return found[0] if found else None


@operation
def _look(
    store: Store, queue: Queue[Any], choose: Callable[[QueueState, Now], list[int]]
) -> list[Message[Any]]:
    """The messages that *choose* names, and whose records are still there."""
    held, found = store.turn.look(partial(_choose, store, queue, choose))
    return [message for seen in found if held and (message := _message(queue, held, seen))]


def _choose(
    store: Store, queue: Queue[Any], choose: Callable[[QueueState, Now], list[int]]
) -> tuple[QueueState | None, list[Seen]]:
    held, now = queue._channel.state, store.clock.now()
    if held is None:
        return None, []
    skew_ms = queue._skew_ms()
    return held, [_see(held, id, now, skew_ms) for id in choose(held, now)]


def _see(held: QueueState, id: int, now: Now, skew_ms: int) -> Seen:
    where, position = held.state_of(id, now), held.position(id)
    assert where
    assert position is not None
    due = None if where == "ready" else held.changes_at(id, now)
    if due is not None and where == "delayed" and held.rests(id):
        due += skew_ms  # by the wall clock, as all other dues are
    return Seen(id, position, held.attempts(id), where, due, held.history(id, now))


def _message(queue: Queue[Any], held: QueueState, seen: Seen) -> Message[Any] | None:
    found = queue._store.read(held, seen.id, seen.position)
    if found is None:
        return None
    flags, created_ms, published = found
    raw, more = more_of(flags, published, seen.traits)
    known = Flight(0, seen.due or 0, seen.attempts, seen.position, seen.traits)
    return Message(queue, seen.id, known, flags, created_ms, raw, more, seen.state)


def stats(queue: Queue[Any]) -> Stats:
    return _stats(queue._store, queue._channel)


@operation
def _stats(store: Store, channel: Channel) -> Stats:
    stats, oldest = store.turn.look(partial(_count, store, channel))
    if oldest is None:
        return stats
    created_ms = oldest.created_ms
    if created_ms is None:
        with suppress(CorruptStore):  # its age is damaged with it
            if found := store.read(oldest.queue, oldest.id, oldest.position):
                created_ms = found[1]
    age = 0.0 if created_ms is None else max(0, oldest.now.wall - created_ms) / 1000
    return stats._replace(oldest_age=age)


class Oldest(NamedTuple):
    """The message that has been ready for longest."""

    queue: QueueState
    id: int
    position: int
    created_ms: int | None  # None: its record has to be read for that
    now: Now


def _count(store: Store, channel: Channel) -> tuple[Stats, Oldest | None]:
    """The queue's counts, with no age yet."""
    held, now = channel.state, store.clock.now()
    if held is None:
        return Stats(0, 0, 0, 0, 0.0, False, 0, 0, 0, 0, 0, 0), None
    id = held.oldest_ready(now)
    position = None if id is None else held.position(id)
    oldest = None
    if id is not None and position is not None:
        oldest = Oldest(held, id, position, _created_ms(store, position), now)
    totals = held.published, held.acked, held.failed, held.expirations, held.dead_lettered, held.dropped
    return Stats(*held.counts(now), max(0, held.bytes), 0.0, held.paused, *totals), oldest


def _created_ms(store: Store, position: int) -> int | None:
    """When the message at *position* was published, its body unread; None if its record does not say so."""
    head = store.log.glance.head(position, store.log.end)
    if head and head.kind == records.PUBLISH:
        return head.time_ms
    if head and head.kind == records.RELOCATE:
        with suppress(StructError):
            said = store.log.glance.payload(position, 0, records.RELOCATE_PAYLOAD.size)
            return int(records.RELOCATE_PAYLOAD.unpack(said)[1])
    return None


def options(queue: Queue[Any]) -> QueueOptions:
    return _options(queue._store, queue._channel)


@operation
def _options(store: Store, channel: Channel) -> QueueOptions:
    held = store.turn.look(lambda: channel.state)
    declared = held.options if held else Declaration(name=channel.name)
    try:
        grave = dead.dead_letters_of(declared)
    except UsageError:  # too long a name: there is none yet
        grave = ""
    return options_of(declared, grave)
