"""Channel: what this process knows under a queue's name, and the threads that wait here.

Channels: several that are asked together, of which most are empty.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final, Protocol

from mq.delivery.now import Now
from mq.delivery.queue import QueueState
from mq.delivery.state import State
from mq.engine.listener import Listener
from mq.engine.turn import Turn
from mq.storage.shared import waits_word

STALE_MAX: Final = 64  # stale entries of a heap, beside as many as there are valid ones


class Waiting(Protocol):
    """What waits: a thread (mq/engine/waiting.py), or a watch (mq/engine/watching.py)."""

    wake_at: float
    """When it looks again by itself, monotonic seconds."""
    looks: bool
    """It waits for several queues in a thread, or for room: everything wakes it, and it looks for itself."""

    def ring(self) -> bool:
        """Wake it; False if it is gone.  It is told of nothing more until it waits again."""

    def ring_at(self, channel: Channel) -> bool:
        """`ring`, for a message there."""

    def end(self) -> None:
        """Be told of nothing any more."""

    def is_gone(self) -> bool:
        """Whether it is a watch that the program has forgotten."""

    def after_fork(self) -> None:
        """In a child: what waited is the parent's."""


class Alarms:
    """When the first of *waiting* looks again by itself; entries that are out of date go as they come up."""

    __slots__ = ("_heap", "_waiting")

    def __init__(self, waiting: Collection[Waiting]) -> None:
        self._waiting = waiting
        self._heap: list[tuple[float, int, Waiting]] = []  # when; a number that orders equals; what waits

    def add(self, waiter: Waiting) -> None:
        heappush(self._heap, (waiter.wake_at, id(waiter), waiter))
        if len(self._heap) > 2 * len(self._waiting) + STALE_MAX:
            self._heap = [(each.wake_at, id(each), each) for each in self._waiting if each.wake_at < math.inf]
            heapify(self._heap)

    def first(self) -> float:
        """Monotonic seconds; inf: none does."""
        heap, waiting = self._heap, self._waiting
        while heap and not (heap[0][2] in waiting and heap[0][2].wake_at == heap[0][0]):
            heappop(heap)
        return heap[0][0] if heap else math.inf


class Hub(Protocol):
    """What all channels have in common: see mq/engine/waiters.py."""

    turn: Turn
    listener: Listener
    renames: int
    """How often a channel got another name."""


