"""Waiters: the threads that sleep here until something happens, and how they are woken.

    channels   by name, where a thread may wait: for as long as a handle or a waiting thread has one
    armed      the channels where one waits now
    asleep     the threads, the first to come first

A change to a queue wakes one receiver that finds something; what may concern any queue wakes one at each.
Receivers in other processes are woken by their bells (mq/engine/listener.py).

All of it is touched with the turn's mutex held, but by a signal's handler that wakes all.
"""

from __future__ import annotations

import math
import time
from typing import Final

from mq.delivery.board import NEVER
from mq.delivery.now import Now
from mq.delivery.plan import Plan
from mq.delivery.state import State
from mq.engine.channel import Channel, Sleeping
from mq.engine.clock import Clock
from mq.engine.listener import Listener
from mq.engine.turn import Turn
from mq.storage import shared
from mq.weakly import Weakly

AWAKE_SECONDS: Final = 0.002  # no thread is woken to look so much earlier


class Waiters:
    state: State
    """The one whose queues the channels know: see `bind`."""

    def __init__(self, turn: Turn, clock: Clock, listener: Listener, *, background: bool) -> None:
        self.turn, self.listener, self._clock, self._background = turn, listener, clock, background
        self.channels: Weakly[str, Channel] = Weakly()
        self.armed: set[Channel] = set()
        self.asleep: dict[Sleeping, None] = {}

    # ── channels ───────────────────────────────────────────────────────────────────

    def channel(self, name: str) -> Channel:
        """The one of that name, new if there is none."""
        found = self.channels.get(name)
        if found is None:
            found = Channel(name, self)
            self.channels.add(name, found)
            found.state = self.state.named(name)
        return found

    def bind(self, state: State) -> None:
        """The state was read anew: all channels know its queues from now on."""
        self.state = state
        state.renamed.clear()
        for name, channel in self.channels.items():
            channel.state = state.named(name)

    def rebind(self) -> None:
        """Some names mean other queues than before: their channels follow."""
        for name in self.state.renamed:
            if channel := self.channels.get(name):
                channel.state = self.state.named(name)
                channel.notify_all()
        self.state.renamed.clear()

    # ── waking ─────────────────────────────────────────────────────────────────────

    def wake_all(self) -> None:
        """Each thread that waits looks for itself at what changed."""
        for sleeper in list(self.asleep):
            sleeper.ring()

    def wake_ready(self) -> None:
        """Something may have changed at any queue: wake those that find something, or sleep past its time."""
        now = self._clock.now()
        for channel in list(self.armed):
            channel.coming.clear()  # the handler of a signal may keep one of them from looking
            channel.wake_next(now)
            channel.freed()
        self.watch(now)

    def announce(self, plan: Plan) -> None:
        """Wake those that *plan*, which was just applied, concerns: here, and in other processes."""
        if self.armed:
            for number, count in plan.arrivals().items():
                queue = self.state.queue(number)
                channel = self.channels.get(queue.name) if queue else None
                if channel and channel.armed:
                    if count > 1:
                        channel.notify(count)
                    else:
                        channel.wake_next(plan.now)
                        channel.freed()
            self.watch(plan.now)
        if self.turn.mark[shared.ASLEEP]:
            self._ring(plan)

    def _ring(self, plan: Plan) -> None:
        """Wake the processes that wait for the queues that *plan* concerns.

        All, if work falls due sooner than they know: it may bring something to any queue.
        """
        concerned = [self.state.queue(number) for number in plan.arrivals()]
        if self.state.board.sooner or None in concerned:
            words = {*range(shared.WAITS, shared.WAITS + shared.WAITS_WORDS)}
        else:
            words = {shared.waits_word(queue.name) for queue in concerned if queue}
        for word in words:
            if self.turn.mark[word]:
                self.listener.ring(word)

    # ── sleeping ───────────────────────────────────────────────────────────────────

    def ask_to_be_woken(self) -> float:
        """Before a thread here goes to sleep: how many seconds it may; called in a turn."""
        return self.listener.ask({each.word for each in self.armed}) if self._background else math.inf

    def asleep_until(self) -> float:
        """When the first of those that wait looks again by itself, monotonic seconds."""
        return min((sleeper.wake_at for sleeper in self.asleep), default=math.inf)

    def watch(self, now: Now) -> None:
        """If all would sleep past what falls due next, wake one, which will not."""
        alarm = self.state.board.next
        if self.asleep and alarm < NEVER:
            due = time.monotonic() + (alarm - now.store) / 1000
            if self.asleep_until() > due + AWAKE_SECONDS:
                next(iter(self.asleep)).ring()

    def after_fork(self) -> None:
        """In a child: the threads that wait are the parent's."""
        for _, channel in self.channels.items():
            channel.after_fork()
        self.armed, self.asleep = set(), {}
