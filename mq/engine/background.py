"""Worker: a thread beside the work, which nothing that it meets can end.

    asleep ── bell, or time ──► step ──► asleep …
                                 │ raises
                                 └──► counted, logged, tried again: after 0.1 s, 0.2 s, … 10 s

A thread that ended in silence would leave a store that is never cleaned, or a receiver
that never hears of other processes.  So the thread goes on whatever a step raises,
SystemExit too.  If it has ended all the same, `start`, which is called whenever there is
something to do, begins another.  While no thread can be had, `start` says so, and its
caller does the work.

The thread refers to its owner only during a step: an owner that is forgotten can go, and
the thread ends when it is next rung.

While it lives it has the lock `life`, which `join` waits for.  Not by Thread.join: in Python
3.11 an exception that interrupts that marks a live thread as ended, and in the child of a
fork it waits for a thread that is not there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import MethodType
from typing import Final
from weakref import ref

from mq.errors import MqError
from mq.forks import is_held
from mq.notes import RARELY_SECONDS, logger

BACKOFF_SECONDS: Final = 0.1  # after the first failure; twice as long after each that follows
BACKOFF_SECONDS_MAX: Final = 10.0
BEGIN_NAP_SECONDS: Final = 200e-6
ASLEEP: Final = -1.0  # seconds of a nap that only the bell ends
GIVE_UP: Final = 100  # times in a row that even counting and waiting fail: then the thread ends


class Worker:
    def __init__(
        self, name: str, path: str, step: Callable[[], object], *,
        behind: Callable[[], object], ended: Callable[[], object] | None = None,
        backoff_max: float = BACKOFF_SECONDS_MAX,
    ) -> None:  # fmt: skip
        """*step*, a method, does the work; the thread ends if it returns True.

        *behind*, a method, is called behind each step, when the thread holds no lock; *ended*
        by a thread that ends without having been told to.
        """
        self.name, self._path = name, path
        self._bell = threading.Lock()  # held while there is nothing to do
        self._bell.acquire()
        self._step, self._behind = _Weak(step), _Weak(behind)
        self._ended = _Weak(ended) if ended else None
        self._sleep: Callable[[], object] = self._bell.acquire
        self._backoff_max = backoff_max
        self.life = threading.RLock()  # of the thread, from its first line to its last
        self._begun = False  # there is a thread, which has not come so far
        self._stopped = False
        self.failures: Counter[str] = Counter()  # what steps have raised, by kind
        self._failed = 0  # times in a row
        self._logged: dict[str, float] = {}  # when each kind was last logged, monotonic seconds

    # ── for callers that have work ────────────────────────────────────────────────────

    def start(
        self, sleep: Callable[[], object] | None = None, over: Callable[[], object] | None = None
    ) -> bool:
        """Whether a thread does the work: begins one unless there is one that is alive.

        *sleep* returns when there may be something to do; without it the thread sleeps until
        `ring`.  *over* is called when the thread ends.  Neither may refer to the owner.
        """
        if self.runs():
            return True
        if self._stopped:
            return False
        if sleep:
            self._sleep = sleep
        thread = None
        try:
            self._begun = True
            thread = threading.Thread(target=self._live, args=(over,), daemon=True, name=self.name)
            thread.start()
        except BaseException as error:
            self._begun = False
            if isinstance(error, (RuntimeError, MemoryError)):  # too many, or the program is at its end
                return False
            if isinstance(error, KeyError) and error.args == (thread,) and error.__context__:
                # CPython takes a handler's exception for a failure to start, and the thread out of its list,
                # which that one has done itself.
                raise error.__context__ from None
            raise  # a handler's: if there is a thread all the same, the next one comes behind it
        return True

    def runs(self) -> bool:
        return self._begun or is_held(self.life)

    def let_begin(self, seconds: float) -> None:
        """Return when no thread is about to begin, or after so long."""
        give_up = time.monotonic() + seconds
        while self._begun and time.monotonic() < give_up:
            time.sleep(BEGIN_NAP_SECONDS)

    def is_this_thread(self) -> bool:
        return bool(self.life._is_owned())  # type: ignore[attr-defined]

    def ring(self) -> None:
        """Wake the thread.  Takes no lock, so that it may be called at any time, by any thread."""
        _release(self._bell)

    def nap(self, seconds: float) -> None:
        """Sleep until `ring`, and no longer than that; for the thread."""
        self._bell.acquire(timeout=seconds)

    def napping(self, seconds: list[float]) -> Callable[[], None]:
        """For `start`: the thread sleeps by naps, each as long as the list says by then."""
        return lambda: self.nap(seconds[0])

    def stop(self) -> None:
        """Have the thread end, soon; `join` waits for it.  Takes no lock."""
        self._stopped = True
        self.ring()

    def join(self) -> None:
        """Return when there is no thread, but this one, that does a step or will do one."""
        with self.life:
            pass

    # ── the thread ─────────────────────────────────────────────────────────────────

    def _live(self, over: Callable[[], object] | None) -> None:
        wanted = True
        try:
            with self.life:
                try:
                    self._begun = False
                    wanted = self._go_on_for_good()
                finally:
                    if over:
                        over()
        finally:
            with suppress(BaseException):
                if wanted and self._ended and not self._stopped:
                    self._ended()  # behind its life, so that they begin another thread

    def _go_on_for_good(self) -> bool:
        """Go on, also if there is no memory to note what happened; whether another thread is to go on."""
        left = GIVE_UP
        while left and not self._stopped:
            try:
                if self._go_on():
                    return False
                left = GIVE_UP
            except BaseException:  # noqa: BLE001  the thread must not end by what it cannot even note
                left -= 1
        return not self._stopped

    def _go_on(self) -> bool:
        """Sleep, and do a step; whether that was the last one."""
        if self._failed:
            self._back_off()
        try:
            if not self._failed:
                self._sleep()
            if self._stopped:
                return True
            try:
                last = self._step() is True
            finally:
                self._behind()
            self._failed = 0
        except BaseException as error:  # noqa: BLE001  SystemExit too: see above
            self._failed += 1
            self.note(error)
            return False
        return last

    def _back_off(self) -> None:
        seconds = BACKOFF_SECONDS * 2.0 ** min(self._failed - 1, 30)
        until = time.monotonic() + min(seconds, self._backoff_max)
        while not self._stopped and (left := until - time.monotonic()) > 0:
            self._bell.acquire(timeout=left)

    def note(self, error: BaseException) -> None:
        """Count it, and log it, once a minute for each kind."""
        kind = type(error).__name__
        self.failures[kind] += 1
        now = time.monotonic()
        if kind in self._logged and now - self._logged[kind] < RARELY_SECONDS:
            return
        self._logged[kind] = now
        logger.warning(
            "%s: the thread %s met %s, %d times by now, and goes on: %s", self._path, self.name, kind,
            self.failures[kind], error, exc_info=None if isinstance(error, MqError) else error,
        )  # fmt: skip


class _Weak:
    """A method that does not keep its object; True if that is gone.

    weakref.WeakMethod has a callback, and an exception that a signal handler raises in one is lost.
    """

    def __init__(self, method: Callable[[], object]) -> None:
        assert isinstance(method, MethodType)
        self._owner, self._function = ref(method.__self__), method.__func__

    def __call__(self) -> object:
        owner = self._owner()
        return True if owner is None else self._function(owner)


def _release(bell: threading.Lock) -> None:
    with suppress(RuntimeError):  # it rings already
        bell.release()
