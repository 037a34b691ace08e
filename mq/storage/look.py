"""What a tool sees of a log: intact records in runs, and the bad places between them.

    ┌────────┬────────┬░░░░░░░░░░░┬────────┬────────┬───────────┐
    │ Found  │ Found  │    Gap    │ Found  │ Found  │   zeros   │
    └────────┴────────┴░░░░░░░░░░░┴────────┴────────┴───────────┘
      a Run                         another one

A `Run` is the records of one block as the reading gives them; a `Found` is one record by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from . import record
from .segment import Event, Payload, Segment, Stretch


class Found(NamedTuple):
    """An intact record."""

    lsn: int
    kind: int
    flags: int
    queue: int
    ms: int  # since 1970, in store time
    content: Payload  # the payload; a long one is not held in memory, and only there while its file is read
    dropped: bool  # behind the end of a torn log: recovery leaves it out

    @property
    def size(self) -> int:
        return record.HEADER_BYTES + len(self.content)

    @property
    def payload(self) -> bytes:
        """All of it."""
        return self.content[:]


class Gap(NamedTuple):
    """Bytes that should be records and are not; or a record that recovery refuses."""

    path: str
    offset: int
    lsn: int
    size: int
    reason: str
    torn: bool  # nothing claims that they were on the disk: what a crash leaves, not damage


class Run(NamedTuple):
    """Intact records, each behind the one before; `ms` of each counts from the segment's creation."""

    stretch: Stretch
    dropped: bool  # all of them: see Found
    stale: bool = False  # in a segment before the log's head, which is only not unlinked yet

    @property
    def start(self) -> int:
        return self.stretch.lsns[0]

    @property
    def end(self) -> int:
        return self.stretch.lsns[-1] + record.HEADER_BYTES + self.stretch.lengths[-1]


Refuse = Callable[[Stretch], Sequence[tuple[int, str]]]
"""Which of these intact records recovery refuses: the index, and why."""


class Look(Protocol):
    """Goes through all records, in the order of the log; those of stale segments come last."""

    def begin(self, end: int) -> None:
        """Forget what was seen: the log is read from its head.  No record reaches *end*, the files tell."""

    def see(self, each: Segment | None, part: Run | Gap) -> None:
        """The next records in the segment *each*, or a bad place; None: a file, or its header, is gone."""


def refuse_nothing(stretch: Stretch) -> Sequence[tuple[int, str]]:
    return ()


def checked(path: str, each: Segment, stretch: Stretch, refuse: Refuse) -> Iterator[Run | Gap]:
    """The records in *stretch*, and in their place those that are refused."""
    at = 0
    for index, why in refuse(stretch):
        if at < index:
            yield Run(stretch.part(at, index), dropped=False)
        lsn, size = stretch.lsns[index], record.HEADER_BYTES + stretch.lengths[index]
        yield Gap(path, each.offset(lsn), lsn, size, why, torn=False)
        at = index + 1
    if at < len(stretch.lsns):
        yield Run(stretch.part(at) if at else stretch, dropped=False)


def found_in(each: Segment, event: Event, dropped: bool) -> Found:
    """One record of a run in *each*, by itself."""
    lsn, kind, flags, queue, ms, buffer, start, stop = event
    content = buffer[start:stop] if isinstance(buffer, bytes) else buffer
    return Found(lsn, kind, flags, queue, each.created_ms + ms, content, dropped)
