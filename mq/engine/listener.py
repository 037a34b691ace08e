"""Hearing what other processes append, while receivers wait here.

    receiver ── nothing there ── my bit in the queue's word of the page ── sleeps
    another process: appends to the queue ── sees the bit ── rings my bell, wake/<slot>
    this thread: hears it ── follows the log ── wakes the receiver

All that wait for the queue are woken, not one of them: it may die.  A bell that rang in vain,
because the process that was to ring it died, is made up for by looking each second (mq/engine/quiet.py).
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Final, Protocol

from mq.engine.background import Worker
from mq.engine.turn import Turn
from mq.errors import MqError
from mq.storage import paths
from mq.storage.disk import Disk, close_all, is_anothers
from mq.storage.explain import best_effort, pass_on
from mq.storage.shared import ASLEEP, WAITS, WAITS_WORDS

SLOTS: Final = 64  # bits of a word
HEARTBEAT_SECONDS: Final = 1.0
DEAF_SECONDS: Final = 0.02  # between two looks of a process that has no bell, or no thread to hear it


class Owner(Protocol):
    """What a listener listens for."""

    def is_quiet(self) -> bool:
        """Whether `hear` would find nothing."""

    def hear(self) -> None:
        """Another process appended, or some time has passed: wake the receivers that find something."""

    def wake_all(self) -> None:
        """Have all receivers look for themselves, and ask again; called with the mutex."""

    def let_go_if_forgotten(self) -> None:
        """Called behind each step, with no lock held."""


class Listener:
    def __init__(self, owner: Owner, path: str, disk: Disk, turn: Turn) -> None:
        self._owner, self._turn, self._disk = owner, turn, disk
        self._directory = paths.bells(path)
        self._bell = -1  # this process's own
        self._heard = [-1]  # the same, for the thread, which must not keep this object
        self._old_bell = -1  # one that was deleted: the thread may still sleep on it, for a second
        # Both, while they are open.  A thread that listens closes them itself at its end: another one
        # would close a number under it that may be another file's a moment later.
        self._open: list[int] = []
        self.bit = 0  # of this process, in the words of the page; 0: it has no bell
        self.watches_from = math.inf  # seconds: what falls due later than that is watched for here
        self._words: set[int] = set()  # that have it, or had it until another process rang
        self._bells: dict[int, int] = {}  # descriptors of others', by slot
        self.worker = Worker(
            "mq-listener", path, self._hear, behind=owner.let_go_if_forgotten, ended=self._wake_all,
            backoff_max=HEARTBEAT_SECONDS,
        )  # fmt: skip

    def ask(self, words: set[int]) -> float:
        """Have this process woken when another one appends to a queue of these *words*; called with the lock.

        How many seconds the caller may sleep: while no thread can be had it looks for itself.
        """
        if not self.worker.runs():
            if self._turn.exclusive:  # no other process rings, but the wall clock may jump
                sleep = partial(self.worker.nap, HEARTBEAT_SECONDS)
            else:
                self._claim()
                sleep = partial(_sleep, self._disk, self._heard)
            if not self.worker.start(sleep, partial(_close, self._disk, self._open)):
                self.watches_from = math.inf
                return DEAF_SECONDS
        self.watches_from = 2 * HEARTBEAT_SECONDS
        mark = self._turn.mark
        for word in self._words - words:
            mark[word] &= ~self.bit
        for word in words:
            mark[word] |= self.bit
        self._words = words
        mark[ASLEEP] |= self.bit
        return math.inf

    def will_be_rung(self, words: set[int]) -> bool:
        """Whether this process has asked for these *words*, and none has rung since."""
        if self._words != words:
            return False
        mark, bit = self._turn.mark, self.bit
        return self._turn.exclusive or (bit != 0 and all(mark[word] & bit for word in words))

    def ring(self, word: int) -> None:
        """Wake every other process that waits for a queue of this *word*; called with the store's lock."""
        mark = self._turn.mark
        asleep = mark[word]
        mark[word] = asleep & self.bit
        asleep &= ~self.bit
        while asleep:
            slot = (asleep & -asleep).bit_length() - 1
            asleep &= asleep - 1
            with best_effort():  # it wakes by itself within a second
                if slot not in self._bells:
                    self._bells[slot] = self._disk.open_fifo(self._path(slot))
                self._disk.ring(self._bells[slot])

    def _claim(self) -> None:
        """Take a bell that no process has."""
        if self._bell in self._open:
            return
        with best_effort():  # a file system without pipes: looking often is all that is left
            self._disk.make_directory(self._directory)
            for slot in range(SLOTS):
                self._disk.make_fifo(self._path(slot))
                try:
                    fd = self._disk.open_fifo(self._path(slot))
                except OSError as error:  # something else has the name
                    pass_on(error)
                    continue
                if self._disk.lock(fd):
                    self._open.append(fd)
                    self._bell, self.bit = fd, 1 << slot
                    self._heard[0] = fd
                    for word in (ASLEEP, *range(WAITS, WAITS + WAITS_WORDS)):  # of one that died
                        self._turn.mark[word] &= ~self.bit
                    return
                self._disk.close(fd)

    def _let_go_of_deleted(self) -> None:
        for slot, fd in list(self._bells.items()):
            if not self._is_there(slot, fd):
                del self._bells[slot]
                self._disk.close(fd)

    def look_after_pipes(self) -> None:
        """Let go of pipes that were deleted, and take a new one; called with the store's lock, now and then.

        What a process rings at another pipe than the one with the name now, no process hears.
        """
        with best_effort():
            self._let_go_of_deleted()
            slot = self.bit.bit_length() - 1
            if self._bell in self._open and not self._is_there(slot, self._bell):
                fd, self._old_bell = self._old_bell, self._bell
                self._bell = self._heard[0] = -1
                if fd in self._open:
                    self._open.remove(fd)
                    self._disk.close(fd)
                self._claim()

    def _is_there(self, slot: int, fd: int) -> bool:
        """Whether the descriptor is of the pipe that has the name now."""
        return self._disk.owns(fd) and self._disk.inode(fd) == self._disk.inode_at(self._path(slot))

    def _path(self, slot: int) -> str:
        return os.path.join(self._directory, str(slot))

    def _hear(self) -> None:
        try:
            if not self._owner.is_quiet():
                self._owner.hear()
        except MqError:  # the receivers meet it too, and raise it
            self._wake_all()
            self._disk.pause(HEARTBEAT_SECONDS)
        except BaseException:
            self._wake_all()
            raise

    def _wake_all(self) -> None:
        """Receivers look for themselves, and ask again; so does the thread for ticks."""
        self.watches_from = math.inf
        with self._turn.mutex:
            self._owner.wake_all()

    # ── leaving ────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Have the thread stop; takes no lock."""
        self.worker.stop()
        for fd in list(self._open):
            with best_effort():
                self._disk.ring(fd)

    def let_go(self) -> None:
        listens = self.worker.runs() and not self.worker.is_this_thread()
        self._close_bells([] if listens else self._open)

    def after_fork(self) -> None:
        """In a child: the thread is the parent's."""
        self._close_bells(self._open)

    def _close_bells(self, own: list[int]) -> None:
        others, self._bells = list(self._bells.values()), {}
        self._bell = self._old_bell = self._heard[0] = -1
        self.bit = 0
        try:
            close_all(self._disk, others)
        finally:
            _close(self._disk, own)


def _close(disk: Disk, fds: list[int]) -> None:
    """Close them, each once, however many threads do it."""
    while fds:
        try:
            fd = fds.pop()
        except IndexError:  # another thread was quicker
            return
        disk.close(fd)


def _sleep(disk: Disk, bell: list[int]) -> None:
    """Until the bell rings, or a while: without one, a short while."""
    if bell[0] >= 0 and not is_anothers(disk, bell[0]):
        disk.listen(bell[0], HEARTBEAT_SECONDS)
    else:  # or the program closed it, which `look_after_pipes` finds
        disk.pause(DEAF_SECONDS)
