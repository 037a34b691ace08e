"""Hearing what other processes append, while receivers wait here.

    receiver ── nothing there ── my bit in the page ── sleeps
    another process: appends ── sees the bit ── rings my bell, wake/<slot>
    this thread: hears it ── follows the log ── wakes the receiver

Everybody who is asleep is woken, not one of them: it may die.  A bell that rang in vain,
because whoever was to ring it died, is made up for by looking each second.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from mq.background import Worker
from mq.errors import MqError
from mq.storage.disk import Disk, close_all
from mq.storage.shared import ASLEEP

if TYPE_CHECKING:
    from mq.store import Store

SLOTS: Final = 64  # bits of a word
HEARTBEAT_SECONDS: Final = 1.0
DEAF_SECONDS: Final = 0.02  # between two looks of a process that has no bell, or no thread to hear it


class Listener:
    def __init__(self, store: Store) -> None:
        self._store, self._disk = store, store.disk
        self._directory = os.path.join(store.path, "wake")
        self._bell = -1  # this process's own
        self._heard = [-1]  # the same, for the thread, which must not keep this object
        self._old_bell = -1  # one that was deleted: the thread may still sleep on it, for a second
        self._bit = 0
        self._bells: dict[int, int] = {}  # descriptors of others', by slot
        self._worker = Worker(
            "mq-listener", store.path, self._hear, ended=self._wake_all, backoff_max=HEARTBEAT_SECONDS
        )

    def ask(self) -> float:
        """Have this process woken when another one appends; called with the store's lock.

        How many seconds the caller may sleep: while no thread can be had it looks for itself.
        """
        if not self._worker.runs():
            self._claim()
            if not self._worker.start(partial(_sleep, self._disk, self._heard)):
                return DEAF_SECONDS
        self._store.mark[ASLEEP] |= self._bit
        return math.inf

    def ring(self) -> None:
        """Wake every other process that asked for it; called with the store's lock."""
        mark = self._store.mark
        asleep = mark[ASLEEP]
        mark[ASLEEP] = asleep & self._bit
        asleep &= ~self._bit
        while asleep:
            slot = (asleep & -asleep).bit_length() - 1
            asleep &= asleep - 1
            with suppress(OSError):  # it wakes by itself within a second
                if slot not in self._bells:
                    self._bells[slot] = self._disk.open_fifo(self._path(slot))
                self._disk.ring(self._bells[slot])

    def _claim(self) -> None:
        """Take a bell that nobody has."""
        if self._bell >= 0:
            return
        with suppress(OSError):  # a file system without pipes: looking often is all that is left
            self._disk.make_directory(self._directory)
            for slot in range(SLOTS):
                self._disk.make_fifo(self._path(slot))
                fd = self._disk.open_fifo(self._path(slot))
                if self._disk.lock(fd):
                    self._bell, self._bit = fd, 1 << slot
                    self._heard[0] = fd
                    return
                self._disk.close(fd)

    def look_after_pipes(self) -> None:
        """Let go of pipes that were deleted, and take a new one; called with the store's lock, now and then.

        What a process rings at another pipe than the one with the name now, no process hears.
        """
        with suppress(OSError):
            for slot, fd in list(self._bells.items()):
                if not self._is_there(slot, fd):
                    del self._bells[slot]
                    self._disk.close(fd)
            slot = self._bit.bit_length() - 1
            if self._bell >= 0 and not self._is_there(slot, self._bell):
                fd, self._old_bell = self._old_bell, self._bell
                self._bell = self._heard[0] = -1
                close_all(self._disk, [fd])
                self._claim()

    def _is_there(self, slot: int, fd: int) -> bool:
        """Whether the descriptor is of the pipe that has the name now."""
        return self._disk.owns(fd) and self._disk.inode(fd) == self._disk.inode_at(self._path(slot))

    def _path(self, slot: int) -> str:
        return os.path.join(self._directory, str(slot))

    def _hear(self) -> None:
        try:
            with self._store.log.unheard():
                self._store.hear()
        except MqError:  # the receivers meet it too, and raise it
            self._wake_all()
            self._disk.pause(HEARTBEAT_SECONDS)
        except BaseException:
            self._wake_all()
            raise

    def _wake_all(self) -> None:
        """Receivers look for themselves, and ask again."""
        with self._store.mutex:
            self._store.wake_all()

    # ── leaving ────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Stop listening; called without the mutex."""
        self._worker.stop()
        if self._bell >= 0:
            with suppress(OSError):
                self._disk.ring(self._bell)
        self._worker.join()
        self.let_go()

    def let_go(self) -> None:
        fds = [self._bell, self._old_bell, *self._bells.values()]
        self._bell = self._old_bell = self._heard[0] = -1
        self._bit, self._bells = 0, {}
        close_all(self._disk, fds)


def _sleep(disk: Disk, bell: list[int]) -> None:
    """Until the bell rings, or a while: without one, a short while."""
    if bell[0] >= 0:
        disk.listen(bell[0], HEARTBEAT_SECONDS)
    else:
        disk.pause(DEAF_SECONDS)
