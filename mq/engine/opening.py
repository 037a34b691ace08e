"""Opening a store: recovery, or joining the processes that have it open.

    LOCK      is held until the end; without it, another process might recover at the same time
    arrive    presence, a lock of FORMAT and of the directory, says whether other processes are here
    alone     the page is made or checked; the log is surveyed, put in order, and goes on behind its end
              (storage/recovery.py); what is damaged is repaired first, if the caller wants that
    others    the page is theirs, and says how far the log is whole: it is read up to there
    leave     let the others come in

The child of a fork comes by here too, when it first uses the store: mq/engine/child.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from mq.delivery import records
from mq.delivery.decode import refusals
from mq.engine.clock import Clock
from mq.engine.commit import Committer
from mq.engine.listener import Listener
from mq.engine.loading import identify
from mq.engine.maintenance import Maintenance
from mq.engine.replica import Replica
from mq.engine.turn import Turn
from mq.errors import CorruptStore, DiskFull, StoreFailed, Unsupported
from mq.notes import INFO, WARNING, Notes
from mq.storage import checkpoint, locks, owner, paths, recovery, shared
from mq.storage.bias import Bias
from mq.storage.disk import Disk
from mq.storage.explain import REOPEN
from mq.storage.locks import Locks
from mq.storage.log import Log
from mq.storage.memory_disk import MEMORY
from mq.storage.segment import epoch_of
from mq.storage.shared import END, FAILED
from mq.storage.standing import Standing, Trouble

T = TypeVar("T")

COPIED: Final = (
    "%s: a copy of a store, or restored from one (`mark` is not the file that it was made as): what is whole"
    " in its log is taken, up to position %d, and receipts from before it was copied are not valid here"
)


class Owner(Protocol):
    """The store that is opened.  A fork replaces some of what it has, so that is asked for each time."""

    path: str
    exclusive: bool
    sync_always: bool
    disk: Disk
    listener: Listener
    maintenance: Maintenance
    observe_sync: Callable[[float], object] | None

    def turn_of_sync(self, do: Callable[[], T]) -> T:
        """Run *do*, for a sync: no thread and no process appends meanwhile; all that others did is known."""

    def lose(self, trouble: Trouble) -> None:
        """The files are not, or not only, this store's: nothing is done to them any more."""


