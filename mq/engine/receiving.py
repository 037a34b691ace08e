"""Receiving that is more than the next message of a queue: several, from several queues, or settled at once.

The plain case is flat in queue.py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby, repeat
from operator import is_
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mq.api.message import Delivery, more_of
from mq.delivery import idle, records, settle
from mq.delivery.now import Now
from mq.delivery.queue import QueueState
from mq.delivery.records import RUN_MAX
from mq.delivery.traits import PLAIN, Flight
from mq.engine.channel import Channel, Channels
from mq.engine.operation import operation
from mq.engine.settling import Claim, do_release, settle_within
from mq.engine.store import Store
from mq.engine.waiting import Sleeper
from mq.errors import CorruptStore, MqError, StorageError, UsageError
from mq.notes import WARNING
from mq.storage.segment import Event

if TYPE_CHECKING:
    from mq.api.queue import Queue

UNDELIVERABLE = "queue %r: message %d cannot be delivered: %s"


@operation
def receive_many(
    store: Store, queue: Queue[Any], channel: Channel, limit: int, until: float | None,
    visibility_timeout: float | None,
) -> list[Delivery[Any]]:  # fmt: skip
    """Take up to *limit* messages as soon as there is one; none once *until* has come, monotonic seconds."""
    sleeper: Sleeper | None = None
    taken, deliveries = NOTHING, []
    try:
        while True:
            settled, begin = None, -1
            with store.turn.mutex:
                try:
                    store.turn.enter()
                    if sleeper:
                        sleeper.end()
                    now = store.clock.now()
                    if now.store >= store.state.board.next:
                        store.do_due()
                    state = channel.state
                    ids = state.heads(now, limit) if state and not state.paused else []
                    if state is not None and state.delivery_needs_plan:
                        renew(store, state, now)
                    if not ids:
                        sleeper = sleeper or Sleeper(store.waiters, Channels((channel,)))
                        if not sleeper.prepare(now, until):
                            return []
                    else:
                        assert state
                        options = state.options
                        seconds = (
                            options.visibility_timeout if visibility_timeout is None else visibility_timeout
                        )
                        deadline = now.store + int(seconds * 1000)
                        begin = store.log.end
                        if options.delivery == "at_most_once":
                            settled = arrive_settled(queue, state, ids, now)
                        else:
                            taken = take(store, state, ids, now, deadline)
                        if channel.armed:
                            channel.wake_next(now)
                        if store.waiters.asleep:
                            store.waiters.watch(now)
                except BaseException:
                    if begin >= 0 and not taken.ids:
                        deliveries = begun(store, state, begin)
                    raise
                finally:
                    store.turn.leave()
            if not ids:
                assert sleeper
                sleeper.sleep()
                continue
            if settled is not None:
                return hand_over(store, settled)
            assert state
            if found := read_all(queue, state, taken):
                return found
            taken = NOTHING
    except BaseException as error:
        if sleeper:
            sleeper.give_up()
        deliveries += [(id, flight.receipt) for id, flight in zip(*taken, strict=True)]
        if deliveries and not isinstance(error, StorageError):  # what is damaged is set aside already
            give_back(queue, deliveries)
        raise


def begun(store: Store, state: QueueState | None, begin: int) -> list[tuple[int, int]]:
    """Deliveries (id and receipt each) that this turn has appended from *begin* on, and an exception ended.

    Called in that turn.  The state may not know of them, nor the page.
    """
    with suppress(MqError, MemoryError, OSError):  # then they come back after their visibility timeout
        if state is not None and begin >= 0:  # else the state was void, and nothing was delivered
            return _deliveries(store.log.appended_since(begin), state)
    return []


def _deliveries(appended: Iterable[Event], state: QueueState) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for lsn, kind, _, number, _, buffer, start, stop in appended:
        if kind == records.DELIVER and number == state.number and isinstance(buffer, bytes):
            ids, _ = records.deliveries_of(buffer, start, stop)
            found += zip(ids, range(lsn, lsn + len(ids)), strict=True)
    return found


def give_back(queue: Queue[Any], taken: Iterable[tuple[int, int]]) -> None:
    """An exception keeps deliveries (id and receipt each) from the caller: they were not tried.

    What cannot be given back now, for want of memory or because the store was closed, comes
    back after its visibility timeout.
    """
    store = queue._store
    claims = [Claim(None, queue._channel, id, receipt) for id, receipt in taken]
    with suppress(MqError, MemoryError):
        settle_within(store, claims, do_release)


class Flying(NamedTuple):
    """Deliveries, as the state knows them."""

    ids: Sequence[int]
    flights: Sequence[Flight]


NOTHING: Final = Flying((), ())


class Settled(NamedTuple):
    """What was acked as it was delivered; to be handed over once that is on the disk."""

    deliveries: list[Delivery[Any]]
    damage: CorruptStore | None
    end: int


def take(store: Store, state: QueueState, ids: list[int], now: Now, deadline: int) -> Flying:
    """Deliver *ids*, in one write; called with the mutex.

    Not decoded first, as a plan is: see the head of queue.py.
    """
    runs = [(flags, run[at : at + RUN_MAX]) for flags, run in _alike(state, ids) for at in _starts(run)]
    count = len(runs)
    receipts = store.log.append_columns(
        now.store, [records.DELIVER] * count, [flags for flags, _ in runs], [state.number] * count,
        [records.encode_deliveries(run, deadline) for _, run in runs],
    )  # fmt: skip
    flights: list[Flight | None] = []
    for receipt, (flags, run) in zip(receipts, runs, strict=True):
        flights += state.deliver_run(run, receipt, deadline, flags)
    store.applied = store.log.end
    assert all(flights), "a message that was next was not there"
    return Flying(ids, flights)  # type: ignore[arg-type]


def _alike(state: QueueState, ids: list[int]) -> list[tuple[int, list[int]]]:
    """*ids*, in runs of those for which a DELIVER record has the same flags."""
    if state.flights.keys().isdisjoint(ids):  # as a rule
        return [(0, ids)]
    each = groupby(ids, lambda id: records.TIMED_OUT if id in state.flights else 0)
    return [(flags, list(same)) for flags, same in each]


def _starts(run: list[int]) -> range:
    return range(0, len(run), RUN_MAX)


def read_all(queue: Queue[Any], state: QueueState, taken: Flying) -> list[Delivery[Any]]:
    """The deliveries with their bodies; those that are damaged are set aside."""
    deliveries: list[Delivery[Any]] = []
    damage: StorageError | None = None
    ids, flights = taken
    positions = [each.position for each in flights]
    reader, at = queue._store.log.reader, 0
    while at < len(ids):
        # As many as possible at once, from one block; what is not there, or no PUBLISH record, by itself.
        flags, times, bodies = reader.read_run(positions, at, records.PUBLISH)
        if count := len(flags):
            part = flights[at : at + count]
            found: Iterable[Delivery[Any]] = map(
                Delivery, repeat(queue), ids[at : at + count], part, flags, times, bodies
            )
            deliveries += map(_whole, found) if _are_more(flags, part) else found
            at += count
            continue
        id, flight = ids[at], flights[at]
        at += 1
        try:
            stored = queue._store.read(state, id, flight.position)
        except StorageError as error:
            queue._set_aside(id, flight.receipt, error)
            queue._store.notes.put_down(WARNING, UNDELIVERABLE, queue.name, id, error)
            damage = error
            continue
        if stored:
            deliveries.append(_whole(Delivery(queue, id, flight, *stored)))
    if damage and not deliveries:
        raise damage
    return deliveries


def _are_more(flags: list[int], flights: Sequence[Flight]) -> bool:
    """Whether one of these messages is more than its body."""
    return max(flags) >= records.ATTRIBUTED or [each.traits for each in flights].count(PLAIN) < len(flights)


def _whole(delivery: Delivery[Any]) -> Delivery[Any]:
    """*delivery*, with what it is beside its body."""
    delivery.raw, delivery._more = more_of(delivery._flags, delivery.raw, delivery._flight.traits)
    return delivery


def arrive_settled(queue: Queue[Any], state: QueueState, ids: Sequence[int], now: Now) -> Settled:
    """Ack *ids* as they are delivered; called with the mutex.  What is damaged has failed an attempt."""
    store, plan = queue._store, queue._store.plan()
    deliveries: list[Delivery[Any]] = []
    damaged: dict[int, CorruptStore] = {}
    for id in ids:
        position, traits, attempts = state.position(id), state.traits(id), state.attempts(id) + 1
        assert position is not None
        try:
            stored = store.log.read(position)
        except CorruptStore as error:
            damaged[id] = error
            continue
        created_ms, published = records.published_of(
            stored.kind, stored.flags, stored.time_ms, stored.payload
        )
        settle.ack(plan, state, id, len(published))
        raw, more = more_of(stored.flags, published, traits)
        arrived = Flight(0, 0, attempts, position, traits)
        delivery: Delivery[Any] = Delivery(queue, id, arrived, stored.flags, created_ms, raw, more)
        delivery._settled = True
        deliveries.append(delivery)
    if plan.drafts:
        store.commit(plan)
    end = store.log.end
    damage = None
    if damaged:
        taken = take(store, state, list(damaged), now, now.store)
        failed = store.plan()
        for id in taken.ids:
            with suppress(UsageError):  # its dead letters have nowhere to go: it stays until they have
                size = partial(failed.size_of, state, id)
                settle.nack(failed, state, id, size, None, "its body is damaged", random.random())
            damage = damaged[id]
            store.notes.put_down(WARNING, UNDELIVERABLE, queue.name, id, damage)
        if failed.drafts:
            store.commit(failed)
    return Settled(deliveries, damage, end)


def hand_over(store: Store, settled: Settled) -> list[Delivery[Any]]:
    """What was settled, once nothing can undo that."""
    if settled.damage and not settled.deliveries:
        raise settled.damage
    if not store.careless:
        store.log.sync(settled.end)
    return settled.deliveries


def renew(store: Store, state: QueueState, now: Now) -> None:
    """A process receives here: a queue that goes when it is idle stays.  Called with the mutex."""
    until = idle.renewal(state, now)
    if until is not None:
        plan = store.plan()
        plan.add(*records.renew(state.number, until))
        store.commit(plan)


class Asked:
    """The queues that are asked together.  Made once for all calls that ask the same."""

    __slots__ = ("by_channel", "channels", "queues")

    def __init__(self, queues: list[Queue[Any]]) -> None:
        self.queues = queues
        self.channels = Channels(queue._channel for queue in queues)
        self.by_channel: dict[Channel, Queue[Any]] = {
            queue._channel: queue for queue in reversed(queues)
        }  # the first of each

    def is_of(self, queues: list[Queue[Any]]) -> bool:
        """Whether these are the very same."""
        return len(queues) == len(self.queues) and all(map(is_, queues, self.queues))


def receive_from(asked: Asked, until: float | None) -> Delivery[Any] | None:
    """The first message of the first of the queues that has one; None once *until* has come."""
    store = asked.queues[0]._store
    sleeper: Sleeper | None = None
    taken: Delivery[Any] | None = None
    try:
        while True:
            queue = _first(store, asked)
            if queue is not None:
                taken = queue.receive(timeout=0)
                if taken is not None:
                    return taken
                continue  # another receiver was quicker
            if sleeper is None and until is not None and time.monotonic() >= until:
                return None
            sleeper = sleeper or Sleeper(store.waiters, asked.channels)
            if not _wait(store, sleeper, until):
                return None
    except BaseException:
        if sleeper:
            sleeper.give_up()
        if taken is not None and not taken._settled:
            with suppress(MqError, MemoryError):  # then it comes back after its visibility timeout
                taken.release()
        raise


@operation
def _first(store: Store, asked: Asked) -> Queue[Any] | None:
    """The first that has a message, by one look at all that may have one."""
    return store.turn.take(partial(_first_of, store, asked))


def _first_of(store: Store, asked: Asked) -> Queue[Any] | None:
    now = store.clock.now()
    if now.store >= store.state.board.next:
        store.do_due()
    for channel in asked.channels.stocked(store.state):
        state = channel.state
        if state is not None:
            if state.delivery_needs_plan:
                renew(store, state, now)
            if state.head(now) is not None:
                return asked.by_channel[channel]
    return None


@operation
def _wait(store: Store, sleeper: Sleeper, until: float | None) -> bool:
    """Return when one of the sleeper's queues may have a message; False once *until* has come."""

    def find_or_wait() -> bool | None:
        """Whether there is a message by now, or never in time; None: not yet."""
        now = store.clock.now()
        if sleeper.finds(now):
            return True
        return None if sleeper.prepare(now, until) else False

    found = store.turn.take(find_or_wait)
    if found is not None:
        return found
    sleeper.sleep()
    with store.turn.mutex:
        sleeper.end()
        sleeper.hand_on(store.clock.now())
    return True
