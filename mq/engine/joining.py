"""Joining: waiting until a queue is empty, with nothing in flight or delayed.

An ack in this process that leaves the queue empty wakes the thread.  Acks of other processes ring no
bell, which keeps them fast.  So the thread looks by itself, after a tenth of the time that it has
waited, and at least each second: some fifty looks in the first seconds, and then one a second.
"""

from __future__ import annotations

import time
from typing import Final

from mq.engine.channel import Channel, Channels
from mq.engine.operation import operation
from mq.engine.store import Store
from mq.engine.waiting import Sleeper

LOOK_SECONDS_MIN: Final = 0.01
LOOK_SECONDS_MAX: Final = 1.0
LOOK_SHARE: Final = 0.1  # of the time that the thread has waited


class Joiner(Sleeper):
    """A thread that waits for a queue to be empty."""

    __slots__ = ("_channel",)

    def __init__(self, store: Store, channel: Channel) -> None:
        super().__init__(store.waiters, Channels((channel,)), for_room=True)
        self._channel = channel

    def stand(self, wake_at: float) -> None:
        """Be told when the queue is empty; called in a turn.  In no line: no message is for this thread."""
        self.wake_at = wake_at
        self._waiters.asleep[self] = None
        self._waiters.alarms.add(self)
        self._channel.joiners[self] = None
        if self._channel.state:
            self._channel.state.acks_awaited = True

    def end(self) -> None:
        self._waiters.drop(self)
        self._channel.joiners.pop(self, None)
        if not self._channel.joiners and (state := self._channel.state):
            state.acks_awaited = state.bounded


@operation
def join(store: Store, channel: Channel, until: float | None) -> bool:
    """Return True once the queue is empty; False once *until* has come, monotonic seconds."""
    joiner, begin = Joiner(store, channel), time.monotonic()

    def look() -> bool | None:
        """Whether it is empty, or is not in time; None: not yet."""
        if not store.read_only and store.clock.store_ms() >= store.replica.state.board.next:
            store.committer.do_due()
        joiner.end()
        now, state, here = store.clock.now(), channel.state, time.monotonic()
        is_empty = state is None or state.is_empty(now)
        if is_empty or (until is not None and here >= until):
            joiner.hand_on(now)
            return is_empty
        seconds = LOOK_SECONDS_MAX
        if not store.exclusive:
            seconds = min(max(LOOK_SECONDS_MIN, LOOK_SHARE * (here - begin)), LOOK_SECONDS_MAX)
        joiner.stand(here + seconds if until is None else min(here + seconds, until))
        return None

    def wait() -> bool:
        while (found := turn(look)) is None:
            joiner.sleep()
        return found

    turn = store.turn.look if store.read_only else store.turn.take
    try:
        return wait()
    except BaseException:
        joiner.give_up()
        raise
