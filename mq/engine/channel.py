"""Channel: what this process knows under a queue's name, and the threads that wait here.

Channels: several that are asked together, of which most are empty.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

from mq.delivery.now import Now
from mq.delivery.queue import QueueState
from mq.delivery.state import State
from mq.engine.listener import Listener
from mq.engine.turn import Turn
from mq.storage.shared import waits_word


class Sleeping(Protocol):
    """A thread that waits: see mq/engine/waiting.py."""

    wake_at: float
    """When it looks again by itself, monotonic seconds."""
    looks: bool
    """It waits for several queues, or for room: everything wakes it, and it looks for itself."""

    def ring(self) -> None:
        """Wake it.  It is told of nothing more until it waits again."""


class Hub(Protocol):
    """What all channels have in common: see mq/engine/waiters.py."""

    turn: Turn
    listener: Listener


class Channel:
    """The queue's state, once it exists, and the threads that wait for something here."""

    def __init__(self, name: str, hub: Hub) -> None:
        self.name, self._hub = name, hub
        self.word = waits_word(name)  # of the page: which processes wait for it
        self.state: QueueState | None = None
        self.armed: dict[Sleeping, None] = {}  # all that wait here, the first to come first
        # Those that wait for other queues too, or for room: everything wakes them, and they look.
        self.lookers: dict[Sleeping, None] = {}
        # Receivers that were woken and have not looked yet.  Each of them does, and wakes the
        # next if it sees another message; or an exception ends its waiting, and it wakes another one.
        # So a message needs no receiver of its own to be woken while one of these is on its way.
        self.coming: dict[Sleeping, None] = {}

    def wake(self, count: int) -> None:
        """*count* messages are ready: here, and for receivers in other processes."""
        if self.armed:
            self.notify(max(0, count - len(self.coming)))
        if self._hub.turn.mark[self.word]:
            self._hub.listener.ring(self.word)

    def hand_on(self, now: Now) -> None:
        """Deliveries changed: wake a receiver that finds a message, or would sleep past its time."""
        if self.armed:
            self.wake_next(now)
        if self._hub.turn.mark[self.word]:
            self._hub.listener.ring(self.word)

    def wake_next(self, now: Now) -> None:
        """`hand_on`, to receivers in this process."""
        if self.armed and self.state:
            if self.state.head(now) is not None:
                if not self.coming:  # else that one looks, and wakes the next
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
            first = min(sleeper.wake_at for sleeper in self.armed)
            if first > time.monotonic() + seconds:
                self.notify()

    def notify(self, count: int = 1) -> None:
        """Wake *count* receivers in this process, and all that look for themselves."""
        for sleeper in list(islice(self.armed, count + len(self.lookers))):
            if sleeper.looks:
                sleeper.ring()
            elif count:
                sleeper.ring()
                count -= 1
        self.freed()

    def notify_all(self) -> None:
        """Wake all that wait here."""
        for sleeper in list(self.armed):
            sleeper.ring()

    def freed(self) -> None:
        """There may be room, for those in this process that wait for it."""
        for sleeper in list(self.lookers):
            sleeper.ring()

    def after_fork(self) -> None:
        """In a child: the threads that waited are not here, unless the handler of a signal forked."""
        self.state = None
        self.coming.clear()
        self.notify_all()


class Channels:
    """Some channels, in the order in which they are asked."""

    __slots__ = ("_places", "every")

    def __init__(self, channels: Iterable[Channel]) -> None:
        self.every: Sequence[Channel] = list(dict.fromkeys(channels))
        self._places: dict[str, int] = {}  # by name, once that is asked

    def stocked(self, state: State) -> Sequence[Channel]:
        """Those whose queue may hold a message: found from the few that do, or the few that are asked.

        A single one is not asked: it is all there is to look at.
        """
        if len(self.every) == 1:
            return self.every
        stocked, is_stocked = state.board.stocked, state.is_stocked
        if len(stocked) < len(self.every):
            queues = [queue for number in list(stocked) if (queue := state.queues.get(number))]
            if not self._places:
                self._places = {channel.name: place for place, channel in enumerate(self.every)}
            found = [self._places.get(queue.name, -1) for queue in queues if is_stocked(queue)]
            return [self.every[place] for place in sorted(found) if place >= 0]
        return [
            channel for channel in self.every
            if (queue := channel.state) and queue.number in stocked and is_stocked(queue)
        ]  # fmt: skip
