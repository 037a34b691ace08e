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
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

from mq.engine import forking
from mq.engine.ahead import Aheads
from mq.engine.channel import Channel
from mq.engine.child import Child
from mq.engine.clock import Clock
from mq.engine.closing import Closing
from mq.engine.commit import Committer
from mq.engine.flusher import Flusher
from mq.engine.keeping import Keeper
from mq.engine.listener import Listener
from mq.engine.maintenance import Maintenance
from mq.engine.names import check_name
from mq.engine.notifier import Notifier
from mq.engine.opening import Opening
from mq.engine.operation import operation
from mq.engine.phase import Phase
from mq.engine.quiet import Quiet
from mq.engine.reading import Reader
from mq.engine.replica import Replica
from mq.engine.scheduler import Scheduler
from mq.engine.together import Together
from mq.engine.turn import Turn
from mq.engine.waiters import Waiters
from mq.errors import Closed
from mq.hold import Hold
from mq.notes import Notes
from mq.storage import paths
from mq.storage.disk import Disk
from mq.storage.explain import explain, left
from mq.storage.log import SEGMENT_BYTES_MIN as SEGMENT_BYTES_MIN
from mq.storage.log import Log
from mq.storage.memory_disk import MEMORY as MEMORY
from mq.storage.memory_disk import MemoryDisk
from mq.storage.real_disk import RealDisk
from mq.storage.record import GROUP_BYTES_MAX
from mq.storage.standing import Trouble

if TYPE_CHECKING:
    from mq.engine import log as seam

    _the_file_log_is_one: Callable[..., seam.Log] = Log  # mypy compares all that the engine asks of a log

T = TypeVar("T")
Around = Callable[[str, str], AbstractContextManager[Mapping[str, str]]]
"""Given "send" (or "create": in a transaction) and a destination: what a publish happens inside.

Its value: headers that each message gets, beside its own.
"""

SEGMENT_BYTES_MAX: Final = GROUP_BYTES_MAX  # a record, or a group of them, is never longer


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
    Phase.FOLLOWING: lambda store: Ways(
        store.turn.come_in_alone, store.turn.come_in_to_look, store.turn.come_in_alone
    ),
    Phase.CLOSING: lambda store: Ways(store._refuse, store._refuse, _with_lock(store.turn)),
    Phase.CLOSED: lambda store: Ways(store._refuse, store._refuse, store._refuse),
    Phase.FORKED: lambda store: Ways(store._child.open, store._child.open, store._refuse),
    Phase.LOST: lambda store: Ways(store._refuse_as_lost, store._refuse_as_lost, store._refuse_as_lost),
    Phase.SPOILED: lambda store: Ways(
        store._child.refuse_as_spoiled, store._child.refuse_as_spoiled, store._refuse
    ),
}  # fmt: skip


