"""P11: what is held of a log while it is read, however long a record or a group in it is."""

from __future__ import annotations

import errno
import random
import tracemalloc
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from crc32c import crc32c
from faults import Image
from logfiles import (
    ALL,
    IDENTITY,
    File,
    Part,
    closed,
    cut,
    entry,
    flip,
    items_of,
    publish,
    segment,
    zeros,
)
from opened import contents, open_on
from test_sharing import Shared, two

from mq.errors import StorageError
from mq.storage import far, following, look, record, walk
from mq.storage import segment as segments
from mq.storage.far import Far, read_far
from mq.storage.log import Log
from mq.storage.recovery import survey
from mq.storage.segment import Scan

WHOLE = 1 << 30  # as a size of blocks: all is held


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long record is one of 200 bytes."""
    monkeypatch.setattr(segments, "BLOCK_BYTES", 200)
    monkeypatch.setattr(segments, "GROUP_BYTES_HELD", 300)
    monkeypatch.setattr(walk, "BLOCK_BYTES", 200)
    monkeypatch.setattr(following, "FOLLOW_BYTES", 200)
    monkeypatch.setattr(far, "PIECE_BYTES", 64)
    monkeypatch.setattr(far, "EDGE_BYTES", 48)


# ── a long record ──────────────────────────────────────────────────────────────────────


def one_record(payload: bytes) -> tuple[Image, int, int, int]:
    """A disk with it, the descriptor, its offset and its seed."""
    file = segment(publish(payload), capacity=1 << 20)
    disk = Image({"f": file.data})
    return disk, disk.open("f"), file.segment.offset(file.starts[0]), file.segment.seed


@pytest.mark.parametrize("size", [0, 1, 47, 48, 49, 63, 64, 65, 100, 128, 1000])
def test_a_long_payload_is_sliced_as_bytes_are(small, size):
    payload = bytes(n * 7 % 251 for n in range(size))
    found = read_far(*one_record(payload))
    assert found is not None
    assert len(found) == size and found[:] == payload
    for start in range(0, size, 13):
        for stop in range(start, size + 20, 17):
            assert found[start:stop] == payload[start:stop]
    assert found[-4:] == payload[-4:]


def test_the_edges_of_a_long_payload_are_not_read_again(small):
    disk, fd, offset, seed = one_record(bytes(range(200)))
    found = read_far(disk, fd, offset, seed)
    assert found is not None
    disk.close(fd)
    assert found[:40] == bytes(range(40))
    assert found[160:] == bytes(range(160, 200))
    with pytest.raises(OSError):
        _ = found[40:160]


@pytest.mark.parametrize("at", range(0, 224, 5))
def test_a_long_record_with_a_flipped_bit_does_not_pass(small, at):
    disk, fd, offset, seed = one_record(bytes(200))
    data = disk.pread(fd, 1, offset + at)
    disk.pwrite(fd, bytes([data[0] ^ 4]), offset + at)
    assert read_far(disk, fd, offset, seed) is None


def test_a_long_record_that_is_cut_off_does_not_pass(small):
    disk, fd, offset, seed = one_record(bytes(200))
    for size in range(0, 224, 7):
        cut_off = Image({"f": disk.pread(fd, offset + size, 0)})
        assert read_far(cut_off, cut_off.open("f"), offset, seed) is None


def test_the_middle_of_a_long_payload_is_checked_when_it_is_read_again(small):
    disk, fd, offset, seed = one_record(bytes(200))
    found = read_far(disk, fd, offset, seed)
    assert found is not None
    disk.pwrite(fd, b"x", offset + 24 + 100)
    with pytest.raises(OSError) as raised:
        _ = found[50:150]
    assert raised.value.errno == errno.EIO


# ── the scanner ────────────────────────────────────────────────────────────────────────


NONE = -(1 << 33)  # so far back that it is not said
SHAPES = [(17, 10), (17, 150), (17, 176), (17, 177), (17, 900), (20, 300), (record.CLOSED, 0)]  # kind, size


class Found(NamedTuple):
    events: list[tuple[Any, ...]]
    facts: tuple[Any, ...]


def scanned(file: File, stop: int) -> Found:
    disk = Image({"f": file.data})
    scan = Scan(disk, disk.open("f"), file.segment, file.segment.base, stop, "f")
    events = [
        (*rest, bytes(buffer[start:end])) for each in scan.batches() for *rest, buffer, start, end in each
    ]
    return Found(events, (scan.end, scan.bad, scan.synced, scan.last_ms, scan.head, scan.closed))


def some_log(chance: random.Random, base: int = 0) -> tuple[File, int]:
    """Records and groups of all sizes, perhaps damaged somewhere; and where reading stops."""
    parts: list[Part] = []
    for _ in range(chance.randrange(1, 6)):
        count = chance.choice([1, 1, 1, 2, 5, 20])
        for n in range(count):
            flags = record.CONTINUES if n < count - 1 else 0
            claims, ms = chance.choice([ALL, NONE]), chance.randrange(1000)
            kind, size = chance.choice(SHAPES)
            if kind == record.CLOSED and chance.random() < 0.5:
                part = entry(record.HEAD, record.HEAD_PAYLOAD.pack(0), flags=flags, ms=ms, claims=claims)
            else:
                part = entry(kind, chance.randbytes(size), flags=flags, ms=ms, claims=claims)
            if chance.random() < 0.03:
                part = flip(part, chance.randrange(24 + size))
            if chance.random() < 0.01:
                part = cut(chance.randrange(24 + size), part)
            parts.append(part)
    file = segment(*parts, zeros(chance.choice([0, 10, 500])), base=base, capacity=1 << 20)
    return file, chance.choice([1 << 64, chance.choice(file.starts), file.end])


@pytest.mark.parametrize("seed", range(300))
def test_what_is_found_does_not_depend_on_what_is_held(small, monkeypatch, seed):
    file, stop = some_log(random.Random(seed))
    found = scanned(file, stop)
    monkeypatch.setattr(segments, "BLOCK_BYTES", WHOLE)
    monkeypatch.setattr(segments, "GROUP_BYTES_HELD", WHOLE)
    assert found == scanned(file, stop)


def plainly(file: File, stop: int) -> Found:
    """The same, as FORMAT.md says it: one record after the other, all of them held."""
    lsn = end = file.segment.base
    synced = last_ms = head = 0
    closed, found, group = False, [], []
    stop = min(stop, end + len(file.data) - segments.HEADER_BYTES)
    while lsn + 24 <= stop:
        at = lsn - file.segment.base + segments.HEADER_BYTES
        crc, length, low, lag, ms, kind, flags, queue = record.HEADER.unpack_from(file.data, at)
        covered = file.data[at + 4 : at + 24 + length]
        if lsn + 24 + length > stop or low != lsn % (1 << 32) or crc32c(covered, file.segment.seed) != crc:
            break
        if lag != record.CLAIMS_NOTHING:
            synced = max(synced, lsn - lag)
        last_ms, closed = ms, kind == record.CLOSED and not flags & record.CONTINUES
        group.append((lsn, kind, flags, queue, ms, covered[20:]))
        lsn += 24 + length
        if not flags & record.CONTINUES:
            heads = [record.HEAD_PAYLOAD.unpack(each[-1])[0] for each in group if each[1] == record.HEAD]
            head = max(head, *heads, 0)
            found += [each for each in group if each[1] >= record.FIRST_EVENT]
            end, group = lsn, []
    return Found(found, (end, lsn, synced, last_ms, head, closed))


@pytest.mark.parametrize("block_bytes", [200, WHOLE])
@pytest.mark.parametrize("base", [0, (1 << 32) - 900, 7 << 32], ids=["the first", "4 GiB", "a later one"])
def test_what_is_found_in_blocks_is_what_stands_there(small, monkeypatch, base, block_bytes):
    monkeypatch.setattr(segments, "BLOCK_BYTES", block_bytes)
    for seed in range(200):
        file, stop = some_log(random.Random(seed), base)
        assert scanned(file, stop) == plainly(file, stop)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([publish(bytes(1 << 20))], id="a long record"),
        pytest.param([publish(bytes(10_000), more=n < 99) for n in range(100)], id="a long group"),
        pytest.param([publish(bytes(10_000), more=True) for _ in range(100)], id="a long group, unfinished"),
        pytest.param([publish(bytes(300_000), more=n < 3) for n in range(4)], id="a group of long records"),
        pytest.param([publish(b"", more=n < 20_000) for n in range(20_001)], id="a group of many"),
    ],
)  # fmt: skip
def test_what_is_held_while_a_log_is_scanned_is_bounded(monkeypatch, parts):
    monkeypatch.setattr(segments, "BLOCK_BYTES", 16 << 10)
    monkeypatch.setattr(segments, "GROUP_BYTES_HELD", 32 << 10)
    monkeypatch.setattr(far, "PIECE_BYTES", 16 << 10)
    monkeypatch.setattr(far, "EDGE_BYTES", 4 << 10)
    file = segment(*parts, publish(b"last"), capacity=4 << 20)
    disk = Image({"f": file.data})
    scan = Scan(disk, disk.open("f"), file.segment, 0, file.end, "f")
    tracemalloc.start()
    try:
        deque(scan, maxlen=0)
        assert tracemalloc.get_traced_memory()[1] < 900_000
    finally:
        tracemalloc.stop()
    assert scan.bad == file.end


# ── what cannot be read a second time ──────────────────────────────────────────────────


class Flaky(Image):
    """Reads the byte at *offset* wrong for so many times."""

    offset = wrong = 0

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        data = super().pread(fd, size, offset)
        at = self.offset - offset
        if self.wrong and 0 <= at < len(data):
            self.wrong -= 1
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data


def long_group() -> tuple[File, Flaky]:
    """A group, a part of which will have changed when it is read for the second time."""
    file = segment(*[publish(b"%d" % n * 40, more=n < 19) for n in range(20)], closed(), capacity=1 << 20)
    disk = Flaky({f"log/{file.name}": file.data})
    disk.offset = file.segment.offset(file.starts[12]) + 30
    return file, disk


def test_a_group_that_changes_while_it_is_read_is_not_taken_for_its_part(small):
    _, disk = long_group()
    applied = 0

    def apply(events: Iterable[Any]) -> None:
        nonlocal applied
        for _ in events:
            disk.wrong, applied = 9, applied + 1

    with pytest.raises(StorageError, match="changed while it was read"):
        survey(disk, "log", IDENTITY, 0, apply, 17)
    assert 0 < applied < 20


def test_a_follower_goes_on_inside_a_group_that_was_just_written_again(small):
    file, disk = long_group()
    mark = memoryview(bytearray(4096)).cast("Q")
    log = Log(disk, "log", IDENTITY, mark, [file.segment], file.starts[0], 1024)
    followed = []
    for stretch in log.follow(file.starts[21]):
        if not followed:
            disk.wrong = 1
        followed += [(lsn, buffer[at:end]) for lsn, *_, buffer, at, end in stretch.events()]
    assert followed == [(lsn, b"%d" % n * 40) for n, lsn in enumerate(file.starts[:20])]
    assert log.end == file.end
    assert disk.wrong == 0


# ── what the layers above make of it ───────────────────────────────────────────────────


@pytest.mark.parametrize("edge", [16, 48, 400])
def test_a_long_message_is_all_that_it_was_in_another_process_and_after_it_was_moved(
    small, monkeypatch, edge
):
    monkeypatch.setattr(far, "EDGE_BYTES", edge)
    disk = Shared()
    one, other = two(disk, segment_bytes=4096)
    queue = one.queue("a", max_attempts=1)
    queue.publish(b"plain" * 100)
    queue.publish(b"said" * 100, priority=7, headers={"name": "x" * 100}, group="g")
    queue.publish_many([b"in a batch, %d" % n * 30 for n in range(9)], priority=1)
    first = queue.receive(timeout=0)
    first.reject("because of this")
    seen = contents(one)
    assert len(seen) == 12
    assert contents(other) == seen
    for _ in range(2):
        one.queue("b").publish_many([bytes(300)] * 9)
        one.queue("b").purge()
        one._store.maintenance.cleaning.clean()
    assert one._store.replica.log.head > 0
    assert contents(one) == contents(other) == seen
    moved = one.queue("a.dead").peek()[0]
    for broker in (other, open_on(disk, segment_bytes=4096)):
        again = broker.queue("a.dead").peek()[0]
        assert (again.headers, again.priority, again.failures) == (
            moved.headers, moved.priority, moved.failures,
        )  # fmt: skip
        assert contents(broker) == seen


def test_a_walk_holds_no_long_record_and_gives_its_payload_all_the_same(small):
    disk = Shared()
    one, _ = two(disk, segment_bytes=4096)
    one.queue("a").publish(bytes(range(250)) * 2)
    one.queue("a").publish(b"short")
    walked = walk.walk(disk, "s", 17)
    assert not walked.problem
    items = [item for file in walked.files for item in items_of(walked, file)]
    assert sum(isinstance(item, look.Found) and isinstance(item.content, Far) for item in items) == 1
    for file in walked.files:
        for item in items_of(walked, file):
            assert isinstance(item, look.Found)
            if item.size == 24 + 500:
                assert item.payload == bytes(range(250)) * 2
