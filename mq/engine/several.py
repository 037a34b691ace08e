"""Receiving from several queues: the first message of the first of them that has one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from operator import is_
from typing import Any, Generic

from mq.engine import hot
from mq.engine.channel import Channel, Channels
from mq.engine.handle import D, Handle
from mq.engine.operation import operation
from mq.engine.receiving import renew
from mq.engine.settling import Claim, Claims, releasing, settle_all
from mq.engine.store import Store
from mq.engine.waiting import Sleeper
from mq.errors import MqError


class Asked(Generic[D]):
    """The queues that are asked together.  Made once for all calls that ask the same."""

    __slots__ = ("by_channel", "channels", "queues")

    def __init__(self, queues: Sequence[Handle[D]]) -> None:
        self.queues = queues
        self.channels = Channels(queue._channel for queue in queues)
        self.by_channel: dict[Channel, Handle[D]] = {
            queue._channel: queue for queue in reversed(queues)
        }  # the first of each

    def is_of(self, queues: list[Any]) -> bool:
        """Whether these are the very same."""
        return len(queues) == len(self.queues) and all(map(is_, queues, self.queues))


def receive_from(asked: Asked[D], until: float | None) -> D | None:
    """The first message of the first of the queues that has one; None once *until* has come."""
    store = asked.queues[0]._store
    sleeper: Sleeper | None = None
    taken: D | None = None
    queue: Handle[D] | None = None
    try:
        while True:
            queue = _first(store, asked)
            if queue is not None:
                taken = hot.receive(queue, 0.0, None)
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
        if queue is not None and taken is not None and not taken._settled:
            with suppress(MqError, MemoryError):  # then it comes back after its visibility timeout
                claim = Claim(taken, queue._channel, taken.id, taken._flight.receipt)
                settle_all(store, Claims([claim]), releasing())
        raise


@operation
def _first(store: Store, asked: Asked[D]) -> Handle[D] | None:
    """The first that has a message, by one look at all that may have one."""
    return store.turn.take(partial(_first_of, store, asked))


def _first_of(store: Store, asked: Asked[D]) -> Handle[D] | None:
    now = store.clock.now()
    if now.store >= store.replica.state.board.next:
        store.committer.do_due()
    for channel in asked.channels.stocked(store.replica.state):
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
