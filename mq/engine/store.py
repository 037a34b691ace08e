"""Where log, state, clock and locks meet.  What changes the store happens in a turn (mq/engine/turn.py):

    enter     take the store's lock, and apply what others appended since
    decide    what the state allows, now
    append    the record, in one write
    apply     the record: the same method that recovery and the others call
    leave     let others come in

Nothing is applied that is not in the log.  Whatever interrupts those steps (Ctrl-C, no
memory, the death of the process) leaves `applied` behind the log's end, or the page's
dirty word set; the next turn sees it, adopts what is whole, and reads the state
again from the log, which is the truth.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from mq import forks
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.engine import forking
from mq.engine.channel import Channel
from mq.engine.clock import Clock
from mq.engine.closing import Closing
from mq.engine.commit import Committer
from mq.engine.flusher import Flusher
from mq.engine.listener import Listener
from mq.engine.loading import identify
from mq.engine.maintenance import Maintenance
from mq.engine.names import check_name
from mq.engine.operation import operation
from mq.engine.phase import Phase
from mq.engine.reading import Reader
from mq.engine.replica import Replica
from mq.engine.turn import VOID, Turn
from mq.engine.waiters import Waiters
from mq.errors import (
    Closed,
    CorruptStore,
    DiskFull,
    MqError,
    StorageError,
    StoreFailed,
    Unsupported,
)
from mq.hold import Hold
from mq.notes import INFO, WARNING, Notes
from mq.storage import checkpoint, locks, paths, recovery, repair, shared
from mq.storage.bias import Bias
from mq.storage.disk import Disk
from mq.storage.explain import REOPEN, explain, left
from mq.storage.identity import Identity
from mq.storage.locks import Locks
from mq.storage.log import Log
from mq.storage.memory_disk import MEMORY, MemoryDisk
from mq.storage.owner import Owner
from mq.storage.real_disk import RealDisk
from mq.storage.segment import epoch_of
from mq.storage.shared import END, FAILED
from mq.storage.standing import Standing, Trouble

if TYPE_CHECKING:
    from mq.engine import log as seam

    _the_file_log_is_one: Callable[..., seam.Log] = Log  # mypy compares all that the engine asks of a log

T = TypeVar("T")

COPIED: Final = (
    "%s: a copy of a store, or restored from one (`mark` is not the file that it was made as): what is whole"
    " in its log is taken, up to position %d, and receipts from before it was copied are not valid here"
)


class Ways(NamedTuple):
    """What an operation does that comes in: see Turn."""

    enter: Callable[[], None]
    enter_to_look: Callable[[], None]
    enter_with_lock: Callable[[], None]


def _with_lock(turn: Turn) -> Callable[[], None]:
    return turn.come_in_alone if turn.exclusive else turn.come_in_with_lock


WAYS: Final[dict[Phase, Callable[[Store], Ways]]] = {
    #                                     to change             to look             with LOCK
    Phase.BEGINNING: lambda store: Ways(store._refuse, store._refuse, store._refuse),
    Phase.READING: lambda store: Ways(
        store._reader.refuse_changes, store._reader.look_again, store._reader.refuse_changes
    ),
    Phase.OPEN: lambda store: Ways(store.turn.come_in, store.turn.come_in, store.turn.come_in_with_lock),
    Phase.EXCLUSIVE: lambda store: Ways(*[store.turn.come_in_alone] * 3),
    Phase.CLOSING: lambda store: Ways(store._refuse, store._refuse, _with_lock(store.turn)),
    Phase.CLOSED: lambda store: Ways(store._refuse, store._refuse, store._refuse),
    Phase.FORKED: lambda store: Ways(store._open_in_child, store._open_in_child, store._refuse),
    Phase.LOST: lambda store: Ways(store._refuse_as_lost, store._refuse_as_lost, store._refuse_as_lost),
    Phase.SPOILED: lambda store: Ways(store._refuse_as_spoiled, store._refuse_as_spoiled, store._refuse),
}  # fmt: skip


class Store:
    turn: Turn
    phase: Phase  # set by `become` alone, with the mutex or without: a signal's handler may close the store
    _reader: Reader  # of a store opened with read_only=True
    _spoiled: BaseException  # what kept this child of a fork from taking leave of its parent's files
    tag: str  # what tells this store's receipts from another's, and from those of a copy of it

    def __init__(
        self, path: str, *, sync: str | float, read_only: bool, segment_bytes: int,
        clock: Callable[[], float] | None, disk: Disk | None = None, background: bool = True,
        salvage: bool = False, exclusive: bool = False, mode: int | None = None, hold: Hold | None = None,
    ) -> None:  # fmt: skip
        """*background*: threads give space back, write checkpoints and hear others; else the caller does.

        *salvage*: what is damaged is repaired, and what that cost is logged.  *mode*: of a new store's files.

        *hold*: the store is let go of when it goes; without one, it is its maker's to close.
        """
        # Set here, and never again: what the caller chose, and where the files are.
        self.path, self.read_only, self.exclusive = path, read_only, exclusive or path == MEMORY
        # Only `after_fork` changes it, in the child, where no other thread is.
        self.disk = disk or (MemoryDisk() if path == MEMORY else RealDisk(mode))
        self.clock = Clock(clock, self.disk)
        self.turn = Turn(path, self.disk, exclusive=self.exclusive)
        self._background = background
        # `wait_after_publish`: a publish has more to do than to append.  The flusher sets it without a lock.
        self.sync_always = self.wait_after_publish = sync == "always"
        self.sync_never = sync == "never"
        self._seconds = sync if isinstance(sync, float) and not read_only else None
        self._segment_bytes = segment_bytes
        self._log_path, self._mark_path = paths.log(path), paths.mark(path)
        self.checkpoint_path = paths.checkpoints(path)
        self.busy: set[int] = set()  # threads that are inside an operation: see mq/engine/operation.py
        self.closed = False  # no operation comes in; `close` sets it with the mutex, `forget` without
        # The next five change in the child of a fork only, in `after_fork` or when it opens the store.
        self.lost = False  # closed, because this is a fork of a process that has it alone
        self._closed_why = "the broker is closed"
        self.inherited = 0  # receipts before this one are from before a fork
        self._parents: tuple[Identity, str] | None = None  # the store's identity and tag before that
        self.is_own = True  # opened by this process, and not by one that it is a fork of
        self._known_hold: weakref.ref[Hold] | None = None
        self.notes = Notes()
        self.listener = Listener(self, path, self.disk, self.turn)
        self.waiters = Waiters(self.turn, self.clock, self.listener, background=background)
        self.replica = Replica(self.turn, self.clock, self.waiters, path, self.disk, read_only=read_only)
        self.turn.follower = self.replica
        self.closing = Closing(self, self.turn, self.replica, self.clock, self.notes)
        self._reader = Reader(self, self.replica, self.turn, self.clock)
        self.committer = Committer(self.replica, self.notes)
        self.maintenance = self._new_maintenance()
        self._flusher: Flusher | None = None
        if hold:
            self._known_hold = weakref.ref(hold)
            hold.guard(self.closing)
        self.become(Phase.BEGINNING)
        forking.note(self)
        try:
            with explain(path):
                if read_only:
                    with suppress(OSError):  # if it is not there, that is said below
                        self._reader.directory = self.disk.anchor(path)
                    self._reader.attach()
                    self.become(Phase.READING)
                else:
                    self._open(salvage)
            self.notes.log()
        except BaseException:  # of a handler too: without a store to return, none may stay open
            try:
                self.notes.log()
            finally:
                if self.turn.gone:
                    self.closed = True
                    self.let_go()
                else:
                    self.close()
            raise

    # ── opening ────────────────────────────────────────────────────────────────────

    def _open(self, salvage: bool) -> None:
        """Be present; recover, if no other process is, and else join the others."""
        disk, self.turn.pid = self.disk, os.getpid()
        locks.require_local(disk, self.path)
        disk.make_directory(self.path)
        if self.path != MEMORY:
            paths.require_room(disk, self.path)
        if not self.exclusive:
            disk.heed_barriers()  # before LOCK: the first time takes 10 ms in a process that has threads
        self.turn.locks = Locks(disk, self.path)
        try:
            self.turn.locks.take(None)
            disk.make_directory(self._log_path)
            disk.make_directory(self.checkpoint_path)
            alone = False
            try:
                alone = self._begin()
            except (CorruptStore, Unsupported):  # it may be a record that a mistake of an older mq wrote
                if not salvage or self.turn.locks.crowded:
                    raise
                for loss in repair.mend(disk, self.path, records.PUBLISH, records.message_of, refusals):
                    self.notes.put_down(WARNING, "%s", loss)
                alone = self._begin()
            if not self.exclusive:
                self.turn.leave = self.turn.locks.unlock
            if not alone:
                self._join()
            self.replica.log.watch.stand()
            self.turn.leave()
            self._require_parents(self.replica.identity, self.own_tag())
            if alone:
                with suppress(OSError):  # a full disk: publishes will be refused
                    self.replica.log.reserve.hold(self.maintenance.cleaning.kept((), 0)[0])
            self._begin_flusher()
            if self.turn.pid != os.getpid():
                raise left()  # half of it is the parent's
            self.tag = self.own_tag()
            self.turn.gone, self.is_own = False, True
            self.become(Phase.EXCLUSIVE if self.exclusive else Phase.OPEN)
        except BaseException:
            self.closing.let_go_of_all()
            self.maintenance = self._new_maintenance()  # the child of a fork tries again
            raise
        # Last: its thread waits for the mutex, which a child has here, and must not have to wait for it.
        self.replica.log.owner.grown = self.maintenance.nudge
        self.maintenance.nudge()

    def _begin_flusher(self) -> None:
        if self._seconds is not None:
            self._flusher = flusher = Flusher(
                self.path, self.replica.log, self._seconds, self.let_go_if_forgotten, self._miss_flusher
            )
            flusher.begin()

    def _new_maintenance(self) -> Maintenance:
        return Maintenance(self, self.replica, self.committer, self.notes, background=self._background)

    def note_pressure(self) -> None:
        """The cleaner fell behind, or has caught up: a publish has more to do behind its append, or not."""
        is_missing = self._flusher is not None and self._flusher.missing
        self.wait_after_publish = self.sync_always or self.maintenance.cleaning.pressed or is_missing

    def _miss_flusher(self) -> None:
        self.wait_after_publish = True

    def _begin(self) -> bool:
        """With the lock: know the store and its page; recover it, if no other is here, and whether."""
        disk, path = self.disk, self.path
        alone = self.turn.locks.arrive(exclusive=self.exclusive)
        if not disk.exists(format_path := paths.format_file(path)):
            if not alone:
                raise StoreFailed(format_path, f"deleted while other processes have the store open: {REOPEN}")
            identify(disk, path, create=True)
            self.notes.put_down(INFO, "created the store %s", path)
            alone = self.turn.locks.arrive(exclusive=self.exclusive)
        if alone and not self.exclusive:
            self.turn.locks.make_cleaner()
        self.replica.identify(identify(disk, path, create=False))
        self.turn.mark = shared.open_mark(disk, self._mark_path, self.replica.identity.key, create=alone)
        if alone:
            # The page may be new; and the process that made the store may have died before its names
            # were on the disk.
            disk.sync_directory(path)
        else:  # before anything is changed
            shared.require_version(path, self.turn.mark)
            self.clock.check(path, self.turn.mark)
        if self.turn.page_fd < 0:
            self.turn.page_fd = disk.open(self._mark_path, write=True)
        self.turn.bias = Bias(disk, path, self.turn.mark, self.turn.page_fd)
        self._standing = Standing(disk, path, self._held)
        files = self._standing.fingerprint()
        if alone:
            self.turn.say_who()
            self.turn.mark[shared.RECOVERING] = 1
            shared.renew(self.turn.mark)
            self._recover()
            self.turn.mark[shared.FILES] = files
            self.turn.mark[shared.RECOVERING] = 0
            if not self.exclusive:
                self.turn.locks.admit_others()
        elif self.turn.mark[FAILED]:
            raise StoreFailed(
                path,
                "in a process that has it open a write or an fsync failed, or a file was found replaced:"
                " close it in all of them first",
            )
        elif self.turn.mark[shared.FILES] != files:
            raise StoreFailed(
                path, f"a file of it was deleted or replaced while other processes have it open: {REOPEN}"
            )
        else:
            self.turn.bias.begin()
            self.turn.say_who()
        return alone

    def _held(self) -> dict[str, int]:
        """The descriptors on which the store depends."""
        return {**self.turn.locks.held(), paths.MARK: self.turn.page_fd}

    def _recover(self) -> None:
        """No other process is here: put in order what the last ones left."""
        copied = shared.is_copied(self.turn.mark)
        state, found, position = self.replica.load(shared.claimed(self.turn.mark), copied=copied)
        if copied and not found.error:
            checkpoint.drop_behind(self.disk, self.checkpoint_path, found.end)
            position = min(position, found.end)
        self.replica.checkpoint_at = position
        self.clock.start(found.last_ms, found.skew_ms, self.turn.mark, found.event_ms)
        end = shared.end_of_this_boot(self.turn.mark, self.disk.clocks()[0])
        if gone := recovery.is_gone(found, end):
            recovery.pass_over(found, self.replica.identity, end)
        log = recovery.recover(
            self.disk, self._log_path, self.replica.identity, self.turn.mark, found, self.clock.store_ms(),
            self._segment_bytes, self.clock.skew_ms, anew=self._is_another_page(found),
        )  # fmt: skip
        if copied:
            level = INFO if found.verdict is recovery.Verdict.CLEAN else WARNING
            self.notes.put_down(level, COPIED, self.path, found.end)
        if gone:
            self.notes.put_down(
                WARNING, "%s: the log ended at %d when it was last used, and ends at %d now: %s",
                self._log_path, end, found.end, shared.GONE,
            )  # fmt: skip
        self.clock.put_on(self.turn.mark)
        self.turn.mark[shared.VERSION] = shared.PAGE_VERSION
        self.turn.say_who()
        self.turn.mark[shared.HEAD], self.turn.mark[END] = log.head, log.end
        self._take_log(log, found, closed=True)
        self._own_page(log.epoch)
        self.replica.take_state(state, log.end)
        self.committer.downtime_ms = self.clock.downtime_ms
        with suppress(DiskFull):  # then before anything falls due
            self.committer.add_downtime()

    def _is_another_page(self, found: recovery.Survey) -> bool:
        """Whether the page is not the one that was last used with this log."""
        return not (epoch := self.turn.mark[shared.EPOCH]) or epoch != epoch_of(found.segments)

    def _own_page(self, epoch: int) -> None:
        """Say on the page which log it is used with; on the disk, so that a power cut brings no new epoch."""
        if self.turn.mark[shared.EPOCH] != epoch or not self.turn.mark[shared.ORIGIN]:
            self.turn.mark[shared.EPOCH] = epoch
            self.turn.mark[shared.ORIGIN] = shared.origin_of(self.disk, self.turn.page_fd, self._mark_path)
            self.disk.sync(self.turn.page_fd)

    def _join(self) -> None:
        """Read the log of the processes that are here; called with LOCK."""
        args = self.disk, self._log_path, self.replica.identity, self.turn.mark

        def use(found: recovery.Survey, upto: int) -> None:
            log = Log(*args, found.segments, upto, self._segment_bytes)
            self._take_log(log, found, closed=found.verdict is recovery.Verdict.CLEAN)

        self.replica.join(use)

    def _take_log(self, log: Log, found: recovery.Survey, *, closed: bool) -> None:
        owner = Owner(
            skew_ms=self.clock.skew_ms,
            kept=self.maintenance.cleaning.kept,
            refusable=frozenset({records.PUBLISH}),
            # Not where each publish waits for the disk: a write is as fast there, and fails with an errno.
            may_map=not self.sync_always and self.disk.may_map(self._log_path),
            standing=self._standing,
            turn=self._turn_of_sync,
            stood=self.listener.look_after_pipes,
            lost=self._lose,
        )
        log.share(self.turn.page_fd, owner, closed=closed)
        self.replica.take_log(log, found.verdict)

    @contextmanager
    def maintaining(self) -> Iterator[tuple[Log, int, int]]:
        """The store's lock for a slice of maintenance: the log, the time, and the state's epoch."""
        me, busy = get_ident(), self.busy
        within = me in busy  # it is a part of an operation of this thread
        try:
            busy.add(me)
            with self.turn.mutex:
                if self.turn.gone:
                    raise Closed(f"{self.path}: {self._closed_why}")
                try:
                    self.turn.enter_with_lock()
                    yield self.replica.log, self.clock.store_ms(), self.replica.epoch
                    self.replica.applied = self.replica.log.end
                finally:
                    self.turn.leave()
        finally:
            if not within:
                busy.discard(me)

    @contextmanager
    def _turn_of_sync(self) -> Iterator[None]:
        """For a sync: no thread and no process appends meanwhile, and all that others did is known."""
        # A sync inside a turn of this thread: the threads of mq have the mutex only in one, when they sync.
        if self.turn.mutex._is_owned():  # type: ignore[attr-defined]
            yield
            return
        with self.maintaining():
            yield

    @contextmanager
    def alone_cleaning(self, seconds: float = 0.0) -> Iterator[bool]:
        """Whether no other process cleans or writes a checkpoint; it gets so many *seconds* to end.

        Raises Closed once the files are let go of: nothing would close what is opened after that.
        """
        if self.closed and self.turn.gone:
            self._refuse()
        if self.exclusive:
            yield True
            return
        with explain(self.path), self.turn.locks.cleaner(seconds, self.turn.mutex) as ours:
            yield ours

    @operation
    def hear(self) -> None:
        """Another process appended, or a second has passed: wake the receivers that find something.

        Called by the listener.  It comes by each second because the wall clock may have jumped,
        and because a process that was to ring may have died.
        """
        # With the mutex held, a thread says that it closes.
        with self.replica.log.failure.unheard(), self.turn.mutex:
            if self.waiters.asleep and not self.closed:
                self.turn.take_with_lock(partial(self._hear, self.replica.applied))

    def _hear(self, before: int) -> None:
        self.replica.log.watch.stand_again(self.clock.store_ms())
        now, board = self.clock.now(), self.replica.state.board
        if board.due(now) is not None:
            board.next = now.store  # else a clock that jumped would be noticed at the next turn
        if self.replica.applied == before:  # else all were woken as it was applied
            self.waiters.wake_ready()
        self.waiters.ask_to_be_woken()

    def wake_all(self) -> None:
        """Each thread that waits looks for itself at what changed."""
        self.waiters.wake_all()

    def _lose(self, trouble: Trouble) -> None:
        """The files are not, or not only, this store's: nothing is done to them any more."""
        self.become(Phase.LOST)
        if trouble.stolen:
            self.turn.leave_descriptors()

    def become(self, phase: Phase) -> None:
        """From now on operations come in as WAYS says; a store that is lost stays so."""
        if phase is not Phase.CLOSING or self.phase is not Phase.LOST:
            self.phase = phase
            turn = self.turn
            turn.enter, turn.enter_to_look, turn.enter_with_lock = WAYS[phase](self)

    def _refuse_as_lost(self) -> None:
        if self.closed:
            self._refuse()
        self.replica.log.failure.check()

    def _refuse(self) -> None:
        raise Closed(f"{self.path}: {self._closed_why}")

    # ── what many queues have in common ────────────────────────────────────────────

    def own_tag(self) -> str:
        """What tells the receipts of the store that is read now from another's."""
        return f"{self.replica.identity.store_id[:6]}{self.replica.log.epoch:04x}"

    def channel(self, name: str) -> Channel:
        found = self.waiters.channels.get(name) if type(name) is str else None
        return found or self._new_channel(check_name(name))

    @operation
    def names(self) -> list[str]:
        """Of all queues, sorted."""
        return self.turn.look(lambda: sorted(self.replica.state.names()))

    @operation
    def _new_channel(self, name: str) -> Channel:
        with self.turn.mutex:
            return self.waiters.channel(name)

    def finish_publish(self, end: int) -> None:
        """What a publish owes before it returns: its bytes on the disk; the cleaner a chance."""
        if self.sync_always:
            self.replica.log.sync(end)
        elif self._flusher and self._flusher.missing:
            self._flusher.help()
        if self.maintenance.cleaning.pressed:
            self.maintenance.stall()

    # ── the disk ───────────────────────────────────────────────────────────────────

    @operation
    def files(self) -> tuple[int, int]:
        """How many bytes the log has on the disk, and in how many segments."""
        while True:
            try:
                return self.turn.look(self._measure)
            except Closed:
                if not self.turn.is_left():
                    raise
            # The child of a fork, made in here: it opens the store for itself.

    def _measure(self) -> tuple[int, int]:
        return self.replica.log.reader.disk_bytes(), len(self.replica.log.segments)

    @operation
    def flush(self) -> None:
        """Return when all that was written is on the disk."""
        end = self.turn.look(lambda: self.replica.log.end)
        self.replica.log.sync(end)

    def close(self) -> None:
        """Sync, and if no other process has the store open, say that the log ends here; let go of everything.

        A second call waits for the first one, and does what that, interrupted, had left to do.

        The handler of a signal may call it in the middle of an operation of the same thread.  It
        returns at once then.  The operation ends as it would have if it has appended already, and
        else with Closed; behind it another thread closes the store.  So if a thread of mq calls it.
        """
        self.closing.close()

    def let_go_if_forgotten(self) -> None:
        """Close the files of a store that no program can close; called with no lock held."""
        self.closing.let_go_if_forgotten()

    def hold(self) -> Hold:
        """What all refer to with which a program can use the store: see mq/hold.py."""
        hold = self._known_hold() if self._known_hold else None
        if hold is None:
            hold = Hold()
            self._known_hold = weakref.ref(hold)
        return hold

    def let_go(self) -> None:
        """Close every file, the lock last."""
        self.listener.let_go()
        if self.replica.has_log:
            self.replica.log.close()
        self.turn.let_go_of_page()
        if self.turn.page_fd >= 0:
            fd, self.turn.page_fd = self.turn.page_fd, -1
            self.disk.close(fd)
        self.turn.let_go_of_locks()
        if self._reader.directory >= 0:
            fd, self._reader.directory = self._reader.directory, -1
            self.disk.close(fd)

    # ── forks ──────────────────────────────────────────────────────────────────────

    def after_fork(self) -> None:
        """Called in a child: nothing that was open is its own.  It opens the store when it first uses it.

        Files are closed and not unlocked: that would let go of what the parent holds.
        """
        forks.free(lock for lock, _ in self.locks())
        self.closing.lock = threading.RLock()
        was_open, self.is_own = not self.turn.gone, False
        parents_disk = self.disk
        if not self.read_only:
            self.disk = parents_disk.after_fork()
        self.turn.after_fork(self.disk)
        self.replica.disk = self.disk
        try:
            if was_open and not self.read_only:
                self.inherited = max(self.inherited, self.replica.log.end)
                self._parents = self.replica.identity, self.tag
            self._forget_waiters()
        finally:
            if not self.read_only:
                self.turn.gone, self.replica.applied = True, VOID
                self._forget_files(parents_disk)
        if self.read_only:
            if self.replica.epoch:
                self.replica.log.reader.after_fork()
                self.waiters.bind(self.replica.state)
            return
        if not was_open:
            return
        if self.exclusive:
            self._closed_why = "opened exclusively before a fork, and still the parent's: open it again here"
            if self.path == MEMORY:
                self._closed_why = "private to the process that opened it, and this is a fork of that"
            self.closed = self.lost = True
            self.become(Phase.CLOSED)
        elif not self.closed:
            self.become(Phase.FORKED)

    def locks(self) -> list[tuple[forks.Lock, float]]:
        """For which a thread may wait here, and how long a fork waits: see mq/forks.py.

        Those that are held for long seldom change hands.
        """
        log = self.replica.log.locks() if self.replica.has_log else []
        long = [self.closing.lock, *(each.worker.life for each in self.threads()), self.maintenance.working]
        return [
            *((lock, 0.0) for lock in long),
            *((lock, forks.FORK_SECONDS) for lock in (self.turn.mutex, *log)),
        ]

    def let_threads_begin(self, seconds: float) -> None:
        """See mq/forks.py."""
        for each in self.threads():
            each.worker.let_begin(seconds)

    def threads(self) -> list[Maintenance | Listener | Flusher]:
        """What has a thread."""
        return [each for each in (self._flusher, self.listener, self.maintenance) if each]

    def _forget_waiters(self) -> None:
        """The receivers that wait, and the threads, are the parent's."""
        self.waiters.after_fork()
        self.busy, self.closing.closer = set(), None
        self.maintenance, self._flusher = self._new_maintenance(), None

    def _forget_files(self, parents_disk: Disk) -> None:
        """Also those that another thread of the parent was just opening, or letting go of.

        A file that cannot be closed does not keep the others open; the first such error is raised.
        """
        listener = self.listener
        self.listener = self.waiters.listener = Listener(self, self.path, self.disk, self.turn)
        self.turn.let_go_of_page()
        sync_fd, self.turn.page_fd = self.turn.page_fd, -1
        with ExitStack() as parts:  # the last one first
            parts.callback(self.turn.locks_after_fork)
            if sync_fd >= 0:
                parts.callback(parents_disk.close, sync_fd)
            if self.replica.has_log:
                parts.callback(self.replica.log.after_fork)
            parts.callback(listener.after_fork)

    def spoil(self, error: BaseException) -> None:
        """What `after_fork` raised is raised by every use of the store in this child."""
        self.turn.after_fork(self.disk)
        self._spoiled = error
        self.turn.gone, self.replica.applied = True, VOID
        if not self.closed:
            self.become(Phase.SPOILED)

    def _refuse_as_spoiled(self) -> None:
        if isinstance(self._spoiled, MqError):
            raise self._spoiled
        raise StorageError(
            self.path,
            f"this process, a fork, could not take leave of its parent's files ({self._spoiled!r}):"
            " open the store again here",
        ) from self._spoiled

    def _open_in_child(self) -> None:
        with explain(self.path):
            # Before anything is made or changed, and again when it is certain.
            self._require_parents(identify(self.disk, self.path, create=False), self.tag)
            self._open(salvage=False)
        self.turn.enter()

    def _require_parents(self, identity: Identity, tag: str) -> None:
        """In a child: StoreFailed if the parent had another store open."""
        if self._parents not in (None, (identity, tag)):
            raise StoreFailed(self.path, "another store is here than before the fork: open it again")
