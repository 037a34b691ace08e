"""Looking for the next intact record behind a bad place: it is found, nothing else, and not after ages."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from crc32c import crc32c
from faults import GO_ON, Faulty, Image
from logfiles import IDENTITY, OTHER, flip, publish, raw, segment, zeros

from mq.storage import record, search
from mq.storage.search import Candidate


def next_intact(file, start, hook=None):
    disk = Faulty(Image({"f": file.data}), hook)
    return search.next_intact(disk, disk.open("f"), file.segment, start, file.segment.limit)


@pytest.mark.parametrize("gap", [1, 2, 23, 24, 25, 100, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("base", [0, 65_536 - 100, (1 << 32) - 5000], ids=["0", "64 KiB", "4 GiB"])
def test_the_next_intact_record_is_found_behind_any_gap(gap, base):
    file = segment(raw(b"\xa5" * gap), publish(b"here"), base=base, capacity=1 << 20)
    assert next_intact(file, file.starts[0]) == file.starts[1]
    assert next_intact(file, file.starts[1]) == file.starts[1]
    assert next_intact(file, file.starts[1] + 1) is None


def test_a_body_that_is_a_record_is_not_taken_for_one():
    """Byte-exact copies of records of this segment, of its twin 4 GiB on, and of another store."""
    original = segment(publish(b"bait"))
    bait = original.data[original.segment.offset(original.starts[0]) :]
    for offset in range(40):
        file = segment(flip(publish(b"." * offset + bait * 3), 3), publish(b"good"))
        assert next_intact(file, file.starts[0]) == file.starts[1]


@pytest.mark.parametrize("identity, base", [(IDENTITY, 1 << 32), (OTHER, 0)], ids=["4 GiB on", "other store"])
def test_a_stale_block_at_its_own_place_is_not_taken_for_a_record(identity, base):
    """A body whose bytes are, at exactly this position, a valid record of another segment."""
    stale = segment(publish(b"....", more=True), publish(b"stale"), base=base, identity=identity)
    bait = stale.data[stale.segment.offset(stale.starts[1]) :]
    file = segment(flip(publish(b"...." + bait), 24), publish(b"good"))
    assert file.data[file.segment.offset(file.starts[0]) + 28 :].startswith(bait)
    assert next_intact(file, file.starts[0]) == file.starts[1]


def test_no_record_reaches_behind_the_segment():
    file = segment(publish(b"x" * 100), capacity=56 + 24 + 99)
    assert next_intact(file, 0) == 0  # the fence
    assert next_intact(file, 1) is None


@pytest.mark.parametrize("block_bytes", [24, 100, 1000])
def test_what_lies_across_two_blocks_is_found(block_bytes, monkeypatch):
    monkeypatch.setattr(search, "BLOCK_BYTES", block_bytes)
    for gap in range(1, 130):
        file = segment(raw(b"\xa5" * gap), publish(b"here" * 20))
        assert next_intact(file, file.starts[0]) == file.starts[1]


def test_the_checksum_of_a_part_follows_from_those_up_to_its_ends():
    chance = random.Random(1)
    for _ in range(200):
        data = chance.randbytes(chance.randrange(40, 3000))
        lsn = chance.randrange(len(data) - 24)
        part = Candidate(lsn, 0, chance.randrange(lsn + 24, len(data) + 1))
        sums = {place: crc32c(data[:place]) for place in (part.start, part.stop)}
        seed = chance.getrandbits(32)
        assert search._between(sums, part, seed) == crc32c(data[part.start : part.stop], seed)


# ── how much is done for it ────────────────────────────────────────────────────────


def headers(size, capacity):
    """A body of nothing but headers, each of which says that its record takes the rest of the segment."""

    def part(place):
        found = b""
        while len(found) < size:
            lsn = place.lsn + len(found)
            rest = capacity - lsn - record.HEADER_BYTES
            found += record.HEADER.pack(1, rest, lsn & record.LOW, record.CLAIMS_NOTHING, 0, 17, 0, 1)
        return found

    return part


def test_a_body_of_headers_is_not_read_again_for_each(monkeypatch):
    """Crafted, behind damage: else opening, `mq verify` and `mq repair` would take days."""
    monkeypatch.setattr(search, "CANDIDATES_MAX", 1 << 8)
    capacity = 1 << 18
    file = segment(
        raw(b"damaged"), headers(50_000, capacity), publish(b"here"), zeros(capacity), capacity=capacity
    )
    read = 0

    def count(name, args):
        nonlocal read
        read += args[1] if name == "pread" else 0
        return GO_ON

    assert next_intact(file, file.starts[0], count) == file.starts[2]
    candidates = 50_000 // 24
    passes = 9 + candidates // (1 << 8)
    assert read < (2 + passes) * capacity


def test_zeros_are_passed_over(monkeypatch):
    """In the first 64 KiB of a log they look like the upper half of a position."""
    looked = 0

    def parse(*args):
        nonlocal looked
        looked += 1
        return record.parse(*args)

    monkeypatch.setattr(search, "record", SimpleNamespace(**{**vars(record), "parse": parse}))
    file = segment(raw(b"damaged"), zeros(50_000), raw(b"more"), capacity=1 << 18)
    assert next_intact(file, file.starts[0]) is None
    assert looked < 500
