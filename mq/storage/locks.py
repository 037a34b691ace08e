"""The locks of processes: what the holder of each file's lock may do.

    LOCK      its holder changes the log; for one operation, or for good
    FORMAT    presence: shared by all that have the store open.  A process that gets it alone is the
              first, and recovers; or the last, and says that the log is closed
    directory presence, too: FORMAT can be deleted while a process has the store open
    mark      its holder syncs the log
    CLEANER   its holder cleans and writes checkpoints; threads only ever try, `compact` waits

The sixth, wake/<slot>, says whose bell that is (mq/engine/listener.py).

    order: the thread's mutex > LOCK > mark.  CLEANER before LOCK.

The kernel drops what a process held when it dies.  What it left half done, the page tells
(`shared.DIRTY`, `shared.SYNCING`).  A lock goes with all descriptors of one opening of the
file, and the child of a fork may have one: so a process unlocks first, and then closes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from mq.errors import StoreLocked, Unsupported

from . import paths, shared
from .copies import take_over
from .disk import LOOK_NAP_SECONDS, Disk, Patience, close_all, is_anothers, lock_within
from .explain import closed_by_program, pass_on
from .network import is_network

LOCK_SECONDS: Final = 10.0  # an operation takes microseconds; opening a big store, seconds
KEPT_SECONDS: Final = 0.25  # when the holder has it for good
PATIENCE_SECONDS: Final = 200e-6  # before others are asked to step aside
MEANWHILE_SECONDS: Final = 0.02  # then a process does nothing but try, which gives it an edge over the others
NAP_SECONDS: Final = 20e-6  # the system makes 80 of it


class Locks:
    unlock: Callable[[], object]

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk, self._path, self._mark_path = disk, path, paths.mark(path)
        self._presence = self._cleaner = -1
        self.crowded = False  # others were present when we last asked
        self.directory = disk.anchor(path)
        try:
            self._resemble()
            take_over(disk, path, self.directory)
            self.fd = disk.open(paths.lock(path), write=True, create=True)
        except BaseException:
            disk.close(self.directory)
            raise
        self.unlock = disk.unlocker(self.fd)

    def _resemble(self) -> None:
        """New files are made for the same users as those that are there."""
        files = (paths.format_file(self._path), paths.lock(self._path), paths.mark(self._path))
        if not any(map(self._disk.resemble, files)):
            self._disk.resemble(self._path)

    def held(self) -> dict[str, int]:
        """The descriptors, by name; -1: not open."""
        files = {paths.FORMAT: self._presence, paths.LOCK: self.fd, paths.CLEANER: self._cleaner}
        return {"": self.directory, **files}

    def take(self, mark: memoryview | None, meanwhile: Callable[[], object] = int) -> None:
        """Wait for LOCK; StoreLocked, naming the holder, if that takes too long.

        It is free for a moment after each operation of processes that use it all the time, and they may do
        many before one that waits meets such a moment: changing hands costs more than an operation does.
        If that takes long, the page tells them, and they step aside.  *meanwhile* is called while it waits,
        for some time: then it only tries, which finds a moment more often than to follow as well.
        Without *mark*, the page is looked for: a process that opens the store does not have it yet.
        """
        patience, asked = Patience(LOCK_SECONDS), False
        while not self._disk.lock(self.fd):
            is_over, waited = patience.is_over(), patience.waited
            if waited > PATIENCE_SECONDS:
                if not self._disk.owns(self.fd):  # what another program has locked is no lock of the store
                    raise OSError(errno.EBADF, closed_by_program(self.fd), paths.lock(self._path))
                mark = shared.page_to_ask(self._disk, self._mark_path) if mark is None else mark
                if mark is not None:
                    mark[shared.WAITING], asked = 1, True
            if is_over or waited > KEPT_SECONDS:
                self._give_up(is_over)
            if waited < MEANWHILE_SECONDS:
                meanwhile()
            self._disk.pause(NAP_SECONDS)
        if asked and mark is not None:
            mark[shared.WAITING] = 0  # another process that waits says so again at its next nap

    def _give_up(self, is_over: bool) -> None:
        """Raise StoreLocked if the holder is exclusive or has held the lock for LOCK_SECONDS."""
        said, kept = shared.holder(self._disk, self._mark_path)
        if kept or is_over:
            if shared.word_of(self._disk, self._mark_path, shared.BIAS) & shared.ASKED:
                # The process with LOCK waits, too: for the owner, which was the last that had a turn.
                raise StoreLocked(self._path, said, seconds=LOCK_SECONDS)
            raise locked(self._disk, self._path, [paths.LOCK], seconds=0 if kept else LOCK_SECONDS)

    # ── presence ───────────────────────────────────────────────────────────────────

    def arrive(self, *, exclusive: bool) -> bool:
        """Be present, with LOCK held; whether no other process is.  With *exclusive*, none may be.

        FORMAT may be missing: then the directory alone says it.
        """
        old = self._presence
        if old >= 0:  # repair puts another file in its place
            _release(self._disk, old)  # first: interrupted after the next line, we would never let go of it
            self._presence = -1  # its number may be another file's once it is closed
            self._disk.close(old)
        if self._disk.exists(paths.format_file(self._path)):
            self._presence = self._disk.open(paths.format_file(self._path))
            self._resemble()
        self.crowded = not self._be_present(shared=False)
        if not self.crowded:
            return True
        if exclusive or not self._be_present(shared=True):
            raise locked(self._disk, self._path, [paths.FORMAT, ""])
        return False

    def _be_present(self, *, shared: bool) -> bool:
        """Both locks or, if one of them is not to be had, none that others would take for ours."""
        fds = [fd for fd in (self.directory, self._presence) if fd >= 0]
        taken = [self._disk.lock(fd, shared=shared) for fd in fds]
        if not all(taken):
            for fd in fds:
                self._disk.unlocker(fd)()
        return all(taken)

    def admit_others(self) -> None:
        """Others may be present too, once LOCK is free."""
        self._be_present(shared=True)

    def depart(self) -> None:
        """Be present no more; with LOCK held, so that the last to leave knows that it is."""
        _release(self._disk, self._presence)
        _release(self._disk, self.directory)

    def make_cleaner(self) -> None:
        """The file, before the disk is full: without an inode for it nothing could be cleaned then."""
        path = paths.cleaner(self._path)
        try:
            if not self._disk.exists(path):
                self._disk.close(self._disk.open(path, write=True, create=True))
        except OSError as error:  # it is tried again by the cleaner, which says so
            pass_on(error)

    # ── one at a time ──────────────────────────────────────────────────────────────

    @contextmanager
    def cleaner(self, seconds: float, mutex: AbstractContextManager[object]) -> Iterator[bool]:
        """Whether this process is the one that cleans now; others get so many *seconds* to end.

        The store's *mutex* is not held by the caller.  The descriptor comes and goes with it held: a
        thread that compares what is `held` with the files would take a closed one for a stolen one.
        """
        with mutex:
            fd = self._cleaner = self._disk.open(paths.cleaner(self._path), write=True, create=True)
        unlock = self._disk.unlocker(fd)
        try:
            yield lock_within(self._disk, fd, seconds)
        finally:
            if not is_anothers(self._disk, fd):
                unlock()  # first, as in `arrive`
            with mutex:
                self._cleaner = -1
                self._disk.close(fd)

    # ── leaving ────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Let go of everything, LOCK last."""
        for fd in (self._presence, self.directory, self.fd):
            _release(self._disk, fd)
        self.after_fork()

    def after_fork(self) -> None:
        """In a child: close, and unlock nothing, for the locks are the parent's."""
        self.unlock = int
        fds = self._presence, self._cleaner, self.fd, self.directory
        self._presence = self._cleaner = self.fd = self.directory = -1
        close_all(self._disk, fds)


