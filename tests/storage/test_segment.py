"""One file of the log: its header byte by byte, and what the scanner makes of records."""

from __future__ import annotations

import pytest
from faults import Image
from logfiles import (
    ALL,
    CREATED_MS,
    IDENTITY,
    OTHER,
    closed,
    cut,
    entry,
    flip,
    publish,
    segment,
    zeros,
)  # fmt: skip

from mq.errors import Unsupported
from mq.storage import record
from mq.storage import segment as segments
from mq.storage.segment import BadHeader, Scan, Segment

HEADER = bytes.fromhex(
    "6d 71 2d 6c 6f 67 0d 0a"  # mq-log\r\n
    "01 00"  # format version
    "00 00"  # reserved
    "01 00 00 00"  # feature bits
    "01 00 00 00"  # segment number
    "00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff"  # store id
    "01 23 45 67 89 ab cd ef"  # key
    "00 04 00 00 00 00 00 00"  # base
    "00 04 00 00 00 00 00 00"  # capacity
    "00 68 e5 cf 8b 01 00 00"  # created, ms since 1970
    "3b c1 78 8f"  # crc32c of all before it
)
HEADER_OF_REVISION_1 = HEADER[:12] + bytes(4) + HEADER[16:-4] + bytes.fromhex("c3 1c 32 11")
YEAR_MS = 31_557_600_000


def reseal(head: bytes) -> bytes:
    """*head* with the checksum that belongs to its other bytes."""
    return head[:-4] + record.CRC.pack(segments.crc32c(head[:-4]))


def scan(file, start=None, stop=1 << 64):
    disk = Image({"f": file.data})
    found = Scan(disk, disk.open("f"), file.segment, file.segment.base if start is None else start, stop, "f")
    return found, [bytes(buffer[at:end]) for batch in found.batches() for *_, buffer, at, end in batch]


# ── the header ─────────────────────────────────────────────────────────────────────


def test_golden_bytes_of_a_header():
    head = Segment(1, 1024, 1024, CREATED_MS, record.seed(IDENTITY.key, 1024))
    assert segments.encode_header(IDENTITY, head) == HEADER
    assert segments.decode_header(IDENTITY, "f", 1024, HEADER) == head


def test_golden_bytes_of_a_header_of_mq_0_1_0():
    head = Segment(1, 1024, 1024, CREATED_MS, record.seed(IDENTITY.key, 1024), features=0)
    assert segments.encode_header(IDENTITY, head) == HEADER_OF_REVISION_1
    assert segments.decode_header(IDENTITY, "f", 1024, HEADER_OF_REVISION_1) == head


@pytest.mark.parametrize("skew_ms", [56 * YEAR_MS, -80 * YEAR_MS, 1, 0])
def test_what_the_wall_clock_was_stands_behind_the_fence(skew_ms):
    head = Segment(1, 1024, 1024, 90 * YEAR_MS, record.seed(IDENTITY.key, 1024), skew_ms=skew_ms)
    fence = record.encode(head.seed, 1024, 0, 0, record.FENCE, 0, 0, bytes(32))
    data = segments.encode_header(IDENTITY, head) + fence + segments.encode_clock(head)
    found = segments.decode_header(IDENTITY, "f", 1024, data + bytes(40))
    assert found == head
    assert found.wall_ms == 90 * YEAR_MS + skew_ms


