"""What messages take is known without reading their bodies; and what falls due is done in slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock, QuickDisk, open_on

import mq
from mq.delivery import due
from mq.delivery.now import Now
from mq.engine import sizes
from mq.storage import record, segment

BODY = 1 << 20
COUNT = 8


class ReadingDisk(QuickDisk):
    """Counts the bytes that are read, and how often."""

    bytes_read = 0
    reads = 0

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        data = super().pread(fd, size, offset)
        self.bytes_read += len(data)
        self.reads += 1
        return data


def big(
    tmp_path: Path, clock: FakeClock, disk: ReadingDisk, **options: Any
) -> tuple[mq.Broker, mq.Queue[Any]]:
    broker = open_on(
        disk, tmp_path / "s", sync="never", segment_bytes=3 * BODY, clock=clock, background=False
    )
    queue = broker.queue("big", **options)
    queue.publish_many([bytes([number]) * BODY for number in range(COUNT)], ttl=10)
    return broker, queue


def expire(broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock) -> None:
    clock.advance(11)
    broker.queue("neighbour").publish("comes by")
    assert queue.stats().expired == COUNT


def purge(broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock) -> None:
    broker._store.replica.state.named("big").deliver(queue.peek(1)[0].id, 1 << 40, 1 << 60, 0)
    broker._store.replica.log.reader._recent = (None, 0, b"")
    assert queue.purge() == COUNT - 1


def cancel(broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock) -> None:
    for id in list(broker._store.replica.state.named("big").delayed):
        assert queue.cancel(id)


def overflow(broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock) -> None:
    broker.queue("big", max_length=2, overflow="drop_oldest")
    queue.publish("small")
    assert broker._store.replica.state.named("big").totals.dropped == COUNT - 1


def time_out(broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock) -> None:
    state = broker._store.replica.state.named("big")
    for number, id in enumerate(list(state.delayed)):
        state.deliver(id, (1 << 40) + number, int(clock.now * 1000) + 1, 0)
    broker.queue("big", max_attempts=1)
    clock.advance(1)
    broker.queue("neighbour").publish("comes by")
    assert broker._store.replica.state.named("big.dead").total() == COUNT


def settle_by_receipt(broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock) -> None:
    """Those that were received by another process."""
    state, tag = broker._store.replica.state.named("big"), broker._store.tag
    receipts = []
    for number, id in enumerate(list(state.delayed)):
        receipt = (1 << 40) + number
        state.deliver(id, receipt, 1 << 60, 0)
        receipts.append(mq.Receipt(f"{state.number}-{id}-{receipt}-{tag}"))
    queue.ack_many(receipts[:3])
    broker.queue("big", max_attempts=1)
    queue.nack_many(receipts[3:])
    assert broker.queue("big.dead").replay() == COUNT - 3


@pytest.mark.parametrize(
    "do", [expire, purge, cancel, overflow, time_out, settle_by_receipt], ids=lambda each: each.__name__
)
def test_no_body_is_read_to_know_what_it_takes(
    tmp_path: Path, clock: FakeClock, do: Callable[[mq.Broker, mq.Queue[Any], FakeClock], None]
) -> None:
    """Not even of messages that are alone in their segment, or the last there."""
    disk = ReadingDisk()
    broker, queue = big(tmp_path, clock, disk)
    whole = queue.stats().bytes
    assert whole > COUNT * BODY
    if do is purge:
        queue.peek(1)
    disk.bytes_read = 0
    do(broker, queue, clock)
    assert disk.bytes_read < COUNT * 16 * 1024 + (BODY + 512 if do is purge else 0)
    broker._store.replica.state.named("big").advance(broker._store.clock.now())
    left = queue.stats().bytes
    expected = {"purge": whole // COUNT, "overflow": whole // COUNT + len("small")}.get(do.__name__, 0)
    expected = whole - 3 * (whole // COUNT) if do is settle_by_receipt else expected
    assert left == expected
    broker.close()


def test_a_message_that_has_moved_and_changed_has_the_size_that_it_had(
    tmp_path: Path, clock: FakeClock
) -> None:
    broker = open_on(
        QuickDisk(), tmp_path / "s", sync="never", segment_bytes=4096, clock=clock, background=False
    )
    queue = broker.queue("a", max_attempts=9)
    queue.publish("plain")
    queue.publish("headed", headers={"k": "v" * 300}, ttl=1000)
    queue.publish(b"x" * 9000, group="g")
    for _ in range(6):
        for delivery in queue.receive_many(9, timeout=0):
            delivery.nack(delay=0, reason="because " * 60)
    queue.receive(timeout=0).reject("hopeless")
    before = queue.stats().bytes, broker.queue("a.dead").stats().bytes
    broker._store.maintenance.compact()
    log, found = broker._store.replica.log, []
    for name in ("a", "a.dead"):
        state = broker._store.replica.state.named(name)
        for message in broker.queue(name).peek():
            position = state.position(message.id)
            assert position is not None
            assert position != message.id
            assert sizes._glance(log, position) == message._size
            found.append(message._size)
    assert sum(found) == sum(before)
    broker.close()


def rot(path: Path, lsn: int, at: int, data: bytes) -> None:
    """Write over the record at *lsn*, *at* bytes into it."""
    file = next(each for each in sorted((path / "log").glob("*.seg"), reverse=True) if int(each.stem) <= lsn)
    with file.open("r+b") as log:
        log.seek(segment.HEADER_BYTES + lsn - int(file.stem) + at)
        log.write(data)


ROTTEN = {
    "length, longer": (4, (9000).to_bytes(4, "little")),
    "length, shorter": (4, (7).to_bytes(4, "little")),
    "length, beyond the segment": (4, b"\xff\xff\xff\x7f"),
    "position": (8, b"\xff\xff\xff\xff"),
    "kind": (20, b"\x63"),
    "all": (0, bytes(record.HEADER_BYTES)),
}


@pytest.mark.parametrize("at, data", ROTTEN.values(), ids=ROTTEN)
def test_a_header_that_is_damaged_is_not_believed(
    tmp_path: Path, clock: FakeClock, at: int, data: bytes
) -> None:
    """And what is counted never falls below nothing."""
    broker = open_on(
        QuickDisk(), tmp_path / "s", sync="never", segment_bytes=1 << 16, clock=clock, background=False
    )
    queue = broker.queue("a")
    ids = [queue.publish(b"x" * 500, ttl=10) for _ in range(3)]
    size = (
        broker._store.replica.state.named("a").bytes // 3
    )  # without reading a header, which is kept for a while
    rot(tmp_path / "s", ids[1], at, data)
    assert sizes.size_of(broker._store.replica.log, ids[1]) == 0
    assert sizes.size_of(broker._store.replica.log, ids[0]) == size
    clock.advance(11)
    broker.queue("b").publish("comes by")
    stats = queue.stats()
    assert (stats.expired, stats.bytes) == (3, size)
    broker.close()


def test_a_body_that_is_damaged_still_has_its_size(tmp_path: Path, clock: FakeClock) -> None:
    broker = open_on(
        QuickDisk(), tmp_path / "s", sync="never", segment_bytes=1 << 16, clock=clock, background=False
    )
    queue = broker.queue("a")
    ids = [queue.publish(b"x" * 500, ttl=10) for _ in range(3)]
    rot(tmp_path / "s", ids[1], 100, b"y")
    clock.advance(11)
    broker.queue("b").publish("comes by")
    assert queue.stats().bytes == 0
    broker.close()


def test_a_header_that_was_read_before_its_record_was_written_is_read_again(tmp_path: Path) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker:
        queue = broker.queue("a")
        log, first = broker._store.replica.log, queue.publish("one")
        assert sizes._glance(log, first) == 3
        second = queue.publish("another")
        assert sizes._glance(log, second) == 7
        assert log.glance.head(second - 1, log.end) is None


def test_the_sizes_of_small_messages_in_a_row_are_read_a_block_at_a_time(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Also across segments, where the next one has the positions behind the last one's end."""
    disk = ReadingDisk()
    with open_on(disk, tmp_path / "s", segment_bytes=1 << 16, clock=clock, background=False) as broker:
        queue = broker.queue("a")
        ids = [queue.publish(bytes(100 + number % 7)) for number in range(2000)]
        log = broker._store.replica.log
        assert len(log.segments) > 3
        disk.reads = 0
        assert [sizes._glance(log, id) for id in ids] == [100 + number % 7 for number in range(2000)]
        assert disk.reads < 40  # 250,000 bytes


