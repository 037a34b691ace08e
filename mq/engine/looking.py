"""Looking at queues, and at the store, without taking anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from mq.delivery import dead
from mq.delivery.now import Now
from mq.delivery.options import Declaration
from mq.delivery.queue import QueueState, State
from mq.delivery.traits import Flight, Traits
from mq.engine import received
from mq.engine.bodies import More, more_of
from mq.engine.channel import Channel
from mq.engine.commit import SLICE_SECONDS
from mq.engine.operation import operation
from mq.engine.phase import Phase
from mq.engine.sizes import glance_created_ms
from mq.engine.slices import give_way
from mq.engine.store import Store
from mq.errors import Closed, CorruptStore, UsageError
from mq.storage import locks, shared

MAPPED: Final = frozenset({Phase.OPEN, Phase.EXCLUSIVE})  # the page says what is so now

T = TypeVar("T")


class Stats(NamedTuple):
    """What a queue holds, as `queue.stats()` says it.

    Now:

    ready            how many can be delivered, those included that wait for the turn of their group
    in_flight        how many are delivered, and not settled
    delayed          how many wait for their time
    bytes            of all these: bodies, and attributes if there are any
    oldest_age       seconds since the oldest ready message was published; 0 if none is ready
    paused           whether `pause` keeps it from delivering

    Since the queue was created:

    published        how many were published here, or moved here: as dead letters, or back by `replay`
    acked            how many were acked
    failed           attempts that were nacked or rejected, or timed out and were delivered again or died
    expired          how many expired
    dead_lettered    how many went to the dead letters
    dropped          how many were dropped for those that came later
    """

    ready: int
    in_flight: int
    delayed: int
    bytes: int
    oldest_age: float
    paused: bool
    published: int
    acked: int
    failed: int
    expired: int
    dead_lettered: int
    dropped: int


NOTHING: Final = Stats(0, 0, 0, 0, 0.0, False, 0, 0, 0, 0, 0, 0)


class Seen(NamedTuple):
    """What the state knows of one message."""

    id: int
    position: int
    attempts: int
    state: State
    due: int | None
    traits: Traits
    receipt: int  # of the delivery in force, or of one that has timed out; 0: there is none


class Shown(NamedTuple):
    """A message as users see it: the fields of a `Message` (mq/api/message.py) behind its queue."""

    id: int
    known: Flight  # its deadline is the time when the message changes
    flags: int
    created_ms: int
    raw: bytes
    more: More | None
    state: State


def peek(store: Store, channel: Channel, limit: int, state: State) -> list[Shown]:
    """The first *limit* messages in *state*, in delivery order."""
    return _look(store, channel, lambda held, now: held.ids(state, now, limit))


def get(store: Store, channel: Channel, id: int) -> Shown | None:
    """One message; None if it is not in the queue."""

    def choose(held: QueueState, now: Now) -> list[int] | None:
        held.advance(now)
        return [id] if id in held and not held.has_expired(id) else []

    found = _look(store, channel, choose)
    return found[0] if found else None


@operation
def takable(store: Store, channel: Channel, limit: int, per_group: int | None) -> int:
    """How many messages `receive_many` would take now; *limit* at most."""

    def count() -> int:
        now = store.clock.now()
        if now.store >= store.replica.state.board.next:
            store.committer.do_due()
        state = channel.state
        return 0 if state is None or state.paused else len(state.heads(now, limit, per_group))

    return store.turn.take(count)


@operation
def _look(
    store: Store, channel: Channel, choose: Callable[[QueueState, Now], list[int] | None]
) -> list[Shown]:  # fmt: skip
    """The messages that *choose* names, and whose records are still there."""
    held, found = ask_in_turns(store, partial(chosen, store, channel, choose))
    return [shown for seen in found if held and (shown := show(store, held, seen))]


def ask_in_turns(store: Store, ask: Callable[[], T | None]) -> T:
    """What *ask* finds; it finds None as long as much has come due that is not noted, and notes a part."""
    while (found := store.turn.look(ask)) is None:
        give_way(store)
    return found


def chosen(
    store: Store, channel: Channel, choose: Callable[[QueueState, Now], list[int] | None]
) -> tuple[QueueState | None, list[Seen]] | None:
    held, now = channel.state, store.clock.now()
    if held is None:
        return None, []
    ids = choose(held, now)
    if ids is None:
        return None
    skew = skew_ms(store)
    return held, [see(held, id, now, skew) for id in ids]


def see(held: QueueState, id: int, now: Now, skew: int) -> Seen:
    """What *held* knows of a message that is there; *skew*: see `skew_ms`.  In a turn."""
    where, position = held.state_of(id, now), held.position(id)
    assert where
    assert position is not None
    due = None if where == "ready" else held.changes_at(id, now)
    if due is not None and where == "delayed" and held.is_backing_off(id):
        due += skew  # by the wall clock, as all other dues are
    flight = held.flights.get(id)
    receipt = flight.receipt if flight else 0
    return Seen(id, position, held.attempts(id), where, due, held.history(id, now), receipt)


def show(store: Store, held: QueueState, seen: Seen) -> Shown | None:
    """The message with its body; None if it is gone meanwhile.  Without the mutex."""
    found = store.replica.read(held, seen.id, seen.position)
    if found is None:
        return None
    flags, created_ms, published = found
    raw, more = more_of(flags, published, seen.traits)
    known = Flight(seen.receipt, seen.due or 0, seen.attempts, seen.position, seen.traits)
    return Shown(seen.id, known, flags, created_ms, raw, more, seen.state)


class Letter(NamedTuple):
    """What the state knows of a dead letter, its record unread."""

    id: int
    origin: str | None  # the queue that it died in
    reason: str  # of its last failure
    failed_ms: int  # when that was, wall time; 0: it never failed
    waits: bool  # it is not in flight


@operation
def letters(store: Store, channel: Channel) -> list[Letter]:
    """All that is in a queue, the oldest first."""
    return ask_in_turns(store, partial(_read_letters, store, channel))


def _read_letters(store: Store, channel: Channel) -> list[Letter] | None:
    held, now = channel.state, store.clock.now()
    if held is None:
        return []
    if held.is_behind(now):
        return None
    skew = skew_ms(store)
    return [letter(held, id, now, skew) for id in held.everything() if not held.has_expired(id)]


def letter(held: QueueState, id: int, now: Now, skew: int) -> Letter:
    traits = held.history(id, now)
    last = traits.failures[-1] if traits.failures else None
    reason, failed_ms = (last.reason, last.at + skew) if last else ("", 0)
    return Letter(id, traits.origin, reason, failed_ms, held.waits(id, now))


@operation
def received_ms(store: Store, channel: Channel, id: int, receipt: int) -> int | None:
    """The wall time of the delivery *receipt* of a message; None if the log does not tell any more."""
    return store.turn.look(lambda: received.received_ms(store.replica.log, channel.state, id, receipt))


def skew_ms(store: Store) -> int:
    """How far the wall clock is ahead of store time, as the log says.

    A store that is only read has no segment if its creation was cut off: no time is in it then.
    """
    segments = store.replica.log.segments
    return segments[-1].skew_ms if segments else 0


def store_id(store: Store) -> str:
    """What tells the store from all others."""
    return store.replica.identity.store_id


def generation(store: Store) -> int:
    """A number that changes with every definition."""
    if store.phase in MAPPED:
        return store.turn.mark[shared.GENERATION]
    return _generation(store)


@operation
def _generation(store: Store) -> int:
    return store.turn.look(lambda: store.turn.mark[shared.GENERATION])


@operation
def names(store: Store, prefix: str, after: str, limit: int | None) -> list[str]:
    """Of all queues, sorted: the first *limit* that begin with *prefix* and come behind *after*."""
    return store.turn.look(lambda: store.replica.state.listed(prefix, after, limit))


@operation
def files(store: Store) -> tuple[int, int]:
    """How many bytes the log has on the disk, and in how many segments."""
    while True:
        try:
            return store.turn.look(partial(_measure, store))
        except Closed:
            if not store.turn.is_left():
                raise
        # The child of a fork, made in here: it opens the store for itself.


def _measure(store: Store) -> tuple[int, int]:
    log = store.replica.log
    return log.reader.disk_bytes(), len(log.segments)


def processes(store: Store) -> list[int]:
    """The pids of those that have the store open; only this one's if the system does not say."""
    found = locks.present(store.disk, store.path)
    return found if found or store.read_only else [os.getpid()]


