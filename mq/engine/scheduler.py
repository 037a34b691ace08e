"""A thread for ticks: they come also while no operation does.

    the page: when the next tick is due ──► asleep until then ──► a turn: the tick, unless another process
                                                                  was first ──► asleep …

Every operation does what is due, and a thread that waits for a message wakes for it.  This thread is for the
time between.  Each process that has the store open has one, so that ticks come whichever of them dies or
closes it.  A process looks at one word of the page each second, without a lock and without a system call: so
it hears of a schedule that another process declares, and of a wall clock that is set.  It takes a turn only
when a tick is due by that word; the process that comes first does it, and the word says so to the others.

While there is no schedule, and another thread comes by each second anyway, the listener, that one looks at
the word, and this one sleeps.

A store that no other process has open needs the thread only once there is a schedule.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

from mq.engine.background import ASLEEP, Worker
from mq.engine.clock import Clock
from mq.engine.commit import Committer
from mq.engine.listener import Listener
from mq.engine.maintenance import Maintenance
from mq.engine.operation import HasBusy, operation
from mq.engine.replica import Replica
from mq.engine.turn import Turn
from mq.storage.disk import Disk
from mq.storage.shared import TICK

LOOK_SECONDS: Final = 1.0  # between two looks at the page
LEAST_SECONDS: Final = 0.005  # also when what is due cannot be done by this process
NAP_SECONDS: Final = 20e-6  # between two ticks; the system makes 80 of it: as long as to wake a thread takes
FAILED_SECONDS: Final = 60.0  # at most, between two attempts to do a tick that raise an error


class Owner(HasBusy, Protocol):
    """The store whose schedules these are.  A fork replaces some of what it has."""

    turn: Turn
    replica: Replica
    committer: Committer
    maintenance: Maintenance
    listener: Listener
    disk: Disk
    sync_always: bool
    closed: bool
    """No operation comes in any more; a thread that closes the store says so with the mutex."""

    def let_go_if_forgotten(self) -> None:
        """Called behind each step, with no lock held."""


class Scheduler:
    def __init__(self, owner: Owner, path: str, clock: Clock, turn: Turn) -> None:
        self._owner, self._clock, self._turn = owner, clock, turn
        self.worker = Worker(
            "mq-scheduler", path, self._step, behind=owner.let_go_if_forgotten, backoff_max=FAILED_SECONDS
        )
        self._seconds = [0.0]  # until the next look; the thread must not keep this object
        self._sleep = self.worker.napping(self._seconds)

    def begin(self) -> None:
        """Have a thread, if one can be had; else operations do the ticks."""
        self.worker.start(self._sleep)

    def wake(self) -> None:
        """A schedule was declared, or moved on: look again when it is due."""
        self.begin()
        self.worker.ring()

    def look(self) -> None:
        """Have the thread look if there is a schedule by now; by the listener, each second."""
        if self._seconds[0] == ASLEEP and self._turn.mark[TICK]:
            self.worker.ring()

    def stop(self) -> None:
        """Have the thread stop; takes no lock."""
        self.worker.stop()

    def _step(self) -> None:
        due = self._turn.mark[TICK]
        if due and due <= self._clock.wall_ms():
            tick(self._owner)
            due = self._turn.mark[TICK]
        left = (due - self._clock.wall_ms()) / 1000 if due else LOOK_SECONDS
        self._seconds[0] = min(LOOK_SECONDS, max(LEAST_SECONDS, left))
        if not due and self._owner.listener.worker.runs():  # if it ends, it rings
            self._seconds[0] = ASLEEP


# ── ticks ──────────────────────────────────────────────────────────────────────────


@operation
def tick(store: Owner) -> None:
    """Do all that schedules have to do by now; called with no lock held."""
    with store.replica.log.failure.unheard():
        end = _do_ticks(store)
        if store.sync_always and end:
            store.replica.log.sync(end)
    if store.committer.no_room:  # as a publisher does, before it tries once more
        store.committer.no_room = False
        store.maintenance.make_way()


def _do_ticks(store: Owner) -> int:
    """Do all that are due; where the log ends then, or 0 if there was none."""
    end = 0
    while now_at := _do_first(store):
        end = now_at
        if len(store.busy) > 1:  # a thread that takes the mutex again at once is always first
            store.disk.pause(NAP_SECONDS)
    return end


def _do_first(store: Owner) -> int:
    """Do the tick that is due first; where the log ends then, or 0 once none is due."""
    with store.turn.mutex:
        return 0 if store.closed else store.turn.take(partial(_do, store))


def _do(store: Owner) -> int:
    did = store.committer.do_tick()
    store.replica.show_generation()
    return store.replica.log.end if did else 0