class SyncLock:
    """The lock of `mark`: the process that has it syncs the log."""

    unlock: Callable[[], object]

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.leave()

    def use(self, fd: int) -> None:
        """*fd* is the descriptor of the page; -1: no other process has the store."""
        self.fd = fd
        self.unlock = self._disk.unlocker(fd) if fd >= 0 else int

    def leave(self) -> None:
        """The descriptor goes with the store, or is another file's by now: this process syncs no more."""
        self.fd, self.unlock = -1, int

    def take(self) -> bool:
        """Whether no other process syncs; then none does until this one unlocks."""
        return self.fd < 0 or self._disk.lock(self.fd)


def is_present(disk: Disk, path: str) -> bool:
    """Whether a process has the store open.  Looks, and lets go at once.

    Under LOCK, which a process that opens the store holds too: it must not take this look for presence.
    """
    lock = paths.lock(path)
    if disk.links(lock) > 1 and shared.copied_key(disk, paths.mark(path)) is not None:
        return False  # the lock is the original's, too
    if not disk.exists(lock):  # never opened; or deleted while it is open
        return disk.exists(path) and _is_locked(disk, disk.open_directory(path))
    fd = disk.open(lock)
    try:
        if not lock_within(disk, fd, shared.LOOK_SECONDS):
            return True  # the process that holds it so long is at work
        presence = paths.format_file(path)
        if disk.exists(presence) and _is_locked(disk, disk.open(presence)):
            return True
        return _is_locked(disk, disk.open_directory(path))
    finally:
        _let_go(disk, fd)