class Channel:
    """The queue's state, once it exists, and the threads that wait for something here."""

    def __init__(self, name: str, hub: Hub) -> None:
        self.name, self._hub = name, hub
        self.word = waits_word(name)  # of the page: which processes wait for it
        self.state: QueueState | None = None
        # All that wait here, the first to come first.  Ordered by links: to find the first of many thousands
        # takes no longer when thousands have come and gone before it.
        self.armed: OrderedDict[Waiting, None] = OrderedDict()
        self.alarms = Alarms(self.armed)
        # Those that wait for other queues too, or for room: everything wakes them, and they look.
        self.lookers: dict[Waiting, None] = {}
        # Receivers that were woken and have not looked yet.  Each of them does, and wakes the
        # next if it sees another message; or an exception ends its waiting, and it wakes another one.
        # So a message needs no receiver of its own to be woken while one of these is on its way.
        self.coming: dict[Waiting, None] = {}
        # Watches that were notified of a message here which is not taken, as far as is known.  The same
        # holds for them, but only for a second: a program may never look.
        self.told: dict[Waiting, None] = {}

        self.joiners: dict[Waiting, None] = {}  # those that wait for the queue to be empty: see joining.py
        # That of the queue's name, if the queue got a name which had a channel already.  Those that wait here
        # wait there.
        self.main: Channel | None = None

    @property
    def publish_needs_plan(self) -> bool:
        """Whether a publish here does, as it looks without a turn."""
        return self.state is None or self.state.publish_needs_plan

    def rename(self, name: str) -> None:
        """The queue is called so now.  Nothing waits here."""
        self.name, self.word = name, waits_word(name)

    def join(self, main: Channel) -> None:
        """Be one with *main*, which has the same name.  Nothing waits here."""
        self.main, self.armed, self.alarms = main, main.armed, main.alarms
        self.lookers, self.coming, self.told, self.joiners = (
            main.lookers, main.coming, main.told, main.joiners
        )  # fmt: skip

    # ── those that wait ────────────────────────────────────────────────────────────

    def add(self, waiter: Waiting) -> None:
        """It waits here, last in the line; it has seen that there is nothing."""
        self.told.clear()  # so what they were told of is taken
        self.armed[waiter] = None
        if waiter.looks:
            self.lookers[waiter] = None

    def drop(self, waiter: Waiting) -> None:
        self.armed.pop(waiter, None)
        self.lookers.pop(waiter, None)
        self.coming.pop(waiter, None)
        self.told.pop(waiter, None)

    # ── waking ─────────────────────────────────────────────────────────────────────

    def wake(self, count: int) -> None:
        """*count* messages are ready: here, and for receivers in other processes."""
        if self.armed:
            self.notify(max(0, count - len(self.coming) - len(self.told)))
        if self._hub.turn.mark[self.word]:
            self._hub.listener.ring(self.word)

    def hand_on(self, now: Now) -> None:
        """Deliveries changed: wake a receiver that finds a message, or would sleep past its time."""
        if self.armed:
            self.wake_next(now)
        if self._hub.turn.mark[self.word]:
            self._hub.listener.ring(self.word)

    def taken(self, now: Now) -> None:
        """A receiver took a message, and has waked none for the rest."""
        if self.told:
            del self.told[next(iter(self.told))]  # it was told of that message
        self.wake_next(now)

    def wake_next(self, now: Now) -> None:
        """`hand_on`, to receivers in this process."""
        if self.armed and self.state:
            if self.state.head(now) is not None:
                if not self.coming and not self.told:  # else that one looks, and wakes the next
                    self.notify()
            else:
                self.rearm(self.seconds_to_next(now))

    def seconds_to_next(self, now: Now) -> float | None:
        """How long until something becomes ready here by itself; None: never, as things are."""
        if self.state is None or self.state.paused:  # `resume` wakes all that wait
            return None
        return self.state.seconds_to_next(now)

    def rearm(self, seconds: float | None) -> None:
        """Something falls due in *seconds*: some receiver must not sleep longer.

        If a thread listens, it comes by each second, and tells one in time.
        """
        if self.armed and seconds is not None:
            if seconds >= self._hub.listener.watches_from:
                return
            if self.alarms.first() > time.monotonic() + seconds:
                self.notify()

    def notify(self, count: int = 1) -> None:
        """Wake *count* receivers in this process, and all that look for themselves."""
        self.freed()
        gone = sum(waiter.ring_at(self) is False for waiter in list(islice(self.armed, count)))
        if gone:  # watches that the program has forgotten
            self.notify(gone)

    def notify_all(self) -> None:
        """Wake all that wait here."""
        for waiter in [*self.armed, *self.joiners]:
            waiter.ring()

    def freed(self) -> None:
        """There may be room, for those in this process that wait for it; or the queue may be empty."""
        for waiter in list(self.lookers):
            waiter.ring()
        if self.joiners and (self.state is None or not self.state.total()):
            for waiter in list(self.joiners):
                waiter.ring()

    def renames(self) -> int:
        """How often a channel of the store got another name."""
        return self._hub.renames

    def after_fork(self) -> None:
        """In a child: the threads that waited are not here, unless the handler of a signal forked."""
        self.state = None
        self.coming.clear()
        self.told.clear()
        for waiter in [*self.armed, *self.joiners]:
            waiter.after_fork()


class Channels:
    """Some channels, in the order in which they are asked."""

    __slots__ = ("_places", "_renames", "every")

    def __init__(self, channels: Iterable[Channel]) -> None:
        self.every: Sequence[Channel] = list(dict.fromkeys(channels))
        self._places: dict[str, int] = {}  # by name, once that is asked
        self._renames = 0  # how many there had been then

    def stocked(self, state: State) -> Sequence[Channel]:
        """Those whose queue may hold a message: found from the few that do, or the few that are asked.

        A single one is not asked: it is all there is to look at.
        """
        if len(self.every) == 1:
            return self.every
        stocked, is_stocked = state.board.stocked, state.is_stocked
        if len(stocked) < len(self.every):
            queues = [queue for number in list(stocked) if (queue := state.queues.get(number))]
            renames = self.every[0].renames()
            if not self._places or renames != self._renames:
                self._renames = renames
                self._places = {channel.name: place for place, channel in enumerate(self.every)}
            found = [self._places.get(queue.name, -1) for queue in queues if is_stocked(queue)]
            return [self.every[place] for place in sorted(found) if place >= 0]
        return [
            channel for channel in self.every
            if (queue := channel.state) and queue.number in stocked and is_stocked(queue)
        ]  # fmt: skip
