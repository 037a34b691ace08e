"""What a delivery needs beside the flat path (mq/engine/hot.py): bodies, damage, and ways back.

take              several DELIVER records in one write
read_all          their bodies; a message whose body is damaged is set aside, as a failed attempt
arrive_settled    an at-most-once queue: acked as it is delivered, handed over once that is on the disk
give_back         an exception keeps a delivery from the caller: it was not tried
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby, repeat
from threading import get_ident
from typing import Any, Final, Generic, NamedTuple

from mq.delivery import records, settle
from mq.delivery.now import Now
from mq.delivery.queue import QueueState
from mq.delivery.records import RUN_MAX
from mq.delivery.traits import PLAIN, Flight
from mq.engine.at_once import LONG_BYTES
from mq.engine.bodies import more_of
from mq.engine.channel import Channel
from mq.engine.handle import D, Handle
from mq.engine.settling import Claim, Claims, nacking, receipts, releasing, settle_within
from mq.engine.store import Store
from mq.errors import CorruptStore, MqError, StorageError, UsageError
from mq.notes import WARNING
from mq.storage.segment import Event

UNDELIVERABLE: Final = "queue %r: message %d cannot be delivered: %s"
DAMAGED: Final = "its body is damaged"


class Flying(NamedTuple):
    """Deliveries, as the state knows them."""

    ids: Sequence[int]
    flights: Sequence[Flight]


NOTHING: Final = Flying((), ())


def take(store: Store, state: QueueState, ids: list[int], ms: int, deadline: int) -> Flying:
    """Deliver *ids*, in one write; called in a turn.  Not decoded first: see the head of hot.py."""
    runs = [(flags, run[at : at + RUN_MAX]) for flags, run in _alike(state, ids) for at in _starts(run)]
    kinds, every_flags = [records.DELIVER] * len(runs), [flags for flags, _ in runs]
    payloads = [records.encode_deliveries(run, deadline) for _, run in runs]
    back: list[int] = []
    if any(every_flags):  # what is held together with one that has timed out goes back, if it has not yet
        back = [other for flags, run in runs if flags for id in run for other in state.behind(id)]
        kinds[:0], every_flags[:0] = [records.RELEASE] * len(back), [0] * len(back)
        payloads[:0] = map(records.RELEASE_PAYLOAD.pack, back)
    positions = store.replica.log.append_columns(
        ms, kinds, every_flags, [state.number] * len(kinds), payloads
    )  # fmt: skip
    for other in back:
        state.release(other)
    flights: list[Flight | None] = []
    for receipt, (flags, run) in zip(positions[len(back) :], runs, strict=True):
        flights += state.deliver_run(run, receipt, deadline, flags)
    store.replica.applied = store.replica.log.end
    assert all(flights), "a message that was next was not there"
    return Flying(ids, flights)  # type: ignore[arg-type]


def _alike(state: QueueState, ids: list[int]) -> list[tuple[int, list[int]]]:
    """*ids*, in runs of those for which a DELIVER record has the same flags."""
    if state.flights.is_disjoint(ids):  # as a rule
        return [(0, ids)]
    each = groupby(ids, lambda id: records.TIMED_OUT if id in state.flights else 0)
    return [(flags, list(same)) for flags, same in each]


def _starts(run: list[int]) -> range:
    return range(0, len(run), RUN_MAX)


def renew(store: Store, state: QueueState, now: Now) -> None:
    """A process receives here: a queue that goes when it is idle stays.  Called in a turn."""
    until = state.idle.renewal(now)
    if until is not None:
        plan = store.committer.plan()
        plan.add(*records.renew(state.number, until))
        store.committer.commit(plan)


class Unread(Exception):
    """Messages were taken by the thread of an event loop, and their bodies take it too long to read.

    *read* reads them, in another thread: it returns what the operation would have.
    """

    def __init__(self, read: Callable[[], Any]) -> None:
        super().__init__()
        self.read = read


def may_take_long(store: Store, positions: Sequence[int]) -> bool:
    """Whether this thread is an event loop's, and the records at *positions* are long, or far apart."""
    if get_ident() not in store.owing:
        return False
    log, last = store.replica.log, max(positions)
    head = log.glance.head(last, log.end)
    return head is None or last + head.length - min(positions) > LONG_BYTES


