"""P11: what a store takes on the disk is bounded by what lives in it, whatever went through it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import open_on

from mq.api.broker import Broker
from mq.storage.real_disk import RealDisk

SEGMENT_BYTES = 64 << 10
BODY = bytes(1000)


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    """Nothing runs beside the test."""
    return open_on(RealDisk(), tmp_path, sync="never", segment_bytes=SEGMENT_BYTES, background=False)


@pytest.fixture(params=[True, False], ids=["tidied often", "tidied when a publisher has to wait"])
def often(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def disk_bytes(broker: Broker) -> int:
    log = os.path.join(broker.path, "log")
    return sum(os.stat(os.path.join(log, name)).st_size for name in os.listdir(log))


def bound(broker: Broker) -> int:
    return 2 * broker._store.replica.state.live_bytes() + 4 * SEGMENT_BYTES


def pass_through(broker: Broker, count: int, often: bool) -> None:
    """*count* messages are published, delivered and acked; the bound holds all the time."""
    queue = broker.queue("traffic")
    for number in range(count):
        queue.publish(BODY)
        delivery = queue.receive(timeout=0)
        assert delivery
        delivery.ack()
        if number % 16 == 0:
            if often:
                broker._store.maintenance.run()
            assert disk_bytes(broker) <= bound(broker)


def test_what_was_acked_takes_no_room(broker: Broker, often: bool) -> None:
    pass_through(broker, 2000, often)
    broker.close()
    assert disk_bytes(broker) <= 3 * SEGMENT_BYTES


def test_one_stuck_message_pins_nothing(broker: Broker, often: bool) -> None:
    stuck = broker.queue("stuck")
    stuck.publish(b"still here")
    pass_through(broker, 2000, often)
    assert [message.body for message in stuck.peek()] == [b"still here"]
    assert len(broker._store.replica.log.segments) <= 4


def test_a_stuck_backlog_with_other_traffic_beside_it(broker: Broker, often: bool) -> None:
    """What lives is moved again and again, and never piles up."""
    stuck = broker.queue("stuck")
    bodies = [b"%d" % number + BODY for number in range(300)]
    stuck.publish_many(bodies)
    held = stuck.receive_many(100)
    pass_through(broker, 2000, often)
    assert broker._store.replica.log.head > stuck.get(held[0].id).id  # type: ignore[union-attr]
    assert [message.body for message in stuck.peek(400)] == bodies[100:]
    assert [message.body for message in stuck.peek(400, state="in_flight")] == bodies[:100]
