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
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, repeat
from operator import add
from struct import Struct
from typing import Final

from crc32c import crc32c

HEADER: Final = Struct("<IIIIIBBH")
HEADER_BYTES: Final = HEADER.size
AFTER_CRC: Final = Struct("<IIIIBBH")
CRC: Final = Struct("<I")
OUTLINE: Final = Struct("<III8xI")  # of a header: checksum, length, position and label
TIMES: Final = Struct("<12xII")  # the rest: synced_lag and time
LOW: Final = 0xFFFF_FFFF  # lsn & LOW is what the header keeps of a position

CLAIMS_NOTHING: Final = 0xFFFF_FFFF  # a lag too big for its field

# Kinds below FIRST_EVENT belong to storage; the others mean something to the layer above.
FENCE: Final = 1  # first in a segment: nothing lives from void_from up to this segment
CLOSED: Final = 2  # last in a log that was closed in order
HEAD: Final = 3  # the log begins at the segment it names: what is before may be unlinked
LOST: Final = 4  # put by repair over bytes that were damaged; its payload means nothing
CLOCK: Final = 5  # behind a fence: the wall clock was not store time when the segment was created
KNOWN: Final = frozenset({FENCE, CLOSED, HEAD, LOST, CLOCK})
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


def encode(
    seed: int, lsn: int, synced: int, ms: int, kind: int, flags: int, queue: int, payload: bytes
) -> bytes:
    """One record, ready to be written at *lsn*, claiming that all below *synced* is on disk."""
    lag = lsn - synced
    if lag > LOW:
        lag = CLAIMS_NOTHING
    rest = AFTER_CRC.pack(len(payload), lsn & LOW, lag, ms, kind, flags, queue) + payload
    return CRC.pack(crc32c(rest, seed)) + rest


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
