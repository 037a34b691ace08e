"""Which queue gets what is published to which topics: subscribe, unsubscribe, and what there is."""

from __future__ import annotations

from functools import partial

from mq.delivery import records
from mq.delivery.plan import Plan
from mq.delivery.queue import QueueState
from mq.delivery.records import Subscribed
from mq.delivery.topics import ANY, ONE
from mq.engine import commands
from mq.engine.channel import Channel
from mq.engine.operation import operation
from mq.engine.store import Store


@operation
def subscribe(store: Store, channel: Channel, pattern: str, match: dict[str, str]) -> None:
    """The queue gets what fits *pattern*, and is made if it is not there.  Nothing is written if it does."""
    if not store.turn.look(partial(_subscribes, channel, pattern, match)):
        store.finish_publish(store.turn.take(partial(_subscribe, store, channel, pattern, match)))


def _subscribes(channel: Channel, pattern: str, match: dict[str, str]) -> bool:
    known = channel.state.subscriptions.get(pattern) if channel.state else None
    return known is not None and known.match == match


def _subscribe(store: Store, channel: Channel, pattern: str, match: dict[str, str]) -> int:
    """Where the log ends then."""
    committer = store.committer
    if store.clock.store_ms() >= store.replica.state.board.next:
        committer.do_due()
    plan = committer.plan()
    plan.add(*records.subscribe(plan.number(channel.name), Subscribed(pattern, match)))
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
