"""A message whose body is damaged costs itself; its queue, its batch and the cleaner go on (P10)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fakes import FakeClock

import mq
from mq.api.broker import Broker
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.engine.compacting import garbage_upto
from mq.engine.store import Store
from mq.storage.real_disk import RealDisk
from mq.storage.repair import repair
from mq.storage.segment import HEADER_BYTES


def damage(path: Path, id: int) -> None:
    """Flip a bit in the body of the message, whose first segment is still there."""
    segment = max(
        (each for each in (path / "log").iterdir() if int(each.stem) <= id), key=lambda each: each.stem
    )
    at = id - int(segment.stem) + HEADER_BYTES + 24
    with segment.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def broker(tmp_path: Path, clock: FakeClock) -> Broker:
    """Three messages in `a`, the first one damaged."""
    with mq.open(tmp_path, clock=clock) as broker:
        ids = broker.queue("a").publish_many(["one", "two", "three"])
        damage(tmp_path, ids[0])
        yield broker


def test_receive_names_it_once_and_goes_on_with_the_others(broker: Broker, clock: FakeClock) -> None:
    queue = broker.queue("a")
    first = broker._store.replica.state.named("a").waiting.head
    with pytest.raises(mq.CorruptStore, match="mq repair") as caught:
        queue.receive(timeout=0)
    assert caught.value.ids == (first,)
    assert [queue.receive(timeout=0).body for _ in range(2)] == ["two", "three"]
    assert queue.receive(timeout=0) is None
    assert queue.stats().failed == 1


def test_it_backs_off_like_any_failure(broker: Broker, clock: FakeClock) -> None:
    queue = broker.queue("a")
    waits = []
    for _ in range(4):
        with pytest.raises(mq.CorruptStore):
            queue.receive(timeout=0)
        (message,) = broker._store.replica.state.named("a").delayed.values()
        waits.append(message.backoff_until / 1000 - clock.now)
        clock.advance(waits[-1] + 0.001)
    assert waits == sorted(waits)
    assert waits[-1] > 4


def test_a_batch_leaves_it_out_and_logs_it(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    queue = broker.queue("a")
    assert [each.body for each in queue.receive_many(10, timeout=0)] == ["two", "three"]
    assert len(caplog.records) == 1
    assert "cannot be delivered" in caplog.records[0].getMessage()
    assert queue.receive_many(10, timeout=0) == []


def test_a_batch_of_nothing_else_raises(broker: Broker) -> None:
    with pytest.raises(mq.CorruptStore):
        broker.queue("a").receive_many(1, timeout=0)


@pytest.fixture
def grouped(tmp_path: Path) -> Broker:
    """`a` to `d` in one group, `b` damaged, and two in another."""
    with mq.open(tmp_path) as broker:
        queue = broker.queue("q")
        ids = queue.publish_many(["a", "b", "c", "d"], group="g")
        queue.publish_many(["x", "y"], group="h")
        damage(tmp_path, ids[1])
        yield broker


def test_those_behind_it_in_a_batch_of_its_group_go_back(grouped: Broker) -> None:
    """Else they would be done before it."""
    queue = grouped.queue("q")
    taken = queue.receive_many(10, timeout=0, per_group=None)
    assert [each.body for each in taken] == ["a", "x", "y"]
    assert queue.stats()[:3] == (2, 3, 1)
    queue.ack_many(taken)
    assert not queue.receive_many(10, timeout=0, per_group=None)


def test_those_behind_it_wait_if_they_would_arrive_settled(grouped: Broker) -> None:
    queue = grouped.queue("q", delivery="at_most_once")
    taken = queue.receive_many(10, timeout=0, per_group=None)
    assert [each.body for each in taken] == ["a", "x", "y"]
    assert queue.stats()[:3] == (2, 0, 1)


def test_who_looks_is_told_and_the_counts_are_there(broker: Broker) -> None:
    """P7."""
    queue = broker.queue("a")
    assert queue.stats().ready == 3
    id = broker._store.replica.state.named("a").waiting.head
    for look in (queue.peek, lambda: queue.get(id)):
        with pytest.raises(mq.CorruptStore) as caught:
            look()
        assert caught.value.ids == (id,)


def test_it_can_be_purged(broker: Broker) -> None:
    assert broker.queue("a").purge() == 3
    assert broker.queue("a").stats().ready == 0


def test_the_cleaner_stops_and_says_what_to_do_and_after_a_repair_it_cleans_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def open_store() -> Broker:
        return Broker(
            Store(
                str(tmp_path), sync="never", read_only=False, segment_bytes=4096, clock=None, background=False
            )
        )

    def churn(broker: Broker) -> None:
        queue = broker.queue("busy")
        for _ in range(50):
            queue.publish(b"x" * 500)
            queue.receive(timeout=0).ack()

    broker = open_store()
    stuck = [broker.queue("stuck").publish(f"stuck {number}") for number in range(3)]
    damage(tmp_path, stuck[1])
    churn(broker)
    maintenance = broker._store.maintenance
    maintenance.run()
    with pytest.raises(mq.CorruptStore):
        broker.queue("stuck").get(stuck[1])
    segments = len(broker._store.replica.log.segments)
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "space is not given back" in line
    assert "mq verify" in line and "mq repair" in line
    churn(broker)  # publishing goes on, and no line is logged again
    maintenance.run()
    assert len(caplog.records) == 1
    assert len(broker._store.replica.log.segments) > segments
    broker.close()

    (loss,) = repair(RealDisk(), str(tmp_path), records.NEW, records.message_of, refusals)
    assert loss.ids == (stuck[1],)
    broker = open_store()
    broker._store.maintenance.run()
    assert len(broker._store.replica.log.segments) < 5
    assert [each.body for each in broker.queue("stuck").peek()] == ["stuck 0", "stuck 2"]
    broker.close()


def test_a_message_that_has_moved_is_named_by_its_id(tmp_path: Path) -> None:
    with mq.open(tmp_path, segment_bytes=4096) as broker:
        queue = broker.queue("a")
        id = queue.publish("moves")
        queue.publish("goes")
        queue.receive_many(2, timeout=0)[1].ack()
        broker._store.maintenance.compact()
        position = broker._store.replica.state.named("a").position(id)
        assert position != id
        damage(tmp_path, position + 40)
        with pytest.raises(mq.CorruptStore, match=f"message {id} ") as caught:
            queue.get(id)
        assert caught.value.ids == (id,)


# ── compaction that somebody asks for ──────────────────────────────────────────────


def test_compact_leaves_what_lives_and_nothing_else(tmp_path: Path, clock: FakeClock) -> None:
    with mq.open(tmp_path, segment_bytes=1 << 16, clock=clock) as broker:
        queue = broker.queue("a", visibility_timeout=600)
        ids = queue.publish_many([b"%d" % number * 100 for number in range(1500)])
        queue.ack_many(queue.receive_many(1400, timeout=0))
        held = queue.receive(timeout=0)
        queue.receive(timeout=0).nack(delay=60)
        seen: list[tuple[int, int]] = []
        broker._store.maintenance.compact(lambda done, total: seen.append((done, total)))
        log = broker._store.replica.log
        live = sum(len(each.raw) + 61 for each in queue.peek(1000)) + 2 * 465
        assert log.end - log.head < live + log.segment_bytes
        assert seen[0][0] == 0
        assert seen[-1][0] == seen[-1][1]
        assert seen == sorted(seen)
        assert [each.id for each in queue.peek(1000)] == ids[1402:]
        held.ack()
        head = log.head
    with mq.open(tmp_path, segment_bytes=1 << 16, clock=clock) as broker:
        assert [each.id for each in broker.queue("a").peek(1000)] == ids[1402:]
        assert [each.attempts for each in broker.queue("a").peek(state="delayed")] == [1]
        assert broker._store.replica.log.head >= head


def test_compact_moves_nothing_where_there_is_no_garbage(tmp_path: Path) -> None:
    with mq.open(tmp_path, segment_bytes=1 << 16) as broker:
        broker.queue("a").publish_many([b"%d" % number * 100 for number in range(1500)])
        before = broker._store.replica.log.end
        broker._store.maintenance.compact()
        assert broker._store.replica.log.end == before
        assert garbage_upto(broker._store.replica) == broker._store.replica.log.head


def test_where_messages_have_died_or_come_back_there_is_garbage_until_it_is_compacted(tmp_path: Path) -> None:
    """They live where they were published; what moved them goes, once they say themselves where they are."""
    with mq.open(tmp_path, segment_bytes=1 << 16) as broker:
        queue, maintenance = broker.queue("a", max_attempts=1), broker._store.maintenance
        ids = queue.publish_many([b"%d" % number * 20 for number in range(100)])
        maintenance.compact()
        assert garbage_upto(broker._store.replica) == broker._store.replica.log.head
        queue.nack_many(queue.receive_many(100))
        assert garbage_upto(broker._store.replica) == broker._store.replica.log.segments[-1].limit
        broker.queue("a.dead").replay(ids[:50])
        for _ in range(2):
            maintenance.compact()
            assert garbage_upto(broker._store.replica) == broker._store.replica.log.head
        assert [each.id for each in queue.peek(100)] == ids[:50]
        assert [each.id for each in broker.queue("a.dead").peek(100)] == ids[50:]


def test_compact_after_compact_finds_nothing(tmp_path: Path) -> None:
    with mq.open(tmp_path, segment_bytes=1 << 16) as broker:
        queue = broker.queue("a")
        queue.publish_many([b"%d" % number for number in range(100)])
        queue.receive(timeout=0).ack()
        broker._store.maintenance.compact()
        end = broker._store.replica.log.end
        broker._store.maintenance.compact()
        assert broker._store.replica.log.end == end


def test_a_damaged_body_of_a_fan_out_costs_itself_in_each_queue(tmp_path: Path, clock: FakeClock) -> None:
    """And where both copies would die into one queue, the second has no body to copy: the first is there."""
    with mq.open(tmp_path, clock=clock) as broker:
        queues = [broker.queue(name, max_attempts=1, dead_letter="dead") for name in ("a", "b")]
        for queue in queues:
            queue.subscribe("#")
        ids = [broker.topic("t").publish(body) for body in ("one" * 9, "two", "three")]
        damage(tmp_path, ids[0] + 20)
        for queue in queues:
            with pytest.raises(mq.CorruptStore) as caught:
                queue.receive(timeout=0)
            assert caught.value.ids == (ids[0],)
            assert [queue.receive(timeout=0).body for _ in range(2)] == ["two", "three"]
            assert (queue.stats().dead_lettered, queue.stats().in_flight) == (1, 2)
        assert broker.queue("dead").stats()[:3] == (1, 0, 0)
        shared = broker._store.replica.state.board.shared
        assert (len(shared), ids[0] in shared) == (2, False)