def read_one(queue: Handle[D], state: QueueState, id: int, flight: Flight) -> D | None:
    """The delivery with its body; None if it timed out, and was settled, before it was read."""
    store = queue._store
    try:
        found = store.replica.read(state, id, flight.position)
    except StorageError as error:
        set_aside(store, queue._channel, id, flight.receipt, error)
        raise
    return _whole(queue._delivery(queue, id, flight, *found, None)) if found else None


# ── bodies ─────────────────────────────────────────────────────────────────────────


def read_all(queue: Handle[D], state: QueueState, taken: Flying) -> list[D]:
    """The deliveries with their bodies; those that are damaged are set aside."""
    store = queue._store
    deliveries: list[D] = []
    damage: StorageError | None = None
    gone_back: dict[str | None, int] = {}  # by group: a damaged one, with which those behind it went back
    ids, flights = taken
    positions = [each.position for each in flights]
    if store.owing and may_take_long(store, positions):
        raise Unread(partial(read_all, queue, state, taken))
    reader, at = store.replica.log.reader, 0
    while at < len(ids):
        # As many as possible at once, from one block; what is not there, or has moved, by itself.
        flags, times, bodies = reader.read_run(positions, at, records.PUBLISH)
        if not flags:
            flags, times, payloads = reader.read_run(positions, at, records.FANOUT)
            bodies = list(map(records.fanned, payloads))
        if count := len(flags):
            part = flights[at : at + count]
            nothing_more = repeat(None)
            found: Iterable[D] = map(
                queue._delivery, repeat(queue), ids[at : at + count], part, flags, times, bodies, nothing_more
            )
            deliveries += map(_whole, found) if _are_more(flags, part) else found
            at += count
            continue
        id, flight = ids[at], flights[at]
        at += 1
        try:
            stored = store.replica.read(state, id, flight.position)
        except StorageError as error:
            set_aside(store, queue._channel, id, flight.receipt, error)
            store.notes.put_down(WARNING, UNDELIVERABLE, queue.name, id, error)
            damage = error
            gone_back.setdefault(flight.traits.group, id)
            continue
        if stored:
            deliveries.append(_whole(queue._delivery(queue, id, flight, *stored, None)))
    gone_back.pop(None, None)
    if gone_back:
        groups = [each._flight.traits.group for each in deliveries]
        deliveries = [
            each
            for each, group in zip(deliveries, groups, strict=True)
            if group not in gone_back or each.id < gone_back[group]
        ]
    if damage and not deliveries:
        raise damage
    return deliveries


def hand_out(queue: Handle[D], id: int, flight: Flight) -> D | None:
    """The delivery of a message that was taken before; None if it was settled meanwhile."""
    store, channel = queue._store, queue._channel
    try:
        state = channel.state
        found = read_all(queue, state, Flying((id,), (flight,))) if state else []
    except BaseException as error:
        if not isinstance(error, (StorageError, Unread)):
            give_back(store, channel, [(id, flight.receipt)])
        raise
    return found[0] if found else None


def _are_more(flags: list[int], flights: Sequence[Flight]) -> bool:
    """Whether one of these messages is more than its body."""
    return max(flags) >= records.ATTRIBUTED or [each.traits for each in flights].count(PLAIN) < len(flights)


def _whole(delivery: D) -> D:
    """*delivery*, with what it is beside its body."""
    delivery.raw, delivery._more = more_of(delivery._flags, delivery.raw, delivery._flight.traits)
    return delivery


def set_aside(store: Store, channel: Channel, id: int, receipt: int, error: StorageError) -> None:
    """No caller can be handed this body: if that is its own fault, the others get their turn."""
    do = nacking(None, DAMAGED, random.random) if isinstance(error, CorruptStore) else releasing()
    with suppress(MqError):  # stale, closed, failed: then it times out, or another receiver has it
        settle_within(store, Claims([Claim(None, channel, id, receipt)]), do)


