"""The log: where records go, when a segment ends, what a record claims, what a group may hold."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import pytest
from faults import Faulty, Image, short_writes
from logfiles import IDENTITY
from opened import NOW, bodies, open_on

from mq.errors import Closed, StoreFailed, UsageError
from mq.storage import record, shared
from mq.storage.log import Log
from mq.storage.record import FENCE_BYTES
from mq.storage.recovery import Verdict
from mq.storage.segment import HEADER_BYTES

KIND = 17
MS = 1_700_000_000_000
DAYS_49_7_MS = 0xFFFF_FFFF


def new_log(disk=None, segment_bytes=1024):
    disk = disk or Image()
    mark = memoryview(bytearray(4096)).cast("Q")
    log = Log(disk, "log", IDENTITY, mark, [], 0, segment_bytes)
    log.rotation.begin_segment(MS, 0, 0, void_from=0)
    log.closing.said_open, log.room = True, log.allocated  # as after the first append
    return log, disk


def raw(disk, log, lsn, size):
    """Bytes as they stand in the file of the segment that holds *lsn*."""
    each = next(each for each in reversed(log.segments) if each.base <= lsn)
    offset = each.offset(lsn)
    return disk.files()[f"log/{each.name}"][offset : offset + size]


# ── one record, one group ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, 7, 500])
def test_append_writes_what_the_codec_says(size):
    """It is written flat, for speed; these are the same bytes."""
    log, disk = new_log()
    log.sync(log.end)
    synced = log.end
    first = log.append(MS + 5, KIND, 0x10, 3, b"x")
    lsn = log.append(MS + 9, KIND, 0x20, 65_535, b"y" * size)
    assert (first, lsn, log.end) == (synced, synced + 25, synced + 25 + 24 + size)
    seed = log.segments[0].seed
    expected = record.encode(seed, lsn, synced, 9, KIND, 0x20, 65_535, b"y" * size)
    assert raw(disk, log, lsn, 24 + size) == expected


def test_a_group_is_chained_by_its_flags_and_claims_no_more_than_one_record():
    log, disk = new_log()
    lsns = log.append_group(MS, [(KIND, 0x10, 1, b"a"), (KIND, 0, 1, b"bb"), (KIND, 0, 1, b"")])
    assert [b - a for a, b in pairwise(lsns)] == [25, 26]
    flags = [record.HEADER.unpack(raw(disk, log, lsn, 24))[6] for lsn in lsns]
    assert flags == [0x11, 0x01, 0x00]


def test_what_is_appended_is_read_back():
    log, _ = new_log()
    lsns = [log.append(MS + n, KIND, 0x10, n, b"%d" % n * n * 20) for n in range(30)]
    assert len(log.segments) > 4  # more than there are descriptors for
    for n, lsn in enumerate(lsns):
        stored = log.read(lsn)
        assert (stored.queue, stored.time_ms, stored.payload) == (n, MS + n, b"%d" % n * n * 20)


@pytest.mark.parametrize("most", [1, 7, 23, 24, 25])
def test_short_writes_are_carried_on(most):
    disk = Image()
    faulty = Faulty(disk, short_writes(disk, most))
    with open_on(faulty) as broker:
        queue = broker.queue("a")
        queue.publish(b"alone")
        queue.publish_many([b"to", b"ge", b"ther"])
        for n in range(3):
            queue.publish(b"%d" % n * 300)  # into a new segment
    with open_on(disk) as broker:
        assert broker._store.replica.verdict is Verdict.CLEAN
        assert bodies(broker) == [b"alone", b"to", b"ge", b"ther", b"0" * 300, b"1" * 300, b"2" * 300]


# ── rotation ───────────────────────────────────────────────────────────────────────


def test_the_next_base_is_base_plus_capacity_and_its_fence_says_where_the_last_one_ended():
    log, disk = new_log()
    while len(log.segments) < 2:
        end = log.end
        log.append(MS, KIND, 0, 1, bytes(200))
    first, second = log.segments
    assert (first.capacity, second.base, second.number) == (1024, 1024, 1)
    fence = raw(disk, log, second.base, FENCE_BYTES)
    assert fence[20] == record.FENCE
    assert record.FENCE_PAYLOAD.unpack_from(fence, 24) == (end, 0, 1024, MS)


def test_a_record_that_just_fits_does_not_rotate_and_one_byte_more_does():
    for extra, segments in ((0, 1), (1, 2)):
        log, _ = new_log()
        log.append(MS, KIND, 0, 1, bytes(1024 - log.end - 24 + extra))
        assert len(log.segments) == segments


def test_a_group_larger_than_a_segment_gets_one_of_its_size():
    """A group never spans segments; positions go on behind it as ever."""
    disk = Image()
    big = [b"%d" % n * 900 for n in range(5)]
    with open_on(disk) as broker:
        queue = broker.queue("a")
        queue.publish(b"before")
        ids = queue.publish_many(big)
        after = queue.publish(b"after")
        segments = broker._store.replica.log.segments
        holding = next(each for each in segments if each.base <= ids[0] < each.limit)
        assert holding.base <= ids[-1] < holding.limit
        assert holding.capacity == FENCE_BYTES + sum(24 + len(body) for body in big) > 1024
        assert holding.limit == segments[-1].base < after
    with open_on(disk) as broker:
        assert bodies(broker) == [b"before", *big, b"after"]


def test_a_group_over_the_limit_is_refused_before_anything_is_written(monkeypatch):
    monkeypatch.setattr(record, "GROUP_BYTES_MAX", 1000)
    disk = Image()
    with open_on(disk) as broker:
        queue = broker.queue("a")
        queue.publish(b"before")
        end = broker._store.replica.log.end
        with pytest.raises(UsageError, match="1000 is the most: publish in smaller batches"):
            queue.publish_many([bytes(400), bytes(400), bytes(129)])
        assert broker._store.replica.log.end == end
        queue.publish_many([bytes(400), bytes(400), bytes(128)])
        assert queue.stats().ready == 4


def test_a_segment_takes_no_record_that_its_clock_cannot_tell():
    """P9: `time` is 32 bits of milliseconds: after 49.7 days the log goes on in a new segment."""
    disk = Image()
    with open_on(disk) as broker:
        broker.queue("a").publish(b"first")
    last = NOW + DAYS_49_7_MS / 1000
    with open_on(disk, now=last) as broker:
        broker.queue("a").publish(b"just in time")
        assert len(broker._store.replica.log.segments) == 1
    with open_on(disk, now=last + 1) as broker:
        broker.queue("a").publish(b"too late")
        assert len(broker._store.replica.log.segments) == 2
        created = [message.created_at.timestamp() for message in broker.queue("a").peek()]
        assert created == pytest.approx([NOW, last, last + 1], abs=0.001)
    with open_on(disk, now=NOW) as broker:  # the wall clock goes back, and store time does not
        assert bodies(broker) == [b"first", b"just in time", b"too late"]
        id = broker.queue("a").publish(b"yesterday")
        assert broker.queue("a").get(id).created_at.timestamp() == NOW
        assert broker._store.clock.store_ms() >= (last + 1) * 1000


def test_preallocated_zeros_behind_the_end_are_written_over():
    disk = Image(preallocates=True)
    for n in range(6):
        with open_on(disk) as broker:
            assert broker._store.replica.verdict is (Verdict.CLEAN if n else Verdict.OPEN)
            broker.queue("a").publish(b"%d" % n * 100)
    for path, data in disk.files().items():
        assert "/log/" not in path or len(data) == HEADER_BYTES + 1024
    with open_on(disk) as broker:
        assert bodies(broker) == [b"%d" % n * 100 for n in range(6)]


# ── what is claimed ────────────────────────────────────────────────────────────────


def lag_at(disk, log, lsn):
    return record.HEADER.unpack(raw(disk, log, lsn, 24))[3]


def test_a_record_claims_what_was_synced_when_it_was_written():
    log, disk = new_log()
    first = log.append(MS, KIND, 0, 1, b"a")
    log.sync(log.end)
    second = log.append(MS, KIND, 0, 1, b"b")
    third = log.append(MS, KIND, 0, 1, b"c")
    claimed = [lsn - lag_at(disk, log, lsn) for lsn in (first, second, third)]
    assert claimed == [0, second, second]
    assert log.mark[shared.SYNCED] == second


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("behind", [0xFFFF_FFFE, 0xFFFF_FFFF, 1 << 33])
def test_a_lag_over_four_gib_claims_nothing(behind, grouped):
    log, disk = new_log()
    base = 1 << 34
    log.rotation.begin_segment(MS, base, 0, void_from=log.end)
    log.mark[shared.SYNCED] = log.end - behind
    append = log.append_group if grouped else lambda ms, drafts: [log.append(ms, *drafts[0])]
    (lsn,) = append(MS, [(KIND, 0, 1, b"a")])
    assert lag_at(disk, log, lsn) == min(behind, 0xFFFF_FFFF)


def test_a_sync_covers_every_segment_since_the_last_one():
    """The target spans rotations; each file is synced, oldest first."""
    disk = Image()
    faulty = Faulty(disk)
    log, _ = new_log(faulty)
    log.sync(log.end)
    for _ in range(12):
        log.append(MS, KIND, 0, 1, bytes(300))
    assert len(log.segments) > 3
    log.sync(log.end)
    for path, data in disk.synced_files().items():
        assert data == disk.files()[path]
    assert log.mark[shared.SYNCED] == log.end


def test_a_mark_that_is_shared_names_the_end_after_each_append():
    log, _ = new_log()
    for n in range(20):
        log.append(MS, KIND, 0, 1, bytes(n * 20))
        assert (log.mark[shared.END], log.mark[shared.DIRTY]) == (log.end, 0)


def test_a_descriptor_is_closed_when_no_sync_can_have_it():
    """Neither one that is at it, nor one that begins meanwhile: its number may name another file by then."""

    class Watching(Image):
        log: Log | None = None
        syncing: int = -1
        closed: ClassVar[list[int]] = []

        def sync(self, fd):
            if self.log and fd == self.log.fd and self.syncing < 0:
                self.syncing = fd
                self.log.append(MS, KIND, 0, 1, bytes(800))  # the rotation comes during the sync
                self.syncing = -1
            super().sync(fd)

        def close(self, fd):
            if self.log:
                assert fd not in (self.log.fd, self.syncing)
                self.closed.append(fd)
            super().close(fd)

    log, disk = new_log(Watching())
    disk.log = log
    for _ in range(4):
        log.append(MS, KIND, 0, 1, bytes(800))
        log.sync(log.end)
    assert len(disk.closed) >= 4 and log.synced > 0


# ── what is asked of every log ─────────────────────────────────────────────────────


def test_the_barrier_is_the_end_as_of_now_whichever_process_appended():
    log, _ = new_log()
    log.append(MS, KIND, 0, 1, b"x")
    assert log.barrier() == log.end
    log.mark[shared.END] += 100  # what another process would say
    assert log.barrier() == log.end + 100


def test_trim_gives_back_whole_segments_that_end_before_a_position_and_never_the_last():
    log, disk = new_log()
    while len(log.segments) < 4:
        log.append(MS, KIND, 0, 1, b"x" * 400)
    bases = [each.base for each in log.segments]
    assert log.trim(bases[1] - 1) == 0
    assert [each.base for each in log.segments] == bases
    assert log.trim(bases[2] + 10) > 2 * 800
    assert [each.base for each in log.segments] == bases[2:] and log.head == bases[2]
    assert sorted(disk.names("log")) == [f"{base:020}.seg" for base in bases[2:]]
    log.trim(log.end)
    assert [each.base for each in log.segments] == bases[3:]


def test_a_log_that_was_closed_has_let_go_of_its_files():
    log, _ = new_log()
    lsn = log.append(MS, KIND, 0, 1, b"x")
    log.close()
    assert log.fd == -1
    with pytest.raises(Closed):
        log.read(lsn)
    with pytest.raises(StoreFailed):
        log.sync(log.end)
