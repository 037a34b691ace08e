"""One file of the log: its header, and reading the records in it.  See FORMAT.md.

    log/00000000000067108864.seg
    ┌─────────────┬───────┬────────┬────────┬─┄┄─┬────────┬─────────────────┐
    │ header, 72  │ FENCE │ record │ record │    │ record │ zeros, or void  │
    └─────────────┴───────┴────────┴────────┴─┄┄─┴────────┴─────────────────┘
                  ↑ base                                            base + capacity

A position in the log (LSN) minus the base plus the header's size is the offset in
the file, always.  The next segment's base is base + capacity, however little of the
capacity was used, so a position is never issued twice.  The first record is a FENCE:
no record lives in [void_from, base).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from struct import Struct
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import force_setattr

from mq.errors import ADVICE, Unsupported

from . import paths, record
from .crc import crc32c
from .disk import Disk
from .far import Far, read_far
from .identity import VERSION, Identity

HEADER: Final = Struct("<8sHHII16s8sQQQI")
HEADER_BYTES: Final = HEADER.size
HEAD_BYTES: Final = record.HEADER_BYTES  # of a record
CRC_AT: Final = HEADER_BYTES - record.CRC.size  # it covers what is before it
MAGIC: Final = b"mq-log\r\n"  # a transfer that mends line ends is noticed
BLOCK_BYTES: Final = 256 << 10  # read at once; a record that is longer is not held
GROUP_BYTES_HELD: Final = 1 << 20  # of a group whose end is not read yet
BEGIN_BYTES: Final = HEADER_BYTES + record.FENCE_BYTES + record.CLOCK_BYTES  # what describes a segment

# Bits of `features`.  A reader refuses a segment with a bit that it does not know.
REVISION_2: Final = 0x1  # kinds, flags and keys that mq 0.1.0 does not know; see FORMAT.md, Versions
FEATURES: Final = REVISION_2  # of the segments that this version makes


class Segment(msgspec.Struct, frozen=True, gc=False):
    number: int
    base: int
    capacity: int
    created_ms: int  # since 1970, in store time; a record's time counts from here
    seed: int
    features: int = FEATURES
    skew_ms: int = 0  # how far the wall clock was ahead of store time when it was created
    epoch: int = 0  # what its fence says: 0 if it has none, or an older mq made it
    wall_ms: int = 0  # made of the others
    """The wall clock's time when it was created; what `created_at` of a message counts from."""
    name: str = ""  # of its file; made of the others

    def __post_init__(self) -> None:
        # No cached_property: in Python 3.11 it has one lock for all, and a thread that is not in the
        # child of a fork may have it.
        force_setattr(self, "wall_ms", max(0, self.created_ms + self.skew_ms))
        force_setattr(self, "name", paths.segment_name(self.base))

    @property
    def limit(self) -> int:
        """The first position that is not in this segment."""
        return self.base + self.capacity

    def offset(self, lsn: int) -> int:
        return lsn - self.base + HEADER_BYTES


def encode_header(identity: Identity, segment: Segment) -> bytes:
    store_id = bytes.fromhex(identity.store_id)
    head = HEADER.pack(
        MAGIC, VERSION, 0, segment.features, segment.number, store_id, identity.key,
        segment.base, segment.capacity, segment.created_ms, 0,
    )[:CRC_AT]  # fmt: skip
    return head + record.CRC.pack(crc32c(head))


def header_passes(data: bytes) -> bool:
    """Whether *data* begins with the header of a segment that passes its checksum."""
    return len(data) >= HEADER_BYTES and crc32c(data[:CRC_AT]) == record.CRC.unpack_from(data, CRC_AT)[0]


def identity_in(data: bytes) -> Identity | None:
    """The store that the header with which *data* begins names; None if it is not whole."""
    if not header_passes(data):
        return None
    magic, _, _, _, _, store_id, key, *_ = HEADER.unpack_from(data)
    return Identity(store_id.hex(), key) if magic == MAGIC else None


class BadHeader(Exception):
    """The header does not say what it must; the text says why."""


