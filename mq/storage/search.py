"""Behind a bad place: where does the next intact record begin?

Every byte may be its first.  It holds the low half of its own position, so a plain search
for that finds every candidate; its checksum decides.

    ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░┌──────────────────┐
    bad ──► candidate? ──► ? ──► │ record           │
    ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░└──────────────────┘

Chance makes hardly any candidate, but a message body may be nothing but headers, each of
which says that it is followed by megabytes.  Reading all of them again and again would
take days.  So candidates are checked many at once: one pass over the bytes takes the
checksum up to every place where one of them begins or ends, and from those two follows
the checksum of what lies in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Final, NamedTuple

from . import record
from .crc import crc32c
from .disk import Disk
from .segment import BLOCK_BYTES, Segment

CANDIDATES_MAX: Final = 1 << 16  # checked in one pass
MATCHES_MAX: Final = 64  # of what positions have in common, before more of it is asked for


class Candidate(NamedTuple):
    lsn: int
    crc: int
    stop: int

    @property
    def start(self) -> int:
        return self.lsn + record.CRC_FROM


def next_intact(disk: Disk, fd: int, segment: Segment, start: int, stop: int) -> int | None:
    """The position of the first intact record that begins in [start, stop), or None."""
    candidates = _candidates(disk, fd, segment, start, min(stop, segment.limit))
    count = 1  # nearly always the first one is it
    while batch := list(islice(candidates, count)):
        sums = _checksums(disk, fd, segment, batch)
        for each in batch:
            if each.stop in sums and each.crc == _between(sums, each, segment.seed):
                return each.lsn
        count = min(2 * count, CANDIDATES_MAX)
    return None


def _candidates(disk: Disk, fd: int, segment: Segment, start: int, stop: int) -> Iterator[Candidate]:
    """What looks like a record's header, in order."""
    overlap = record.HEADER_BYTES - 1
    while start < stop:
        block = disk.pread(fd, min(BLOCK_BYTES, stop - start) + overlap, segment.offset(start))
        behind = start + len(block) - overlap
        if behind <= start:
            return
        if block.count(0) < len(block):
            yield from _in_part(segment, block, start, start, behind, 2)
        start = behind


def _in_part(
    segment: Segment, block: bytes, first: int, start: int, stop: int, same: int
) -> Iterator[Candidate]:
    """Those that begin in [start, stop) of *block*, which begins at *first*.

    The last *same* bytes of a position's four are the same for a while.  Where they alone are all over
    the place, zeros among zeros, one more is looked at.
    """
    while start < stop:
        window = min((start >> 32 - 8 * same) + 1 << 32 - 8 * same, stop)
        pattern = (start & record.LOW).to_bytes(4, "little")[-same:]
        # The position stands 8 to 12 bytes behind the beginning.
        begin, end = start - first + 12 - same, window - first + 11
        if same < 4 and block.count(pattern, begin, end) > MATCHES_MAX:
            yield from _in_part(segment, block, first, start, window, same + 1)
        else:
            at = block.find(pattern, begin, end)
            while at >= 0:
                if found := _candidate(segment, block, first, at + same - 12):
                    yield found
                at = block.find(pattern, at + 1, end)
        start = window


def _candidate(segment: Segment, block: bytes, first: int, at: int) -> Candidate | None:
    header, lsn = record.parse(block, at), first + at
    if header is None or not header.fits(lsn, segment.limit):
        return None
    return Candidate(lsn, header.crc, lsn + header.size)


# ── checksums of many ranges, in one pass ──────────────────────────────────────────


def _checksums(disk: Disk, fd: int, segment: Segment, batch: Sequence[Candidate]) -> dict[int, int]:
    """The CRC from the first of *batch* up to each place where one begins or ends; of those in the file."""
    places = sorted({each.start for each in batch} | {each.stop for each in batch})
    sums: dict[int, int] = {}
    at = first = places[0]
    block, crc = b"", 0
    for place in places:
        while at < place:
            if at == first + len(block):
                block, first = disk.pread(fd, min(BLOCK_BYTES, places[-1] - at), segment.offset(at)), at
                if not block:
                    return sums
            upto = min(place, first + len(block))
            crc = crc32c(block[at - first : upto - first], crc)
            at = upto
        sums[place] = crc
    return sums


def _between(sums: dict[int, int], each: Candidate, seed: int) -> int:
    """The CRC of what *each* covers, from *seed*.

    A CRC is linear: over A and then B, it is that of B alone, with what A left shifted
    through the length of B, xor.  So what stands before the record can be taken out again.
    """
    return sums[each.stop] ^ _shifted(sums[each.start] ^ seed, each.stop - each.start)


def _shifted(crc: int, count: int) -> int:
    """The register of a CRC after *count* zeros."""
    power = 0
    while count:
        if count & 1:
            a, b, c, d = _tables(power)
            crc = a[crc & 0xFF] ^ b[crc >> 8 & 0xFF] ^ c[crc >> 16 & 0xFF] ^ d[crc >> 24]
        count >>= 1
        power += 1
    return crc


@cache
def _tables(power: int) -> tuple[list[int], ...]:
    """For each byte of a register, what its values become after 2 ** *power* zeros."""
    if power == 0:  # one: crc32c complements before and after, which cancels out
        bits = [crc32c(b"\0", 1 << bit) ^ crc32c(b"\0", 0) for bit in range(32)]
    else:
        half = 1 << power - 1
        bits = [_shifted(_shifted(1 << bit, half), half) for bit in range(32)]
    return tuple(_table(bits[start : start + 8]) for start in (0, 8, 16, 24))


def _table(bits: Sequence[int]) -> list[int]:
    """What each byte becomes, if its bits become *bits*."""
    table = [0]
    for bit in bits:
        table += [each ^ bit for each in table]
    return table
