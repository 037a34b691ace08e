"""Waiters: the threads and watches that wait here until something happens, and how they are woken.

    channels   by name, where a thread may wait: for as long as a handle or a waiting thread has one
    armed      the channels where one waits now, by the word of the page that says so to other processes
    asleep     the threads and watches, the first to come first
    lookers    those of them that everything wakes

A change to a queue wakes one receiver that finds something; what may concern any queue wakes one at each.
Receivers in other processes are woken by their bells (mq/engine/listener.py).

All of it is touched with the turn's mutex held, but by a signal's handler that wakes all.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Final

from mq.delivery.board import NEVER
from mq.delivery.now import Now
from mq.delivery.state import State
from mq.engine.channel import Alarms, Channel, Waiting
from mq.engine.clock import Clock
from mq.engine.listener import Listener
from mq.engine.notifier import Notifier
from mq.engine.turn import Turn
from mq.storage import shared
from mq.weakly import Weakly

AWAKE_SECONDS: Final = 0.002  # no thread is woken to look so much earlier
SPARE: Final = 64  # watches that the program has forgotten, beside as many as there are others


class Waiters:
    state: State
    """The one whose queues the channels know: see `bind`."""

    def __init__(
        self, turn: Turn, clock: Clock, listener: Listener, notifier: Notifier, *, background: bool
    ) -> None:  # fmt: skip
        self.turn, self._clock, self.background = turn, clock, background
        self.listener, self.notifier = listener, notifier  # the child of a fork has another listener
        self.channels: Weakly[str, Channel] = Weakly()
        # Channels of queues that were renamed to what had a channel already: by a number, never used twice.
        self._others: Weakly[int, Channel] = Weakly()
        self.renames = 0  # how often a channel got another name
        self._followed = 0  # the channels know of all renames before this position
        self.expect: Callable[[], object] = int  # called before a thread here goes to sleep, in a turn
        self._forget_all()

    def _forget_all(self) -> None:
        self.armed: dict[int, set[Channel]] = {}
        self.asleep: OrderedDict[Waiting, None] = OrderedDict()
        self.lookers: dict[Waiting, None] = {}
        self.alarms = Alarms(self.asleep)
        self._limit = SPARE  # of those asleep, before watches that the program has forgotten are dropped

    # ── channels ───────────────────────────────────────────────────────────────────

    def channel(self, name: str) -> Channel:
        """The one of that name, new if there is none."""
        found = self.channels.get(name)
        if found is None:
            found = Channel(name, self)
            self.channels.add(name, found)
            found.state = self.state.named(name)
        return found

    def bind(self, state: State, applied: int) -> None:
        """The state was read anew, as of *applied*: all channels know its queues from now on."""
        self.state = state
        self._follow()
        self._followed = max(self._followed, applied)
        state.renamed.clear()
        for channel in self._every():
            channel.state = state.named(channel.name)

    def rebind(self) -> None:
        """Some names mean other queues than before: their channels follow."""
        state = self.state
        self._follow()
        for name in state.renamed:
            if channel := self.channels.get(name):
                channel.state = state.named(name)
                channel.notify_all()
        for _, channel in self._others.items():
            channel.state = state.named(channel.name)
        state.renamed.clear()

    def _follow(self) -> None:
        """Have the channels follow the renames that are new to them.

        There may be many: this process was far behind, or it is a fork that was not used until now.
        """
        moved = self.state.moved
        if moved and moved[-1][0] >= self._followed:
            for position, was, now in moved:
                if position >= self._followed:
                    self._rename(was, now)
                    self._followed = position + 1

    def _every(self) -> list[Channel]:
        return [channel for _, channel in self.channels.items() + self._others.items()]

    def _rename(self, was: str, now: str) -> None:
        """The queue *was* is called *now*: its channel too, so handles and those that wait go with it."""
        there, first = self.channels.get(now), self.channels.get(was)
        if first is not None and there is None:
            self.channels.add(now, first)
        for channel in [each for each in self._every() if each.name == was]:
            channel.notify_all()  # they look again, and wait under the new name
            for waiter in list(channel.armed):  # watches that the program has forgotten
                channel.drop(waiter)
            self.disarm(channel)
            channel.rename(now)
            self.renames += 1
            if there is not None and there is not channel:
                channel.join(there)
                self._others.add(self.renames, channel)
        self.channels.drop(was)

    # ── those that wait ────────────────────────────────────────────────────────────

    def add(self, waiter: Waiting) -> None:
        if len(self.asleep) >= self._limit:
            for each in list(self.asleep):
                if each.is_gone():
                    each.end()
            self._limit = 2 * len(self.asleep) + SPARE
        self.asleep[waiter] = None
        if waiter.looks:
            self.lookers[waiter] = None

    def drop(self, waiter: Waiting) -> None:
        self.asleep.pop(waiter, None)
        self.lookers.pop(waiter, None)

    def arm(self, channel: Channel) -> None:
        """One waits there.  Whatever interrupts this or `disarm`, the words of all that wait are there."""
        channel = channel.main or channel
        if channel.word not in self.armed:
            self.armed[channel.word] = set()
        self.armed[channel.word].add(channel)

    def disarm(self, channel: Channel) -> None:
        """None waits there any more."""
        channel = channel.main or channel
        if channels := self.armed.get(channel.word):
            channels.discard(channel)
        if not channels:
            self.armed.pop(channel.word, None)

    # ── waking ─────────────────────────────────────────────────────────────────────

    def wake_all(self) -> None:
        """Each thread that waits looks for itself at what changed."""
        for waiter in list(self.asleep):
            waiter.ring()

    def wake_ready(self) -> None:
        """Something may have changed at any queue: wake those that find something, or sleep past its time."""
        now = self._clock.now()
        for channel in self._armed_and_stocked():
            channel.coming.clear()  # the handler of a signal may keep one of them from looking
            channel.told.clear()
            channel.wake_next(now)
        for waiter in list(self.lookers):
            waiter.ring()
        self.watch(now)

    def may_find(self) -> bool:
        """Whether there is a message, of whatever state, where one waits here."""
        return any(True for _ in self._armed_and_stocked())

    def _armed_and_stocked(self) -> Iterable[Channel]:
        """Where one waits, and something may be: found from the few that hold a message, or are waited at."""
        stocked, queues, armed = self.state.board.stocked, self.state.queues, self.armed
        if sum(map(len, armed.values())) <= len(stocked):
            every = chain.from_iterable(armed.values())
            return [
                each for each in every
                if (queue := each.state) and queue.number in stocked and self.state.is_stocked(queue)
            ]  # fmt: skip
        held = [self.channels.get(queue.name) for each in list(stocked) if (queue := queues.get(each))]
        return [each for each in held if each and each in armed.get(each.word, ())]

    def announce(self, arrivals: Mapping[int, int], now: Now) -> None:
        """Wake those whom what was just applied concerns: here, and in other processes.

        *arrivals*: by number the queues in which something changed, and how many messages came to each.
        """
        if self.asleep:
            for number, count in arrivals.items():
                queue = self.state.queue(number)
                channel = self.channels.get(queue.name) if queue else None
                if channel:
                    if count > 1:
                        channel.notify(count)
                    else:
                        channel.wake_next(now)
                        channel.freed()
            self.watch(now)
        if self.turn.mark[shared.ASLEEP]:
            self._ring(arrivals)

    def _ring(self, numbers: Iterable[int]) -> None:
        """Wake the processes that wait for the queues with these *numbers*.

        All, if work falls due sooner than they know: it may bring something to any queue.
        """
        concerned = [self.state.queue(number) for number in numbers]
        if self.state.board.sooner or None in concerned:
            self.ring_all()
        else:
            self._ring_words({shared.waits_word(queue.name) for queue in concerned if queue})

    def ring_all(self) -> None:
        """Wake the processes that wait for any queue."""
        if self.turn.mark[shared.ASLEEP]:
            self._ring_words(range(shared.WAITS, shared.WAITS + shared.WAITS_WORDS))

    def _ring_words(self, words: Iterable[int]) -> None:
        for word in words:
            if self.turn.mark[word]:
                self.listener.ring(word)

    # ── sleeping ───────────────────────────────────────────────────────────────────

    def ask_to_be_woken(self) -> float:
        """Before a thread here goes to sleep: how many seconds it may; called in a turn."""
        self.expect()
        return self.listener.ask(set(self.armed)) if self.background else math.inf

    def asleep_until(self) -> float:
        """When the first of those that wait looks again by itself, monotonic seconds."""
        return self.alarms.first()

    def watch(self, now: Now) -> None:
        """If all would sleep past what falls due next, wake one, which will not."""
        alarm = self.state.board.next
        if self.asleep and alarm < NEVER:
            due = time.monotonic() + (alarm - now.store) / 1000
            while self.asleep and self.asleep_until() > due + AWAKE_SECONDS:
                if next(iter(self.asleep)).ring() is not False:
                    break

    def after_fork(self) -> None:
        """In a child: the threads and watches that wait are the parent's."""
        for channel in self._every():
            channel.after_fork()
        self._forget_all()
        self.notifier.after_fork()