def test_a_torn_or_misplaced_record_of_the_wall_clock_says_nothing():
    head = Segment(1, 1024, 1024, CREATED_MS, record.seed(IDENTITY.key, 1024), skew_ms=1_000_000)
    fence = record.encode(head.seed, 1024, 0, 0, record.FENCE, 0, 0, bytes(32))
    before, clock = segments.encode_header(IDENTITY, head) + fence, segments.encode_clock(head)
    for size in range(len(clock.rstrip(b"\0"))):
        for behind in (b"", bytes(64)):
            assert segments.decode_header(IDENTITY, "f", 1024, before + clock[:size] + behind).skew_ms == 0
    for at in range(len(clock) * 8):
        damaged = bytearray(clock)
        damaged[at // 8] ^= 1 << at % 8
        assert segments.decode_header(IDENTITY, "f", 1024, before + bytes(damaged)).skew_ms == 0
    elsewhere = segments.encode_clock(Segment(1, 2048, 1024, CREATED_MS, head.seed, skew_ms=1_000_000))
    assert segments.decode_header(IDENTITY, "f", 1024, before + elsewhere).skew_ms == 0


def test_no_flipped_bit_of_a_header_passes():
    for at in range(len(HEADER) * 8):
        damaged = bytearray(HEADER)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(BadHeader):
            segments.decode_header(IDENTITY, "f", 1024, bytes(damaged))


@pytest.mark.parametrize("size", range(72))
def test_a_header_cut_short_is_noticed(size):
    with pytest.raises(BadHeader):
        segments.decode_header(IDENTITY, "f", 1024, HEADER[:size])


@pytest.mark.parametrize(
    "at, value, says",
    [
        pytest.param(8, 2, "format 2", id="version"),
        pytest.param(12, 2, "features 0x2", id="feature bit"),
        pytest.param(15, 0x80, "features 0x80000001", id="highest feature bit"),
        pytest.param(10, 1, "upgrade", id="reserved"),
    ],
)
def test_an_intact_header_of_the_future_is_refused_by_name(at, value, says):
    head = bytearray(HEADER)
    head[at] = value
    with pytest.raises(Unsupported, match=says):
        segments.decode_header(IDENTITY, "f", 1024, reseal(bytes(head)))


def test_a_segment_of_another_store_is_named():
    with pytest.raises(segments.BadHeader, match=f"another store \\({IDENTITY.store_id}\\)"):
        segments.decode_header(OTHER, "f", 1024, HEADER)


def test_a_segment_under_another_name_is_told_its_own():
    with pytest.raises(segments.BadHeader, match=r"created as 00000000000000001024\.seg"):
        segments.decode_header(IDENTITY, "f", 2048, HEADER)


def test_a_position_is_an_offset_in_the_file():
    assert segment(base=1024).segment.offset(1024) == 72
    assert segment(base=1024, capacity=512).segment.limit == 1536
    assert segment(base=1024).name == "00000000000000001024.seg"


# ── the scanner ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "parts, bodies, ends_after, bad_after",
    [
        pytest.param([], [], 0, 0, id="nothing"),
        pytest.param([publish(b"a"), publish(b"b")], [b"a", b"b"], 2, 2, id="two"),
        pytest.param([publish(b""), publish(b"b")], [b"", b"b"], 2, 2, id="an empty body"),
        pytest.param([publish(b"a"), zeros(100)], [b"a"], 1, 1, id="zeros behind"),
        pytest.param([publish(b"a"), cut(23, publish(b"b"))], [b"a"], 1, 1, id="cut in the header"),
        pytest.param([publish(b"a"), cut(24, publish(b"b"))], [b"a"], 1, 1, id="cut behind the header"),
        pytest.param([publish(b"a", more=True), publish(b"b")], [b"a", b"b"], 2, 2, id="a group"),
        pytest.param([publish(b"a"), publish(b"b", more=True)], [b"a"], 1, 2, id="a group's first only"),
        pytest.param(
            [publish(b"a", more=True), publish(b"b", more=True), cut(24, publish(b"c"))],
            [], 0, 2, id="a group's last is cut",
        ),
        pytest.param(
            [publish(b"a", more=True), flip(publish(b"b"), 24), publish(b"c")], [], 0, 1,
            id="a group with damage inside",
        ),
    ],
)  # fmt: skip
def test_the_scanner_hands_on_whole_groups_and_stops_where_something_does_not_pass(
    parts, bodies, ends_after, bad_after
):
    file = segment(*parts)
    places = [*file.starts]
    found, seen = scan(file)
    assert (seen, found.end, found.bad) == (bodies, places[ends_after], places[bad_after])


def test_the_scanner_stops_at_the_fence_of_the_next_segment():
    file = segment(publish(b"a"), publish(b"void"))
    found, seen = scan(file, stop=file.starts[1])
    assert (seen, found.end) == ([b"a"], file.starts[1])


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 100, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_record_larger_than_a_read_block_is_read_whole(size):
    bodies = [b"before", bytes(range(256)) * (size // 256) + b"x" * (size % 256), b"after"]
    file = segment(*map(publish, bodies), capacity=16 << 20)
    found, seen = scan(file)
    assert seen == bodies
    assert found.end == file.end


def test_a_group_over_several_read_blocks_is_handed_on_whole():
    bodies = [b"%d" % n * 200_000 for n in range(10)]
    parts = [publish(body, more=n < 9) for n, body in enumerate(bodies)]
    assert scan(segment(*parts, capacity=16 << 20))[1] == bodies
    cut_off = segment(*parts[:-1], cut(100_000, parts[-1]), capacity=16 << 20)
    found, seen = scan(cut_off)
    assert (seen, found.end, found.bad) == ([], cut_off.starts[0], cut_off.starts[9])


@pytest.mark.parametrize("missing", [1, 7, 500])
def test_a_record_of_which_only_a_part_is_there_does_not_pass_though_its_checksum_does(missing):
    def part(place):
        rest = record.AFTER_CRC.pack(10 + missing, place.lsn, 0, 0, 17, 0, 1) + bytes(10)
        return record.CRC.pack(segments.crc32c(rest, place.segment.seed)) + rest

    file = segment(publish(b"a"), part)
    found, seen = scan(file, stop=file.end)
    assert (seen, found.end, found.bad) == ([b"a"], file.starts[1], file.starts[1])


@pytest.mark.parametrize("bit", range(32, 64))
def test_a_damaged_length_leads_nowhere(bit):
    file = segment(publish(b"a"), flip(publish(b"b"), bit // 8, bit % 8), publish(b"c"))
    found, seen = scan(file)
    assert (seen, found.bad) == ([b"a"], file.starts[1])


def test_the_last_claim_is_heard_and_a_saturated_one_is_none():
    high = 1 << 33
    assert scan(segment(publish(b"a", claims=ALL), base=high))[0].synced == high + 56
    assert scan(segment(publish(b"a", claims=0), base=high))[0].synced == 0


@pytest.mark.parametrize("kind", [0, 6, 15])
@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "in a group"])
def test_a_kind_of_storage_that_is_not_known_is_refused_by_name(kind, grouped):
    parts = [entry(kind, flags=record.CONTINUES), publish(b"a")] if grouped else [entry(kind)]
    with pytest.raises(Unsupported, match=f"f at offset 128: records of kind {kind} are not known"):
        scan(segment(*parts))


def test_the_closing_record_counts_only_as_the_last():
    assert scan(segment(publish(b"a"), closed()))[0].closed
    assert not scan(segment(closed(), publish(b"a")))[0].closed
