"""Keeper: deliveries that are extended for as long as this process has the store open.

    keep(delivery) ──► looked at when half of its visibility timeout is left: in force still?
                         │ yes: extended, in one write with all others that are due
                         └ no: settled or delivered again, by any process: not kept any more

One thread for all, which ends when nothing is kept.  It knows a delivery by its receipt: it keeps no body in
memory, and no broker open.  What a program settles is not told here, so that settling costs nothing; the
next look finds out, in a turn, so that nothing that is settled is extended.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from functools import partial
from heapq import heappop, heappush
from typing import Final, Protocol

import msgspec

from mq.delivery import settle
from mq.engine.background import Worker
from mq.engine.channel import Channel
from mq.engine.clock import Clock
from mq.engine.commit import Committer
from mq.engine.operation import HasBusy, operation
from mq.engine.slices import give_way
from mq.engine.turn import Turn
from mq.errors import Closed, StorageError, StoreFailed
from mq.storage.disk import Disk

LEASE_MS_MIN: Final = 1000  # extended for at least so long, however short the queue's visibility timeout is
TOGETHER_MS: Final = 100  # what is due so soon is extended in the same write
CUSTOM_CLOCK_SECONDS: Final = 1.0  # between two looks at a clock of which it is not known how fast it goes
RETRY_SECONDS_MAX: Final = 1.0  # after an error, as on a full disk


class Owner(HasBusy, Protocol):
    """The store."""

    turn: Turn
    clock: Clock
    disk: Disk
    committer: Committer
    keeper: Keeper

    def let_go_if_forgotten(self) -> None:
        """Called behind each step, with no lock held."""


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A delivery, by its receipt."""

    channel: Channel
    id: int
    receipt: int

    def lease_ms(self) -> int:
        """For how long it is extended."""
        state = self.channel.state
        return max(LEASE_MS_MIN, int(state.options.visibility_timeout * 1000)) if state else LEASE_MS_MIN

    def due(self, deadline: int) -> int:
        """When to look at it, store time; at once if its queue is gone."""
        return deadline - self.lease_ms() // 2 if self.channel.state else 0


