"""Settling many at once, by receipt or by message; and dropping what is in flight."""

from __future__ import annotations

import pytest
from engines import Engine
from fakes import FakeClock

import mq
from mq.delivery import purge

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]

TIMEOUT_SECONDS = 30.0


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[object]:
    queue = broker.queue("q")
    queue.publish_many(["a", "b", "c"])
    return queue


def held(queue: mq.Queue[object], count: int = 3) -> list[mq.Delivery[object]]:
    found = queue.receive_many(count, timeout=0)
    assert len(found) == count
    return found


def counts(queue: mq.Queue[object]) -> tuple[int, int, int]:
    return queue.stats()[:3]


# ── release_many, reject_many ──────────────────────────────────────────────────────


def test_what_is_released_is_back_in_its_place_and_was_not_tried(queue: mq.Queue[object]) -> None:
    a, b, c = held(queue)
    queue.release_many([c, a.receipt])
    assert [(each.body, each.attempts) for each in held(queue, 2)] == [("a", 1), ("c", 1)]
    b.ack()


def test_what_is_rejected_is_a_dead_letter_with_the_reason(
    broker: mq.Broker, queue: mq.Queue[object]
) -> None:
    a, b, _ = held(queue)
    queue.reject_many([a, b.receipt], "no such address")
    dead = broker.queue("q.dead").peek()
    assert [(each.body, each.failures[0].reason) for each in dead] == [
        ("a", "no such address"),
        ("b", "no such address"),
    ]
    assert counts(queue) == (0, 1, 0)


@pytest.mark.parametrize("settle", ["release_many", "reject_many"])
def test_all_that_can_be_is_done_and_the_stale_ones_are_named(
    broker: mq.Broker, queue: mq.Queue[object], settle: str
) -> None:
    a, b, c = held(queue)
    b.ack()
    with pytest.raises(mq.StaleReceipt) as caught:
        getattr(queue, settle)([a, b, c.receipt, c.receipt])
    assert caught.value.ids == (b.id, c.id)
    there = queue if settle == "release_many" else broker.queue("q.dead")
    assert [each.body for each in there.peek()] == ["a", "c"]


# ── fenced=False ───────────────────────────────────────────────────────────────────


def test_an_unfenced_ack_is_of_the_message_whichever_receiver_holds_it(
    queue: mq.Queue[object], clock: FakeClock
) -> None:
    first = held(queue)
    clock.advance(TIMEOUT_SECONDS)
    second = held(queue)
    queue.ack_many([first[0], first[1].receipt], fenced=False)
    assert counts(queue) == (0, 1, 0)
    with pytest.raises(mq.StaleReceipt):
        second[0].ack()
    second[2].ack()
    assert queue.stats().acked == 3


@pytest.mark.parametrize("how", ["released", "timed out", "backing off", "acked", "purged", "rejected"])
def test_an_unfenced_ack_ends_a_message_that_waits_and_takes_a_gone_one_for_done(
    broker: mq.Broker, queue: mq.Queue[object], clock: FakeClock, how: str
) -> None:
    one, *others = held(queue)
    queue.ack_many(others)
    if how == "released":
        one.release()
    elif how == "timed out":
        clock.advance(TIMEOUT_SECONDS)
    elif how == "backing off":
        one.nack()
    elif how == "acked":
        one.ack()
    elif how == "purged":
        one.release()
        queue.purge()
    else:
        one.reject()
    gone = how in ("purged", "rejected")
    queue.ack_many([one.receipt, one, one.receipt], fenced=False)
    assert counts(queue) == (0, 0, 0)
    assert (queue.stats().acked, queue.stats().bytes) == (2 if gone else 3, 0)
    if how == "rejected":  # it is in another queue: the receipt does not name that
        assert broker.queue("q.dead").stats().ready == 1


def test_a_message_that_was_acked_unfenced_stays_away(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[object]
) -> None:
    receipts = [each.receipt for each in held(queue)]
    queue.release_many(receipts)
    queue.ack_many(receipts[:2], fenced=False)
    engine.abandon(broker)
    assert [each.body for each in engine.open().queue("q").peek()] == ["c"]


def test_plain_deliveries_acked_unfenced_are_settled(queue: mq.Queue[object]) -> None:
    messages = held(queue)
    queue.ack_many(messages, fenced=False)
    for message in messages:
        with message:
            pass
    assert queue.stats().acked == 3


def test_an_unfenced_extend_is_of_the_delivery_that_is_in_force(
    queue: mq.Queue[object], clock: FakeClock
) -> None:
    first = held(queue, 1)[0]
    clock.advance(TIMEOUT_SECONDS)
    second = held(queue)[0]
    assert second.id == first.id
    before = first.due_at
    queue.extend_many([first, first.receipt], 100, fenced=False)
    assert first.due_at == before
    clock.advance(TIMEOUT_SECONDS)
    assert counts(queue) == (2, 1, 0)
    queue.extend_many([second.receipt], 0, fenced=False)
    assert counts(queue) == (3, 0, 0)


def test_an_unfenced_extend_does_nothing_to_what_waits_or_is_gone(queue: mq.Queue[object]) -> None:
    a, b, c = held(queue)
    a.release()
    b.ack()
    queue.extend_many([a, b, c], 100, fenced=False)
    assert counts(queue) == (1, 1, 0)
    assert a.due_at < c.due_at  # type: ignore[operator]


def test_unfenced_receipts_of_another_store_are_refused(engine: Engine, queue: mq.Queue[object]) -> None:
    other = engine.open("other").queue("q")
    other.publish("x")
    [message] = other.receive_many(1)
    for messages in ([message], [message.receipt]):
        with pytest.raises(mq.UsageError, match="settle it there"):
            queue.ack_many(messages, fenced=False)


# ── purge(in_flight=True) ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("most", [2000, 1], ids=["at once", "in slices"])
def test_a_purge_of_all_takes_what_is_in_flight(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[object], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(purge, "KEPT_MAX", most)
    queue.publish("later", delay=60)
    queue.publish_many(["g", "h"], group="g")
    a, b = held(queue, 2)
    b.extend(1e6)
    broker.queue("neighbour").publish("stays")
    assert queue.purge(in_flight=True) == 6
    assert (counts(queue), queue.stats().bytes) == ((0, 0, 0), 0)
    with pytest.raises(mq.StaleReceipt) as caught:
        queue.ack_many([a, b])
    assert caught.value.ids == (a.id, b.id)
    queue.publish("next", group="g")
    engine.abandon(broker)
    again = engine.open()
    assert [each.body for each in again.queue("q").peek()] == ["next"]
    assert held(again.queue("q"), 1)[0].attempts == 1
    assert again.queue("neighbour").stats().ready == 1


def test_a_purge_of_all_that_finds_nothing_appends_nothing(
    broker: mq.Broker, queue: mq.Queue[object]
) -> None:
    queue.ack_many(held(queue))
    end = broker._store.replica.log.end
    assert queue.purge(in_flight=True) == 0
    assert broker.queue("never made").purge(in_flight=True) == 0
    assert broker._store.replica.log.end == end
