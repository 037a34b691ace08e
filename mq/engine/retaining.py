"""How much a topic retains: its limits, and what is there."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from mq.delivery import records
from mq.delivery.due import drop_over
from mq.delivery.options import TOPIC_KEY, Declaration, replaced
from mq.delivery.retention import Retention
from mq.delivery.state import declaration_of
from mq.engine.operation import operation
from mq.engine.slices import give_way
from mq.engine.store import Store


@operation
def declare(store: Store, topic: str, changes: dict[str, Any]) -> None:
    """Change the limits named, for every process; nothing is written if they are so already.

    What the limits leave out until now does not come back with wider ones: it is dropped before, in
    slices, the last one in one group with the change.  Without any limit nothing is retained, and what
    was goes.
    """
    begun_at = store.turn.look(partial(_begin, store, topic, changes))
    if begun_at is None:
        return
    while (end := store.turn.take(partial(_declare, store, topic, changes, begun_at))) is None:
        give_way(store)
    store.finish_publish(end)


def _begin(store: Store, topic: str, changes: dict[str, Any]) -> int | None:
    """Where the log ends now; None if there is nothing to change."""
    held = store.replica.state.topic(topic)
    declared = held.options if held else Declaration(name=topic)
    is_so = all(getattr(declared, name) == value for name, value in changes.items())
    return None if is_so else store.replica.log.end


def _declare(store: Store, topic: str, changes: dict[str, Any], begun_at: int) -> int | None:
    """Where the log ends then; None if only a slice was dropped of what is over, so do it again.

    What was published behind *begun_at* is dropped in one turn: however fast others publish, this ends.
    """
    committer = store.committer
    plan = committer.plan()
    held = plan.state.topic(topic)
    declared = declaration_of(held) if held else Declaration(name=topic)
    if Retention.of(replaced(declared, changes)):
        while held and not drop_over(plan, held, committer.slice(plan), committer.created_of):
            oldest = held.waiting.head
            committer.commit(plan)
            if oldest is not None and oldest < begun_at:
                return None
            plan = committer.plan()
        plan.declare(TOPIC_KEY + topic, {"name": topic, "topic": True, **changes})
        plan.drafts.insert(0, plan.drafts.pop())  # before what drops: it has the totals from before that
    elif held:
        plan.add(*records.delete(held.number))
    if plan.drafts:
        committer.commit(plan)
    return store.replica.log.end


class Retained(NamedTuple):
    """What a topic retains now."""

    messages: int
    bytes: int
    oldest_ms: int | None  # when the oldest one was published, wall time; None: there is none
    limits: Declaration


@operation
def retained(store: Store, topic: str) -> Retained | None:
    """None if it is not declared to retain anything."""
    return store.turn.look(partial(_retained, store, topic))


def _retained(store: Store, topic: str) -> Retained | None:
    held, committer = store.replica.state.topic(topic), store.committer
    if held is None:
        return None
    first = committer.first_retained(held)
    size = held.bytes - sum(committer.size_of(held, id) for id in held.waiting.first(first))
    ids, _ = held.waiting.slice(first, 1)
    oldest_ms = committer.created_of(held, ids[0]) if ids else None
    return Retained(len(held.waiting) - first, max(0, size), oldest_ms, held.options)


@operation
def extra_bytes(store: Store) -> int:
    """By how much what topics retain is more than what is counted twice, because several queues hold it."""
    return store.turn.look(partial(_extra_bytes, store))


def _extra_bytes(store: Store) -> int:
    state = store.replica.state
    return sum(max(0, each.bytes) for each in state.hidden()) - state.board.shared.extra_bytes
