"""A turn: this thread alone may change the store, and knows all that was appended before.

    mutex     keeps out the other threads of this process
    LOCK      keeps out the other processes; the owner of the turn takes none (storage/bias.py)
    follow    apply what the others appended since: the follower does that, a turn knows no state
    work      decide, append, apply
    leave     let the others come in

`take` runs a function in a turn, `look` one that changes nothing, and `take_with_lock` one that asks which
other processes are here, or a slice of maintenance.  Nothing else writes these steps out but the operations
of a microsecond or two (publish, receive, ack and their batches), and they are the same there:

    with turn.mutex:
        try:
            turn.enter()
            …
        finally:
            turn.leave()

These are functions, and no context manager.  A signal's handler may raise where CPython begins a function
written in Python, so also at the first line of an `__exit__`, and LOCK would stay held: of a generator, for
as long as the error is kept.  `leave` is one call of C in a `finally`, in the frame that entered: nothing can
come between.  And a turn in which another writer was first (Conflict: a log that is not kept by a lock) is
run again, which the body of a `with` cannot be.  So what `take` runs leaves nothing behind but in the log,
until its append.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from mq.engine.line import Line
from mq.engine.log import Conflict
from mq.storage import paths, shared
from mq.storage.bias import Bias
from mq.storage.disk import Disk, is_anothers
from mq.storage.explain import pass_on, storage_error
from mq.storage.locks import Locks
from mq.storage.log import Log
from mq.storage.shared import BIAS, DIRTY, END, FAILED, HOLDER, KEPT, WAITING

T = TypeVar("T")

STEP_ASIDE_SECONDS: Final = 120e-6  # longer than a nap of a process that waits
STEPS_ASIDE_MAX: Final = 50  # then the process that waits must have died, or be stopped
VOID: Final = -1  # `applied`, while the state is not what the log says


class Follower(Protocol):
    """What this process knows of the log."""

    log: Log
    applied: int
    """Up to where it has applied the log; VOID: what it knows is not what the log says."""
    page_is_behind: bool
    """It applied, without LOCK, what the page has still to show: `catch_up` sees to that."""

    def catch_up(self) -> None:
        """Be where the log is; in a turn."""

    def keep_up(self) -> None:
        """The same, a part at a time, while another process has LOCK."""


class Turn:
    enter: Callable[[], None]
    """Called with the mutex, inside a try, before anything is changed: the state is the log's then.

    Which function it is depends on the phase of the store (mq/engine/store.py, WAYS).  Whatever happens,
    `leave` follows, in a finally: it lets others come in, and nothing can interrupt it.  Between two calls
    of `enter` there is always one of `leave`.
    """
    enter_to_look: Callable[[], None]
    """`enter`, for operations that change nothing."""
    enter_with_lock: Callable[[], None]
    """`enter`, with LOCK in any case: for what asks which other processes are here, and for maintenance."""
    leave: Callable[[], object]
    follower: Follower
    locks: Locks
    """Once the store is being opened; the child of a fork gets new ones.  So `bias`."""
    bias: Bias

    def __init__(self, path: str, disk: Disk, *, exclusive: bool, in_line: bool) -> None:
        """*exclusive*: no other process comes, so LOCK is taken once, by the one that opens the store.

        *in_line*: threads that are busy at the same time wait in line (mq/engine/line.py).
        """
        self._path, self._disk, self.exclusive = path, disk, exclusive
        self.mutex = threading.RLock()  # held for the whole turn; a forked child has a new one
        self.line = Line(self.mutex, used=in_line)  # where threads wait before they ask for it
        self.mark = shared.no_page()  # the page, once it is there
        self.page_fd = -1  # of the page: its lock says which process syncs
        self.pid = os.getpid()  # of the process that opened the store; a forked child has another one
        self.gone = True  # the files are let go of
        self.leave = int

    # ── a turn of one function ─────────────────────────────────────────────────────

    def take(self, do: Callable[[], T]) -> T:
        """Run *do* in a turn; again if another writer appended first, for then it decided on an old state."""
        while True:
            with self.mutex:
                try:
                    self.enter()
                    return do()
                except Conflict:
                    continue
                finally:
                    self.leave()

    def look(self, do: Callable[[], T]) -> T:
        """Run *do*, which changes nothing, in a turn."""
        with self.mutex:
            try:
                self.enter_to_look()
                return do()
            finally:
                self.leave()

    def take_with_lock(self, do: Callable[[], T]) -> T:
        """Run *do* in a turn, with LOCK in any case."""
        with self.mutex:
            try:
                self.enter_with_lock()
                return do()
            finally:
                self.leave()

    # ── coming in ──────────────────────────────────────────────────────────────────

    def come_in(self) -> None:
        """Without LOCK, if this process may (storage/bias.py); else with it."""
        bias, follower = self.bias, self.follower
        if bias.token:
            # Behind the last call before `leave`: a signal's handler may fork there, and this be the child.
            mark, log = self.mark, follower.log
            self.leave, log.biased = bias.leave, True
            mark[bias.word] = 1
            if mark[BIAS] == bias.token and not (mark[DIRTY] or mark[FAILED]) and follower.applied == log.end:
                return
            mark[bias.word] = 0
        self.enter_with_lock()
        bias = self.bias
        bias.run += 1
        if bias.run >= bias.enough:
            bias.keep()

    def come_in_with_lock(self) -> None:
        """With LOCK, which other processes may have now."""
        mark, bias, locks, follower = self.mark, self.bias, self.locks, self.follower
        self.leave, follower.log.biased = locks.unlock, False
        try:
            if bias.token:
                bias.stop()
            if mark[WAITING] and mark[HOLDER] == self.pid:  # the last turn was this process's
                self.step_aside()
            if not self._disk.lock(locks.fd):
                locks.take(mark, follower.keep_up)
            if mark[BIAS]:
                bias.revoke()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                pass_on(error)
            if self.is_left():  # nothing is begun yet
                return self.enter()
            if isinstance(error, ValueError):
                raise
            follower.log.watch.stand()  # perhaps the program closed the descriptor
            raise storage_error(self._path, error) from error
        if mark[HOLDER] != self.pid:
            mark[HOLDER], bias.run = self.pid, 0
        if follower.applied != mark[END] or mark[DIRTY] or mark[FAILED] or follower.page_is_behind:
            bias.run = 0
            follower.catch_up()

    def come_in_alone(self) -> None:
        """Of a store that no other process may open."""
        mark = self.mark
        if self.follower.applied != mark[END] or mark[DIRTY] or mark[FAILED]:
            self.follower.catch_up()

    def come_in_to_look(self) -> None:
        """Know what all others have appended by now; for a look at a log that no lock keeps."""
        self.enter()

    def is_behind(self) -> bool:
        """Whether another writer has appended what this process does not know.

        Asked before "there is nothing" or "that is not so any more" is said; the caller looks again then.
        Never, where a lock keeps the log.
        """
        return False

    def is_free(self) -> bool:
        """Whether a thread that has the mutex can come in without waiting for another process.

        It may have LOCK then: what `unlock` gave before is to be called behind its turn.
        """
        if self.exclusive:
            return True
        if self.gone:  # also of a store that is only read
            return False
        bias, mark, follower = self.bias, self.mark, self.follower
        if mark[DIRTY] or mark[FAILED] or mark[WAITING]:
            return False
        if bias.token:  # LOCK is not taken then: see `unlock`
            return mark[BIAS] == bias.token and follower.applied == follower.log.end
        if mark[BIAS] or follower.applied != mark[END]:
            return False
        try:
            return self._disk.lock(self.locks.fd)
        except (OSError, ValueError):  # the program closed the descriptor: a turn that may wait says so
            return False

    def unlock(self) -> Callable[[], object]:
        """What lets go of LOCK, in one call of C, behind a turn that `is_free` allows.  Asked for before."""
        return int if self.exclusive or self.gone or self.bias.token else self.locks.unlock

    def is_left(self) -> bool:
        """Whether this is the child of a fork, made inside the operation that comes in here."""
        return self.gone and self.pid != os.getpid()

    # ── beside other processes ─────────────────────────────────────────────────────

    def say_who(self) -> None:
        """Say on the page that this process has LOCK."""
        self.mark[HOLDER] = self.pid | (KEPT if self.exclusive else 0)

    def step_aside(self) -> None:
        """Let a process that waits for LOCK have it first; called with the mutex, and without LOCK.

        Every turn comes by here on its way in, and with the mutex held no other thread of
        this process comes by instead.  The process that gets LOCK is the holder then, and says
        that it waits no more.  One that died cannot, so there is an end to it.
        """
        mark = self.mark
        for _ in range(STEPS_ASIDE_MAX):
            self._disk.pause(STEP_ASIDE_SECONDS)
            if not mark[WAITING] or mark[HOLDER] != self.pid:
                return
        mark[WAITING] = 0

    def without_lock(self, do: Callable[[], T]) -> T:
        """Let the other processes have LOCK while *do* runs; in a turn."""
        self.leave()
        try:
            return do()
        finally:
            self.locks.take(self.mark, self.follower.keep_up)
            if self.mark[BIAS]:
                self.bias.revoke()
            self.say_who()

    # ── the files, while the store is open ─────────────────────────────────────────

    def held(self) -> dict[str, int]:
        """The descriptors on which the store depends, by the name of the file; -1: not open."""
        return {**self.locks.held(), paths.MARK: self.page_fd}

    def leave_descriptors(self) -> None:
        """The program closed one: its number may be another file's by now, and nothing is done to that."""
        if is_anothers(self._disk, self.locks.fd):
            if self.leave is self.locks.unlock:
                self.leave = int
            self.locks.unlock = int
        shared.never_unmapped.append(self.mark)

    def let_go_of_page(self) -> None:
        """It may be unmapped then."""
        self.mark = shared.detached(self.mark)
        if bias := getattr(self, "bias", None):
            bias.let_go(self.mark)

    def let_go_of_locks(self) -> None:
        if locks := getattr(self, "locks", None):
            locks.close()

    def after_fork(self, disk: Disk) -> None:
        """In a child: what was taken is the parent's."""
        self.mutex, self.leave, self._disk = threading.RLock(), int, disk
        self.line = Line(self.mutex, used=self.line.used)

    def locks_after_fork(self) -> None:
        """Close the files, and unlock nothing."""
        if locks := getattr(self, "locks", None):
            locks.after_fork()
