"""What a store does beside its work: clean, write checkpoints, free memory, report trouble.

One thread, started when there is first something to do, woken when the log has grown by a step.  One
thread, and one process, at a time; it holds the store's lock for a slice of a millisecond or two.

    cleaning.py       whether the oldest segment is cleaned now, and what becomes of an error
    moving.py         what is live, and the record that stands for it from now on
    checkpoints.py    when the state is kept for the next opening, and how
    compacting.py     space that is asked for
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, ClassVar, Final, Protocol, TypeVar

from mq.engine.background import Worker
from mq.engine.checkpoints import CHECKPOINT_BYTES, LET_RUN_SECONDS, Checkpoints
from mq.engine.cleaning import Cleaning
from mq.engine.commit import Committer
from mq.engine.compacting import compact
from mq.engine.replica import Replica
from mq.errors import Closed, DiskFull, StorageError, StoreLocked
from mq.forks import is_held
from mq.notes import WARNING, Notes
from mq.storage.explain import explain
from mq.storage.locks import LOCK_SECONDS
from mq.storage.log import Log

T = TypeVar("T")

WAY_SECONDS: Final = 5.0  # a publisher on a full disk cleans for so long
FULL_REST_SECONDS: Final = 0.01  # between two looks of the thread
CLOSING_BYTES: Final = 64 << 10  # of log at close: less is read again as quickly
CLOSING_SECONDS: Final = 1.0  # for cleaning at close


class Owner(Protocol):
    """The store that is maintained."""

    def maintain(self, do: Callable[[Log, int, int], T], /) -> T:
        """Run *do*, a slice of maintenance, in a turn with LOCK: given log, time, and the state's epoch."""

    def alone_cleaning(self, seconds: float = ...) -> AbstractContextManager[bool]:
        """Whether no other process cleans or writes a checkpoint; it gets so many *seconds* to end."""

    def note_pressure(self) -> None:
        """`cleaning.pressed` may have changed."""

    def let_go_if_forgotten(self) -> None:
        """Called behind each step of the thread, with no lock held."""


class Maintenance:
    checkpoints_type: ClassVar[Any] = Checkpoints  # for a log that is no files, another one
    cleaning_type: ClassVar[Any] = Cleaning

    def __init__(
        self, owner: Owner, replica: Replica, committer: Committer, notes: Notes, *, background: bool
    ) -> None:  # fmt: skip
        self._owner, self._replica, self._notes, self._background = owner, replica, notes, background
        self.checkpoints: Checkpoints = self.checkpoints_type(
            owner.maintain, replica, notes, background=background
        )
        self.cleaning: Cleaning = self.cleaning_type(
            owner.maintain, replica, committer.size_of, notes, owner.note_pressure,
            self.checkpoints.keep_renames, background=background,
        )  # fmt: skip
        self.worker = Worker("mq-maintenance", replica.path, self._step, behind=owner.let_go_if_forgotten)
        self.working = threading.RLock()  # two at once would each drop the oldest segment

    # ── its thread ─────────────────────────────────────────────────────────────────

    def nudge(self) -> None:
        """The log has grown; called under the store's lock."""
        if self._replica.log.reserve.full and self.worker.runs():
            self.worker.ring()  # it looks when this append is done: that may have been the last ack
            return
        self.cleaning.measure()
        if self._background and (self.cleaning.is_due() or self.checkpoints.is_due()):
            self._wake()

    def _wake(self) -> None:
        """Have the thread run; it is started if there is none, or if it has ended."""
        if self.worker.start():
            self.worker.ring()
        elif self.cleaning.until == math.inf:  # else the store is being closed
            self._notes.put_down_rarely(
                WARNING, "%s: no thread can be started: publishers give space back, when they have to",
                self._replica.path,
            )  # fmt: skip

    def free(self) -> None:
        """Free what queues held that were purged, or deleted; called in a turn.

        The thread does it beside the turn; without one, it is done here, unless another thread is writing a
        checkpoint, which has some of it.  Then it is done with what is freed next.
        """
        if self._background and self.worker.start():
            self.worker.ring()
        elif not self.is_working():
            self._replica.state.board.discarded.free(lambda: None)

    def _let_others_run(self) -> None:
        time.sleep(LET_RUN_SECONDS)

    def _step(self) -> None:
        """What the thread does when it is woken."""
        with self.working:
            self._replica.state.board.discarded.free(self._let_others_run)
        self.run()
        if self._replica.log.reserve.full:
            time.sleep(FULL_REST_SECONDS)

    # ── one run ────────────────────────────────────────────────────────────────────

    def run(self, checkpoint_bytes: int = CHECKPOINT_BYTES) -> None:
        """Do all that is due, unless another process is at it.

        A checkpoint is due when the log has grown by so many bytes.
        """
        self._run(checkpoint_bytes)
        self._notes.log()

    def _run(self, checkpoint_bytes: int) -> None:
        with self.working:
            try:
                with explain(self._replica.path), self._owner.alone_cleaning() as ours:
                    if ours:
                        self.checkpoints.see_others()
                        with self._replica.log.failure.unheard():
                            self.cleaning.run()
                            self.checkpoints.write_if_due(checkpoint_bytes)
            except Closed:
                pass
            except StorageError as error:  # no descriptor to be had, perhaps: tried again at the next step
                self._notes.put_down_rarely(
                    WARNING, "%s: no space is given back just now: %s", self._replica.path, error
                )

    # ── for the callers ────────────────────────────────────────────────────────────

    def stall(self) -> None:
        """A publisher waits a little, for the cleaner to catch up; without a thread it cleans itself."""
        if self._background and self.worker.runs():
            time.sleep(self.cleaning.stall_seconds)
        else:
            self._run(CHECKPOINT_BYTES)

    def make_way(self) -> None:
        """Clean what pays, for a publisher that found the disk full; called without the store's lock."""
        self.cleaning.look_anew()
        until = time.monotonic() + WAY_SECONDS
        with self.working, self._owner.alone_cleaning() as ours, suppress(DiskFull, StoreLocked):
            if ours:
                self.cleaning.make_way(until)
        if not ours:
            with self._owner.alone_cleaning(WAY_SECONDS):
                pass  # another process was at it
        self._replica.log.reserve.way_made = True

    def compact(
        self, progress: Callable[[int, int], None] = lambda done, total: None, *, only_to_shrink: bool = False
    ) -> None:  # fmt: skip
        """Clean every segment that holds garbage, and all before it; *progress*: bytes done, of how many:
        first of reading, then of cleaning.  *only_to_shrink*: see compacting.py.

        What is due by itself waits meanwhile.  Raises what stands in the way.
        """
        with self.working, self._owner.alone_cleaning(LOCK_SECONDS) as ours:
            if not ours:
                raise StorageError(
                    self._replica.path, "another process has been cleaning for long; try again later"
                )
            compact(
                self._owner.maintain, self._replica, self.cleaning, progress, only_to_shrink=only_to_shrink
            )

    # ── closing ────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Have the thread stop; takes no lock."""
        self.cleaning.until = time.monotonic()
        self.worker.stop()

    def finish(self) -> None:
        """Do what is due at close."""
        self.cleaning.until = time.monotonic() + CLOSING_SECONDS
        self._run(CLOSING_BYTES)

    def is_working(self) -> bool:
        """Whether a thread is in the midst of it, perhaps this one."""
        return is_held(self.working)

    def wait(self) -> None:
        """Return when nothing is being done; called when nothing more is allowed to begin."""
        self.cleaning.until = time.monotonic()
        with self.working:
            pass