def _is_locked(disk: Disk, fd: int) -> bool:
    """Whether others have a lock of the file, which is closed."""
    try:
        return not disk.lock(fd)
    finally:
        _let_go(disk, fd)


def locked(disk: Disk, path: str, names: Iterable[str], *, seconds: float = 0) -> StoreLocked:
    """The error that names the holder of a lock of one of the files *names*; "": of the directory itself.

    The page names the process that last had LOCK, by the number that it has where it runs.  The
    system knows the holder of a lock now, be it another program, but not those in other containers.
    """
    said, _ = shared.holder(disk, paths.mark(path))
    known = [pid for name in names for pid in disk.lockers(paths.of(path, name))]
    if known:
        return StoreLocked(path, said if said in known else known[0], seconds=seconds)
    return StoreLocked(path, said, seconds=seconds, sure=False)


def present(disk: Disk, path: str) -> list[int]:
    """The processes that have the store open; none if the system does not say."""
    return sorted({*disk.lockers(paths.format_file(path)), *disk.lockers(path)})


def _release(disk: Disk, fd: int) -> None:
    """Let go of a lock, unless the descriptor is another file's by now."""
    if fd >= 0 and not is_anothers(disk, fd):
        disk.unlocker(fd)()


def _let_go(disk: Disk, fd: int) -> None:
    disk.unlocker(fd)()
    disk.close(fd)


def look(disk: Disk, path: str, key: bytes) -> shared.View:
    """The store at *path* as it is now; unless it is held, the next look may differ."""
    mark_path, patience = paths.mark(path), Patience(LOCK_SECONDS)
    while True:
        head = shared.read_mark(disk, mark_path, key)[shared.HEAD]  # first, as in `Replica._read_now`
        held = is_present(disk, path)
        words = shared.read_mark(disk, mark_path, key)
        if held and words[shared.VERSION] > shared.PAGE_VERSION:
            shared.require_version(path, words)
        if not held or not words[shared.RECOVERING]:
            break
        if patience.is_over():
            raise locked(disk, path, [paths.LOCK])
        disk.pause(LOOK_NAP_SECONDS)
    # The page is read word by word while it changes.
    synced = min(shared.claimed(words), words[shared.END]) if held else shared.claimed(words)
    return shared.View(held, words[shared.END], synced, head, copied=shared.is_copied(words))


def require_local(disk: Disk, path: str) -> None:
    """Unsupported if other computers may have the directory too: there a lock does not exclude them."""
    kind = disk.file_system(path)
    if is_network(kind):
        raise Unsupported(
            f"{path}: on a network file system ({kind}), where a lock keeps no process out and two computers"
            " would destroy each other's messages: choose a directory on a disk of this computer"
        )


@contextmanager
def alone(disk: Disk, path: str) -> Iterator[None]:
    """Hold the store's directory exclusively; StoreLocked if a process has the store open."""
    require_local(disk, path)
    locks = Locks(disk, path)
    try:
        locks.take(None)
        locks.arrive(exclusive=True)
        yield
    finally:
        locks.close()