def number(store: Store, channel: Channel) -> int:
    """The queue's number, which its receipts name; 0 if there is none."""
    if channel.state is None:  # in a child that has not opened the store yet
        stats(store, channel)
    return channel.state.number if channel.state else 0


def stats(store: Store, channel: Channel) -> Stats:
    """How many messages are where, and what has happened so far."""
    while True:
        name = channel.name
        found = stats_of(store, [name]).get(name)
        if found or name == channel.name:  # else another process has renamed it
            return found or NOTHING


@operation
def stats_of(store: Store, names: Sequence[str]) -> dict[str, Stats]:
    """The same, of each of these queues that is there; in slices, between which publishers come in."""
    counts = _in_slices(store, names, _count_some)
    return {counted.name: _with_age(store, counted) for counted in counts if counted}


def _in_slices(
    store: Store, names: Sequence[str], ask: Callable[[Store, Sequence[str], int], list[T] | None]
) -> Iterator[T]:
    """What *ask* finds for each of *names*; it is told from which index on.  See `ask_in_turns`."""
    at = 0
    while at < len(names):
        if at:
            give_way(store)
        part = ask_in_turns(store, partial(ask, store, names, at))
        at += len(part)
        yield from part


def _with_age(store: Store, counted: Counted) -> Stats:
    oldest = counted.oldest
    if oldest is None:
        return counted.stats
    created_ms = oldest.created_ms
    if created_ms is None:
        with suppress(CorruptStore):  # its age is damaged with it
            if found := store.replica.read(oldest.queue, oldest.id, oldest.position):
                created_ms = found[1]
    age = 0.0 if created_ms is None else max(0, oldest.now.wall - created_ms) / 1000
    return counted.stats._replace(oldest_age=age)


