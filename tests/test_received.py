"""When a message was first delivered, and when it expires."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from engines import Engine
from fakes import FakeClock

import mq
from mq.delivery.traits import PLAIN

# On a log with another writer, that one receives and releases messages: test_conflicts.py.
pytestmark = [pytest.mark.conformance, pytest.mark.needs("quiet")]


@pytest.fixture
def broker(engine: Engine, clock: FakeClock) -> mq.Broker:
    return engine.open(clock=clock, background=False, segment_bytes=1024)


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[Any]:
    return broker.queue("mail", visibility_timeout=30, backoff=mq.Backoff(initial=0))


def take(queue: mq.Queue[Any]) -> mq.Delivery[Any]:
    message = queue.receive(timeout=0)
    assert message
    return message


def at(clock: FakeClock) -> datetime:
    return datetime.fromtimestamp(clock.now, UTC)


def turn_over(broker: mq.Broker) -> None:
    """All segments go; what lives in them is written again."""
    other = broker.queue("garbage")
    for _ in range(4):
        other.publish(b"x" * 600)
        take(other).ack()
    broker._store.maintenance.compact()


def test_it_is_that_of_the_first_delivery_however_often_it_comes_back(
    queue: mq.Queue[Any], clock: FakeClock
) -> None:
    id = queue.publish("x")
    assert [each.first_received_at for each in queue.peek()] == [None]
    clock.advance(5)
    message, first = take(queue), at(clock)
    assert message.first_received_at == first
    assert [each.first_received_at for each in queue.peek(state="in_flight")] == [first]
    for way in ("release", "nack", "time out"):
        clock.advance(1)
        if way == "release":
            message.release()
        elif way == "nack":
            message.nack(delay=0)
        else:
            clock.advance(31)
        found = queue.get(id)
        assert found
        assert found.first_received_at == first
        message = take(queue)
        assert message.first_received_at == first
    message.extend(99)
    assert message.first_received_at == first


def test_of_each_message_of_a_batch(queue: mq.Queue[Any], clock: FakeClock) -> None:
    queue.publish_many(range(300))
    clock.advance(1)
    early, first = queue.receive_many(200, timeout=0), at(clock)
    clock.advance(1)
    late, second = queue.receive_many(200, timeout=0), at(clock)
    assert {each.first_received_at for each in early} == {first}
    assert {each.first_received_at for each in late} == {second}


@pytest.mark.parametrize("comes_back", ["stays", "released", "nacked", "timed out"])
@pytest.mark.parametrize("then", ["reopened", "from the log", "cleaned twice", "checkpoint"])
def test_it_is_durable(engine: Engine, clock: FakeClock, comes_back: str, then: str) -> None:
    broker = engine.open(clock=clock, background=False, segment_bytes=1024)
    queue = broker.queue("mail", visibility_timeout=3600)
    id = queue.publish("x")
    clock.advance(5)
    message, first = take(queue), at(clock)
    clock.advance(5)
    if comes_back == "released":
        message.release()
    if comes_back == "nacked":
        message.nack(delay=0)
    if comes_back == "timed out":
        message.extend(0)
        clock.advance(9)
    for _ in range(2 if then == "cleaned twice" else 1):
        turn_over(broker)
        clock.advance(1)
    if then == "checkpoint" and broker.path != ":memory:":
        broker._store.maintenance.checkpoints.write()
    if then != "cleaned twice":
        broker.close()
        if then == "from the log":
            shutil.rmtree(Path(broker.path) / "checkpoint", ignore_errors=True)
        broker = engine.reopen(broker)
        queue = broker.queue("mail")
    found = queue.get(id)
    assert found
    assert found.first_received_at == first
    if comes_back != "stays":
        again = take(queue)
        assert again.first_received_at == first
        turn_over(broker)
        assert again.first_received_at == first
        again.release()
        turn_over(broker)
        assert take(queue).first_received_at == first


def test_a_message_that_moves_begins_anew(queue: mq.Queue[Any], clock: FakeClock, broker: mq.Broker) -> None:
    """As its attempts do."""
    queue.publish("x")
    take(queue).nack(delay=0)
    turn_over(broker)
    take(queue).reject("no")
    dead = broker.queue("mail.dead")
    assert [(each.attempts, each.first_received_at) for each in dead.peek()] == [(0, None)]
    clock.advance(5)
    letter = take(dead)
    assert letter.first_received_at == at(clock)
    letter.release()
    dead.replay()
    assert [(each.attempts, each.first_received_at) for each in queue.peek()] == [(0, None)]
    turn_over(broker)
    clock.advance(5)
    assert take(queue).first_received_at == at(clock)


def test_what_is_delivered_for_the_first_time_stays_plain(queue: mq.Queue[Any], broker: mq.Broker) -> None:
    """What it costs in memory: nothing, also once the cleaner has moved it."""
    ids = queue.publish_many(["x", "y"])
    take(queue), take(queue)
    turn_over(broker)
    flights = broker._store.replica.state.named("mail").flights
    assert all(flights[id].traits is PLAIN for id in ids)


def test_of_a_message_that_is_gone_the_log_tells_for_a_while(queue: mq.Queue[Any], broker: mq.Broker) -> None:
    queue.publish("x")
    message = take(queue)
    message.ack()
    assert message.first_received_at
    turn_over(broker)
    assert message.first_received_at is None


def test_what_arrives_settled_has_none(broker: mq.Broker) -> None:
    queue = broker.queue("mail", delivery="at_most_once")
    queue.publish("x")
    assert take(queue).first_received_at is None


def test_a_closed_broker_does_not_tell(queue: mq.Queue[Any], broker: mq.Broker) -> None:
    queue.publish("x")
    message = take(queue)
    broker.close()
    with pytest.raises(mq.Closed):
        _ = message.first_received_at


def test_when_a_message_expires(queue: mq.Queue[Any], broker: mq.Broker, clock: FakeClock) -> None:
    queue.publish("never")
    queue.publish("its own", ttl=60)
    broker.queue("mail", ttl=20)
    queue.publish("the queue's")
    now = at(clock)
    expected = [None, now + timedelta(seconds=60), now + timedelta(seconds=20)]
    assert [each.expires_at for each in queue.peek()] == expected
    turn_over(broker)
    assert [each.expires_at for each in queue.receive_many(9, timeout=0)] == expected
