"""Outlet: what this process knows of a topic that it publishes to, so that a publish looks nothing up.

It holds as long as no definition has changed: no queue, option or subscription.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mq.delivery import records
from mq.delivery.attributes import Attributes, trailer
from mq.delivery.queue import QueueState
from mq.delivery.shares import Holders
from mq.delivery.state import State

NOWHERE: Final = -1  # a generation that no state has


class Ways(NamedTuple):
    """Where a publish that is nothing but a body goes."""

    exchange: QueueState
    queues: tuple[QueueState, ...]
    topic: QueueState | None  # what the topic retains, if anything
    holders: Holders  # the numbers of all these
    head: bytes  # of the record's payload, before the body
    tail: bytes  # and behind it


class Outlet:
    __slots__ = ("_generation", "_state", "_ways", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._state: State | None = None
        self._generation = NOWHERE
        self._ways: Ways | None = None

    def ways(self, state: State) -> Ways | None:
        """Where it goes now, in a turn; None if that needs a plan: no subscriber, limits, times to live."""
        if self._generation != state.generation or self._state is not state:
            ways = self._find(state)
            if ways is None:  # not kept: it may change without a definition, once there is an exchange
                return None
            self._ways, self._state, self._generation = ways, state, state.generation
        return self._ways

    def _find(self, state: State) -> Ways | None:
        exchange, numbers = state.exchange(), state.routes.route(self.name)
        topic = state.topic(self.name)
        if exchange is None or exchange.declared_at < 0 or not (numbers or topic):
            return None
        queues = tuple(state.made(number) for number in numbers)
        if any(queue.publish_needs_plan for queue in queues):
            return None
        tail = trailer(Attributes(topic=self.name))
        _, _, _, payload = records.fan_out(numbers, (), topic.number if topic else 0, 0, tail)
        holders = tuple(sorted((*numbers, topic.number))) if topic else numbers
        return Ways(exchange, queues, topic, holders, payload[: -len(tail)], tail)