class Keeper:
    def __init__(self, owner: Owner, path: str, *, background: bool) -> None:
        """*background*: a thread does it; else the caller calls `step`."""
        self._owner, self._path, self._background = owner, path, background
        # Held while the thread is begun, and while it decides that it ends.
        self.gate = threading.RLock()
        # Receipt, deadline, and what is to be kept; None: its deadline is another one now.
        self._new: deque[tuple[int, int, Kept | None]] = deque()
        # Touched in `step` only: when to look, store time, and at which receipt; an entry that `_kept` does
        # not say the same of is out of date.
        self._heap: list[tuple[int, int]] = []
        self._kept: dict[int, tuple[int, Kept]] = {}  # by receipt: when to look, store time
        self._wake_at = [math.inf]  # when the thread wakes by itself, monotonic seconds; inf: it is awake
        self._has_thread = self._stopped = False
        self.worker = self._new_worker()

    def _new_worker(self) -> Worker:
        return Worker(
            "mq-keeper", self._path, self.step, behind=self._rest, ended=self._go_on,
            backoff_max=RETRY_SECONDS_MAX,
        )  # fmt: skip

    def count(self) -> int:
        """How many deliveries are kept, as far as is known."""
        return len(self._kept) + len(self._new)

    # ── for callers ────────────────────────────────────────────────────────────────

    def keep(self, kept: Kept, deadline: int) -> None:
        """Extend it until it is not in force any more.  StorageError if no thread can be had."""
        due = kept.due(deadline)
        with self.gate:
            if not self._begin():
                raise StorageError(
                    self._path,
                    "no new thread can be had to keep deliveries, as at the end of a program or at a limit of"
                    " threads (ulimit -u): extend them by hand",
                )
            self._new.append((kept.receipt, deadline, kept))
        wake_at = self._wake_at[0]
        if wake_at == math.inf or due <= self._due_at(wake_at):
            self.worker.ring()

    def extended(self, receipt: int, deadline: int) -> None:
        """The program extended a delivery by hand, perhaps for a shorter time; it may be one that is kept."""
        if self.count():
            self._new.append((receipt, deadline, None))
            self.worker.ring()

    def _due_at(self, monotonic: float) -> float:
        """The store time then, ms."""
        return self._owner.clock.store_ms() + (monotonic - time.monotonic()) * 1000

    def _begin(self) -> bool:
        """Whether a thread does it; called with the gate."""
        if not self._has_thread and self._background and not self._stopped:
            self.worker = self._new_worker()  # the thread of the last one may just be leaving
            self._wake_at[0] = math.inf
            self._has_thread = self.worker.start(partial(_nap, self.worker, self._wake_at))
        return self._has_thread or not self._background

    def _go_on(self) -> None:
        """The thread ended by an error: begin another one."""
        with self.gate:
            self._has_thread = False
            if self.count():
                self._begin()

    def stop(self) -> None:
        """Have the thread stop, and begin none; takes no lock."""
        self._stopped = True
        self.worker.stop()

    # ── the thread ─────────────────────────────────────────────────────────────────

    def step(self) -> bool:
        """Extend what is due; whether nothing is kept any more, so that the thread ends."""
        self._wake_at[0] = math.inf
        while self._new:
            receipt, deadline, kept = self._new.popleft()
            if known := self._kept.get(receipt):
                kept = known[1]
            if kept:
                self._look_at(kept.due(deadline), kept)
        try:
            self._extend_due()
        except (Closed, StoreFailed):  # nothing can be extended any more
            self._kept.clear()
        if not self._kept:
            self._heap.clear()
            with self.gate:
                if not self._new:
                    self._has_thread = False
                    return True
        else:
            self._wake_at[0] = time.monotonic() + self._seconds()
        if self._new:
            self.worker.ring()
        return False

    def _look_at(self, due: int, kept: Kept) -> None:
        """Look at it then, unless that is to be done sooner anyway."""
        known = self._kept.get(kept.receipt)
        if known is None or due < known[0]:
            self._kept[kept.receipt] = due, kept
            heappush(self._heap, (due, kept.receipt))

    def _seconds(self) -> float:
        """Until the next look."""
        clock = self._owner.clock
        seconds = max(0.0, (self._heap[0][0] - clock.store_ms()) / 1000)
        return min(seconds, CUSTOM_CLOCK_SECONDS) if clock.is_custom else seconds

    def _extend_due(self) -> None:
        until = self._owner.clock.store_ms() + TOGETHER_MS
        due: list[Kept] = []
        again: list[tuple[int, Kept]] = []
        try:
            self._take_due(until, due)
            if due:
                again = _extend(self._owner, due)
        except BaseException:
            again = [(until, kept) for kept in due]  # as they were: they are due still
            raise
        finally:
            for kept in due:
                del self._kept[kept.receipt]
            for when, kept in again:
                self._look_at(when, kept)

    def _take_due(self, until: int, due: list[Kept]) -> None:
        """Put what is due by then into *due*."""
        while self._heap and self._heap[0][0] <= until:
            when, receipt = self._heap[0]
            known = self._kept.get(receipt)
            if known and known[0] == when:
                due.append(known[1])
            heappop(self._heap)

    def _rest(self) -> None:
        self._owner.let_go_if_forgotten()


@operation
def keep(store: Owner, kept: Kept) -> None:
    """Extend it until it is settled or delivered again; nothing if it is not in force."""
    deadline = store.turn.look(partial(_deadline, kept))
    if deadline is not None:
        store.keeper.keep(kept, deadline)


def _deadline(kept: Kept) -> int | None:
    queue = settle.current(kept.channel.state, kept.id, kept.receipt)
    return queue.flights[kept.id].deadline if queue else None


@operation
def _extend(owner: Owner, due: list[Kept]) -> list[tuple[int, Kept]]:
    """Extend those that are in force: when to look at each again, store time in ms."""
    again: list[tuple[int, Kept]] = []
    at = 0

    def extend_some() -> tuple[list[tuple[int, Kept]], int]:
        plan, place = owner.committer.plan(), at
        found: list[tuple[int, Kept]] = []
        is_late = owner.committer.slice(plan)
        while place < len(due):
            kept = due[place]
            place += 1
            if (queue := settle.current(kept.channel.state, kept.id, kept.receipt)) is not None:
                lease, deadline = kept.lease_ms(), queue.flights[kept.id].deadline
                if deadline - plan.now.store <= lease // 2 + TOGETHER_MS:
                    deadline = settle.extend(plan, queue, kept.id, lease / 1000)
                found.append((deadline - lease // 2, kept))
            if is_late():
                break
        if plan.drafts:
            owner.committer.commit(plan)
        return found, place

    while at < len(due):
        if at:
            give_way(owner)
        found, at = owner.turn.take(extend_some)
        again += found
    return again


def _nap(worker: Worker, wake_at: list[float]) -> None:
    worker.nap(min(max(0.0, wake_at[0] - time.monotonic()), threading.TIMEOUT_MAX))
