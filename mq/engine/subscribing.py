"""Which queue gets what is published to which topics: subscribe, unsubscribe, and what there is."""

from __future__ import annotations

from functools import partial

from mq.delivery import records
from mq.delivery.plan import Plan
from mq.delivery.queue import QueueState
from mq.delivery.records import Subscribed
from mq.delivery.topics import ANY, ONE
from mq.engine import commands
from mq.engine.backfill import Asked, Backfill, known
from mq.engine.channel import Channel
from mq.engine.operation import operation
from mq.engine.store import Store


def subscribe(
    store: Store, channel: Channel, pattern: str, match: dict[str, str], after: int | None = None,
    since_ms: int | None = None,
) -> None:  # fmt: skip
    """The queue, which is made if it is not there, gets what fits *pattern*; nothing is written if it does.

    And what is retained of it, behind the id *after*, or since *since_ms*, wall time.
    """
    asked, is_first = Asked(pattern, match, after, since_ms), True
    while not _is_subscribed(store, channel, pattern, match):
        if after is None and since_ms is None:
            done = _subscribe(store, channel, asked, None)
        else:
            done = _subscribe_since(store, channel, asked, is_first)
        if done:
            return
        is_first = False


def _subscribe_since(store: Store, channel: Channel, asked: Asked, is_first: bool) -> bool:
    """`_subscribe`, with what is retained.  What is much is put aside at the first try only."""
    backfill = Backfill(store, channel.name, asked, known(store, channel), may_put_aside=is_first)
    try:
        backfill.gather()
        return _subscribe(store, channel, asked, backfill)
    finally:
        backfill.give_up()


@operation
def _is_subscribed(store: Store, channel: Channel, pattern: str, match: dict[str, str]) -> bool:
    return store.turn.look(partial(_subscribes, store, channel, pattern, match))


def _subscribes(store: Store, channel: Channel, pattern: str, match: dict[str, str]) -> bool:
    state = channel.state
    if state is None or state.is_to_go(store.clock.now()):
        return False
    known = state.subscriptions.get(pattern)
    return known is not None and known.match == match


@operation
def _subscribe(store: Store, channel: Channel, asked: Asked, backfill: Backfill | None) -> bool:
    """False if the queue is not what it was when *backfill* was gathered."""
    end = store.turn.take(partial(_join, store, channel, asked, backfill))
    if end is not None:
        store.finish_publish(end)
    return end is not None


def _join(store: Store, channel: Channel, asked: Asked, backfill: Backfill | None) -> int | None:
    """Where the log ends then."""
    committer = store.committer
    if store.clock.store_ms() >= store.replica.state.board.next:
        committer.do_due()
    plan = commands.plan_without_what_goes(store, channel.state)
    before = channel.state.subscriptions.get(asked.pattern) if channel.state else None
    bound_at = 0
    if before is None and backfill:
        number = backfill.finish(plan)
        if number is None:
            return None
        bound_at = backfill.bound_at()
    else:
        number = plan.number(channel.name)
        if before and before.match.items() <= asked.match.items():
            bound_at = before.bound_at  # all that it gives from now on, it gave from then on
    plan.add(*records.subscribe(number, Subscribed(asked.pattern, dict(asked.match), bound_at)))
    committer.commit(plan)
    return store.replica.log.end


def unsubscribe(store: Store, channel: Channel, pattern: str) -> bool:
    """The queue does not get any more what only *pattern* gave it; False if it did not have the pattern."""

    def decide(plan: Plan, queue: QueueState, _: object) -> int:
        if pattern not in queue.subscriptions:
            return 0
        plan.add(*records.unsubscribe(queue.number, pattern))
        return 1

    return commands.change(store, channel, decide) > 0


@operation
def patterns(store: Store, channel: Channel) -> list[str]:
    """Those of the queue, sorted."""
    return store.turn.look(lambda: sorted(channel.state.subscriptions) if channel.state else [])


@operation
def subscriptions(store: Store, topic: str | None) -> list[tuple[str, str]]:
    """All patterns, or those that fit *topic*, each with the name of its queue; sorted."""
    return store.turn.look(partial(_subscriptions, store, topic))


def _subscriptions(store: Store, topic: str | None) -> list[tuple[str, str]]:
    state = store.replica.state
    return sorted((each.pattern, state.name(each.queue)) for each in state.routes.bindings(topic))


@operation
def topics(store: Store) -> list[str]:
    """The topics that are known by name, sorted: those that retain, and those that a pattern spells out."""
    return store.turn.look(partial(_topics, store))


def _topics(store: Store) -> list[str]:
    state = store.replica.state
    spelled = {each.pattern for each in state.routes.bindings()}
    return sorted(state.topics() | {each for each in spelled if {ONE, ANY}.isdisjoint(each.split("."))})


@operation
def unrouted(store: Store) -> int:
    """How many publishes to topics found no queue."""
    return store.turn.look(partial(_unrouted, store))


def _unrouted(store: Store) -> int:
    exchange = store.replica.state.exchange()
    return exchange.totals.dropped if exchange else 0
