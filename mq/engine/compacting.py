"""Compacting: space that is asked for, by `mq compact`.  What is cleaned anyway: see cleaning.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mq.delivery.state import State
from mq.engine.cleaning import Cleaning
from mq.engine.replica import Replica
from mq.errors import DiskFull
from mq.storage import paths
from mq.storage.cleaner import Turn
from mq.storage.log import Log
from mq.storage.segment import Scan, is_zero


def compact(turn: Turn, replica: Replica, cleaning: Cleaning, progress: Callable[[int, int], None]) -> None:
    """Clean every segment that holds garbage, and all before it; *progress*: bytes done, of how many.

    Raises what stands in the way.
    """
    begin, limit = turn(partial(_begin, replica))
    while replica.log.head < limit:
        progress(replica.log.head - begin, limit - begin)
        turn(partial(_require_room, cleaning))
        cleaning.clean()
    progress(limit - begin, limit - begin)


def _begin(replica: Replica, log: Log, now_ms: int, epoch: int) -> tuple[int, int]:
    """Where the log begins, and where the last segment that is cleaned ends."""
    begin, limit = log.head, garbage_upto(replica)
    if limit == log.segments[-1].limit:
        log.rotation.roll(now_ms)  # the segment in use can be cleaned once another is
    return begin, limit


def _require_room(cleaning: Cleaning, log: Log, now_ms: int, epoch: int) -> None:
    """DiskFull, saying how much is missing, if what lives in the oldest segment cannot be copied."""
    if not cleaning.copies_fit():
        raise DiskFull(
            log.reader.path(log.segments[0]),
            f"about {cleaning.cost():,} bytes live here and are written again before its room returns,"
            " but the disk has not so much: free as much, or receive and ack, then try again",
        )


def garbage_upto(replica: Replica) -> int:
    """Where the last segment that holds garbage ends; the log's head if there is none."""
    log, disk = replica.log, replica.disk
    for each in reversed(log.segments):
        path = paths.segment(log.directory, each.base)
        fd = disk.open(path)
        try:
            scan = Scan(disk, fd, each, each.base, min(each.limit, log.end), path)
            # Void bytes are garbage too; and behind damage it is unknown.
            if not _all_live(replica.state, scan) or not is_zero(disk, fd, each.offset(scan.end)):
                return each.limit
        finally:
            disk.close(fd)
    return log.head


def _all_live(state: State, scan: Scan) -> bool:
    """Whether each event of the segment says what lives.  One that moved a message never does."""
    messages, others = state.positions_within(scan.segment.base, scan.segment.limit)
    live, at = sorted(messages + others), 0
    for found in scan:
        behind = at + len(found.lsns)
        if live[at:behind] != found.lsns:
            return False
        at = behind
    return True