def decode_header(identity: Identity, path: str, base: int, data: bytes) -> Segment:
    """The segment that *data*, its first BEGIN_BYTES, heads; BadHeader if it cannot be believed."""
    if len(data) < HEADER_BYTES:
        raise BadHeader(f"the segment's header is cut short: {ADVICE}")
    magic, version, reserved, features, number, store_id, key, own_base, capacity, created, _ = (
        HEADER.unpack_from(data)
    )
    if not header_passes(data):
        raise BadHeader(f"the segment's header does not pass its checksum: {ADVICE}")
    if magic != MAGIC:
        raise BadHeader("this is not a segment of a log")
    if version != VERSION or features & ~FEATURES or reserved:
        raise Unsupported(
            f"{path}: segment format {version} with features {features:#x} is not one that this mq reads;"
            " upgrade mq"
        )
    if (store_id.hex(), key) != identity:
        raise BadHeader(f"this segment belongs to another store ({store_id.hex()}); move it out of the log")
    if own_base != base:
        raise BadHeader(f"this segment was created as {paths.segment_name(own_base)}; give it back its name")
    seed = record.seed(key, base)
    fence = record.fence_in(data[HEADER_BYTES:], base, seed)
    wall_ms = record.clock_in(data[HEADER_BYTES + record.FENCE_BYTES :], base + record.FENCE_BYTES, seed)
    skew_ms = 0 if wall_ms is None else wall_ms - created
    return Segment(number, base, capacity, created, seed, features, skew_ms, fence.epoch if fence else 0)


def encode_clock(segment: Segment) -> bytes:
    """The record behind the fence that says what the wall clock was; nothing if that is store time."""
    if not segment.skew_ms:
        return b""
    return record.encode_clock(segment.seed, segment.base + record.FENCE_BYTES, segment.wall_ms)


def epoch_of(segments: Sequence[Segment]) -> int:
    """The log's: what its last fence says."""
    return next((each.epoch for each in reversed(segments) if each.epoch), 0)


Payload = bytes | Far  # sliced in the same way


class Record(NamedTuple):
    """One record as the scanner found it.  The payload is buffer[start:stop]."""

    lsn: int
    kind: int
    flags: int
    queue: int
    ms: int  # since the segment's creation
    buffer: Payload
    start: int
    stop: int


Event = tuple[int, int, int, int, int, Payload, int, int]  # a Record's fields


class Stretch(NamedTuple):
    """Records in a row, in columns: an object for each would cost more than reading it."""

    lsns: list[int]
    labels: list[int]  # kind, flags and queue, as they stand in the header: see record.py
    lengths: list[int]  # of the payloads
    buffer: Payload
    origin: int  # a payload begins at buffer[lsn - origin]
    ms: int = 0  # of a long record, which stands alone and whose header is not in the buffer

    @classmethod
    def of(cls, events: list[Event]) -> Stretch:
        """*events*, all in one buffer."""
        lsn, kind, flags, queue, ms, buffer, start, stop = events[0]
        lsns, labels, lengths = [], [], []
        for lsn, kind, flags, queue, _, _, start, stop in events:
            lsns.append(lsn)
            labels.append(kind | flags << 8 | queue << 16)
            lengths.append(stop - start)
        return cls(lsns, labels, lengths, buffer, lsn - start, ms)

    def part(self, start: int, stop: int | None = None) -> Stretch:
        return self._replace(
            lsns=self.lsns[start:stop], labels=self.labels[start:stop], lengths=self.lengths[start:stop]
        )

    def where(self, kept: list[bool]) -> Stretch:
        """Those for which *kept* says so."""
        lsns, labels, lengths = (list(compress(column, kept)) for column in self[:3])
        return self._replace(lsns=lsns, labels=labels, lengths=lengths)

    def kinds(self) -> set[int]:
        return {label & record.KIND for label in set(self.labels)}

    def events(self) -> list[Event]:
        """The same, each by itself."""
        buffer, origin, ms = self.buffer, self.origin, self.ms
        times = record.TIMES.unpack_from
        found = []
        for lsn, label, length in zip(self.lsns, self.labels, self.lengths, strict=True):
            start = lsn - origin
            if isinstance(buffer, bytes):
                _, ms = times(buffer, start - HEAD_BYTES)
            kind, flags, queue = label & record.KIND, label >> 8 & 0xFF, label >> 16
            found.append((lsn, kind, flags, queue, ms, buffer, start, start + length))
        return found


