"""Receiving that is more than the next message of a queue: several, from several queues, or settled at once.

The plain case is flat in queue.py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mq.channel import Channel, Channels
from mq.delivery import events, idle, settle
from mq.delivery.events import Now
from mq.delivery.queue import QueueState
from mq.delivery.traits import PLAIN, Traits
from mq.errors import CorruptStore, MqError, StorageError, UsageError
from mq.message import Delivery, more_of
from mq.notes import WARNING
from mq.operation import operation
from mq.settling import Claim, do_release, settle_within
from mq.store import Store
from mq.waiting import Sleeper

if TYPE_CHECKING:
    from mq.queue import Queue

UNDELIVERABLE = "queue %r: message %d cannot be delivered: %s"


@operation
def receive_many(
    store: Store, queue: Queue[Any], channel: Channel, limit: int, until: float | None,
    visibility_timeout: float | None,
) -> list[Delivery[Any]]:  # fmt: skip
    """Take up to *limit* messages as soon as there is one; none once *until* has come, monotonic seconds."""
    sleeper: Sleeper | None = None
    taken: list[Flying] = []
    try:
        while True:
            settled = None
            with store.mutex:
                try:
                    store.enter()
                    if sleeper:
                        sleeper.end()
                    now = store.clock.now()
                    if now.store >= store.state.board.next:
                        store.do_due()
                    state = channel.state
                    ids = state.heads(now, limit) if state and not state.paused else []
                    if state is not None and state.peculiar:
                        renew(store, state, now)
                    if not ids:
                        sleeper = sleeper or Sleeper(store, Channels((channel,)))
                        if not sleeper.prepare(now, until):
                            return []
                    else:
                        assert state
                        options = state.options
                        seconds = (
                            options.visibility_timeout if visibility_timeout is None else visibility_timeout
                        )
                        deadline = now.store + int(seconds * 1000)
                        if options.delivery == "at_most_once":
                            settled = arrive_settled(queue, state, ids, now)
                        else:
                            taken = take(store, state, ids, now, deadline)
                        channel.wake_next(now)
                        store.watch(now)
                finally:
                    store.leave()
            if not ids:
                assert sleeper
                sleeper.sleep()
                continue
            if settled is not None:
                return hand_over(store, settled)
            assert state
            if found := read_all(queue, state, taken, deadline):
                return found
            taken = []
    except BaseException as error:
        if sleeper:
            sleeper.give_up()
        if taken and not isinstance(error, StorageError):  # those that are damaged are set aside already
            give_back(queue, [(each.id, each.receipt) for each in taken])
        raise


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
    """A delivery, as the state knows it."""

    id: int
    receipt: int
    attempts: int
    position: int
    traits: Traits


class Settled(NamedTuple):
    """What was acked as it was delivered; to be handed over once that is on the disk."""

    deliveries: list[Delivery[Any]]
    damage: CorruptStore | None
    end: int


def take(store: Store, state: QueueState, ids: Sequence[int], now: Now, deadline: int) -> list[Flying]:
    """Deliver *ids*, in one write; called with the mutex.

    Not decoded first, as a plan is: see the head of queue.py.
    """
    runs = [
        (flags, run[at : at + events.RUN_MAX])
        for flags, same in groupby(ids, lambda id: events.TIMED_OUT if id in state.flights else 0)
        for run in [list(same)]
        for at in range(0, len(run), events.RUN_MAX)
    ]
    drafts = [
        (events.DELIVER, flags, state.number, events.encode_deliveries(run, deadline)) for flags, run in runs
    ]
    receipts = store.log.append_group(now.store, drafts)
    flights = [
        (id, flight)
        for receipt, (flags, run) in zip(receipts, runs, strict=True)
        for id, flight in zip(run, state.deliver_run(run, receipt, deadline, flags), strict=True)
    ]
    store.applied = store.log.end
    return [
        Flying(id, each.receipt, each.attempts, each.position, each.traits) for id, each in flights if each
    ]


def read_all(
    queue: Queue[Any], state: QueueState, taken: Sequence[Flying], deadline: int
) -> list[Delivery[Any]]:
    """The deliveries with their bodies; those that are damaged are set aside."""
    deliveries: list[Delivery[Any]] = []
    damage: StorageError | None = None
    for id, receipt, attempts, position, traits in taken:
        try:
            found = queue._store.read(state, id, position)
        except StorageError as error:
            queue._set_aside(id, receipt, error)
            queue._store.notes.put_down(WARNING, UNDELIVERABLE, queue.name, id, error)
            damage = error
            continue
        if found:
            flags, created_ms, raw = found
            more = None
            if flags & events.ATTRIBUTED or traits is not PLAIN:
                raw, more = more_of(flags, raw, traits)
            deliveries.append(
                Delivery(
                    queue, id, attempts, flags, created_ms, raw, deadline, "in_flight", msgspec.UNSET, more,
                    receipt,
                )
            )  # fmt: skip
    if damage and not deliveries:
        raise damage
    return deliveries


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
        created_ms, published = events.published_of(stored.kind, stored.flags, stored.time_ms, stored.payload)
        settle.ack(plan, state, id, len(published))
        raw, more = more_of(stored.flags, published, traits)
        delivery: Delivery[Any] = Delivery(
            queue, id, attempts, stored.flags, created_ms, raw, None, "in_flight", msgspec.UNSET, more, 0,
            True,
        )  # fmt: skip
        deliveries.append(delivery)
    if plan.drafts:
        store.commit(plan)
    end = store.log.end
    damage = None
    if damaged:
        taken = take(store, state, list(damaged), now, now.store)
        failed = store.plan()
        for each in taken:
            with suppress(UsageError):  # its dead letters have nowhere to go: it stays until they have
                size = partial(failed.size_of, state, each.id)
                settle.nack(failed, state, each.id, size, None, "its body is damaged", random.random())
            damage = damaged[each.id]
            store.notes.put_down(WARNING, UNDELIVERABLE, queue.name, each.id, damage)
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
        plan.add(events.RENEW, 0, state.number, events.RENEW_PAYLOAD.pack(until))
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
            sleeper = sleeper or Sleeper(store, asked.channels)
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
    with store.mutex:
        try:
            store.enter()
            return _first_of(store, asked)
        finally:
            store.leave()


def _first_of(store: Store, asked: Asked) -> Queue[Any] | None:
    """Called with the mutex.  A function of its own, for a loop: see tests/test_loops.py."""
    now = store.clock.now()
    if now.store >= store.state.board.next:
        store.do_due()
    for channel in asked.channels.stocked(store.state):
        state = channel.state
        if state is not None:
            if state.peculiar:
                renew(store, state, now)
            if state.head(now) is not None:
                return asked.by_channel[channel]
    return None


@operation
def _wait(store: Store, sleeper: Sleeper, until: float | None) -> bool:
    """Return when one of the sleeper's queues may have a message; False once *until* has come."""
    with store.mutex:
        try:
            store.enter()
            now = store.clock.now()
            if sleeper.finds(now):
                return True  # since they were asked
            if not sleeper.prepare(now, until):
                return False
        finally:
            store.leave()
    sleeper.sleep()
    with store.mutex:
        sleeper.end()
        sleeper.hand_on(store.clock.now())
    return True
