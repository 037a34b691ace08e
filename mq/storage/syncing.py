"""Syncing the log: one fdatasync for all processes that wait, by one thread of one process at a time.

The threads of a process are brought together before, by commit.py.

A sync that a process died in may have failed, and no process was told.  So what it was about is
written again first (rewrite.py), by a thread that has the turn: no process may append meanwhile.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from bisect import bisect_left, bisect_right
from typing import Final

from mq.errors import Closed, StorageError, StoreFailed
from mq.forks import Lock, is_held

from . import paths, segment
from .commit import GroupCommit
from .disk import Patience
from .explain import LEFT, LEFT_WHY, NO_DESCRIPTORS, pass_on, storage_error
from .identity import Identity
from .rewrite import rewrite
from .segment import Scan, Segment
from .shared import END, SYNCED, SYNCED_TWIN, SYNCER, SYNCING
from .tail import Tail
from .watch import Watch

SYNC_SECONDS: Final = 30.0  # another process may take so long to sync
SYNC_NAP_SECONDS: Final = 50e-6

IN_THE_LOG: Final = "what was written is in the log, and perhaps not on the disk"
UNSURE: Final = (Closed, StorageError, OSError)  # after any of them that is all that can be said


class Doubt(Exception):
    """Another process died inside a sync.  This thread needs the turn before it may sync: see `sync`."""


class Syncing:
    def __init__(self, tail: Tail, identity: Identity, watch: Watch) -> None:
        self._tail, self._identity, self._watch = tail, identity, watch
        self._disk, self._failure, self._lock = tail.disk, tail.failure, tail.sync_lock
        self.commit = GroupCommit(lambda: tail.mark[SYNCED], self.sync_now)
        self._confirmed = 0  # up to where a sync of this process has what it wrote, in files of its own
        self._in_turn = 0  # the thread that has the turn, to write again what no sync has confirmed
        self._gone_why = "the store was closed meanwhile"

    def sync(self, upto: int) -> None:
        """Return when everything below *upto* is on the disk.

        The order of locks is mutex > LOCK > `Tail.using` > mark.  A leader has the last two, and must not
        wait for the first two: a thread that has the mutex may follow this leader, and a process that has
        LOCK may wait for mark.  So in doubt the leader lets go of both, and of its lead: its followers
        wake, and one of them leads.  Then it takes the turn, and begins anew from the inside:

            beside it                                       what happens
            ──────────────────────────────────────────────  ─────────────────────────────────────────────
            a thread in its turn that follows this leader   it leads, and rewrites; we come after it
            a thread without a turn that leads              it finds the doubt too, and queues for the mutex
            a process in its turn that waits for mark       it gets it, and rewrites; we wait for LOCK
            a process without a turn that has mark          it finds the doubt too, lets go, waits for LOCK
            the same, and the doubt was settled meanwhile   we wait for the end of its sync, LOCK in hand

        The waits are bounded: LOCK's by LOCK_SECONDS, mark's by SYNC_SECONDS.
        """
        doubt = False
        try:
            self.commit.wait(upto)
        except Doubt:
            doubt = True
        if doubt:
            self._wait_in_turn(upto)
        if self._confirmed >= upto:
            return
        # Another process synced it, which cannot know where this one wrote it.
        tail = self._tail
        try:
            if tail.owner.standing and not self._disk.owns(tail.fd):
                with tail.using:  # or a rotation closed it just now
                    self._watch.stand_by(tail.writing)
        except StoreFailed:
            raise
        except UNSURE as error:
            raise self._unsure(error) from error

    def _unsure(self, error: Exception) -> StoreFailed:
        """The error that leaves open whether it is on the disk, in the place of one that does not."""
        if isinstance(error, OSError):
            pass_on(error)
            error = storage_error(self._tail.directory, error)
        return StoreFailed(self._tail.directory, f"{IN_THE_LOG}: {getattr(error, 'reason', error)}")

    def _wait_in_turn(self, upto: int) -> None:
        """StoreFailed, which leaves the outcome open, if the turn is not to be had."""
        entered = False

        def wait() -> None:
            nonlocal entered
            entered = True
            try:
                self._in_turn = threading.get_ident()
                self.commit.wait(upto)
            finally:
                self._in_turn = 0

        try:
            self._tail.owner.turn(wait)
        except UNSURE as error:
            if entered or isinstance(error, StoreFailed):
                raise
            raise self._unsure(error) from error

    def sync_now(self) -> None:
        """One thread of this process at a time, and one process of all."""
        # Flat on purpose: a publish that waits for a fast disk waits a third as long for what is around it.
        wanted = self._tail.end
        with self._tail.using:
            try:
                if self._failure.error:
                    self._failure.check()
                try:
                    self._wait_to_sync()
                    if self._tail.synced < wanted:  # another process may have done it meanwhile
                        self._failure.check()
                        self._sync_for_all()
                finally:
                    self._lock.unlock()  # one call: nothing can interrupt before it
            except StoreFailed:
                raise
            except OSError as error:  # the lock of the page cannot be taken, or given back
                unsure = self._unsure(self._explained(error))
                raise unsure from error
            except UNSURE as error:
                raise self._unsure(error) from error

    def _explained(self, error: OSError) -> StorageError:
        """Why the lock of the page cannot be taken, or given back."""
        pass_on(error)
        self._require_lock()
        return storage_error(self._tail.directory, error)

    def _require_lock(self) -> None:
        """StoreFailed, for good, if the descriptor of the page is another file's by now."""
        if self._lock.fd >= 0 and not self._disk.owns(self._lock.fd):
            page = paths.mark(paths.store_of(self._tail.directory))
            self._failure.require_own(page, self._lock.fd)

    def _may_sync(self) -> bool:
        """Whether no other process syncs; then none does until this one unlocks."""
        self._require_lock()  # before: the lock of another file is another program's
        return self._lock.take()

    def _wait_to_sync(self) -> None:
        """Wait until no other process syncs."""
        patience = Patience(SYNC_SECONDS)
        while not self._may_sync():
            if patience.is_over():
                raise StoreFailed(
                    self._tail.directory,
                    f"process {self._tail.mark[SYNCER]} has been syncing for {SYNC_SECONDS:.0f} seconds:"
                    f" {IN_THE_LOG}",
                )
            self._disk.pause(SYNC_NAP_SECONDS)

    def is_syncing(self) -> bool:
        """Whether a thread of this process syncs, or uses the files so, perhaps this one."""
        return is_held(self._tail.using)

    def wait_for_rewrite(self) -> None:
        """Before bytes are called damaged: another process may just write them again.

        The kernel drops the pages, then writes: a read in between finds what the disk had before.
        That process has LOCK and mark, but this one may read without LOCK; so it waits for mark.
        """
        with self._tail.using:
            try:
                try:
                    self._wait_to_sync()
                finally:
                    self._lock.unlock()
            except OSError as error:
                raise self._explained(error) from error

    def _sync_for_all(self) -> None:
        """The target is sampled before the fdatasync, so nothing appended during it is claimed."""
        # The descriptor first: a rotation after this line only adds a segment that is
        # synced too, and none is closed while `using` is held.
        tail, failure = self._tail, self._failure
        writing, target = tail.writing, tail.end
        if writing is None:
            raise StoreFailed(tail.directory, self._gone_why)
        fd, last = writing
        end = tail.mark[END]  # read once: it moves
        if target < end <= last.limit:
            target = end  # what others have appended to the same segment
        tail.mark[SYNCER] = os.getpid()
        doubtful = tail.mark[SYNCING]
        if doubtful and self._in_turn != threading.get_ident():
            raise Doubt
        try:
            if doubtful:
                # A leader died inside: that sync may have failed, and no process was told.
                self._rewrite(tail.mark[SYNCED], target)
            tail.mark[SYNCING] = max(doubtful, target)
            if tail.synced < last.base:
                self._sync_others(last, target)
            self._sync(fd)
            # OSError if that cannot be told: then the sync is not believed.
            theft = None if self._disk.owns(fd) else failure.theft(tail.reader.path(last), fd)
        except OSError as error:
            pass_on(error)
            if error.errno in NO_DESCRIPTORS or error.errno == LEFT:  # no sync has failed: there was no file
                tail.mark[SYNCING] = doubtful
                reason = storage_error(tail.directory, error).reason
                raise StoreFailed(tail.directory, f"{IN_THE_LOG}: {reason}") from error
            raise failure.fail_to_sync(error, tail.reader.path(last), fd) from error
        failure.lose_if(theft)
        self._confirmed = target
        tail.mark[SYNCED] = tail.mark[SYNCED_TWIN] = target
        tail.mark[SYNCING] = doubtful if doubtful > target else 0  # the rest is for the process that knows it
        tail.close_synced()

    def _rewrite(self, start: int, stop: int) -> None:
        """Have [*start*, *stop*) in memory as it was written, to be synced; OSError if it is not there."""
        tail = self._tail
        tail.mapped.close()  # what is mapped is not dropped from memory on advice
        bases, segments = tail.reader.index
        upto = stop
        for each in reversed(segments[: bisect_left(bases, stop)]):
            path = tail.reader.path(each)
            fd = self._disk.open(path)
            try:
                scan = Scan(self._disk, fd, each, max(start, each.base), upto, path)
                scan.follow()
                fenced = segment.begun(self._disk, fd, self._identity, path, each.base)
            finally:
                self._disk.close(fd)
            if fenced is None or scan.end < min(upto, each.limit):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            upto = min(upto, fenced[1])  # what is behind it is void
            if upto <= start:
                break
        rewrite(self._disk, tail.directory, segments, start, stop)

    def _sync_others(self, last: Segment, target: int) -> None:
        """Sync the segments in [synced, target) other than *last*, oldest first."""
        tail = self._tail
        bases, segments = tail.reader.index
        first = max(0, bisect_right(bases, tail.synced) - 1)
        for each in segments[first : bisect_right(bases, target - 1)]:
            if each.base != last.base and not self._sync_kept(each):
                if standing := tail.owner.standing:
                    self._failure.lose_if(standing.moved())
                own = self._disk.open(tail.reader.path(each), write=True)
                try:
                    self._sync(own)
                finally:
                    self._disk.close(own)

    def _sync_kept(self, each: Segment) -> bool:
        """Sync it through the descriptor that was open when it was written to; whether there is one.

        Another one may not be told that the kernel failed to write a page.
        """
        kept = self._tail.descriptor_of(each)
        if kept < 0 or not self._disk.owns(kept):
            return False
        self._sync(kept)
        return self._disk.owns(kept)

    def _sync(self, fd: int) -> None:
        observe = self._tail.owner.observe_sync
        if observe is None:
            self._disk.sync(fd)
            return
        begin = time.perf_counter()
        self._disk.sync(fd)
        observe(time.perf_counter() - begin)

    # ── forks ──────────────────────────────────────────────────────────────────────

    def locks(self) -> list[Lock]:
        """For which a thread may wait in a sync, in the order in which it takes them."""
        return [self.commit.gate, self._tail.using]

    def leave_to_parent(self) -> None:
        """In a child of a fork: a sync that goes on here says why it cannot."""
        self._gone_why = LEFT_WHY
