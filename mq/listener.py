"""Hearing what other processes append, while receivers wait here.

    receiver ── nothing there ── my bit in the page ── sleeps
    another process: appends ── sees the bit ── rings my bell, wake/<slot>
    this thread: hears it ── follows the log ── wakes the receiver

Everybody who is asleep is woken, not one of them: it may die.  A bell that rang in vain,
because whoever was to ring it died, is made up for by looking each second.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mq.errors import MqError
from mq.storage.disk import close_all
from mq.storage.shared import ASLEEP

if TYPE_CHECKING:
    from mq.store import Store

SLOTS: Final = 64  # bits of a word
HEARTBEAT_SECONDS: Final = 1.0
DEAF_SECONDS: Final = 0.02  # between two looks of a process that has no bell


class Listener:
    def __init__(self, store: Store) -> None:
        self._store, self._disk = store, store.disk
        self._directory = os.path.join(store.path, "wake")
        self._bell = -1  # this process's own
        self._bit = 0
        self._bells: dict[int, int] = {}  # descriptors of others', by slot
        self._thread: threading.Thread | None = None
        self._stopped = False

    def ask(self) -> None:
        """Have this process woken when somebody appends; called with the store's lock."""
        if self._thread is None and not self._stopped:
            self._claim()
            thread = threading.Thread(target=self._run, daemon=True, name="mq-listener")
            with suppress(RuntimeError):  # no thread to be had just now: the next receiver tries again
                thread.start()
                self._thread = thread
        self._store.mark[ASLEEP] |= self._bit

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
                    return
                self._disk.close(fd)

    def _path(self, slot: int) -> str:
        return os.path.join(self._directory, str(slot))

    def _run(self) -> None:
        while not self._stopped:
            if self._bell >= 0:
                self._disk.listen(self._bell, HEARTBEAT_SECONDS)
            else:
                self._disk.pause(DEAF_SECONDS)
            if self._stopped:
                return
            try:
                with self._store.log.unheard():
                    self._store.hear()
            except MqError:
                with self._store.mutex:
                    self._store.wake_all()  # whoever waits meets it too
                self._disk.pause(HEARTBEAT_SECONDS)

    # ── leaving ────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Stop listening; called without the mutex."""
        self._stopped = True
        if self._thread:
            with suppress(OSError):
                self._disk.ring(self._bell)
            self._thread.join()
        self.let_go()

    def let_go(self) -> None:
        fds = [self._bell, *self._bells.values()]
        self._bell, self._bit, self._bells = -1, 0, {}
        close_all(self._disk, fds)
