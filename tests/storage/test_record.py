"""The record codec, against bytes written out by hand from FORMAT.md."""

from __future__ import annotations

import pytest
from logfiles import CREATED_MS, IDENTITY

from mq.storage import record

SEED_AT_1024 = 0x91C93201  # crc32c of the key 01 23 45 67 89 ab cd ef and the base 00 04 00 00 00 00 00 00

PUBLISH_HE = bytes.fromhex(
    "58 2f 55 59"  # crc32c of all that follows, from the seed
    "03 00 00 00"  # length of the payload
    "30 04 00 00"  # lsn 0x1_0000_0430, low half
    "30 00 00 00"  # synced_lag: all below 0x1_0000_0400 is synced
    "e8 03 00 00"  # a second after the segment was created
    "11"  # kind 17, PUBLISH
    "11"  # flags: text, and the group goes on
    "07 00"  # queue
    "68 c3 a9"  # "hé"
)

FENCE = bytes.fromhex(
    "e0 48 2e 91"
    "20 00 00 00"
    "00 04 00 00"
    "10 00 00 00"
    "00 00 00 00"
    "01"
    "00"
    "00 00"
    "f0 03 00 00 00 00 00 00"  # void from 1008
    "00 02 00 00 00 00 00 00"  # the log begins at 512
    "00 04 00 00 00 00 00 00"  # capacity 1024
    "00 68 e5 cf 8b 01 00 00"  # created at 1,700,000,000,000 ms
)


def test_the_seed_is_the_checksum_of_key_and_base():
    assert record.seed(IDENTITY.key, 1024) == SEED_AT_1024


def test_golden_bytes_of_a_message():
    encoded = record.encode(SEED_AT_1024, 0x1_0000_0430, 0x1_0000_0400, 1000, 17, 0x11, 7, "hé".encode())
    assert encoded == PUBLISH_HE


def test_golden_bytes_of_a_fence():
    payload = record.FENCE_PAYLOAD.pack(1008, 512, 1024, CREATED_MS)
    assert record.encode(SEED_AT_1024, 1024, 1008, 0, record.FENCE, 0, 0, payload) == FENCE


@pytest.mark.parametrize(
    "lsn, synced, lag",
    [
        pytest.param(5000, 5000, 0, id="all before it is synced"),
        pytest.param(5000, 0, 5000, id="nothing is"),
        pytest.param(0xFFFF_FFFE, 0, 0xFFFF_FFFE, id="the largest lag that claims something"),
        pytest.param(0xFFFF_FFFF, 0, 0xFFFF_FFFF, id="the first that claims nothing"),
        pytest.param(1 << 40, 1, 0xFFFF_FFFF, id="far too big for its field"),
    ],
)
def test_a_lag_too_big_for_its_field_claims_nothing(lsn, synced, lag):
    header = record.HEADER.unpack_from(record.encode(SEED_AT_1024, lsn, synced, 0, 17, 0, 1, b""))
    assert header[2:4] == (lsn & 0xFFFF_FFFF, lag)


@pytest.mark.parametrize(
    "lsn, synced",
    [
        pytest.param(1024, 1000, id="in the first segment"),
        pytest.param((1 << 32) - 60, (1 << 32) - 100, id="over the end of the low half of a position"),
        pytest.param((5 << 32) + 7, 5 << 32, id="behind it"),
        pytest.param(0xFFFF_FFFF - 60, 0, id="over the largest lag that claims something"),
        pytest.param(1 << 40, 1, id="all claim nothing"),
    ],
)
def test_a_run_is_the_records_one_by_one(lsn, synced):
    rows = [(17, 0x01, 7, b"one"), (18, 0x11, 65_535, b""), (19, 0x01, 1, b"x" * 300), (17, 0x20, 2, b"end")]
    data, positions = record.encode_run(SEED_AT_1024, lsn, synced, 1000, *map(list, zip(*rows, strict=True)))
    expected = b""
    for position, row in zip(positions, rows, strict=True):
        assert position == lsn + len(expected)
        expected += record.encode(SEED_AT_1024, position, synced, 1000, *row)
    assert data == expected