class Store:
    # What a store is made of.  One on another kind of log names other types, which are made alike.
    clock_type: ClassVar[type[Clock]] = Clock
    turn_type: ClassVar[type[Turn]] = Turn
    replica_type: ClassVar[type[Replica]] = Replica
    opening_type: ClassVar[Any] = Opening
    closing_type: ClassVar[type[Closing]] = Closing
    child_type: ClassVar[type[Child]] = Child
    reader_type: ClassVar[type[Reader]] = Reader
    maintenance_type: ClassVar[type[Maintenance]] = Maintenance
    in_files: ClassVar[bool] = True
    opened: ClassVar[Phase] = Phase.OPEN  # of a store that other processes may have open, too

    together: Together | None = None
    """What several threads append at once, where an append is a round trip; another one in a fork's child."""
    ahead: Aheads | None = None
    """The loops that take a message with the ack of the one before; there too."""
    turn: Turn
    phase: Phase  # set by `become` alone, with the mutex or without: a signal's handler may close the store
    _reader: Reader  # of a store opened with read_only=True
    _flusher: Flusher | None  # with sync=seconds, while it is open
    _child: Child  # what this process does if it is the child of a fork
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
        self.clock = self.clock_type(clock, self.disk)
        self.turn = self.turn_type(path, self.disk, exclusive=self.exclusive, in_line=sync != "always")
        self._background = background
        # `wait_after_publish`: a publish has more to do than to append.  The flusher sets it without a lock.
        self.sync_always = self.wait_after_publish = sync == "always"
        self.sync_never = sync == "never"
        self._seconds = sync if isinstance(sync, float) and not read_only else None
        self.busy: set[int] = set()  # threads that are inside an operation: see mq/engine/operation.py
        self.owing: dict[int, int] = {}  # by thread: up to where it owes the log to the disk
        # What mq.metrics and mq.otel have asked for, without a lock.  It stays so in the child of a fork.
        self.around: Around | None = None
        self.observe_sync: Callable[[float], object] | None = None
        self.closed = False  # no operation comes in; `close` sets it with the mutex, `forget` without
        # The next three change in the child of a fork only.
        self.lost = False  # closed, because this is a fork of a process that has it alone
        self.closed_why = "the broker is closed"
        self.inherited = 0  # receipts before this one are from before a fork
        self._known_hold: weakref.ref[Hold] | None = None
        self.notes = Notes()
        self.listener = Listener(self, path, self.disk, self.turn)
        self.notifier = Notifier(path, background=background)
        self.waiters = Waiters(self.turn, self.clock, self.listener, self.notifier, background=background)
        self.replica = self.replica_type(
            self.turn, self.clock, self.waiters, path, self.disk, read_only=read_only
        )
        self.turn.follower = self.replica
        self.closing = self.closing_type(self, self.turn, self.replica, self.clock, self.notes)
        self._reader = self.reader_type(self, self.replica, self.turn, self.clock)
        self._quiet = Quiet(self.turn, self.waiters, self.clock)
        self.committer = Committer(self.replica, self.notes)
        self._opening: Opening = self.opening_type(
            self, self.turn, self.replica, self.clock, self.committer, self.notes, segment_bytes
        )
        self._child = self.child_type(self, self.turn, self.replica, self.waiters)
        self.forget_threads()
        if hold:
            self._known_hold = weakref.ref(hold)
            hold.guard(self.closing)
        self.become(Phase.BEGINNING)
        forking.note(self._child)
        try:
            with explain(path):
                if read_only:
                    with suppress(OSError):  # if it is not there, that is said below
                        self._reader.directory = self.disk.anchor(path)
                    self._reader.attach()
                    self.become(Phase.READING)
                else:
                    self.open(salvage=salvage)
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

    def open(self, *, salvage: bool) -> None:
        """Open it for this process, recovered or beside others: see mq/engine/opening.py."""
        try:
            recovered = self._opening.open(salvage=salvage)
            self._child.require_parents(self.replica.identity, self.replica.tag())
            if recovered:
                with suppress(OSError):  # a full disk: publishes will be refused
                    self.replica.log.reserve.hold(self.maintenance.cleaning.kept((), 0)[0])
            self._begin_flusher()
            if self.turn.pid != os.getpid():
                raise left()  # half of it is the parent's
            self.tag, self.turn.gone = self.replica.tag(), False
            self.become(Phase.EXCLUSIVE if self.exclusive else self.opened)
        except BaseException:
            self.closing.let_go_of_all()
            self.forget_threads()  # the child of a fork tries again
            raise
        # Last: its thread waits for the mutex, which a child has here, and must not have to wait for it.
        self.replica.log.owner.grown = self.maintenance.nudge
        self.maintenance.nudge()
        self.replica.free_by(self.maintenance.free)
        if not self.exclusive or len(self.replica.state.calendar):
            self.begin_scheduler()

    def begin_scheduler(self) -> None:
        """Have ticks come also while no operation does."""
        if self._background:
            self.scheduler.wake()

    def _begin_flusher(self) -> None:
        if self._seconds is not None:
            self._flusher = flusher = Flusher(
                self.path, self.replica.log, self.turn, self._seconds, self.let_go_if_forgotten,
                self._miss_flusher,
            )  # fmt: skip
            flusher.begin()

    def forget_threads(self) -> None:
        """They have ended, or are another process's: new ones start when there is something to do."""
        self.maintenance = self.maintenance_type(
            self, self.replica, self.committer, self.notes, background=self._background
        )
        self.keeper = Keeper(self, self.path, background=self._background)
        self.scheduler = Scheduler(self, self.path, self.clock, self.turn)
        self._flusher = None

    def threads(self) -> list[Maintenance | Listener | Flusher | Keeper | Scheduler]:
        """What has a thread that uses the files."""
        every = self._flusher, self.listener, self.maintenance, self.keeper, self.scheduler
        return [each for each in every if each is not None]

    def note_pressure(self) -> None:
        """The cleaner fell behind, or has caught up: a publish has more to do behind its append, or not."""
        is_missing = self._flusher is not None and self._flusher.missing
        self.wait_after_publish = self.sync_always or self.maintenance.cleaning.pressed or is_missing

    def _miss_flusher(self) -> None:
        self.wait_after_publish = True

    def maintain(self, do: Callable[[Log, int, int], T], /) -> T:
        """Run *do*, a slice of maintenance, in a turn with LOCK: given the log, the time, the state's epoch.

        It may be a part of an operation of this thread, but not of a turn.
        """
        me, busy = get_ident(), self.busy
        within = me in busy
        try:
            busy.add(me)
            if self.turn.gone:  # also where a close was interrupted before it said so
                self._refuse()
            return self.turn.take_with_lock(partial(self._maintain, do))
        finally:
            if not within:
                busy.discard(me)

    def _maintain(self, do: Callable[[Log, int, int], T]) -> T:
        done = do(self.replica.log, self.clock.store_ms(), self.replica.epoch)
        self.replica.applied = self.replica.log.end
        return done

    def turn_of_sync(self, do: Callable[[], T]) -> T:
        """Run *do*, for a sync: no thread and no process appends meanwhile; all that others did is known."""
        # A sync inside a turn of this thread: the threads of mq have the mutex only in one, when they sync.
        if self.turn.mutex._is_owned():  # type: ignore[attr-defined]
            return do()
        return self.maintain(lambda *_: do())

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

    def is_quiet(self) -> bool:
        """Whether nothing has happened that shows without a lock; called by the listener, each second."""
        self.scheduler.look()
        return self.in_files and self._quiet.goes_on(self.listener)

    @operation
    def hear(self) -> None:
        """Another process appended, or a second has passed: wake the receivers that find something.

        Called by the listener, unless it is quiet.  It comes by each second because the wall clock may have
        jumped, and because a process that was to ring may have died.
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
        self._quiet.looked()

    def wake_all(self) -> None:
        """Each thread that waits looks for itself at what changed."""
        self.waiters.wake_all()
        self.scheduler.worker.ring()

    def lose(self, trouble: Trouble) -> None:
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

    def hold_still(self, *, again: bool = False) -> None:
        """Opened with read_only=True: what was read counts from now on.  *again*: what is new is read first.

        A program that asks several things gets answers of one moment, and the log is not read for each of
        them.  If a segment goes meanwhile, the log is read again, for its records stand elsewhere now.
        """
        if again:
            self._reader.still = False
            self.turn.look(int)
        self._reader.still = True

    def _refuse_as_lost(self) -> None:
        if self.closed:
            self._refuse()
        self.replica.log.failure.check()

    def _refuse(self) -> None:
        raise Closed(f"{self.path}: {self.closed_why}")

    # ── what many queues have in common ────────────────────────────────────────────

    def channel(self, name: str) -> Channel:
        found = self.waiters.channels.get(name) if type(name) is str else None
        return found or self._new_channel(check_name(name))

    @operation
    def _new_channel(self, name: str) -> Channel:
        with self.turn.mutex:
            return self.waiters.channel(name)

    def finish_publish(self, end: int) -> None:
        """What a publish owes before it returns: its bytes on the disk; the cleaner a chance.

        A thread that must not wait goes on owing it: see mq/engine/at_once.py.
        """
        if not self.wait_after_publish:
            return
        if self.owing and (me := get_ident()) in self.owing:
            self.owing[me] = max(end, self.owing[me])
            return
        if self.sync_always:
            self.replica.log.sync(end)
        elif self._flusher and self._flusher.missing:
            self._flusher.help()
        if self.maintenance.cleaning.pressed:
            self.maintenance.stall()

    def time_syncs(self, observe: Callable[[float], object]) -> None:
        """Give *observe*, too, the seconds of each fdatasync of this process."""
        if self.observe_sync:
            observe = partial(_give_both, self.observe_sync, observe)
        self.observe_sync = self.replica.log.owner.observe_sync = observe

    # ── the disk ───────────────────────────────────────────────────────────────────

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


def _give_both(one: Callable[[float], object], other: Callable[[float], object], seconds: float) -> None:
    one(seconds)
    other(seconds)


def open_store(
    name: str, *, sync: str | float, read_only: bool, segment_bytes: int, clock: Callable[[], float] | None,
    salvage: bool, exclusive: bool, mode: int | None, hold: Hold,
) -> Store:  # fmt: skip
    """The store in the directory *name*, wherever the program goes by os.chdir; or MEMORY."""
    path = name if name == MEMORY else paths.absolute(name)
    return Store(
        path, sync=sync, read_only=read_only, segment_bytes=segment_bytes, clock=clock, salvage=salvage,
        exclusive=exclusive, mode=mode, hold=hold,
    )  # fmt: skip