# ── slices ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("expired", ["drop", "dead_letter"])
@pytest.mark.parametrize("said", [{}, {"group": "g"}, {"priority": 7}], ids=["plain", "group", "priority"])
def test_what_has_expired_hides_nothing_and_is_done_a_slice_at_a_time(
    broker: mq.Broker, clock: FakeClock, expired: str, said: dict[str, Any]
) -> None:
    """receive(timeout=0) does one slice, and says None only if nothing is ready."""
    queue, neighbour = broker.queue("mail", expired=expired), broker.queue("neighbour")
    count = 3 * due.SLICE
    queue.publish_many(range(count), ttl=5, **said)
    last = queue.publish("last", ttl=1000, **said)
    clock.advance(6)
    delivery = queue.receive(timeout=0)
    assert delivery
    assert delivery.id == last
    done = queue.stats().expired
    assert 0 < done <= due.SLICE
    delivery.ack()
    assert queue.receive(timeout=0) is None
    assert done < queue.stats().expired <= 2 * due.SLICE
    done = queue.stats().expired
    neighbour.publish("comes by")
    assert done < queue.stats().expired <= done + due.SLICE
    assert (queue.receive_many(9, timeout=0), queue.peek(), queue.stats()[:3]) == ([], [], (0, 0, 0))
    for _ in range(4 * due.DEAD_LETTER_COST):
        neighbour.publish("comes by")
    stats = queue.stats()
    assert (stats.expired, stats.bytes) == (count, 0)
    assert broker.queue("mail.dead").stats().ready == (count if expired == "dead_letter" else 0)