# ── settled on arrival ─────────────────────────────────────────────────────────────


class Settled(NamedTuple, Generic[D]):
    """What was acked as it was delivered; to be handed over once that is on the disk."""

    deliveries: list[D]
    damage: CorruptStore | None
    end: int


def arrive_settled(queue: Handle[D], state: QueueState, ids: Sequence[int], now: Now) -> Settled[D]:
    """Ack *ids* as they are delivered; called in a turn.  What is damaged has failed an attempt."""
    store = queue._store
    plan = store.committer.plan()
    deliveries: list[D] = []
    damaged: dict[int, CorruptStore] = {}
    groups: set[str] = set()  # of those: what is behind waits
    for id in ids:
        position, traits, attempts = state.position(id), state.traits(id), state.attempts(id) + 1
        assert position is not None
        if traits.group in groups:
            continue
        try:
            stored = store.replica.log.read(position)
        except CorruptStore as error:
            damaged[id] = error
            groups |= {traits.group} if traits.group is not None else set()
            continue
        if id in state.flights:  # it has timed out, before the queue was at most once
            settle.release_behind(plan, state, id)
        created_ms, published = records.published_of(
            stored.kind, stored.flags, stored.time_ms, stored.payload
        )  # fmt: skip
        settle.ack(plan, state, id, len(published))
        raw, more = more_of(stored.flags, published, traits)
        arrived = Flight(0, 0, attempts, position, traits)
        delivery = queue._delivery(queue, id, arrived, stored.flags, created_ms, raw, more)
        delivery._settled = True
        deliveries.append(delivery)
    damage = None
    if damaged:
        taken = take(store, state, list(damaged), now.store, now.store)
        failed = store.committer.plan()
        for id in taken.ids:
            with suppress(UsageError):  # its dead letters have nowhere to go: it stays until they have
                size = partial(failed.size_of, state, id)
                settle.nack(failed, state, id, size, None, DAMAGED, random.random())
            damage = damaged[id]
            store.notes.put_down(WARNING, UNDELIVERABLE, queue.name, id, damage)
        if failed.drafts:
            store.committer.commit(failed)
    if plan.drafts:  # last: if another writer is first, nothing is acked that is not handed over
        store.committer.commit(plan)
    return Settled(deliveries, damage, store.replica.log.end)


def hand_over(store: Store, settled: Settled[D]) -> list[D]:
    """What was settled, once nothing can undo that."""
    if settled.damage and not settled.deliveries:
        raise settled.damage
    if not store.sync_never:
        store.replica.log.sync(settled.end)
    return settled.deliveries


# ── giving back ────────────────────────────────────────────────────────────────────


def begun(store: Store, state: QueueState | None, begin: int) -> list[tuple[int, int]]:
    """Deliveries (id and receipt each) that this turn has appended from *begin* on, and an exception ended.

    Called in that turn.  The state may not know of them, nor the page.
    """
    with suppress(MqError, MemoryError, OSError):  # then they come back after their visibility timeout
        if state is not None and begin >= 0:  # else the state was void, and nothing was delivered
            return _deliveries(store.replica.log.following.appended_since(begin), state)
    return []


def _deliveries(appended: Iterable[Event], state: QueueState) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for lsn, kind, _, number, _, buffer, start, stop in appended:
        if kind == records.DELIVER and number == state.number and isinstance(buffer, bytes):
            ids, _ = records.deliveries_of(buffer, start, stop)
            found += zip(ids, range(lsn, lsn + len(ids)), strict=True)
    return found


def give_back(store: Store, channel: Channel, taken: Iterable[tuple[int, int]]) -> None:
    """An exception keeps deliveries (id and receipt each) from the caller: they were not tried.

    What cannot be given back now, for want of memory or because the store was closed, comes
    back after its visibility timeout.
    """
    claims = Claims(Claim(None, channel, id, receipt) for id, receipt in taken)
    with suppress(MqError, MemoryError):
        settle_within(store, claims, releasing(receipts(claims)))
