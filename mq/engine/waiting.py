"""Sleeping until there may be something: a message, room in a full queue, work that falls due.

    with the turn:       nothing is ready ── prepare: be known at the queue's channel ── leave
    holding nothing:     sleep on a lock of one's own, which the one that wakes releases
    with the turn:       look again

A thread holds no lock while it sleeps, and takes none at its end: an exception out of a
signal handler finds nothing to give back.  (Condition.wait takes its lock again on the
way out, and a signal that comes then leaves the caller without a lock that it believes to
hold.)

    receive()            waits at its queue: one message wakes one of many
    receive([queues])    and publish(timeout=) look for themselves: they are told of everything;
                         so does receive_many(linger=), once there is a message
    watch.arm([queues])  waits in the same line, without a thread: see mq/engine/watching.py

No thread polls.  For each queue, one sleeping receiver carries the next time at which
something is ready there; for the store, one carries the next work that falls due.  A
receiver that wakes early hands that on.  While a thread listens to other processes, it comes
by each second anyway: then only what is less than two seconds away is handed on at once.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import TIMEOUT_MAX, Lock
from typing import Final

from mq.delivery.board import NEVER
from mq.delivery.now import Now
from mq.engine.channel import Channel, Channels
from mq.engine.waiters import Waiters

GIVE_UP_TRIES: Final = 100  # for a thread that is interrupted again while it tidies up


class Waiter(ABC):
    """What waits at some channels: a thread that sleeps, or a watch (mq/engine/watching.py)."""

    __slots__ = ("_channels", "_waiters", "looks", "wake_at")

    def __init__(self, waiters: Waiters, channels: Channels, *, looks: bool) -> None:
        self._waiters, self._channels = waiters, channels
        self.looks = looks  # for itself, whatever happens there
        self.wake_at = math.inf  # when it looks again by itself, monotonic seconds

    @abstractmethod
    def ring(self) -> bool:
        """Wake it; False if it is gone."""

    def ring_at(self, channel: Channel) -> bool:
        return self.ring()

    def is_gone(self) -> bool:
        return False

    def after_fork(self) -> None:
        self.end()

    # ── with the turn ──────────────────────────────────────────────────────────────

    def line_up(self, now: Now, begin: float, wake_at: float) -> None:
        """Be told of what happens from now on; look again at *wake_at*, or sooner if no other waiter does."""
        waiters = self._waiters
        alarm = waiters.state.board.next
        if alarm < NEVER:
            work_at = max(begin, begin + (alarm - now.store) / 1000)
            if work_at < min(waiters.asleep_until(), wake_at):
                wake_at = work_at
        self.wake_at = wake_at
        waiters.add(self)
        for channel in self._channels.every:
            waiters.arm(channel)
            channel.add(self)
        self.wake_at = min(wake_at, begin + waiters.ask_to_be_woken())
        if self.wake_at < math.inf:
            waiters.alarms.add(self)
            for channel in self._channels.every:
                channel.alarms.add(self)

    def end(self) -> None:
        """Be told of nothing any more."""
        waiters = self._waiters
        waiters.drop(self)
        for channel in self._channels.every:
            channel.drop(self)
            if not channel.armed:
                waiters.disarm(channel)

    def _stocked(self) -> Sequence[Channel]:
        """The channels at which something may be ready, now or later."""
        return self._channels.stocked(self._waiters.state)

    def seconds(self, now: Now) -> float:
        """Until something is ready at one of the channels, or a queue has to be told that it is in use."""
        found = math.inf
        for channel in self._stocked():
            due = channel.seconds_to_next(now)
            if due is not None:
                found = min(found, due)
            if channel.state and channel.state.idle.seconds is not None:
                found = min(found, channel.state.idle.seconds / 2)
        return found

    def finds(self, now: Now) -> bool:
        """Whether there is a message at one of the channels."""
        return any(each.state and each.state.head(now) is not None for each in self._stocked())

    def hand_on(self, now: Now) -> None:
        """What this one would have woken for concerns the others still."""
        for channel in self._stocked():
            channel.rearm(channel.seconds_to_next(now))
        if self._waiters.asleep:
            self._waiters.watch(now)

    # ── holding nothing ────────────────────────────────────────────────────────────

    def give_up(self) -> None:
        """An exception ends the waiting: another one must take what this one was woken for.

        A second one that comes meanwhile is dropped: the first is raised by the caller.
        """
        for _ in range(GIVE_UP_TRIES):
            try:
                with self._waiters.turn.mutex:
                    self.end()
                    for channel in self._channels.every:
                        channel.notify()
                return
            except BaseException:  # noqa: BLE001
                continue


class Sleeper(Waiter):
    """A thread that waits at some channels."""

    __slots__ = ("_asked", "_bell", "_for_room")

    def __init__(self, waiters: Waiters, channels: Channels, *, for_room: bool = False) -> None:
        super().__init__(waiters, channels, looks=for_room or len(channels.every) > 1)
        self._for_room = for_room
        self._asked = False  # whether others have appended, when the time was over
        self._bell = Lock()
        self._bell.acquire()

    # ── with the turn ──────────────────────────────────────────────────────────────

    def prepare(self, now: Now, until: float | None) -> bool:
        """Be told of what happens from now on; False once *until* has come, monotonic seconds."""
        begin = time.monotonic()
        alarm = self._waiters.state.board.next
        self.end()
        # What has fallen due and is not done yet may make room: then this is not the end.
        over = until is not None and begin >= until and not (self._for_room and alarm <= now.store)
        if over and (self._asked or not self._waiters.turn.is_behind()):
            self.hand_on(now)
            return False
        self._asked = over
        due = math.inf if self._for_room else self.seconds(now)
        self.line_up(now, begin, min(math.inf if until is None else until, begin + due))
        return True

    def ring(self) -> bool:
        """Wake the thread.  It is told of nothing more until it waits again."""
        # First, so that an interruption behind it leaves no thread asleep.
        if self._bell.locked():
            self._bell.release()
        self.end()
        if not self.looks:
            self._channels.every[0].coming[self] = None
        return True

    def after_fork(self) -> None:
        """In a child: it goes on here only if the handler of a signal forked in it."""
        self.ring()

    # ── holding nothing ────────────────────────────────────────────────────────────

    def sleep(self) -> None:
        """Return when it rings, or at `wake_at`."""
        if self.wake_at == math.inf:
            self._bell.acquire()
        else:
            seconds = self.wake_at - time.monotonic()
            self._bell.acquire(timeout=min(max(0.0, seconds), TIMEOUT_MAX))


class Gatherer(Sleeper):
    """A thread that has found fewer messages than it wants, and waits for more before it takes any.

    It holds none of them meanwhile: it is told of everything, so that each message also wakes another
    receiver, which may take it.
    """

    __slots__ = ("_until",)

    def __init__(self, waiters: Waiters, channels: Channels, seconds: float) -> None:
        super().__init__(waiters, channels)
        self.looks = True
        self._until = time.monotonic() + seconds

    def goes_on(self, now: Now) -> bool:
        """Wait on; False once the time is over."""
        return self.prepare(now, self._until)
