"""Channel: what this process knows under a queue's name, and who waits here."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from mq.delivery.events import Now
from mq.delivery.queue import QueueState
from mq.storage.shared import ASLEEP

if TYPE_CHECKING:
    from mq.store import Store


class Channel:
    """The queue's state, once it exists, and those who wait for something here."""

    def __init__(self, name: str, store: Store) -> None:
        self.name, self._store = name, store
        self.state: QueueState | None = None
        self.arrived = threading.Condition(store.mutex)
        self.armed: list[float] = []  # when each who waits looks again by itself, monotonic seconds
        # Who waits for other queues too, or for room here: told of everything, and looks for itself.
        self.lookers: list[threading.Condition] = []

    def wake(self, count: int) -> None:
        """*count* messages are ready: here, and for receivers in other processes."""
        if self.armed:
            self.notify(count)
        if self._store.mark[ASLEEP]:
            self._store.listener.ring()

    def hand_on(self, now: Now) -> None:
        """Deliveries changed: wake who can take the next message, or who would sleep past its time."""
        if self.armed:
            self.wake_next(now)
        if self._store.mark[ASLEEP]:
            self._store.listener.ring()

    def wake_next(self, now: Now) -> None:
        """`hand_on`, to receivers in this process."""
        if self.armed and self.state:
            if self.state.head(now) is not None:
                self.notify()
            else:
                self.rearm(self.state.seconds_to_next(now))

    def rearm(self, seconds: float | None) -> None:
        """Something falls due in *seconds*: some receiver must not sleep longer."""
        if self.armed and seconds is not None and min(self.armed) > time.monotonic() + seconds:
            self.notify()

    def notify(self, count: int = 1) -> None:
        """Wake *count* receivers in this process, and all who look for themselves."""
        self.arrived.notify(count)
        self.freed()

    def freed(self) -> None:
        """There may be room, for those in this process who wait for it."""
        for looker in self.lookers:
            looker.notify()

    def after_fork(self) -> None:
        """In a child: whoever held the mutex, and whoever waited, is not here."""
        self.state, self.armed, self.lookers = None, [], []
        self.arrived = threading.Condition(self._store.mutex)
