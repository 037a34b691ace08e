"""The record codec: bytes on disk ⇄ record.  No I/O; see FORMAT.md.

     0        4        8           12           16         20     21      22      24
    ┌────────┬────────┬───────────┬────────────┬──────────┬──────┬───────┬───────┬─────────┐
    │ crc32c │ length │ lsn, low  │ synced_lag │ time, ms │ kind │ flags │ queue │ payload │
    └────────┴────────┴───────────┴────────────┴──────────┴──────┴───────┴───────┴─────────┘

The checksum covers every byte after itself.  The length is inside it, so a damaged
length cannot send the scanner off into the middle of a body.  It starts from a seed
made of the store's key and the segment's base, so a stale, misplaced or foreign
block, or a body that looks like a record, does not pass.

`synced_lag` = lsn − (everything below this was synced when this was written): what
tells a torn tail from damage.  `time` counts from the segment's creation.

All that knows this layout is here, but for three places that are flat, because a call for each
record would cost as much as reading it: `Tail.append` packs; `Reader` and `Scan` unpack and check.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, repeat
from operator import add
from struct import Struct
from typing import Final, NamedTuple

from .crc import crc32c

HEADER: Final = Struct("<IIIIIBBH")
HEADER_BYTES: Final = HEADER.size
AFTER_CRC: Final = Struct("<IIIIBBH")
CRC: Final = Struct("<I")
OUTLINE: Final = Struct("<III8xI")  # of a header: checksum, length, position and label
TIMES: Final = Struct("<12xII")  # the rest: synced_lag and time
LENGTH: Final = Struct("<4xI")  # of the payload
CRC_FROM: Final = CRC.size  # what the checksum covers begins here
LOW: Final = 0xFFFF_FFFF  # lsn & LOW is what the header keeps of a position

CLAIMS_NOTHING: Final = 0xFFFF_FFFF  # a lag too big for its field

# Kinds below FIRST_EVENT belong to storage; the others mean something to the layer above.
FENCE: Final = 1  # first in a segment: nothing lives from void_from up to this segment
CLOSED: Final = 2  # last in a log that was closed in order
HEAD: Final = 3  # the log begins at the segment it names: what is before may be unlinked
LOST: Final = 4  # put by repair over bytes that were damaged; its payload means nothing
CLOCK: Final = 5  # behind a fence: the wall clock was not store time when the segment was created
KIND_NAMES: Final = {FENCE: "fence", CLOSED: "closed", HEAD: "head", LOST: "lost", CLOCK: "clock"}
KNOWN: Final = frozenset(KIND_NAMES)
FIRST_EVENT: Final = 16

# Bits of `flags`.  The upper half belongs to the layer above.
CONTINUES: Final = 0x01  # more records of this atomic group follow

# A label is the last four bytes of a header as one number: kind, flags and queue.
KIND: Final = 0xFF
CHAINED: Final = CONTINUES << 8

FENCE_PAYLOAD: Final = Struct("<QQQQ")  # void_from, head, this segment's capacity and creation time
FENCE_BYTES: Final = HEADER_BYTES + FENCE_PAYLOAD.size
HEAD_PAYLOAD: Final = Struct("<Q")
CLOCK_PAYLOAD: Final = Struct("<Q")  # the wall clock's time when the segment was created
CLOCK_BYTES: Final = HEADER_BYTES + CLOCK_PAYLOAD.size

GROUP_BYTES_MAX: Final = 256 << 20
RECORD_BYTES_MAX: Final = GROUP_BYTES_MAX


def seed(key: bytes, base: int) -> int:
    """What the checksums of the segment at *base* start from."""
    return crc32c(key + base.to_bytes(8, "little"))


# ── one record ─────────────────────────────────────────────────────────────────────


class Header(NamedTuple):
    crc: int
    length: int  # of the payload
    low: int  # of the position
    lag: int
    ms: int  # since the segment's creation
    kind: int
    flags: int
    queue: int

    @property
    def size(self) -> int:
        """Of the whole record."""
        return HEADER_BYTES + self.length

    def names(self, lsn: int) -> bool:
        """Whether it says that it stands at *lsn*."""
        return self.kind != 0 and self.low == lsn & LOW

    def fits(self, lsn: int, limit: int) -> bool:
        """Whether a record at *lsn* that ends at *limit* or before may have it; the checksum decides."""
        return self.names(lsn) and self.length <= RECORD_BYTES_MAX and lsn + self.size <= limit


def parse(data: bytes, at: int = 0) -> Header | None:
    """The header at data[at]; None if it is cut short.  It is not checked: see `whole`."""
    return Header._make(HEADER.unpack_from(data, at)) if len(data) - at >= HEADER_BYTES else None


def passes(record: bytes | bytearray, seed: int) -> bool:
    """Whether the bytes of one record, all of them and no others, pass their checksum."""
    return bool(crc32c(memoryview(record)[CRC_FROM:], seed) == CRC.unpack_from(record)[0])


def whole(data: bytes, lsn: int, seed: int) -> Header | None:
    """The header of the record at *lsn*, which *data* begins with; None if it is cut short or damaged."""
    header = parse(data)
    if header is None or not header.names(lsn) or header.size > len(data):
        return None
    return header if passes(data[: header.size], seed) else None


def encode(
    seed: int, lsn: int, synced: int, ms: int, kind: int, flags: int, queue: int, payload: bytes
) -> bytes:
    """One record, ready to be written at *lsn*, claiming that all below *synced* is on disk."""
    rest = encode_header(len(payload), lsn, synced, ms, kind, flags, queue) + payload
    return CRC.pack(crc32c(rest, seed)) + rest


def encode_header(length: int, lsn: int, synced: int, ms: int, kind: int, flags: int, queue: int) -> bytes:
    """A header behind its checksum, which `CRC` packs."""
    return AFTER_CRC.pack(length, lsn & LOW, min(lsn - synced, CLAIMS_NOTHING), ms, kind, flags, queue)


def encode_run(
    seed: int, lsn: int, synced: int, ms: int, kinds: Iterable[int], flags: Iterable[int],
    numbers: Iterable[int], payloads: list[bytes],
) -> tuple[bytes, list[int]]:  # fmt: skip
    """Records that follow each other from *lsn* on, and their positions.

    A batch is mostly this.  So each step goes over all of them in C, and nothing here is a loop in Python.
    """
    sizes = list(map(len, payloads))
    positions = list(accumulate(map(HEADER_BYTES.__add__, sizes), initial=lsn))
    end = positions.pop()
    lows = positions if end <= LOW else [each & LOW for each in positions]
    lags = [each - synced for each in positions]
    if end - synced > LOW:
        lags = [min(each, CLAIMS_NOTHING) for each in lags]
    heads = map(AFTER_CRC.pack, sizes, lows, lags, repeat(ms), kinds, flags, numbers)
    rests = list(map(add, heads, payloads))
    parts = rests * 2
    parts[::2] = map(CRC.pack, map(crc32c, rests, repeat(seed)))
    parts[1::2] = rests
    return b"".join(parts), positions


# ── what storage's own kinds say ───────────────────────────────────────────────────


class Fence(NamedTuple):
    """What the first record of a segment says."""

    void_from: int  # no record lives from here up to the segment's base
    head: int  # where the log began then
    capacity: int  # of the segment
    created_ms: int  # the same
    epoch: int = 0  # of the log: in the header, where others have the number of a queue

    def encode(self, seed: int, base: int, synced: int) -> bytes:
        return encode(seed, base, synced, 0, FENCE, 0, self.epoch, FENCE_PAYLOAD.pack(*self[:4]))


def fence_in(data: bytes, base: int, seed: int) -> Fence | None:
    """The fence that *data*, the bytes of a segment from its *base* on, begins with; None if it has none."""
    header = whole(data, base, seed)
    if header is None or header.kind != FENCE or header.length != FENCE_PAYLOAD.size:
        return None
    void_from, head, capacity, created_ms = FENCE_PAYLOAD.unpack_from(data, HEADER_BYTES)
    return Fence(void_from, head, capacity, created_ms, header.queue)


def encode_head(head: int) -> bytes:
    """The payload of a HEAD record: the log begins at *head*."""
    return HEAD_PAYLOAD.pack(head)


def head_in(payload: bytes) -> int:
    return int(HEAD_PAYLOAD.unpack(payload)[0])


def encode_clock(seed: int, lsn: int, wall_ms: int) -> bytes:
    """The record that says what the wall clock's time was; it claims nothing to be on the disk."""
    return encode(seed, lsn, lsn - CLAIMS_NOTHING, 0, CLOCK, 0, 0, CLOCK_PAYLOAD.pack(wall_ms))


def clock_in(data: bytes, lsn: int, seed: int) -> int | None:
    """The wall clock's time, if *data* begins with the record that says it, and that stands at *lsn*."""
    header = whole(data, lsn, seed)
    if header is None or header.kind != CLOCK or header.length != CLOCK_PAYLOAD.size:
        return None
    return int(CLOCK_PAYLOAD.unpack_from(data, HEADER_BYTES)[0])
