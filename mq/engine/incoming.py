"""Messages and definitions that come from another store, or from an export.

put          messages, and in the same atomic group how far they have come: texts of the queue's meta.
             Both are there or neither, so what is cut off anywhere goes on behind the last message.
define       a queue, or what a topic retains, unless it is there
remember     dedup ids whose messages are gone
schedule     with its next tick, unless there is one of its name
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from mq.delivery import dead, meta, records
from mq.delivery.options import TOPIC_KEY, Declaration, Options
from mq.delivery.plan import Plan
from mq.delivery.records import Subscribed
from mq.delivery.state import EXCHANGE
from mq.delivery.transfer import Parcel, check_room, draft, length
from mq.delivery.transfer import room_for as room_for_sizes
from mq.engine.commands import plan_without_what_goes
from mq.engine.looking import skew_ms
from mq.engine.operation import operation
from mq.engine.outgoing import Remembered, Scheduled
from mq.engine.store import Store
from mq.errors import UsageError

ELSEWHERE: Final = 0  # the id of a message that another store had, for a dedup id that is remembered
NONE: Final[Mapping[str, Mapping[str, str]]] = {}
DEFINED: Final = (*Options.__struct_fields__, "paused", "retain_for", "retain_count", "retain_bytes")


def _plan(store: Store, key: str) -> Plan:
    if store.clock.store_ms() >= store.replica.state.board.next:
        store.committer.do_due()
    return plan_without_what_goes(store, store.replica.state.named(key))


def _meta(store: Store, key: str) -> Mapping[str, str]:
    held = store.replica.state.named(key)
    return held.options.meta if held else {}


@operation
def texts(store: Store, key: str) -> Mapping[str, str]:
    """The meta of a queue, or of what a topic retains; empty if it is not there."""
    return store.turn.look(partial(_meta, store, key))


# ── messages ───────────────────────────────────────────────────────────────────────


@operation
def put(
    store: Store, key: str, parcels: Sequence[Parcel], changes: meta.Changes, expect: meta.Changes
) -> bool:  # fmt: skip
    """Store all of *parcels* and change the meta, in one atomic group; False if that is not as expected.

    *key*: see mq/delivery/options.py, `key_of`.  Nothing is dropped for them.

    Raises QueueFull, DiskFull, UsageError (the meta gets too long, or the topic does not retain), and then
    none is stored; StoreFailed: all are, or none.
    """
    end = store.turn.take(partial(_put, store, key, parcels, changes, expect))
    if end is None:
        return False
    store.finish_publish(end)
    return True


def _put(
    store: Store, key: str, parcels: Sequence[Parcel], changes: meta.Changes, expect: meta.Changes
) -> int | None:  # fmt: skip
    """Where the log ends then."""
    plan, is_topic = _plan(store, key), key[:1] == TOPIC_KEY
    before = _meta(store, key)
    if not meta.is_so(before, expect):
        return None
    if is_topic and store.replica.state.named(key) is None:
        raise UsageError(f"topic {key[1:]!r} retains nothing any more: nothing was stored")
    after = meta.changed(before, changes)
    if meta.size(after) > meta.META_BYTES_MAX:
        raise UsageError(
            f"the meta of queue {key!r} has no room to note how far it has come: nothing was stored; make"
            " the texts there shorter"
        )
    if after != before:
        plan.declare(key, {"meta": after})
    number = plan.number(key)
    check_room(plan, number, list(map(length, parcels)))
    skew = skew_ms(store)
    for parcel in parcels:
        plan.add(*draft(number, parcel, skew, kept=is_topic))
    if plan.drafts:
        store.committer.commit(plan)
    return store.replica.log.end


@operation
def room_for(store: Store, key: str, parcels: Sequence[Parcel]) -> int:
    """How many of *parcels*, the first ones, the queue has room for now."""
    return store.turn.look(partial(_room_for, store, key, list(map(length, parcels))))


def _room_for(store: Store, key: str, sizes: Sequence[int]) -> int:
    held = store.replica.state.named(key)
    if held:
        held.advance(store.clock.now())
    return room_for_sizes(held, sizes)


@operation
def take_away(store: Store, name: str, ids: Iterable[int]) -> None:
    """Drop those of *ids* that are in the queue *name* and not in flight."""
    end = store.turn.take(partial(_take_away, store, name, ids))
    store.finish_publish(end)


def _take_away(store: Store, name: str, ids: Iterable[int]) -> int:
    plan, queue = store.committer.plan(), store.replica.state.named(name)
    if queue:
        gone = [(id, plan.size_of(queue, id)) for id in ids if id in queue]
        if gone:
            plan.add(*records.drop(queue.number, 0, gone))
            store.committer.commit(plan)
    return store.replica.log.end


@operation
def delete_if_empty(store: Store, name: str) -> None:
    store.finish_publish(store.turn.take(partial(_delete_if_empty, store, name)))


def _delete_if_empty(store: Store, name: str) -> int:
    plan, queue = store.committer.plan(), store.replica.state.named(name)
    if queue and queue.is_empty(plan.now):
        plan.add(*records.delete(queue.number))
        store.committer.commit(plan)
    return store.replica.log.end


# ── definitions ────────────────────────────────────────────────────────────────────


@operation
def define(
    store: Store, key: str, declaration: Declaration, texts: Mapping[str, str],
    subscriptions: Mapping[str, Mapping[str, str]] = NONE,
) -> bool:  # fmt: skip
    """Make the queue, or what the topic retains, with these options and this meta; False if it is there.

    What is there stays as it is.  *subscriptions*: the pattern, and the headers that a message needs.
    Raises UsageError, DiskFull, StoreFailed.
    """
    end = store.turn.take(partial(_define, store, key, declaration, texts, subscriptions))
    if end is None:
        return False
    store.finish_publish(end)
    return True


def _define(
    store: Store, key: str, declaration: Declaration, texts: Mapping[str, str],
    subscriptions: Mapping[str, Mapping[str, str]],
) -> int | None:  # fmt: skip
    plan = _plan(store, key)
    if store.replica.state.named(key):
        return None
    changes: dict[str, Any] = {name: getattr(declaration, name) for name in DEFINED}
    changes |= {"meta": dict(texts)}
    if key[:1] == TOPIC_KEY:
        changes |= {"name": key[1:], "topic": True}
    else:
        dead.check_dead_letters(store.replica.state, key, changes)
    plan.declare(key, changes)
    for pattern, match in subscriptions.items():
        plan.add(*records.subscribe(plan.number(key), Subscribed(pattern, dict(match), 0)))
    store.committer.commit(plan)
    return store.replica.log.end


@operation
def remember(store: Store, key: str, ids: Sequence[Remembered]) -> None:
    """Publishes with these dedup ids store nothing until their windows are over; *key*: may be OF_TOPICS."""
    store.finish_publish(store.turn.take(partial(_remember, store, key, ids)))


def _remember(store: Store, key: str, ids: Sequence[Remembered]) -> int:
    plan, skew, now = _plan(store, key), skew_ms(store), store.clock.store_ms()
    held = store.replica.state.named(key) if key else store.replica.state.exchange()
    coming = [each for each in ids if each.until - skew > now and not (held and held.dedup.seen(each.key))]
    if coming:
        if not key:
            plan.exchange()
        number = plan.number(key) if key else EXCHANGE
        for each in coming:
            plan.add(*records.dedup(number, ELSEWHERE, each.until - skew, each.key))
        store.committer.commit(plan)
    return store.replica.log.end


@operation
def schedule(store: Store, coming: Scheduled) -> bool:
    """Have a schedule, with its next tick as it is; False if there is one of its name, which stays."""
    end = store.turn.take(partial(_schedule, store, coming))
    if end is None:
        return False
    store.finish_publish(end)
    store.begin_scheduler()
    return True


def _schedule(store: Store, coming: Scheduled) -> int | None:
    plan, calendar = store.committer.plan(), store.replica.state.calendar
    if calendar.get(coming.schedule.name):
        return None
    plan.add(*records.schedule(coming.schedule, coming.flags, coming.body))
    store.replica.expect_tick(coming.schedule.next)
    store.committer.commit(plan)
    return store.replica.log.end
