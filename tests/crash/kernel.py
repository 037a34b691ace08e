"""One machine and the processes on it: a schedule decides at every call which goes on, and which dies.

    director ──go──► process a ── open, pread, pwrite, lock, a word of the page … ──┐
        ▲                                                                             │ `stop` says so,
        └────────────────────────── the call that it is about to make ◄───────────────┘ or it is done

Each process runs the production code in a thread of its own, on its own face of one
SimulatedDisk: the files, the directories, the locks and the mapped page are shared by all.
Exactly one thread runs at any time, the director's or one process's, so a schedule
determines everything.

A process that is killed makes no call any more: whatever its handlers try raises Killed,
and the kernel has closed its files and dropped their locks.  It may also die *inside* a
write, of which a part is done then, or inside an fsync that fails and told no process.

Time stands still, until a test says that it passes.  Patience is another clock: it runs
when a process that waits for another has seen nothing happen since it last looked, for then it
waits for something that does not come, and is to give up.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple, Self
from unittest import mock

from mq.storage.bias import BARRIER_SECONDS
from mq.storage.shared import INSIDE, SLOTS

from .disk import SimulatedDisk
from .disk import Window as SharedWindow
from .disk import Words as SharedWords
from .driver import EPOCH
from .explorer import determined

logger = logging.getLogger("mq")

BATON_SECONDS = 120.0  # a process that makes no call for so long has stopped
RUN = 2  # turns in a row make a process the one that needs no LOCK
MANY = 3  # retained messages are put aside before a queue subscribes to them
IDLE_SECONDS = 0.05  # pass when a process waits and nothing happens
READING = frozenset({
    "load", "exists", "open", "close", "pread", "size", "names", "map", "pause", "inode", "byte_is_locked",
    "window", "ready", "fetch",
})  # fmt: skip


class Killed(BaseException):
    """This process is dead.  Not an Exception: no handler under test may swallow it."""


class Call(NamedTuple):
    kind: str  # the name of the disk's method, or load or store for a word of the page
    path: str  # or the number of the word

    def __str__(self) -> str:
        return f"{self.kind} {self.path}".strip()


Stop = Callable[[Call], bool]


class Kernel:
    def __init__(self, seed: int = 0, disk: SimulatedDisk | None = None) -> None:
        """*disk*: what an earlier machine has left."""
        self.disk = disk or SimulatedDisk()
        self.random = random.Random(seed)
        self.steps = 0  # calls of all processes
        self.happened = 0  # calls that changed something
        self.seconds = 0.0  # of the monotonic clock
        self.patience = 0.0  # the same, for processes that wait for each other
        self.wall_shift = 0.0  # how far the wall clock was set
        self.running: Process | None = None
        self.processes: list[Process] = []
        self.baton = threading.Semaphore(0)
        self.bells: Counter[str] = Counter()  # how often each was rung
        self.traces: list[tuple[str, Call]] | None = None  # every call, if a caller wants to see them

    def process(self, name: str) -> Process:
        found = Process(self, name, 100 + len(self.processes))
        self.processes.append(found)
        return found

    def drain_all(self) -> bool:
        """A barrier: what all processors have kept to themselves is seen."""
        for each in self.processes:
            each.drain()
        return True

    def shut_down(self) -> None:
        """End all threads; nothing that they did not do yet is done."""
        for each in self.processes:
            each.kill()
            each.leave()

    @property
    def wall(self) -> float:
        return EPOCH + self.seconds + self.wall_shift


class Process:
    """A process: `begin` something, and `go` on with it as far as it pleases."""

    def __init__(self, kernel: Kernel, name: str, pid: int) -> None:
        self.kernel, self.name, self.pid = kernel, name, pid
        self.disk = Face(self)
        self.alive = True
        self.time_namespace = 1
        self.has_barrier = True  # the system lets it make one
        self.ahead_seconds = 0.0  # the monotonic clock there, before that of the machine
        self.call: Call | None = None  # what it is about to do
        self.steps = 0
        self.descriptors: set[int] = set()
        self.windows: list[SharedWindow] = []
        self.inside: int | None = None  # it dies inside its next call, which meets this fault
        self.kept: tuple[int, int, SharedWords] | None = None  # a store that its processor keeps to itself
        self._interrupted = False
        self._waited = -1  # what had happened when it last paused
        self._task: Callable[[], object] | None = None
        self._error: BaseException | None = None
        self._stop: Stop = lambda _: False
        self._resume = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._live, daemon=True, name=name)
        self._thread.start()

    def enter_time_namespace(self, ahead_seconds: float) -> None:
        """Before it opens anything."""
        self.time_namespace, self.ahead_seconds = 2, ahead_seconds

    # ── for the director ───────────────────────────────────────────────────────────

    @property
    def idle(self) -> bool:
        return self._task is None

    def begin(self, task: Callable[[], object]) -> None:
        assert self._task is None and self.alive
        self._task = task

    def go(self, stop: Stop = lambda _: False) -> Call | None:
        """Go on until *stop* says so of the call that comes next; None if all is done, or it is dead."""
        if self._task is None:
            return None
        self._stop = stop
        self.kernel.running = self
        self._resume.release()
        if not self.kernel.baton.acquire(timeout=BATON_SECONDS):
            raise AssertionError(f"{self.name} neither goes on nor comes to an end")
        self.kernel.running = None
        error, self._error = self._error, None
        if error:
            raise error
        return self.call

    def kill(self, *, inside: int | None = None) -> None:
        """SIGKILL.  With *inside*, it is in the middle of the call it was about to make, which meets
        that fault (0: none) and is done."""
        if not self.alive:
            return
        if inside is None:
            self._die()
        else:
            self.inside = inside
        self.go()
        self.alive, self.call, self._task = False, None, None

    def interrupt(self) -> None:
        """Ctrl-C, before the call that it was about to make."""
        self._interrupted = True

    def leave(self) -> None:
        """End the thread."""
        self._resume.release()
        self._thread.join(BATON_SECONDS)

    # ── in its thread ──────────────────────────────────────────────────────────────

    def _live(self) -> None:
        while True:
            self._resume.acquire()
            if self._task is None:
                return
            try:
                self._task()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 — for the director
                self._error = error
            self.drain()
            self._task = self.call = None
            self.kernel.baton.release()

    def drain(self) -> None:
        """What the processor has kept to itself is seen by all."""
        if kept := self.kept:
            self.kept = None
            index, value, words = kept
            words.arrive(index, value)

    def _die(self) -> None:
        self.alive = False
        self.drain()
        for window in self.windows:
            window.close()
        for fd in self.descriptors:
            self.kernel.disk.close(fd)
        self.descriptors.clear()

    def make(self, kind: str, path: str, do: Callable[[], Any]) -> Any:
        """A call: first another process may go on; then it is done, or the process is dead."""
        kernel = self.kernel
        if not self.alive:
            raise Killed
        kernel.steps += 1
        self.steps += 1
        call = Call(kind, path)
        if self._stop(call):
            self.call = call
            kernel.baton.release()
            self._resume.acquire()
            self.call = None
            if not self.alive:
                raise Killed
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt
        if kernel.traces is not None:
            kernel.traces.append((self.name, call))
        if kind not in READING:
            kernel.happened += 1
        if kind != "load":
            self.drain()
        if self.inside is None:
            return do()
        fired = kernel.disk.fired
        if self.inside:
            kernel.disk.strike(self.inside)
        with suppress(OSError):
            do()
        kernel.disk.fired = fired  # no process was told
        self._die()
        raise Killed

    def paused(self) -> None:
        """It waits; if nothing has happened since it last did, time passes."""
        if self._waited == self.kernel.happened:
            self.kernel.patience += IDLE_SECONDS
        self._waited = self.kernel.happened


class Face:
    """The face of mq.storage.disk.Disk that one process sees."""

    def __init__(self, process: Process) -> None:
        self._process, self._disk = process, process.kernel.disk
        self._anchor, self._anchored = -1, None  # a descriptor; and what the disk makes of it

    def path_of(self, fd: int) -> str:
        return self._disk.path_of(fd)

    def _path(self, fd: int) -> str:
        if not self._process.alive:
            raise Killed
        return self._disk.path_of(fd)

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        def do() -> int:
            fd = self._disk.open(path, write=write, create=create)
            self._process.descriptors.add(fd)
            return fd

        return self._make("open", path, do)

    def anchor(self, path: str) -> int:
        def do() -> int:
            fd = self._disk.anchor(path)
            self._process.descriptors.add(fd)
            self._anchor, self._anchored = fd, self._disk.anchored
            return fd

        return self._make("open", path, do)

    def open_directory(self, path: str) -> int:
        def do() -> int:
            fd = self._disk.open_directory(path)
            self._process.descriptors.add(fd)
            return fd

        return self._make("open", path, do)

    def inode(self, fd: int) -> tuple[int, int] | None:
        return self._disk.inode(fd)

    def inode_at(self, path: str) -> tuple[int, int] | None:
        return self._make("inode", path, lambda: self._disk.inode_at(path))

    def owns(self, fd: int) -> bool:
        return fd in self._process.descriptors

    def made(self, fd: int) -> int:
        return self._disk.made(fd)

    def links(self, path: str) -> int:
        return self._make("links", path, lambda: self._disk.links(path))

    def close_rest(self) -> None:
        pass

    def whereabouts(self, fd: int) -> str:
        return ""

    def after_fork(self) -> Self:
        return self  # no process forks here

    def resemble(self, path: str) -> bool:
        return True

    def _make(self, kind: str, path: str, do: Callable[[], Any]) -> Any:
        """A call that is given a name: each process looks it up from its own anchor."""

        def anchored() -> Any:
            self._disk.anchored = self._anchored
            try:
                return do()
            finally:
                self._disk.anchored = None

        return self._process.make(kind, path, anchored)

    def close(self, fd: int, /) -> None:
        def do() -> None:
            self._process.descriptors.remove(fd)
            self._disk.close(fd)
            if fd == self._anchor:
                self._anchored = None

        self._process.make("close", self._path(fd), do)

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        return self._process.make("pread", self._path(fd), lambda: self._disk.pread(fd, size, offset))

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:
        return self._process.make("pwrite", self._path(fd), lambda: self._disk.pwrite(fd, data, offset))

    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        """Two calls: others may read in between, when the pages are gone; a kill there does not stop it."""
        path, process = self._path(fd), self._process
        finish: Callable[[], None] | None = None

        def begin() -> None:
            nonlocal finish
            if self._disk.direct:
                finish = self._disk.begin_direct(fd, data, offset)

        process.make("drop", path, begin)
        try:
            return process.make("pwrite", path, lambda: self._disk.pwrite_direct(fd, data, offset))
        except Killed:
            if finish and process.inside is None:
                finish()
            raise

    def size(self, fd: int) -> int:
        return self._process.make("size", self._path(fd), lambda: self._disk.size(fd))

    def allocate(self, fd: int, offset: int, size: int) -> None:
        self._process.make("allocate", self._path(fd), lambda: self._disk.allocate(fd, offset, size))

    def free(self, path: str) -> int | None:
        return self._disk.free(path)

    def truncate(self, fd: int, size: int) -> None:
        self._process.make("truncate", self._path(fd), lambda: self._disk.truncate(fd, size))

    def forget(self, fd: int, offset: int, size: int) -> None:
        self._process.make("forget", self._path(fd), lambda: self._disk.forget(fd, offset, size))

    def sync(self, fd: int) -> None:
        self._process.make("sync", self._path(fd), lambda: self._disk.sync(fd))

    def sync_directory(self, path: str) -> None:
        self._make("sync_directory", path, lambda: self._disk.sync_directory(path))

    def names(self, path: str) -> list[str]:
        return self._make("names", path, lambda: self._disk.names(path))

    def exists(self, path: str) -> bool:
        return self._make("exists", path, lambda: self._disk.exists(path))

    def make_directory(self, path: str) -> None:
        self._make("make_directory", path, lambda: self._disk.make_directory(path))

    def rename(self, old: str, new: str) -> None:
        self._make("rename", new, lambda: self._disk.rename(old, new))

    def unlink(self, path: str) -> None:
        self._make("unlink", path, lambda: self._disk.unlink(path))

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        def do() -> bool:
            kernel = self._process.kernel
            taken = self._disk.lock(fd, shared=shared)
            kernel.happened -= not taken
            return taken

        return self._process.make("lock", self._path(fd), do)

    def unlocker(self, fd: int) -> Callable[[], object]:
        unlock, path = self._disk.unlocker(fd), self._path(fd)
        return lambda: self._process.make("unlock", path, unlock)

    def lock_byte(self, fd: int, at: int) -> bool:
        return self._process.make("lock_byte", str(at), lambda: self._disk.lock_byte(fd, at))

    def byte_is_locked(self, fd: int, at: int) -> bool:
        return self._process.make("byte_is_locked", str(at), lambda: self._disk.byte_is_locked(fd, at))

    def heed_barriers(self) -> bool:
        return self._process.has_barrier

    def barrier(self) -> bool:
        if not self._process.has_barrier:
            return False
        return self._process.make("barrier", "", self._process.kernel.drain_all)

    def pause(self, seconds: float) -> None:
        def do() -> None:
            if seconds >= BARRIER_SECONDS:
                self._process.kernel.drain_all()
            self._process.paused()

        self._process.make("pause", "", do)

    def clocks(self) -> tuple[int, int]:
        return self._process.kernel.disk.boot, self._process.time_namespace

    def lockers(self, path: str) -> list[int]:
        return []

    def file_system(self, path: str) -> str:
        return ""

    def make_fifo(self, path: str) -> None:
        pass

    def open_fifo(self, path: str) -> int:
        return self.open(path, write=True, create=True)

    def ring(self, fd: int) -> None:
        path = self._path(fd)
        self._process.make("ring", path, lambda: self._process.kernel.bells.update([path]))

    def listen(self, fd: int, seconds: float) -> None:
        self.pause(seconds)

    def map(self, fd: int) -> Words:
        words = self._process.make("map", self._path(fd), lambda: self._disk.map(fd))
        return Words(self._process, words)

    def may_map(self, path: str) -> bool:
        return self._disk.may_map(path)

    def window(self, fd: int, offset: int, size: int) -> Window | None:
        path = self._path(fd)
        window = self._process.make("window", path, lambda: self._disk.window(fd, offset, size))
        if window is None:
            return None
        self._process.windows.append(window)
        return Window(self._process, path, window)


class Window:
    """Mapped room, as one process sees it: each copy is a call, and it may die inside."""

    __slots__ = ("_path", "_process", "_window")

    def __init__(self, process: Process, path: str, window: SharedWindow) -> None:
        self._process, self._path, self._window = process, path, window

    def __getitem__(self, part: slice) -> bytes:
        return self._process.make("fetch", self._path, lambda: self._window[part])

    def __setitem__(self, part: slice, data: bytes) -> None:
        def do() -> None:
            self._window[part] = data

        self._process.make("copy", self._path, do)

    def ready(self, start: int, size: int) -> bool:
        return self._process.make("ready", self._path, lambda: self._window.ready(start, size))

    def close(self) -> None:
        if self._process.alive:  # else the kernel has done so
            self._window.close()
            if self._window in self._process.windows:
                self._process.windows.remove(self._window)


class Words:
    """The mapped page, as one process sees it: each access is a call.

    What a process stores in its word INSIDE the processor keeps to itself, for as long as it may:
    loads pass it, and nothing else does.  (With the other words it would make no difference: who
    reads what they say without LOCK takes it for a hint.)
    """

    __slots__ = ("_process", "_words")

    def __init__(self, process: Process, words: SharedWords) -> None:
        self._process, self._words = process, words

    def __getitem__(self, index: int) -> int:
        def do() -> int:
            kept = self._process.kept
            return kept[1] if kept and kept[0] == index else self._words[index]

        return self._process.make("load", str(index), do)

    def __setitem__(self, index: int, value: int) -> None:
        def do() -> None:
            self._process.kernel.happened -= self._words[index] == value
            if INSIDE <= index < INSIDE + SLOTS:
                self._process.kept = index, value, self._words
            else:
                self._words[index] = value

        self._process.make("store", str(index), do)

    def __len__(self) -> int:
        return len(self._words)

    def release(self) -> None:
        pass


class SimulatedTime:
    """What the library takes for the module `time`."""

    def __init__(self, here: Here) -> None:
        self._here = here

    def monotonic(self) -> float:
        return self._here.kernel.patience

    perf_counter = monotonic

    def monotonic_ns(self) -> int:
        kernel = self._here.kernel
        ahead = kernel.running.ahead_seconds if kernel.running else 0.0
        return round((kernel.seconds + ahead) * 1e9)

    def time(self) -> float:
        return self._here.kernel.wall

    def time_ns(self) -> int:
        return round(self._here.kernel.wall * 1e9)

    def sleep(self, seconds: float) -> None:
        if self._here.kernel.running:
            self._here.kernel.running.disk.pause(seconds)


class Here:
    """The machine that everything happens on."""

    kernel = Kernel()


@contextmanager
def laboratory() -> Iterator[Here]:
    """The library among simulated processes: its time, its pid and its chance are those of a kernel."""
    here = Here()
    clock = SimulatedTime(here)
    with ExitStack() as patches:
        patches.enter_context(determined(0))
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "mq" and getattr(module, "time", None) is time:
                patches.enter_context(mock.patch.object(module, "time", clock))
        for patch in (
            mock.patch("os.urandom", lambda size: here.kernel.random.randbytes(size)),
            mock.patch.object(uuid, "uuid4", lambda: uuid.UUID(int=here.kernel.random.getrandbits(128))),
            mock.patch("os.getpid", lambda: here.kernel.running.pid if here.kernel.running else 1),
        ):
            patches.enter_context(patch)
        patches.enter_context(mock.patch("mq.storage.bias.RUN", RUN))
        patches.enter_context(mock.patch.multiple("mq.engine.backfill", MANY=MANY, ASIDE_IDS=2))
        logger.setLevel(logging.CRITICAL)
        patches.callback(logger.setLevel, logging.NOTSET)
        yield here
