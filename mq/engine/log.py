"""What the engine asks of a log, wherever that is: in files, in memory, on other computers.

    decide against the state ──► append ──► apply
              ▲                    │
              └── follow ◄──────── Conflict: another writer was first

The log is the truth, and the state is a fold over it.  So all that the engine needs is a log
in one total order, whose writers each know the end before they append.  The log in files
(mq/storage) lets only the process with the store's lock append, so it never raises Conflict.  A
log without such a lock compares the end that the writer knows with its own, and raises it.

A position is a number that only grows and is never given out twice.  The position of a record
is the id of the message that it publishes.  `end` is the position of the next record.

Calls that change `end` (append, append_group, follow) are made by one thread at a time: the
caller serialises them.  The others may be called by any thread, at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from mq.delivery.queue import QueueState
from mq.delivery.records import Draft
from mq.delivery.runs import Stretch


class Conflict(Exception):
    """Another writer has appended first.  Nothing was appended: follow the log, decide again, append.

    Raised by `append` and `append_group` only, and before anything is written.  It never means that
    the outcome is unknown: that is StoreFailed.
    """


class Stored(Protocol):
    """A record, read back by its position."""

    kind: int
    flags: int
    queue: int
    time_ms: int  # since 1970, by the wall clock of then
    payload: bytes


class Spread(Protocol):
    """Which message a process takes, where others take from the same queue at the same time."""

    def pick(self, queue: QueueState, id: int, taken: Collection[int] = ()) -> int:
        """The message to take instead of *id*, which is the next one; none of *taken*."""


class Log(Protocol):
    spread: Spread | None
    """None: no two processes take one message, for they take turns."""

    end: int
    """Where the next record goes, as far as this writer has appended and followed."""

    last_ms: int
    """The time of the last record that another writer appended, in milliseconds of store time; 0: none."""

    def append(self, now_ms: int, kind: int, flags: int, queue: int, payload: bytes) -> int:
        """Append one record of the time *now_ms* (store time, milliseconds); its position.

        When it returns, the record outlives this process, but perhaps not a power cut: see `sync`.
        Raises Conflict if another writer was first; DiskFull if there is no room, and then nothing was
        appended; StoreFailed if the outcome is unknown: no call appends any more after that.
        """

    def append_group(self, now_ms: int, drafts: Sequence[Draft], *, atomic: bool = True) -> list[int]:
        """Append records in a row; their positions.  Raises what `append` raises, and then appends none.

        With *atomic* (the default) all are in the log after a crash, or none; without, the first few may be,
        and where writers do not take turns, a record that came too late stands at 0: it says nothing.
        UsageError if they are too long for one group.
        """

    def follow(self, upto: int, enough: int = ..., /) -> Iterable[Stretch]:
        """What other writers appended from `end` up to *upto*, an end that `barrier` gave; in order.

        `end` and `last_ms` move as they are read.  With *enough*, it may stop at the end of a group once so
        many bytes were read.  FileNotFoundError if a part was trimmed: read the whole state anew.
        """

    def read(self, position: int, /) -> Stored:
        """The record at *position*, checked.  CorruptStore if it is damaged, Closed if the log was closed."""

    def sync(self, upto: int, /) -> None:
        """Return when all below *upto* is as safe as this log makes it: on the disk, or on a majority.

        StoreFailed if that cannot be told; no caller may believe a second try.
        """

    def barrier(self) -> int:
        """The end of the log as of now, whichever writer appended: asked for, not remembered."""

    def trim(self, before: int, /) -> int:
        """Forget the records below *before*, whose live ones stand behind it, synced; the bytes given back.

        Oldest first, and perhaps not all of them: a log in files gives back whole segments.  Called
        without the turn, which it takes for itself.
        """

    def close(self) -> None:
        """Let go of all that is held, and leave the log as it is; a thread that waits in `sync` is told."""