class Opening:
    _standing: Standing

    def __init__(
        self, store: Owner, turn: Turn, replica: Replica, clock: Clock, committer: Committer, notes: Notes,
        segment_bytes: int,
    ) -> None:  # fmt: skip
        self._store, self._turn, self._replica, self._clock = store, turn, replica, clock
        self._committer, self._notes, self._segment_bytes = committer, notes, segment_bytes
        self._path, self._log_path = store.path, paths.log(store.path)
        self._mark_path, self._checkpoint_path = paths.mark(store.path), paths.checkpoints(store.path)

    def open(self, *, salvage: bool) -> bool:
        """Be present, and know the log and the state; whether no other process was here, so it recovered.

        *salvage*: what is damaged is repaired, and what that cost is logged.
        """
        store, turn, path = self._store, self._turn, self._path
        disk, turn.pid = store.disk, os.getpid()
        locks.require_local(disk, path)
        disk.make_directory(path)
        if path != MEMORY:
            paths.require_room(disk, path)
        if not store.exclusive:
            disk.heed_barriers()  # before LOCK: the first time takes 10 ms in a process that has threads
        turn.locks = Locks(disk, path)
        turn.locks.take(None)
        disk.make_directory(self._log_path)
        disk.make_directory(self._checkpoint_path)
        try:
            alone = self._recover_if_alone()
        except (CorruptStore, Unsupported):  # it may be a record that a mistake of an older mq wrote
            if not salvage or turn.locks.crowded:
                raise
            from mq.storage import repair  # which few stores ever need, and none that opens well

            for loss in repair.mend(disk, path, records.NEW, records.message_of, refusals):
                self._notes.put_down(WARNING, "%s", loss)
            alone = self._recover_if_alone()
        if not store.exclusive:
            turn.leave = turn.locks.unlock
        if not alone:
            self._join()
        self._replica.log.watch.stand()
        turn.leave()
        return alone

    def _recover_if_alone(self) -> bool:
        """Know the store and its page; recover it, if no other process is here, and whether; with LOCK."""
        disk, turn = self._store.disk, self._turn
        alone = self._arrive()
        self._replica.identify(identify(disk, self._path, create=False))
        turn.mark = shared.open_mark(disk, self._mark_path, self._replica.identity.key, create=alone)
        if alone:
            # The page may be new; and the process that made the store may have died before its names
            # were on the disk.
            disk.sync_directory(self._path)
        else:  # before anything is changed
            shared.require_version(self._path, turn.mark)
            self._clock.check(self._path, turn.mark)
        if turn.page_fd < 0:
            turn.page_fd = disk.open(self._mark_path, write=True)
        turn.bias = Bias(disk, self._path, turn.mark, turn.page_fd)
        self._standing = Standing(disk, self._path, turn.held)
        files = self._standing.fingerprint()
        if alone:
            turn.say_who()
            turn.mark[shared.RECOVERING] = 1
            shared.renew(turn.mark)
            self._recover()
            turn.mark[shared.FILES] = files
            turn.mark[shared.RECOVERING] = 0
            if not self._store.exclusive:
                turn.locks.admit_others()
        elif turn.mark[FAILED]:
            raise StoreFailed(
                self._path,
                "in a process that has it open a write or an fsync failed, or a file was found replaced:"
                " close it in all of them first",
            )
        elif turn.mark[shared.FILES] != files:
            raise StoreFailed(
                self._path,
                f"a file of it was deleted or replaced while other processes have it open: {REOPEN}",
            )
        else:
            turn.bias.begin()
            turn.say_who()
        return alone

    def _arrive(self) -> bool:
        """Be present; a store is made if there is none.  Whether no other process is here."""
        disk, turn, exclusive = self._store.disk, self._turn, self._store.exclusive
        alone = turn.locks.arrive(exclusive=exclusive)
        if not disk.exists(format_path := paths.format_file(self._path)):
            if not alone:
                raise StoreFailed(format_path, f"deleted while other processes have the store open: {REOPEN}")
            identify(disk, self._path, create=True)
            self._notes.put_down(INFO, "created the store %s", self._path)
            alone = turn.locks.arrive(exclusive=exclusive)
        if alone and not exclusive:
            turn.locks.make_cleaner()
        return alone

    # ── alone ──────────────────────────────────────────────────────────────────────

    def _recover(self) -> None:
        """No other process is here: put in order what the last ones left."""
        disk, mark, clock, notes = self._store.disk, self._turn.mark, self._clock, self._notes
        copied = shared.is_copied(mark)
        state, found, position = self._replica.load(shared.claimed(mark), copied=copied)
        if copied and not found.error:
            checkpoint.drop_behind(disk, self._checkpoint_path, found.end)
            position = min(position, found.end)
        self._replica.checkpoint_at = position
        clock.start(found.last_ms, found.skew_ms, mark, found.event_ms)
        end = shared.end_of_this_boot(mark, disk.clocks()[0])
        if gone := recovery.is_gone(found, end):
            recovery.pass_over(found, self._replica.identity, end)
        log = recovery.recover(
            disk, self._log_path, self._replica.identity, mark, found, clock.store_ms(),
            self._segment_bytes, clock.skew_ms, anew=self._is_another_page(found),
        )  # fmt: skip
        if copied:
            level = INFO if found.verdict is recovery.Verdict.CLEAN else WARNING
            notes.put_down(level, COPIED, self._path, found.end)
        if gone:
            notes.put_down(
                WARNING, "%s: the log ended at %d when it was last used, and ends at %d now: %s",
                self._path, end, found.end, shared.GONE,
            )  # fmt: skip
        clock.put_on(mark)
        mark[shared.VERSION] = shared.PAGE_VERSION
        self._turn.say_who()
        mark[shared.HEAD], mark[END] = log.head, log.end
        self._take_log(log, found, closed=True)
        self._own_page(log.epoch)
        self._replica.take_state(state, log.end)
        self._committer.downtime_ms = clock.downtime_ms
        with suppress(DiskFull):  # then before anything falls due
            self._committer.add_downtime()

    def _is_another_page(self, found: recovery.Survey) -> bool:
        """Whether the page is not the one that was last used with this log."""
        return not (epoch := self._turn.mark[shared.EPOCH]) or epoch != epoch_of(found.segments)

    def _own_page(self, epoch: int) -> None:
        """Say on the page which log it is used with; on the disk, so that a power cut brings no new epoch."""
        disk, turn = self._store.disk, self._turn
        if turn.mark[shared.EPOCH] != epoch or not turn.mark[shared.ORIGIN]:
            turn.mark[shared.EPOCH] = epoch
            turn.mark[shared.ORIGIN] = shared.origin_of(disk, turn.page_fd, self._mark_path)
            disk.sync(turn.page_fd)

    # ── beside others ──────────────────────────────────────────────────────────────

    def _join(self) -> None:
        """Read the log of the processes that are here; called with LOCK."""
        args = self._store.disk, self._log_path, self._replica.identity, self._turn.mark

        def use(found: recovery.Survey, upto: int) -> None:
            log = Log(*args, found.segments, upto, self._segment_bytes)
            self._take_log(log, found, closed=found.verdict is recovery.Verdict.CLEAN)

        self._replica.join(use)

    # ── both ───────────────────────────────────────────────────────────────────────

    def _take_log(self, log: Log, found: recovery.Survey, *, closed: bool) -> None:
        store = self._store
        of_log = owner.Owner(
            skew_ms=self._clock.skew_ms,
            kept=store.maintenance.cleaning.kept,
            refusable=records.NEW,
            # Not where each publish waits for the disk: a write is as fast there, and fails with an errno.
            may_map=not store.sync_always and store.disk.may_map(self._log_path),
            standing=self._standing,
            turn=store.turn_of_sync,
            observe_sync=store.observe_sync,
            stood=store.listener.look_after_pipes,
            lost=store.lose,
        )
        log.share(self._turn.page_fd, of_log, closed=closed)
        self._replica.take_log(log, found.verdict)
