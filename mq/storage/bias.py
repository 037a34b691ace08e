"""A turn without LOCK, for the process that comes in again and again.

To take and give back LOCK is most of what a small operation costs.  So a process that had RUN
turns in a row, with no other process between, becomes the *owner*: the page says so, and it
comes in by a store and a load.  LOCK stays free.  A process that gets it and finds an owner
revokes that, before it does anything else.

    the owner comes in                          another process, which has LOCK, revokes
    ─────────────────────────────────────────   ──────────────────────────────────────────────────
    INSIDE[own slot] = 1                        BIAS |= ASKED
    BIAS is the own token, and nothing else     a barrier for all processors
      yes: it has the turn                      until INSIDE[slot of the owner] is 0: take a nap,
      no:  INSIDE[own slot] = 0, then LOCK        or find that the owner is dead: DIRTY = 1, INSIDE = 0
    …                                           BIAS = 0
    INSIDE[own slot] = 0: it has left           it has the turn

Each of the two stores a word, then loads the other's.  The barrier makes sure that at least
one of them sees the other one (storage/barrier.py): either the owner sees that it is asked, or
it is seen to be inside, and waited for.  The order on the right is what makes it safe:

    ASKED before INSIDE is looked at    the owner does not come in any more
    INSIDE is 0 before BIAS is          while the owner is inside, no third process takes the turn for free
    DIRTY before INSIDE = 0             what a dead owner began is not forgotten, if the revoker dies here
    BIAS = 0 before anything else       HOLDER, the log and the page change only in a turn

Wherever the revoker dies, or gives up, the next process with LOCK does all of it again.

A slot belongs to one process for as long as that has the store open: it has the lock of that
byte of the page.  The lock goes when the process does, which tells a dead owner from a slow
one, and with the page: no name of it can be deleted while both are in use.

The lock goes, too, when the program closes the page's descriptor, which is not its own to close.
Until the process finds that out, a second later, it comes in still.  So an owner without its lock
is given a moment to leave before it passes for dead, and does not become the owner again.  The process
that revoked its turn tries that slot last.

One word INSIDE for all would not do: a former owner that comes by sets it, sees that it is the
owner no more, and clears it, though the new owner may be inside just then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from mq.errors import StoreLocked

from .disk import Disk, Patience
from .locks import LOCK_SECONDS, NAP_SECONDS
from .shared import ASKED, BARRED, BIAS, DIRTY, HOLDER, INSIDE, KEPT, SLOTS, WAITING

RUN: Final = 32  # turns in a row that make a process the owner
RUN_AGAIN: Final = -1024  # where it counts from if there was no slot, or no barrier, for it
BARRIER_SECONDS: Final = 0.05  # in place of a barrier: processors keep nothing to themselves for so long
LAST_SECONDS: Final = 0.05  # for an owner that lives, but has lost its lock, to leave


class Bias:
    """What one store makes of it.  All but `leave` is called with the store's mutex."""

    leave: Callable[[], object]
    """Let others come in, after a turn without LOCK: one call that nothing can interrupt."""

    def __init__(self, disk: Disk, path: str, mark: memoryview, page_fd: int) -> None:
        """*page_fd*: a descriptor of the page, open to write, that is closed behind the last turn."""
        self._disk, self._path, self._mark, self._fd = disk, path, mark, page_fd
        self._has_barrier = disk.heed_barriers()
        self._slot = -1
        self._first = 0  # the slot to try first
        self.token = 0  # what BIAS is while this process is the owner; 0: it is not, as far as it knows
        self.word = 0  # INSIDE of its slot
        self.run, self.enough = 0, RUN  # turns in a row; and how many of them make it the owner
        self.leave = int

    def begin(self) -> None:
        """This process has found others here; called with LOCK, once it may change the page."""
        if not self._has_barrier:
            self._mark[BARRED] = 1
        if self._mark[BIAS]:
            self.revoke()

    def keep(self) -> None:
        """Come in without LOCK from the next turn on; called in a turn with LOCK, when it is caught up."""
        if self._mark[WAITING]:
            return
        if not self._has_barrier or self._mark[BARRED] or not self._has_slot():
            self.run = RUN_AGAIN
            return
        # Behind the last call: a signal's handler may fork there, and this be the child (`let_go`).
        self._mark[self.word] = 0
        self._mark[BIAS] = self._slot + 1
        self.token = self._slot + 1

    def stop(self) -> None:
        """Come in with LOCK until `keep`.  The page names this process as owner up to its next turn."""
        if self._mark[BIAS] != self.token:
            self.run = 0
        self.token = 0

    def _has_slot(self) -> bool:
        """Whether there is one for this process, which has it then until it closes the page."""
        if self._slot >= 0:
            return self._disk.lock_byte(self._fd, self._slot)  # it has it still, but for a program's mistake
        for slot in (*range(self._first, SLOTS), *range(self._first)):
            if self._disk.lock_byte(self._fd, slot):
                self.word = inside(slot)
                self.leave = partial(self._mark.__setitem__, self.word, 0)
                self._slot = slot  # last: an interruption must not leave a slot without them
                return True
        return False

    def revoke(self) -> None:
        """Have the owner out, and be the only one inside; called with LOCK, and not in a turn without it.

        StoreLocked if the owner is inside for too long: it is asked still, and comes in no more.
        """
        slot = self._mark[BIAS] % ASKED - 1
        if slot != self._slot:
            self._have_out(slot)
        self._mark[BIAS] = 0

    def _have_out(self, slot: int) -> None:
        """The page is asked for behind each call, and not kept in a variable: see `keep`."""
        word = inside(slot)
        self._first = (slot + 1) % SLOTS
        self._mark[BIAS] = slot + 1 | ASKED
        self._pass_barrier()
        patience = Patience(LOCK_SECONDS)
        while self._mark[word]:
            if not self._disk.byte_is_locked(self._fd, slot):
                self._disk.pause(LAST_SECONDS)
                if not self._mark[word]:
                    break
                self._mark[DIRTY] = 1  # first: this process may die, too
                self._mark[word] = 0
            elif patience.is_over():
                raise StoreLocked(self._path, self._mark[HOLDER] % KEPT or None, seconds=LOCK_SECONDS)
            else:
                self._disk.pause(NAP_SECONDS)
        self._pass_barrier()  # on some processors what the owner stored before it left may be seen only now

    def _pass_barrier(self) -> None:
        if not self._disk.barrier():  # this process may make none, since it was opened
            self._has_barrier = False
            self._mark[BARRED] = 1
            self._disk.pause(BARRIER_SECONDS)

    def let_go(self, mark: memoryview) -> None:
        """The page and its descriptor are closed, or the parent's of a fork; *mark*: what stands for it."""
        self._mark, self._fd, self._slot = mark, -1, -1
        self.token, self.run, self.leave = 0, RUN_AGAIN, int


def inside(slot: int) -> int:
    """The word of the page that says whether the process with this slot is inside."""
    return INSIDE + slot
