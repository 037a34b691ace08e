"""A stream that is full: publishes raise DiskFull, and what is there can be received and settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Cluster

import mq
from mq.nats.log import RESERVE_SHARE, TRIM_SHARE

BODY = bytes(100_000)
STREAM_BYTES = 4_000_000
SMALL = 10_000  # what a few records without bodies take


@pytest.fixture(params=[1, 3], ids=["R1", "R3"])
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(tmp_path, request.param) as cluster:
        yield cluster


def limit(cluster: Cluster, stream: str, most: int) -> None:
    """What an administrator does: the stream may take so many bytes."""
    config = cluster.ask(f"STREAM.INFO.{stream}", {})["config"]
    cluster.ask(f"STREAM.UPDATE.{stream}", {**config, "max_bytes": most})


def fill(queue: mq.Queue[bytes]) -> int:
    """How many messages it took until there was no room, not even for a small one."""
    count = 0
    for body in (BODY, BODY[:5000], BODY[:1]):
        with pytest.raises(mq.DiskFull):
            while count * len(BODY) < 20 * STREAM_BYTES:
                queue.publish(body)
                count += 1
    return count


def limited(cluster: Cluster) -> str:
    return f"{cluster.url('s')}?max_bytes={STREAM_BYTES}"


def test_a_full_stream_is_drained(cluster: Cluster) -> None:
    """P1; what is there can be received and acked, and then there is room again."""
    with mq.open(limited(cluster)) as broker:
        queue = broker.queue("mail")
        count = fill(queue)
        assert queue.stats().ready == count
        while message := queue.receive(timeout=0):
            message.ack()
            count -= 1
        assert count == 0
        queue.publish(BODY)


def test_trimming_leaves_room_for_deliveries_and_acks(tmp_path: Path) -> None:
    """Of what it writes again it takes no more at once than it has room for, until the old part is purged."""
    limit, body = 3 * STREAM_BYTES, BODY[:20_000]
    with (
        Cluster(tmp_path, 1, sync="2m") as cluster,
        mq.open(f"{cluster.url('s')}?max_bytes={limit}") as broker,
    ):
        kept, settled = broker.queue("kept"), broker.queue("settled")
        replica: Any = broker._store.replica
        with pytest.raises(mq.DiskFull):
            for number in range(20 * limit // len(body)):
                (settled if number % 10 < 7 else kept).publish(body)
                if message := settled.receive(timeout=0):
                    message.ack()
        assert replica.log.stream_bytes() <= replica.log.room(TRIM_SHARE) + SMALL
        assert replica.log.stream_bytes() <= 2 * replica.state.live_bytes() + limit // RESERVE_SHARE


def test_a_full_stream_goes_on_once_it_may_take_more(cluster: Cluster) -> None:
    with mq.open(limited(cluster)) as broker, mq.open(cluster.url("s")) as other:
        fill(broker.queue("mail"))
        with pytest.raises(mq.DiskFull):
            other.queue("mail").publish(BODY)
        limit(cluster, "mq_s", 2 * STREAM_BYTES)
        other.queue("mail").publish(BODY)
        broker.queue("mail").publish(BODY)


def test_nothing_is_lost_by_servers_without_room(tmp_path: Path) -> None:
    """A store without a limit of its own: nothing can be appended, until its administrator makes room."""
    with Cluster(tmp_path, 1, max_store="4MB") as cluster:
        with mq.open(cluster.url("s")) as broker:
            count = fill(broker.queue("mail"))
            with pytest.raises(mq.DiskFull):
                broker.queue("mail").receive(timeout=0)
        cluster.give_room("100MB")
        with mq.open(cluster.url("s")) as broker:
            queue = broker.queue("mail")
            assert queue.stats().ready == count
            queue.publish(BODY)
            assert queue.receive(timeout=0)