class Oldest(NamedTuple):
    """The message that has been ready for longest."""

    queue: QueueState
    id: int
    position: int
    created_ms: int | None  # None: its record has to be read for that
    now: Now


class Counted(NamedTuple):
    """What a queue holds, with no age yet."""

    name: str
    stats: Stats
    oldest: Oldest | None


def _count_some(store: Store, names: Sequence[str], at: int) -> list[Counted | None] | None:
    """What the queues *names* hold, from index *at* on, for as long as others may wait; None: not there.

    Nothing at all if much has come due that is not noted.
    """
    is_late = store.clock.timer(SLICE_SECONDS)
    found: list[Counted | None] = []
    for name in islice(names, at, None):
        held, now = store.replica.state.named(name), store.clock.now()
        if held is not None and held.is_behind(now):
            break
        found.append(None if held is None else _count(store, held, now))
        if is_late():
            break
    return found or None


def _count(store: Store, held: QueueState, now: Now) -> Counted:
    id = held.oldest_ready(now)
    position = None if id is None else held.position(id)
    oldest = None
    if id is not None and position is not None:
        oldest = Oldest(held, id, position, glance_created_ms(store.replica.log, position), now)
    all = held.totals
    totals = all.published, all.acked, all.failed, all.expirations, all.dead_lettered, all.dropped
    stats = Stats(*held.counts(now), max(0, held.bytes), 0.0, held.paused, *totals)
    return Counted(held.name, stats, oldest)


@operation
def targets_of(store: Store, names: Sequence[str]) -> dict[str, str]:
    """Where the dead letters of each of these queues go that is there; in slices, as `stats_of`."""
    return dict(filter(None, _in_slices(store, names, _some_targets)))


def _some_targets(store: Store, names: Sequence[str], at: int) -> list[tuple[str, str] | None]:
    """*names*, from index *at* on, and where their dead letters go, for as long as others may wait; None:
    not there."""
    is_late = store.clock.timer(SLICE_SECONDS)
    found: list[tuple[str, str] | None] = []
    for name in islice(names, at, None):
        held = store.replica.state.named(name)
        found.append(None if held is None else (name, _target(held.options)))
        if is_late():
            break
    return found


def _target(declared: Declaration) -> str:
    try:
        return dead.dead_letters_of(declared)
    except UsageError:  # too long a name: there is none yet
        return ""


@operation
def meta(store: Store, channel: Channel) -> dict[str, str]:
    """What a program keeps with the queue; nothing if it is not there."""
    return store.turn.look(partial(_meta, store, channel))


def _meta(store: Store, channel: Channel) -> dict[str, str]:
    held = channel.state
    return {} if held is None or held.is_to_go(store.clock.now()) else held.options.meta


@operation
def options(store: Store, channel: Channel) -> tuple[Declaration, str]:
    """The options in force, and where dead letters go; "" if no queue can be named so."""
    held = store.turn.look(lambda: channel.state)
    declared = held.options if held else Declaration(name=channel.name)
    return declared, _target(declared)