class Scan:
    """Go through the whole groups of records in [start, stop) of one segment.

    Ends at the first place that is not an intact record, without judging it.  Then
    `end` is the end of the last whole group, `bad` the first place that did not pass
    (≥ `end`: an incomplete group lies between), `synced` the largest position that a
    record claimed as synced, `head` the largest that one named as the log's head, and
    `closed` whether the last record says closed; `event_ms` is the time of the last event
    that was handed on, None if there was none.

    The records of storage itself are not handed on: only those of the kind *least* or above.
    """

    def __init__(
        self, disk: Disk, fd: int, segment: Segment, start: int, stop: int, path: str, whole: int = 0,
        least: int = record.FIRST_EVENT,
    ) -> None:  # fmt: skip
        """With *whole*, go on inside a group, of which it is known that it ends there."""
        self._disk, self._fd, self.segment, self._path = disk, fd, segment, path
        self._stop = min(stop, segment.limit)
        self.end = self.bad = start
        self.synced = self.last_ms = self.head = 0
        self.event_ms: int | None = None
        self.closed = False
        # A group that ends here is known to be whole, and is handed on as it is read.  If `bad` stays
        # below, it could not be read again, and only a part of the group was handed on.
        self.whole = whole
        self.least = least
        self._group: list[Stretch] = []  # whose end has not been met yet

    def __iter__(self) -> Iterator[Stretch]:
        for found in self.blocks():
            yield from found

    def batches(self) -> Iterator[list[Event]]:
        """The same, each record by itself; those that a block of the file ends at a time."""
        for found in self.blocks():
            yield [event for stretch in found for event in stretch.events()]

    def follow(self) -> None:
        """Only find out how far it goes, and what it says."""
        for _ in self.blocks():
            pass

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[list[Stretch]]:
        """What a block of the file ends, at a time.

        What is held is bounded, however long a record or a group is: a long record is checked
        piece by piece (`far.py`); of a long group it is found out first whether it is whole.
        """
        size = least = min(block_bytes, BLOCK_BYTES)
        while self.bad < self._stop:
            first = self.bad
            want = min(size, (self.whole if first < self.whole else self._stop) - first)
            block = self._disk.pread(self._fd, want, self.segment.offset(first))
            if len(block) < HEAD_BYTES:
                return
            yield self.parse(block, first)
            size = least
            if self.bad > first:
                if self._group and self.bad - self.end > GROUP_BYTES_HELD and not self._look_ahead():
                    return
                continue
            # Not one whole record in it: a long one, or the end.
            header = record.parse(block)
            if header is None or header.size <= len(block) or header.size > record.RECORD_BYTES_MAX:
                return
            if len(block) < want:
                return
            need = header.size
            if first + need > self._stop:
                return
            if need <= BLOCK_BYTES:
                size = need
            elif first >= self.whole and (self._group or header.flags & record.CONTINUES):
                if not self._look_ahead():
                    return
            else:
                found = self._long(block, first)
                if found is None:
                    return
                yield found

    def _long(self, block: bytes, lsn: int) -> list[Stretch] | None:
        """The record at *lsn*, which is longer than a block; None if it does not pass."""
        _, length, low, label = record.OUTLINE.unpack_from(block)
        if low != lsn & record.LOW:
            return None
        payload = read_far(self._disk, self._fd, self.segment.offset(lsn), self.segment.seed)
        if payload is None:
            return None
        self.bad = lsn + HEAD_BYTES + length
        self._note_last(block, lsn, [lsn], label)
        return self._hand_on([Stretch([lsn], [label], [length], payload, lsn, self.last_ms)], self.bad)

    def _look_ahead(self) -> bool:
        """Whether the group that begins at `end` is whole; then it is read from there, and not held.

        Else `bad` is where it is not.
        """
        self._group.clear()
        # As if all were one group, of which it is known that it is whole: then none is held back.
        place = self.segment, self.bad, self._stop, self._path
        ahead = Scan(self._disk, self._fd, *place, whole=self._stop, least=0)
        for stretch in ahead:
            for lsn, label, length in zip(*stretch[:3], strict=True):
                if not label & record.CHAINED:
                    self.whole, self.bad = lsn + HEAD_BYTES + length, self.end
                    return True
        if ahead.bad > self.bad:
            self.bad, self.last_ms, self.closed = ahead.bad, ahead.last_ms, False
            self.synced = max(self.synced, ahead.synced)
        return False

    def parse(self, block: bytes, first: int) -> list[Stretch]:
        """The records of the groups that end in *block*, which begins at *first*."""
        lsns, labels, lengths = self._outline(block, first)
        if not lsns:
            self.bad = first
            return []
        self.bad = lsns[-1] + HEAD_BYTES + lengths[-1]
        found = Stretch(lsns, labels, lengths, block, first - HEAD_BYTES)
        self._note_last(block, first, lsns, labels[-1])
        if first < self.whole:  # all is of groups that end
            return self._hand_on([found], self.bad)
        whole = len(labels)
        while whole and labels[whole - 1] & record.CHAINED:
            whole -= 1
        if not whole:
            self._group.append(found)
            return []
        if whole == len(labels):
            ended, self._group = [*self._group, found], []
            return self._hand_on(ended, self.bad)
        ended, self._group = [*self._group, found.part(0, whole)], [found.part(whole)]
        return self._hand_on(ended, lsns[whole])

    def _outline(self, block: bytes, first: int) -> tuple[list[int], list[int], list[int]]:
        """Position, label and length of each record from the beginning of *block*, at *first*, on."""
        # Here opening a store, and following another process, spend their time: local names, one
        # unpacking and one checksum a record, and nothing that can be done once for all of them.
        seed, unpack, crc_of = self.segment.seed, record.OUTLINE.unpack_from, crc32c
        lsns: list[int] = []
        labels: list[int] = []
        lengths: list[int] = []
        base, size, at = first & record.LOW, len(block), 0
        head_bytes, crc_from = HEAD_BYTES, record.CRC_FROM
        last = size - head_bytes
        while at <= last:
            crc, length, low, label = unpack(block, at)
            here, stop = base + at, at + head_bytes + length
            if crc_of(block[at + crc_from : stop], seed) != crc or low != here:
                break  # also behind a multiple of 4 GiB, where the next block begins then
            lsns.append(here)
            labels.append(label)
            lengths.append(length)
            at = stop
        if at > size:  # of the last one only a part is here
            del lsns[-1], labels[-1], lengths[-1]
        if first > base:
            high = first - base
            lsns = [high + lsn for lsn in lsns]
        return lsns, labels, lengths

    def _note_last(self, block: bytes, first: int, lsns: list[int], label: int) -> None:
        """What the records at *lsns* say of the log; *block* begins at *first*, *label* is the last one's."""
        lsn, times = lsns[-1], record.TIMES.unpack_from
        lag, self.last_ms = times(block, lsn - first)
        if lag == record.CLAIMS_NOTHING:
            claims = ((each, times(block, each - first)[0]) for each in reversed(lsns))
            lsn, lag = next((each for each in claims if each[1] != lag), (0, 0))
        if lsn - lag > self.synced:
            self.synced = lsn - lag
        chained = label & record.CHAINED and first >= self.whole
        self.closed = label & record.KIND == record.CLOSED and not chained

    def _hand_on(self, ended: list[Stretch], end: int) -> list[Stretch]:
        """Groups that end at *end*, without what is storage's own in them."""
        if end >= self.whole:
            self.end = end
        least, own = self.least, False
        for stretch in ended:
            for label in set(stretch.labels):
                if label & record.KIND < least:
                    own = True
        if own:
            ended = [kept for stretch in ended if (kept := self._without_own(stretch)).lsns]
        if ended:
            lsns, _, _, buffer, origin, ms = ended[-1]
            if isinstance(buffer, bytes):
                _, ms = record.TIMES.unpack_from(buffer, lsns[-1] - origin - HEAD_BYTES)
            self.event_ms = ms
        return ended

    def _without_own(self, stretch: Stretch) -> Stretch:
        """The events in it; the records of storage itself are noted."""
        for event in stretch.events():
            if event[1] < self.least:
                self.note(event)
        return stretch.where([label & record.KIND >= self.least for label in stretch.labels])

    def note(self, event: Event) -> None:
        """What a record of storage itself says; Unsupported if it is of an unknown kind."""
        lsn, kind, _, _, _, block, start, stop = event
        if kind == record.HEAD:
            self.head = max(self.head, record.head_in(block[start:stop]))
        elif kind not in record.KNOWN:
            raise self._unknown(lsn, kind)

    def _unknown(self, lsn: int, kind: int) -> Unsupported:
        return Unsupported(
            f"{self._path} at offset {self.segment.offset(lsn)}: records of kind {kind} are not"
            " known to this mq; upgrade mq"
        )


