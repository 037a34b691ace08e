"""The log in files: one writer at a time, many readers.

    tail.py        append: one copy or pwrite at `end`, then `end` moves
    room.py        room for that, kept back on a full disk (reserve.py)
    rotation.py    segments begun
    syncing.py     sync: one fdatasync for all processes that wait; for all threads: commit.py
    closing.py     the record that says that nothing follows
    following.py   what other processes appended
    trimming.py    segments given back
    failure.py     it stops for good
    watch.py       while the files are not its own, too
    reader.py      read: records by their position

The caller serialises appends, and follows what others appended before it appends.  sync
and read may be called from any thread at any time.

A Log is a Tail, and not an object that has one: each message asks for `end` and calls `append`, and
one more step on the way there shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from mq.forks import Lock

from . import paths
from .closing import Closing
from .disk import Disk
from .following import Following
from .glance import Glance
from .identity import Identity
from .owner import Owner
from .reader import Stored
from .reserve import Reserve
from .room import Room
from .rotation import Rotation
from .segment import Segment
from .shared import END, SYNCED
from .syncing import Syncing
from .tail import Tail
from .trimming import Trimming
from .watch import Watch

SEGMENT_BYTES_MIN: Final = 1 << 10


class Log(Tail):
    read: Callable[[int], Stored]

    def __init__(
        self, disk: Disk, directory: str, identity: Identity, mark: memoryview,
        segments: list[Segment], end: int, segment_bytes: int | None = None,
    ) -> None:  # fmt: skip
        """Continue the log that ends at *end*, all on the disk; without *segment_bytes*, only read it."""
        super().__init__(disk, directory, mark, segments, end)
        self.segment_bytes = segment_bytes or 0
        self.glance = Glance(self.reader)
        self.reserve = Reserve(disk, paths.reserve(paths.store_of(directory)))
        self.watch = Watch(self)
        self.syncing = Syncing(self, identity, self.watch)
        self.closing = Closing(self, self.syncing)
        self.rotation = Rotation(
            self, identity, self.segment_bytes, self.reserve, self.watch, self.syncing
        )  # fmt: skip
        self.trimming = Trimming(self, self.watch)
        self.following = Following(self, self.rotation, self.closing, self.syncing, self.trimming, self.watch)
        # What is asked of every log (mq/engine/log.py), by the room that does it.
        self.make_room = Room(self, self.rotation, self.closing, self.reserve, self.watch).make
        self.read = self.reader.read
        self.follow = self.following.follow
        self.sync = self.syncing.sync
        self.trim = self.trimming.trim
        if segments and segment_bytes:
            self.enter(segments[-1], *self.open_to_write(segments[-1]))

    def share(self, sync_fd: int, owner: Owner, *, closed: bool) -> None:
        """Other processes write to it too, and *owner* has it.  *closed*: its last record says so."""
        self.owner = owner
        self.sync_lock.use(sync_fd)
        self._joined(closed=closed)

    def _joined(self, *, closed: bool) -> None:
        self.closing.share(closed=closed)
        self.room = 0  # the next append looks for itself

    def rebase(self, segments: list[Segment], end: int, *, closed: bool) -> None:
        """Be where the log is, whatever was in between."""
        self.following.rebase(segments, end)
        self._joined(closed=closed)
        self.unsettled = False

    def restart(self, now_ms: int, base: int) -> None:
        """After a crash: go on in a segment behind every position that may have been given out.

        What no process synced may be gone, but a program may have noted its id.
        """
        if self.segments:
            self.rotation.cut(self.segments[-1], self.end)  # no other process has it open
        self.rotation.fence(now_ms, base)
        self.closing.say_closed(now_ms)

    def barrier(self) -> int:
        """The end as of now, whichever process appended."""
        return self.mark[END]

    # ── how large it is ────────────────────────────────────────────────────────────

    def used(self, each: Segment) -> int:
        """What one segment takes on the disk, without what is reserved ahead."""
        if each.base == self.segments[-1].base:
            return self.end - each.base
        return self.reader.size_of(each)

    def disk_bytes(self) -> int:
        """What the log takes on the disk, without what is reserved ahead."""
        return self.reader.older_bytes() + self.end - self.segments[-1].base

    # ── leaving ────────────────────────────────────────────────────────────────────

    def locks(self) -> list[Lock]:
        """For which a thread may wait here, in the order in which it takes them."""
        return [*self.syncing.locks(), self.reader.files]

    def after_fork(self) -> None:
        """In a child: let go of the parent's files, whichever thread held the locks.

        A thread that is inside an operation, and forked in the handler of a signal, goes on with it
        here: it finds a page of its own and no file.  So what it writes to the page it asks for after
        the last call, and keeps in no variable: the parent may be far ahead by then.
        """
        self.syncing.leave_to_parent()
        self.leave_to_parent()
        self.owner = replace(self.owner, standing=None)
        try:
            self.close()
        finally:
            self.mark[SYNCED] = min(self.synced, self.end)  # the parent has gone on before it was read
            self.syncing.commit.after_fork()
