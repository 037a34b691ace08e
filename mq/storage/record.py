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

from struct import Struct
from typing import Final

from crc32c import crc32c

HEADER: Final = Struct("<IIIIIBBH")
HEADER_BYTES: Final = HEADER.size
AFTER_CRC: Final = Struct("<IIIIBBH")
CRC: Final = Struct("<I")
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
