"""Records ⇄ messages: positions never repeat, and damage never passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq.delivery.records import RUN_MAX, encode_deliveries
from mq.nats import message
from mq.nats.message import HEAD, Damaged, begin_of, check, encode, head_of, place_of

SEED = 7
SEQUENCES = st.integers(1, 1 << 40)
PAYLOADS = st.one_of(  # long ones are seldom drawn by themselves
    st.binary(max_size=20), st.integers(0, 300).map(lambda size: bytes(at % 251 for at in range(size)))
)
DRAFTS = st.lists(
    st.tuples(st.integers(16, 255), st.integers(0, 255), st.integers(0, 65535), PAYLOADS),
    min_size=1, max_size=30,
)  # fmt: skip


def read(first: int, parts: list[bytes]) -> list[tuple[int, int, int, int, bytes]]:
    """Position, kind, flags, queue and payload of all records, as a process that follows finds them."""
    found, at = [], 0
    while at < len(parts):
        pieces, missing = [parts[at]], message.missing(parts[at])
        seq, at = first + at, at + 1
        while missing > 0:
            pieces.append(parts[at])
            missing -= len(parts[at]) - HEAD.size
            at += 1
        data = message.join(pieces)
        for position, label, length in zip(*message.outline(seq, data), strict=True):
            start = position - begin_of(seq)
            payload = data[start : start + length]
            found.append((position, label & 0xFF, label >> 8 & 0xFF, label >> 16, payload))
    return found


@given(DRAFTS, SEQUENCES, st.sampled_from([100, 200, 1000, message.MESSAGE_BYTES_MAX]))
def test_what_is_encoded_is_found_at_its_positions(
    drafts: list[message.Draft], first: int, most: int
) -> None:
    encoded = encode(drafts, most)
    parts = encoded.messages(SEED, (first - 1, 3), 5, 99)
    assert all(len(part) <= most for part in parts)
    assert [head_of(part).part for part in parts] == list(range(1, len(parts) + 1))
    positions = encoded.positions(first)
    assert read(first, parts) == [
        (position, *draft) for position, draft in zip(positions, drafts, strict=True)
    ]


@given(st.lists(DRAFTS, min_size=2, max_size=3), SEQUENCES, st.sampled_from([100, 1000]))
def test_positions_only_grow_and_never_repeat(
    groups: list[list[message.Draft]], first: int, most: int
) -> None:
    found: list[int] = []
    for drafts in groups:
        encoded = encode(drafts, most)
        found += encoded.positions(first)
        first += len(encoded.bodies)
        assert found[-1] < begin_of(first)
    assert found == sorted(set(found))
    assert found[-1] < 1 << 63


@given(st.lists(st.integers(1, RUN_MAX), min_size=1, max_size=20), SEQUENCES)
def test_receipts_of_one_record_are_never_those_of_another(counts: list[int], first: int) -> None:
    drafts = [(17, 0, 1, encode_deliveries(list(range(count)), 5)) for count in counts]
    positions = encode(drafts).positions(first)
    receipts = [at + n for at, count in zip(positions, counts, strict=True) for n in range(count)]
    assert len(set(receipts)) == len(receipts)
    assert {place_of(each)[0] for each in receipts} <= set(range(first, first + len(drafts)))


@given(DRAFTS, st.data())
def test_no_flipped_bit_passes(drafts: list[message.Draft], data: st.DataObject) -> None:
    (part,) = encode(drafts).messages(SEED, (1, 2), 5, 3)
    check(part, SEED)
    bit = data.draw(st.integers(0, 8 * len(part) - 1))
    flipped = bytearray(part)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        check(bytes(flipped), SEED)
    with pytest.raises(Damaged):
        check(part, SEED + 1)  # of another store


def test_no_two_groups_are_alike() -> None:
    one, other = (encode([(16, 0, 1, b"x")]).messages(SEED, (1, 2), writer, 3) for writer in (1, 2))
    assert one != other
