"""Compacting: space that is asked for, by `mq compact`.  What is cleaned anyway: see cleaning.py."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from mq.engine.cleaning import Cleaning
from mq.engine.replica import Replica
from mq.errors import DiskFull
from mq.storage import paths
from mq.storage.cleaner import Turn
from mq.storage.log import Log
from mq.storage.rotation import ALLOCATE_BYTES
from mq.storage.segment import HEADER_BYTES, Scan, Segment, is_zero

GAIN_BYTES: Final = 64 << 10  # for less than this the segment in use is not written again

T = TypeVar("T")
Shown = Callable[[int, int], None]


def compact(
    turn: Turn, replica: Replica, cleaning: Cleaning, progress: Shown, *, only_to_shrink: bool
) -> None:  # fmt: skip
    """Clean every segment that holds garbage, and all before it; *progress*: bytes done, of how many:
    first of reading, then of cleaning.

    *only_to_shrink*: not the segment in use, if the one that takes its place would be about as large as all
    that is there now.  Raises what stands in the way.
    """
    limit = garbage_upto(replica, progress, turn)
    if only_to_shrink and not turn(partial(_gives_back, replica, limit)):
        limit = garbage_upto(replica, progress, turn, in_use=False)
    begin = turn(partial(_begin, limit))
    while replica.log.head < limit:
        progress(replica.log.head - begin, limit - begin)
        turn(partial(_require_room, cleaning))
        cleaning.clean()
    progress(limit - begin, limit - begin)


def _gives_back(replica: Replica, limit: int, log: Log, now_ms: int, epoch: int) -> bool:
    """Whether cleaning up to *limit* takes less than it gives."""
    takes = begun_bytes(replica.state.live_bytes(), log.segment_bytes) + GAIN_BYTES
    return limit < log.segments[-1].limit or takes < log.reader.disk_bytes()


def begun_bytes(live: int, capacity: int = ALLOCATE_BYTES) -> int:
    """What a segment takes on the disk that is begun for *live* bytes: it is made longer in steps."""
    step = min(capacity, ALLOCATE_BYTES)
    return HEADER_BYTES + max(1, -(-live // step)) * step


def _begin(limit: int, log: Log, now_ms: int, epoch: int) -> int:
    """Where the log begins; what ends at *limit* can be cleaned then."""
    if limit == log.segments[-1].limit:
        log.rotation.roll(now_ms)  # the segment in use can be cleaned once another is
    return log.head


def _require_room(cleaning: Cleaning, log: Log, now_ms: int, epoch: int) -> None:
    """DiskFull, saying how much is missing, if what lives in the oldest segment cannot be copied."""
    if not cleaning.copies_fit():
        raise DiskFull(
            log.reader.path(log.segments[0]),
            f"about {cleaning.cost():,} bytes live here and are written again before its room returns,"
            " but the disk has not so much: free as much, or receive and ack, then try again",
        )


def garbage_upto(
    replica: Replica, progress: Shown = lambda done, total: None, turn: Turn | None = None, *,
    in_use: bool = True,
) -> int:  # fmt: skip
    """Where the last segment that holds garbage ends; the log's head if there is none.  *in_use*: the last
    one counts, too.

    Of a long log, all may have to be read: that is done between the turns.  Without *turn*: of a store
    that does not change.
    """
    look = turn or partial(_look_at, replica)
    segments, end = look(lambda log, now_ms, epoch: (list(log.segments), log.end))
    begin = segments[0].base if segments else end  # there is none if the creation was cut off
    for each in reversed(segments if in_use else segments[:-1]):
        stop = min(each.limit, end)
        progress(end - stop, end - begin)
        events = _events(replica, each, stop)
        # An event that was acked meanwhile is garbage by now; none comes to life.
        if events is None or not look(partial(_all_live, replica, events, each.base, stop)):
            return each.limit
    return begin


def _look_at(replica: Replica, do: Callable[[Log, int, int], T], /) -> T:
    return do(replica.log, 0, 0)


def _events(replica: Replica, each: Segment, stop: int) -> array[int] | None:
    """Where the segment has events up to *stop*; None if there is something else, too."""
    disk, path = replica.disk, paths.segment(replica.log.directory, each.base)
    fd, events = disk.open(path), array("Q")
    try:
        scan = Scan(disk, fd, each, each.base, stop, path)
        for found in scan:
            events.extend(found.lsns)
        # Void bytes are garbage too; and behind damage it is unknown.  In use, it grows behind *stop*.
        in_use = stop < each.limit
        is_whole = scan.end == stop if in_use else is_zero(disk, fd, each.offset(scan.end))
        return events if is_whole else None
    finally:
        disk.close(fd)


def _all_live(
    replica: Replica, events: array[int], base: int, stop: int, log: Log, now_ms: int, epoch: int
) -> bool:  # fmt: skip
    """Whether each event of the segment says what lives.  One that moved a message never does."""
    messages, others = replica.state.positions_within(base, stop)
    return sorted(messages + others) == events.tolist()