def is_intact(disk: Disk, fd: int, segment: Segment, lsn: int) -> bool:
    """Whether a whole record stands at *lsn*."""
    header = record.parse(disk.pread(fd, record.HEADER_BYTES, segment.offset(lsn)))
    if header is None or not header.fits(lsn, segment.limit):
        return False
    found = read_far(disk, fd, segment.offset(lsn), segment.seed)
    return found is not None and len(found) == header.length


def begun(disk: Disk, fd: int, identity: Identity, path: str, base: int) -> tuple[Segment, int] | None:
    """The segment at *base*, in the file at *path*, and where its fence voids from; None if it has none."""
    data = disk.pread(fd, BEGIN_BYTES, 0)
    try:
        found = decode_header(identity, path, base, data)
    except BadHeader:
        return None
    fence = record.fence_in(data[HEADER_BYTES:], base, found.seed)
    return (found, fence.void_from) if fence else None


def begun_at(disk: Disk, identity: Identity, path: str, base: int) -> tuple[Segment, int] | None:
    """`begun`, of a file that is not open."""
    fd = disk.open(path)
    try:
        return begun(disk, fd, identity, path, base)
    finally:
        disk.close(fd)


def is_zero(disk: Disk, fd: int, offset: int) -> bool:
    """Whether nothing but zeros stands in the file from *offset* on."""
    while block := disk.pread(fd, BLOCK_BYTES, offset):
        if block.count(0) != len(block):
            return False
        offset += len(block)
    return True
