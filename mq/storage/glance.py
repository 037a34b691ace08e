"""What a record's header says, without reading its body: how long it is, above all.

    ┌────────┬─────────────────────────┬────────┬──────────┐
    │ header │ a body of up to 64 MiB  │ header │ …        │
    └────────┴─────────────────────────┴────────┴──────────┘
      read       not read                read: the next record has to stand where this one ends

The checksum covers the body, so it is not compared here.  Instead the header has to name its
own position, and its length has to lead to another record, to the end of the log, or to the
position that the next segment's fence names.  What does not is not believed: the caller reads
the whole record then.  So this is for numbers that are counted, never for what is delivered.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mq.errors import Closed

from . import record
from .explain import pass_on
from .reader import Reader

UNPACK: Final = record.HEADER.unpack_from
AHEAD_BYTES: Final = 4096  # read at once: the headers of small records stand close together
AHEAD_BYTES_MAX: Final = 64 << 10  # the same, where one reading goes on behind the last one


class Head(NamedTuple):
    kind: int
    flags: int
    length: int  # of the payload
    time_ms: int  # wall time


class Glance:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._seed, self._first, self._block = 0, 0, b""  # read last: of which segment, from where on
        self._wall_ms = 0  # when that segment was made
        self._ahead = AHEAD_BYTES

    def head(self, lsn: int, end: int) -> Head | None:
        """What the header of the record at *lsn* says; None if that cannot be.  The log ends at *end*."""
        # Flat: of very many messages that move or go at once, each one's size is looked up here.
        block, at = self._block, lsn - self._first
        last = len(block) - record.HEADER_BYTES
        if 0 <= at <= last:
            _, length, low, _, ms, kind, flags, _ = UNPACK(block, at)
            behind = at + record.HEADER_BYTES + length
            if kind and low == lsn & record.LOW and behind <= last:
                _, _, low, _, _, following, _, _ = UNPACK(block, behind)
                if following and low == self._first + behind & record.LOW:
                    return Head(kind, flags, length, self._wall_ms + ms)
        found = self._record_at(lsn)
        if found is None or not self._is_boundary(lsn, lsn + record.HEADER_BYTES + found.length, end):
            return None
        return found

    def payload(self, lsn: int, start: int, size: int) -> bytes:
        """*size* bytes of the payload of the record at *lsn*, unchecked; fewer if they cannot be read."""
        try:
            return self._reader.bytes_at(lsn, record.HEADER_BYTES + start, size)
        except (OSError, Closed) as error:
            if isinstance(error, OSError):
                pass_on(error)
            return b""

    def _record_at(self, lsn: int) -> Head | None:
        """The header at *lsn*, if it names that position."""
        for again in (False, True):  # what was read before may be older than the record
            data = self._bytes(lsn, record.HEADER_BYTES, again=again)
            header = record.parse(data)
            if header and header.names(lsn):
                time_ms = self._reader.segment_of(lsn).wall_ms + header.ms
                return Head(header.kind, header.flags, header.length, time_ms)
        return None

    def _is_boundary(self, lsn: int, stop: int, end: int) -> bool:
        """Whether the record at *lsn* may end at *stop*."""
        bases, segments = self._reader.index
        each = self._reader.segment_of(lsn)
        if stop == end:
            return True
        if stop > min(end, each.limit):
            return False
        if stop + record.HEADER_BYTES <= each.limit and self._record_at(stop):
            return True
        following = bases.index(each.base) + 1
        if following == len(segments):
            return False
        next_one = segments[following]
        data = self._bytes(next_one.base, record.FENCE_BYTES, again=False)
        fence = record.fence_in(data, next_one.base, next_one.seed)
        return fence is not None and fence.void_from == stop

    def _bytes(self, lsn: int, size: int, *, again: bool) -> bytes:
        each = self._reader.segment_of(lsn)
        at = lsn - self._first
        if again or each.seed != self._seed or not 0 <= at <= len(self._block) - size:
            goes_on = each.seed == self._seed and 0 < at <= len(self._block) + AHEAD_BYTES
            self._ahead = min(2 * self._ahead, AHEAD_BYTES_MAX) if goes_on else AHEAD_BYTES
            try:
                # Not behind the segment: the next one has the positions there.
                block = self._reader.bytes_at(lsn, 0, min(self._ahead, max(size, each.limit - lsn)))
            except (OSError, Closed) as error:
                if isinstance(error, OSError):
                    pass_on(error)
                return b""
            self._seed, self._first, self._block, self._wall_ms = each.seed, lsn, block, each.wall_ms
            at = 0
        return self._block[at : at + size]