def test_the_checksum_depends_on_key_and_base():
    seeds = {record.seed(key, base) for key in (IDENTITY.key, bytes(8)) for base in (0, 1024, 1 << 32)}
    assert len(seeds) == 6


# ── reading it back ────────────────────────────────────────────────────────────────


def test_a_header_says_what_was_encoded():
    header = record.parse(PUBLISH_HE)
    assert header == (0x59552F58, 3, 0x430, 0x30, 1000, 17, 0x11, 7)
    assert header.size == len(PUBLISH_HE)


@pytest.mark.parametrize(
    "data, lsn, seed, is_whole",
    [
        pytest.param(PUBLISH_HE, 0x1_0000_0430, SEED_AT_1024, True, id="a record"),
        pytest.param(PUBLISH_HE + b"more", 0x1_0000_0430, SEED_AT_1024, True, id="more behind it"),
        pytest.param(PUBLISH_HE[:-1], 0x1_0000_0430, SEED_AT_1024, False, id="cut short in its payload"),
        pytest.param(PUBLISH_HE[:23], 0x1_0000_0430, SEED_AT_1024, False, id="cut short in its header"),
        pytest.param(b"", 0x1_0000_0430, SEED_AT_1024, False, id="nothing"),
        pytest.param(PUBLISH_HE, 0x1_0000_0431, SEED_AT_1024, False, id="at another position"),
        pytest.param(PUBLISH_HE, 0x1_0000_0430, SEED_AT_1024 + 1, False, id="of another segment"),
        pytest.param(b"\0" + PUBLISH_HE[1:], 0x1_0000_0430, SEED_AT_1024, False, id="a checksum damaged"),
        pytest.param(PUBLISH_HE[:-1] + b"x", 0x1_0000_0430, SEED_AT_1024, False, id="a payload damaged"),
        pytest.param(record.encode(7, 0, 0, 0, 0, 0, 0, b""), 0, 7, False, id="of kind 0, which is none"),
    ],
)
def test_a_record_is_whole_or_it_is_not(data, lsn, seed, is_whole):
    assert (record.whole(data, lsn, seed) is not None) == is_whole


def test_a_fence_comes_back_as_it_was_encoded():
    fence = record.Fence(1008, 512, 1024, CREATED_MS, epoch=7)
    data = fence.encode(SEED_AT_1024, 1024, 1008)
    assert len(data) == record.FENCE_BYTES
    assert record.fence_in(data + b"what follows", 1024, SEED_AT_1024) == fence
    assert record.fence_in(FENCE, 1024, SEED_AT_1024) == fence._replace(epoch=0)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(record.FENCE_BYTES), id="zeros"),
        pytest.param(FENCE[:-1], id="cut short"),
        pytest.param(FENCE[:-1] + b"\1", id="damaged"),
        pytest.param(record.encode(SEED_AT_1024, 1024, 0, 0, 17, 0, 0, FENCE[24:]), id="of another kind"),
        pytest.param(record.encode(SEED_AT_1024, 1024, 0, 0, record.FENCE, 0, 0, b""), id="too short"),
    ],
)
def test_what_is_no_fence_is_not_taken_for_one(data):
    assert record.fence_in(data, 1024, SEED_AT_1024) is None


def test_a_clock_comes_back_as_it_was_encoded():
    data = record.encode_clock(SEED_AT_1024, 1080, 1_700_000_000_123)
    assert record.clock_in(data, 1080, SEED_AT_1024) == 1_700_000_000_123
    assert record.clock_in(data, 1081, SEED_AT_1024) is None
    assert record.clock_in(FENCE, 1024, SEED_AT_1024) is None


def test_a_head_comes_back_as_it_was_encoded():
    assert record.head_in(record.encode_head(1 << 40)) == 1 << 40
