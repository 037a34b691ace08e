"""What those are told who look at a store: how much of each segment is live, and lists of large messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_damaged_bodies import damage

import mq
from mq.engine.briefs import briefs
from mq.engine.occupancy import shape


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A thousand messages in segments of 16 KiB; the first half are acked."""
    with mq.open(tmp_path / "store", segment_bytes=16 << 10, sync="never") as broker:
        queue = broker.queue("a", backoff=mq.Backoff(0, 1, 0, 0))
        for number in range(10):
            queue.publish_many([bytes([number]) * 1000] * 100)
        for message in queue.receive_many(500, timeout=0):
            message.ack()
        broker.queue("late").publish_many([b"y" * 1000] * 10, delay=3600)
    return tmp_path / "store"


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_live_adds_up(store: Path, read_only: bool) -> None:
    with mq.open(store, read_only=read_only, segment_bytes=16 << 10) as broker:
        found, stats = shape(broker._store, 1000), broker.stats()
        assert found.left_out == 0
        assert sum(each.messages for each in found.segments) == 510
        assert sum(each.live for each in found.segments) == pytest.approx(
            stats.live_bytes + 510 * 24, rel=0.02
        )
        assert all(0 <= each.live <= each.used <= each.capacity for each in found.segments)
        assert (found.segments[0].base, found.head) == (found.head, found.segments[0].base)


def test_the_oldest_and_the_newest_segments_are_told(store: Path) -> None:
    with mq.open(store, read_only=True) as broker:
        every, some = shape(broker._store, 1000), shape(broker._store, 4)
        assert len(some.segments) == 4 and some.left_out == len(every.segments) - 4
        assert some.segments == every.segments[:2] + every.segments[-2:]


@pytest.mark.parametrize("state", ["ready", "in_flight", "delayed"])
def test_a_list_is_what_peek_has(state: mq.State) -> None:
    with mq.open(":memory:") as broker:
        queue = broker.queue("a")
        queue.publish_many(["x", b"y", {"z": 1}], headers={"a": "b"})
        queue.publish_many(["late"] * 3, delay=3600)
        queue.receive_many(1)
        found = briefs(queue._store, queue._channel, 100, state, 1 << 20)
        peeked = queue.peek(100, state=state)
        assert [each.seen.id for each in found] == [each.id for each in peeked] != []
        assert [each.shown.raw for each in found if each.shown] == [each.raw for each in peeked]
        assert [each.created_ms for each in found] == [each._created_ms for each in peeked]


def test_a_large_body_is_not_read_and_a_damaged_one_hides_no_other(tmp_path: Path) -> None:
    with mq.open(tmp_path, sync="never") as broker:
        queue = broker.queue("a")
        ids = queue.publish_many([b"x" * 2000, b"small", b"bad", b"small too"])
        damage(tmp_path, ids[2])
        large, small, bad, last = briefs(queue._store, queue._channel, 10, "ready", 1000)
        assert large.shown is None and large.size == 2000 and large.created_ms
        assert bad.shown is None and "mq repair" in bad.damage
        assert small.shown and last.shown and (small.shown.raw, last.shown.raw) == (b"small", b"small too")


def test_there_is_nothing_in_a_queue_that_is_not_there() -> None:
    with mq.open(":memory:") as broker:
        queue = broker.queue("a")
        assert briefs(queue._store, queue._channel, 10, "ready", 10) == []
