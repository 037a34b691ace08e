"""All that a store holds, as one process knows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mq.api.broker import Broker
from mq.delivery.queue import State

from .driver import PEEK_MAX

PLACES: tuple[State, ...] = ("ready", "in_flight", "delayed")
TOPIC = "t"
TICK = b"tick "  # begins the body of a schedule, which is the same in each of its messages


class Seen(NamedTuple):
    """A message as a process finds it in the store."""

    queue: str
    id: int
    body: bytes
    attempts: int
    place: int
    receipt: int
    when: int  # deadline or due, ms


class View(NamedTuple):
    messages: list[Seen]
    bindings: dict[tuple[str, str], int]  # queue and pattern: from which id on it counts
    retained: list[tuple[int, bytes]]  # of the topic: id and body
    meta: dict[str, dict[str, str]]  # by queue
    schedules: dict[str, tuple[int, int]]  # by name: since when its ticks count, and when the next is due, ms
    totals: dict[str, tuple[int, int]]  # how many messages each queue has ever had, and how many were acked


def view(broker: Broker) -> View:
    names = broker.queues()  # which follows what others have appended
    state = broker._store.replica.state
    queues = {name: state.named(name) for name in names}
    return View(
        sorted(_messages(broker, names), key=lambda each: (each.queue, each.id)),
        {
            (name, each.pattern): each.bound_at
            for name, queue in queues.items()
            for each in queue.subscriptions.values()
        },
        [(each.id, each.raw) for each in broker.topic(TOPIC).history()] if state.topic(TOPIC) else [],
        {name: dict(queue.options.meta) for name, queue in queues.items() if queue.options.meta},
        {each.schedule.name: (each.schedule.since, each.schedule.next) for each in state.calendar},
        {name: (queue.totals.published, queue.totals.acked) for name, queue in queues.items()},
    )


def _messages(broker: Broker, names: Iterable[str]) -> Iterable[Seen]:
    for name in names:
        queue = broker.queue(name)
        state = broker._store.replica.state.named(name)
        for place in PLACES:
            for each in queue.peek(PEEK_MAX, state=place):
                attempts, where, receipt, when = state.facts(each.id)
                assert attempts == each.attempts
                yield Seen(name, each.id, known_as(each.id, each.raw), attempts, where, receipt, when)


def known_as(id: int, body: bytes) -> bytes:
    """The messages of a schedule have one body: they are told apart by their ids."""
    return b"%b#%d" % (body, id) if body.startswith(TICK) else body
