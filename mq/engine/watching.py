"""Watches: waiting without a thread, for event loops.

    arm         a turn: is there a message?  else stand in the line of those that wait
    rung        out of the line, by whatever wakes a receiver; the notifier calls the program's function
    arm again   the program has taken what it could: stand in the line again, as the last

A message wakes one watch of many, or one sleeping receiver: they share one line (channel.py).  A
program may not take what its watch was notified of, so the watch stays noted as `told` at that
queue.  Another one is woken when it is armed again, or closed, while the message is still there;
or when the listener comes by, after a second.

The line holds a watch weakly: one that the program has forgotten is passed over.  In the child of a
fork no watch is armed, and nothing is called: what that function rings may be the parent's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol
from weakref import ref

from mq.delivery.now import Now
from mq.engine.channel import Channel, Channels
from mq.engine.listener import DEAF_SECONDS
from mq.engine.operation import operation
from mq.engine.receiving import renew
from mq.engine.store import Store
from mq.engine.waiters import Waiters
from mq.engine.waiting import Waiter

SOON_SECONDS: Final = 0.001  # work that is due already: another turn does it


class Watched(Protocol):
    """What the program holds: see mq/api/watch.py."""

    _notify: Callable[[], object]


class Watcher(Waiter):
    """A watch, as the line of waiting knows it."""

    __slots__ = ("_armed", "_rung", "_watch")

    def __init__(self, waiters: Waiters, watch: Watched) -> None:
        super().__init__(waiters, Channels(()), looks=False)
        self._watch = ref(watch)
        self._armed = False  # and its function was not called since
        self._rung = False  # the function is to be called

    # ── with the mutex ─────────────────────────────────────────────────────────────

    def step_out(self) -> list[Channel]:
        """Be told of nothing any more; where this one was told of a message that was not taken."""
        self._armed = self._rung = False
        told = [channel for channel in self._channels.every if self in channel.told]
        self.end()
        return told

    def stand(self, channels: Channels, now: Now) -> float:
        """Be told of what comes to *channels*, which have no message; in how many seconds something may."""
        self._channels, self._armed = channels, True
        begin = time.monotonic()
        self.line_up(now, begin, begin + self.seconds(now))
        if not self._waiters.notifier.begin():
            self.wake_at = min(self.wake_at, begin + DEAF_SECONDS)  # so the program has to look by itself
        return max(SOON_SECONDS, self.wake_at - begin)

    def pass_on(self, told: list[Channel], now: Now) -> None:
        """What this one was told of, and would have looked for, concerns the others still."""
        for channel in told:
            channel.wake_next(now)
        self.hand_on(now)

    def ring(self) -> bool:
        if not self._armed or self.is_gone():
            self.end()
            return False
        # First, so that an interruption behind it keeps no message from the program.
        self._rung = True
        self._waiters.notifier.tell(self)
        self.end()
        return True

    def ring_at(self, channel: Channel) -> bool:
        if not self.ring():
            return False
        channel.told[self] = None
        return True

    def is_gone(self) -> bool:
        return self._watch() is None

    # ── holding nothing ────────────────────────────────────────────────────────────

    def call(self) -> None:
        watch = self._watch()
        if watch and self._rung:
            self._armed = self._rung = False
            watch._notify()


@operation
def arm(store: Store, watcher: Watcher, channels: Channels) -> float:
    """0: there is a message at one of *channels*; else the seconds until something falls due, inf: never.

    Then the watch is rung, once, if there is something sooner.
    """
    try:
        return store.turn.take(partial(_arm, store, watcher, channels))
    except BaseException:
        watcher.give_up()
        raise


def _arm(store: Store, watcher: Watcher, channels: Channels) -> float:
    now = store.clock.now()
    if now.store >= store.replica.state.board.next:
        store.committer.do_due()
    stocked = channels.stocked(store.replica.state)
    for channel in stocked:
        if channel.state and channel.state.delivery_needs_plan:
            renew(store, channel.state, now)
    is_there = any(each.state and each.state.head(now) is not None for each in stocked)
    before, told = watcher._channels, watcher.step_out()
    if is_there or before.every != channels.every:
        watcher.pass_on(told, now)
    return 0.0 if is_there else watcher.stand(channels, now)


@operation
def disarm(store: Store, watcher: Watcher) -> None:
    """The watch is told of nothing any more."""
    with store.turn.mutex:
        told = watcher.step_out()
        if not store.closed:
            watcher.pass_on(told, store.clock.now())