def test_one_that_timed_out_and_has_expired_does_not_hold_its_group(
    broker: mq.Broker, clock: FakeClock
) -> None:
    """Though so many others have expired before it."""
    queue = broker.queue("mail", visibility_timeout=2)
    queue.publish_many(range(2 * due.SLICE), ttl=4, priority=1)
    queue.publish("first", group="g", ttl=5, priority=9)
    queue.publish("second", group="g")
    assert queue.receive(timeout=0).body == "first"
    clock.advance(6)
    delivery = queue.receive(timeout=0)
    assert delivery
    assert delivery.body == "second"


def test_the_turn_of_the_next_in_a_group_comes_when_the_first_has_expired(
    broker: mq.Broker, clock: FakeClock
) -> None:
    """Whether the first waits for a time, or was there alone when it came."""
    queue = broker.queue("mail")
    store = broker._store
    queue.publish("first", group="g", ttl=5, delay=100)
    queue.publish("second", group="g", ttl=6)
    queue.publish("third", group="g")
    assert queue.receive(timeout=0) is None
    for seconds, body in ((5.5, "second"), (1, "third")):
        clock.advance(seconds)
        state = store.replica.state.named("mail")
        head = state.head(store.clock.now())
        assert head is not None
        assert queue.get(head).body == body
        assert state.heads(store.clock.now(), 9) == [head]
    clock.advance(-3)  # and back: the first is there again, and is not to come yet
    assert queue.receive(timeout=0) is None


def test_on_a_slow_disk_a_slice_ends_earlier(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("mail")
    queue.publish_many(range(10), ttl=5)
    clock.advance(6)
    store = broker._store
    now: Now = store.clock.now()
    asked: list[int] = []
    work = due.next_work(
        store.replica.state, now,
        lambda queue, id: asked.append(id) or 0,  # type: ignore[func-returns-value]
        lambda queue, id: None, lambda queue, id: None, lambda: len(asked) >= 3, store.committer._put_off,
    )  # fmt: skip
    assert work
    assert len(asked) == 3
    assert len(work[1].drafts[0][3]) == 3 * 12


def test_entries_that_are_out_of_date_are_passed_over_a_few_at_a_time(
    broker: mq.Broker, clock: FakeClock
) -> None:
    queue = broker.queue("mail")
    queue.publish_many(range(5000), ttl=5)
    while taken := queue.receive_many(500, timeout=0):
        queue.ack_many(taken)
    clock.advance(6)
    state, now = broker._store.replica.state.named("mail"), broker._store.clock.now()
    before = len(state.timers.expiries.agenda)
    assert before > 4 * 10
    assert state.due_to_go(now, 10) == ([], [])
    assert before - len(state.timers.expiries.agenda) <= 4 * 10
    while broker._store.replica.state.board.next <= now.store:
        broker.queue("neighbour").publish("comes by")
    assert len(state.timers.expiries.agenda) == 0
