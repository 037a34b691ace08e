"""Receiving that is more than the next message of a queue: several, from several queues, or settled at once.

The plain case is flat in queue.py.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mq.delivery import events, settle
from mq.delivery.events import Now
from mq.delivery.queue import QueueState
from mq.delivery.traits import PLAIN, Traits
from mq.errors import CorruptStore, StorageError
from mq.message import Delivery, more_of
from mq.store import Store
from mq.waiting import sleep

if TYPE_CHECKING:
    from mq.queue import Queue

logger = logging.getLogger("mq")
RENEW_SHARE = 4  # a queue that goes when it is idle is renewed once a quarter of its time is over


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
    """Deliver *ids*, in one write; called with the mutex."""
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
            queue._set_aside(id, receipt, attempts, error)
            logger.warning("queue %r: message %d cannot be delivered: %s", queue.name, id, error)
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
            settle.nack(failed, state, each.id, None, "its body is damaged", random.random())
            damage = damaged[each.id]
            logger.warning("queue %r: message %d cannot be delivered: %s", queue.name, each.id, damage)
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
    """Somebody receives here: a queue that goes when it is idle stays.  Called with the mutex."""
    idle = state.options.delete_when_idle
    if idle is None:
        return
    stays = int(idle * 1000)
    if state.idle_until - now.store <= stays - stays // RENEW_SHARE:
        plan = store.plan()
        plan.add(events.RENEW, 0, state.number, events.RENEW_PAYLOAD.pack(now.store + stays))
        store.commit(plan)


def receive_from(queues: Sequence[Queue[Any]], timeout_at: float | None) -> Delivery[Any] | None:
    """The first message of the first of *queues* that has one; None once *timeout_at* has come."""
    store = queues[0]._store
    channels = list(dict.fromkeys(queue._channel for queue in queues))
    while True:
        for queue in queues:
            if delivery := queue.receive(timeout=0):
                with store.mutex:
                    for channel in channels:  # this one was woken, perhaps, for another queue's message
                        channel.hand_on(store.clock.now())
                return delivery
        with store.mutex:
            try:
                store.enter()
                now = store.clock.now()
                if any(channel.state and channel.state.head(now) is not None for channel in channels):
                    continue  # since they were asked
                if not sleep(store, channels, now, timeout_at):
                    return None
            finally:
                store.leave()
