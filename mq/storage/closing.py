"""The closing record: nothing follows it, unless the log says so, on the disk, that it is open again.

    … │ record │ CLOSED │                       closed: a crash cannot have lost anything
    … │ record │ CLOSED │ HEAD │ record │ …     open: the HEAD record is on the disk before the next one

Without that, a power cut could leave the closing record as the last one, and the log would go
on at positions that were given out before the cut.
"""

from __future__ import annotations

from . import record
from .segment import Scan
from .syncing import Syncing
from .tail import Tail


class Closing:
    def __init__(self, tail: Tail, syncing: Syncing) -> None:
        self._tail, self._syncing = tail, syncing
        self.said_open = False  # something stands behind the last closing record, and is on the disk
        self._closed_at = tail.end  # the end, if the last record says closed
        self._open_behind = tail.end  # the log says that it is open once more than this is on the disk

    def share(self, *, closed: bool) -> None:
        """Others write to this log too.  *closed*: its last record says closed."""
        tail = self._tail
        # What stands behind a closing record counts once it is on the disk: its writer may
        # have died before it was.
        self.said_open = not closed and tail.synced >= tail.end
        self._open_behind = tail.end
        self._closed_at = tail.end if closed else -1

    def followed(self, scan: Scan, upto: int) -> None:
        """Others have appended what *scan* read, up to *upto*."""
        self.said_open = not scan.closed and (self.said_open or self._tail.synced > self._open_behind)
        if scan.closed:
            self._closed_at = self._open_behind = upto

    def say_open(self, now_ms: int) -> None:
        """Before anything is appended behind a closing record, have something there on the disk."""
        self.said_open = True
        try:
            self._tail.append_head(now_ms, self._tail.head)
            self._syncing.sync(self._tail.end)
        except BaseException:
            self.said_open = False  # a full disk, perhaps: the next append comes by here, too
            raise

    def say_closed(self, now_ms: int) -> None:
        """Have it on the disk that nothing follows; nothing to do if that is the last record already."""
        tail = self._tail
        self._syncing.sync(tail.end)
        if tail.end != self._closed_at:
            self.said_open = True
            tail.append(now_ms, record.CLOSED, 0, 0, b"")
            self._syncing.sync(tail.end)
            self._closed_at = tail.end
        self.said_open, tail.room = False, 0
