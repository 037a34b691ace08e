"""A queue as its users meet it: publish, receive, settle, look, clear."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import mq
from mq.delivery.retry import Backoff

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]


@pytest.fixture
def queue(broker) -> mq.Queue:
    return broker.queue("mail")


def take(queue: mq.Queue) -> mq.Delivery:
    delivery = queue.receive(timeout=0)
    assert delivery
    return delivery


def bodies(messages) -> list[object]:
    return [message.body for message in messages]


# ── publishing and order ───────────────────────────────────────────────────────────


def test_ids_grow(queue, broker):
    ids = [queue.publish("a"), *queue.publish_many(["b", "c", "d"]), broker.queue("other").publish("e")]
    assert ids == sorted(set(ids))
    assert all(type(id) is int for id in ids)


def test_first_published_is_first_delivered(queue):
    """P5."""
    queue.publish(0)
    queue.publish_many([1, 2])
    queue.publish(3)
    assert bodies(queue.receive_many(9, timeout=0)) == [0, 1, 2, 3]


def test_publish_many_takes_any_iterable_also_an_empty_one(queue):
    assert queue.publish_many(iter([])) == []
    assert queue.stats().published == 0
    assert len(queue.publish_many(n for n in range(3))) == 3
    assert len(queue.publish_many({1: 2}.items())) == 1


def test_publish_many_is_all_or_nothing(queue):
    """P4: the third cannot be stored, so none is."""
    with pytest.raises(mq.UsageError):
        queue.publish_many(["a", "b", object(), "c"])
    assert queue.stats() == (0, 0, 0, 0, 0.0, False, 0, 0, 0, 0, 0, 0)


def test_publish_many_of_something_that_breaks_off_publishes_nothing(queue):
    """P4."""

    def broken():
        yield "a"
        raise OSError("the source dried up")

    with pytest.raises(OSError, match="dried up"):
        queue.publish_many(broken())
    assert queue.stats().published == 0


def test_queues_do_not_see_each_other(broker):
    one, two = broker.queue("one"), broker.queue("two")
    one.publish("x")
    assert two.receive(timeout=0) is None
    assert take(one).body == "x"


# ── attempts, timeouts, delays ─────────────────────────────────────────────────────


def test_a_message_is_held_until_its_visibility_timeout_passes(queue, clock):
    """P12: by one receiver at a time."""
    queue.publish("x")
    first = take(queue)
    clock.advance(29.999)
    assert queue.receive(timeout=0) is None
    clock.advance(0.001)
    second = take(queue)
    assert (first.id, first.attempts, second.id, second.attempts) == (second.id, 1, first.id, 2)


def test_the_queues_visibility_timeout_applies(broker, clock):
    queue = broker.queue("mail", visibility_timeout=5)
    queue.publish("x")
    take(queue)
    clock.advance(5)
    assert take(queue).attempts == 2


def test_a_receive_may_have_its_own_visibility_timeout(queue, clock):
    queue.publish_many(["x", "y"])
    queue.receive(timeout=0, visibility_timeout=2)
    queue.receive_many(1, timeout=0, visibility_timeout=4)
    clock.advance(2)
    assert take(queue).body == "x"
    assert queue.receive(timeout=0) is None
    clock.advance(2)
    assert take(queue).body == "y"


def test_a_visibility_timeout_of_zero_holds_nothing(queue):
    queue.publish("x")
    queue.receive(timeout=0, visibility_timeout=0)
    assert take(queue).attempts == 2


def test_a_redelivered_message_is_back_in_its_place(queue, clock):
    """P5."""
    queue.publish_many([0, 1, 2])
    first = take(queue)
    take(queue).ack()
    first.release()
    queue.publish(3)
    assert bodies(queue.receive_many(9, timeout=0)) == [0, 2, 3]
    clock.advance(30)
    assert bodies(queue.receive_many(9, timeout=0)) == [0, 2, 3]


@pytest.mark.parametrize("delay", [1, 90.5, 86_400])
def test_a_nacked_message_comes_back_after_the_delay(queue, clock, delay):
    queue.publish_many([0, 1])
    take(queue).nack(delay=delay)
    other = take(queue)
    assert other.body == 1
    other.ack()
    assert queue.receive(timeout=0) is None
    clock.advance(delay * 0.99)
    assert queue.receive(timeout=0) is None
    clock.advance(delay * 0.02)
    assert take(queue).body == 0


def test_every_delay_counts_not_only_the_first(queue, clock):
    queue.publish("x")
    for attempt in range(1, 6):
        message = take(queue)
        assert message.attempts == attempt
        message.nack(delay=10)
        assert queue.receive(timeout=0) is None
        assert queue.stats()[:3] == (0, 0, 1)
        clock.advance(10)


def test_a_delay_of_zero_is_at_once(queue):
    queue.publish("x")
    take(queue).nack(delay=0)
    assert take(queue).attempts == 2


def test_without_a_delay_failures_back_off(queue, clock):
    queue.publish("x")
    for attempt in range(1, 9):
        take(queue).nack()
        plain = min(60, 2 ** (attempt - 1))
        assert queue.receive(timeout=0) is None
        clock.advance(plain * 0.89)
        assert queue.receive(timeout=0) is None, "too early"
        clock.advance(plain * 0.22)
    assert Backoff() == (1, 2, 60, 0.1)


def test_a_release_is_not_an_attempt(queue, clock):
    queue.publish("x")
    for _ in range(3):
        message = take(queue)
        assert message.attempts == 1
        message.release()
    take(queue).nack(delay=0)
    message = take(queue)
    assert message.attempts == 2
    message.release()
    assert take(queue).attempts == 2
    assert queue.stats().failed == 1


def test_a_timeout_counts_as_failed_when_it_is_delivered_again(queue, clock):
    queue.publish("x")
    take(queue)
    clock.advance(31)
    assert queue.stats().failed == 0
    take(queue)
    assert queue.stats().failed == 1


def test_extend_counts_from_now(queue, clock):
    queue.publish("x")
    message = take(queue)
    clock.advance(20)
    message.extend(15)
    assert message.due_at == datetime.fromtimestamp(clock.now + 15, UTC)
    clock.advance(14)
    assert queue.receive(timeout=0) is None
    clock.advance(1)
    assert take(queue).attempts == 2


def test_extend_without_seconds_is_the_queues_timeout_from_now(broker, clock):
    queue = broker.queue("mail", visibility_timeout=8)
    queue.publish("x")
    message = queue.receive(timeout=0, visibility_timeout=2)
    message.extend()
    clock.advance(7.9)
    assert queue.receive(timeout=0) is None
    clock.advance(0.1)
    assert take(queue).attempts == 2


def test_extend_can_shorten(queue, clock):
    queue.publish("x")
    take(queue).extend(1)
    clock.advance(1)
    assert take(queue).attempts == 2


def test_a_passed_deadline_can_be_extended_until_somebody_else_has_the_message(queue, clock):
    queue.publish("x")
    message = take(queue)
    clock.advance(100)
    assert queue.stats().ready == 1
    message.extend(10)
    assert queue.receive(timeout=0) is None
    clock.advance(10)
    take(queue)
    with pytest.raises(mq.StaleReceipt):
        message.extend(10)


def test_a_clock_that_is_set_back_loses_nothing(queue, clock):
    """Deadlines do not move; a delay, which is wall time, does; new messages are in order."""
    queue.publish_many([0, 1])
    take(queue)
    take(queue).nack(delay=10)
    clock.advance(-1000)
    assert queue.receive(timeout=0) is None
    queue.publish(2)
    assert take(queue).body == 2
    clock.advance(1010)
    assert take(queue).body == 1
    clock.advance(20)
    assert take(queue).body == 0


# ── receive_many ───────────────────────────────────────────────────────────────────


def test_receive_many_takes_up_to_its_limit(queue):
    queue.publish_many(range(5))
    assert bodies(queue.receive_many(3, timeout=0)) == [0, 1, 2]
    assert bodies(queue.receive_many(3, timeout=0)) == [3, 4]
    assert queue.receive_many(3, timeout=0) == []


def test_receive_many_does_not_wait_for_more(queue):
    queue.publish("x")
    assert bodies(queue.receive_many(100)) == ["x"]


def test_a_limit_may_be_as_large_as_one_likes(queue):
    queue.publish("x")
    assert bodies(queue.peek(2**63 - 1)) == ["x"]
    assert bodies(queue.receive_many(2**63 - 1)) == ["x"]


def test_each_of_many_has_its_own_receipt(queue):
    queue.publish_many(range(4))
    a, b, c, d = queue.receive_many(4)
    assert len({each.receipt for each in (a, b, c, d)}) == 4
    b.ack()
    c.release()
    a.nack(delay=3)
    assert queue.stats()[:3] == (1, 1, 1)


def test_receive_many_mixes_new_and_redelivered_in_order(queue, clock):
    """P5."""
    queue.publish_many(range(6))
    held = queue.receive_many(4)
    held[1].release()
    held[3].nack(delay=5)
    clock.advance(6)
    got = queue.receive_many(9)
    assert bodies(got) == [1, 3, 4, 5]
    assert [each.attempts for each in got] == [1, 2, 1, 1]


# ── receipts ───────────────────────────────────────────────────────────────────────

SETTLE = {
    "ack": lambda message: message.ack(),
    "nack": lambda message: message.nack(),
    "release": lambda message: message.release(),
    "extend": lambda message: message.extend(),
    "ack_many": lambda message: message._queue.ack_many([message]),
    "ack_many of the receipt": lambda message: message._queue.ack_many([message.receipt]),
}
BECOMES_STALE = {
    "acked": lambda queue, message, clock: message.ack(),
    "nacked": lambda queue, message, clock: message.nack(),
    "released": lambda queue, message, clock: message.release(),
    "acked by its receipt": lambda queue, message, clock: queue.ack_many([message.receipt]),
    "released and delivered again": lambda queue, message, clock: (message.release(), take(queue)),
    "timed out and delivered again": lambda queue, message, clock: (clock.advance(31), take(queue)),
    "timed out and purged": lambda queue, message, clock: (clock.advance(31), queue.purge()),
}


@pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE)
@pytest.mark.parametrize("becomes_stale", BECOMES_STALE.values(), ids=BECOMES_STALE)
def test_a_stale_receipt_settles_nothing(queue, broker, clock, settle, becomes_stale):
    queue.publish("x")
    message = take(queue)
    becomes_stale(queue, message, clock)
    before, end = queue.stats(), broker._store.replica.log.end
    with pytest.raises(mq.StaleReceipt) as raised:
        settle(message)
    assert raised.value.ids == (message.id,)
    assert str(message.id) in str(raised.value)
    assert queue.stats() == before
    assert broker._store.replica.log.end == end


def test_a_late_ack_succeeds_if_nobody_overtook_it(queue, clock):
    queue.publish("x")
    message = take(queue)
    clock.advance(3600)
    message.ack()
    assert queue.receive(timeout=0) is None
    assert queue.stats().acked == 1


def test_a_late_nack_and_a_late_release_succeed_too(queue, clock):
    queue.publish_many(["x", "y"])
    one, two = queue.receive_many(2)
    clock.advance(3600)
    one.nack(delay=10)
    two.release()
    assert bodies(queue.receive_many(9, timeout=0)) == ["y"]


def test_a_stale_receipt_does_not_touch_the_delivery_that_took_over(queue, clock):
    queue.publish("x")
    old = take(queue)
    clock.advance(31)
    new = take(queue)
    with pytest.raises(mq.StaleReceipt):
        old.ack()
    new.ack()
    assert queue.stats().acked == 1


def test_ack_many_takes_deliveries_and_receipts_of_any_queue(broker, queue):
    other = broker.queue("other")
    queue.publish_many(range(3))
    other.publish_many(range(3))
    a, b, c = queue.receive_many(3)
    d, e, f = other.receive_many(3)
    queue.ack_many([a, b.receipt, d, e.receipt])
    assert (queue.stats().acked, other.stats().acked) == (2, 2)
    assert (queue.stats().bytes, other.stats().bytes) == (len(c.raw), len(f.raw))


def test_ack_many_does_all_it_can_and_names_the_others(queue, clock):
    queue.publish_many(range(5))
    a, b, c, d, e = queue.receive_many(5)
    b.release()
    d.ack()
    with pytest.raises(mq.StaleReceipt) as raised:
        queue.ack_many([a, b, c.receipt, d.receipt, e])
    assert raised.value.ids == (b.id, d.id)
    assert queue.stats().acked == 4
    assert bodies(queue.receive_many(9, timeout=0)) == [1]


def test_ack_many_of_the_same_delivery_twice_acks_it_once(queue):
    queue.publish_many(range(2))
    a, b = queue.receive_many(2)
    with pytest.raises(mq.StaleReceipt) as raised, a:
        queue.ack_many([a, a.receipt, b])
    assert raised.value.ids == (a.id,)
    assert queue.stats().acked == 2
    assert not hasattr(raised.value, "__notes__"), "the block knows that it is settled"


def test_ack_many_of_nothing_does_nothing(queue):
    queue.ack_many([])
    queue.ack_many(iter(()))


def test_ack_many_with_a_thing_that_is_no_receipt_acks_nothing(queue):
    queue.publish("x")
    message = take(queue)
    with pytest.raises(mq.UsageError, match="'what is this' is neither a delivery nor a receipt"):
        queue.ack_many([message, "what is this"])
    assert queue.stats().acked == 0


@pytest.mark.needs("equal positions")
def test_a_delivery_of_another_store_cannot_settle_anything_here(queue, clock, engine):
    """Ids, and where their deliveries stand, are unique only within a store: these two are equal."""
    with engine.open("elsewhere", clock=clock) as elsewhere:
        theirs = elsewhere.queue("mail")
        queue.publish("x")
        theirs.publish("x")
        here, there = take(queue), take(theirs)
        assert here.id == there.id
        assert here.receipt != there.receipt
        with pytest.raises(mq.UsageError, match="another broker"):
            queue.ack_many([there])
        with pytest.raises(mq.UsageError, match="another store's"):
            queue.ack_many([there.receipt])
    assert queue.stats().acked == 0


# ── looking ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def busy(queue, clock) -> dict[str, int]:
    """One message in each state, by its name; published a second apart, the first one acked."""
    ids = {}
    for name in ("acked", "flying", "delayed", "timed out", "returned", "new"):
        ids[name] = queue.publish(name)
        clock.advance(1)
    take(queue).ack()
    take(queue)
    take(queue).nack(delay=500)
    queue.receive(timeout=0, visibility_timeout=1)
    take(queue).release()
    clock.advance(2)
    return ids


def test_stats_count_each_state(queue, busy):
    sizes = sum(len(name) for name in busy if name != "acked")
    assert queue.stats() == mq.Stats(
        ready=3, in_flight=1, delayed=1, bytes=sizes, oldest_age=5.0, paused=False,
        published=6, acked=1, failed=1, expired=0, dead_lettered=0, dropped=0,
    )  # fmt: skip


def test_peek_shows_each_state_in_delivery_order(queue, busy):
    assert bodies(queue.peek()) == ["timed out", "returned", "new"]
    assert bodies(queue.peek(state="ready", limit=2)) == ["timed out", "returned"]
    assert bodies(queue.peek(state="in_flight")) == ["flying"]
    assert bodies(queue.peek(state="delayed")) == ["delayed"]
    assert queue.peek(0) == []


def test_peek_takes_nothing(queue, busy, broker):
    before, end = queue.stats(), broker._store.replica.log.end
    queue.peek()
    queue.peek(state="in_flight")
    queue.peek(state="delayed")
    queue.get(busy["new"])
    assert queue.stats() == before
    assert broker._store.replica.log.end == end
    assert bodies(queue.receive_many(9)) == ["timed out", "returned", "new"]


@pytest.mark.parametrize(
    ("name", "state", "attempts", "due_in"),
    [
        ("flying", "in_flight", 1, 28),
        ("delayed", "delayed", 1, 498),
        ("timed out", "ready", 1, None),
        ("returned", "ready", 0, None),
        ("new", "ready", 0, None),
    ],
)
def test_get_tells_the_state(queue, busy, clock, name, state, attempts, due_in):
    message = queue.get(busy[name])
    assert (message.id, message.body, message.state, message.attempts) == (busy[name], name, state, attempts)
    due = None if due_in is None else datetime.fromtimestamp(clock.now + due_in, UTC)
    assert message.due_at == due
    peeked = {each.id: each for each in queue.peek(state=state)}[message.id]
    assert (peeked.state, peeked.attempts, peeked.due_at) == (message.state, message.attempts, message.due_at)


def test_get_of_what_is_not_here_is_none(queue, broker, busy):
    assert queue.get(busy["acked"]) is None
    assert queue.get(busy["new"] + 1) is None
    assert queue.get(0) is None
    assert queue.get(2**63 - 1) is None
    assert broker.queue("other").get(busy["new"]) is None
    queue.publish("x")
    assert broker.queue("never").get(busy["new"]) is None


def test_a_message_that_was_seen_is_a_snapshot(queue):
    queue.publish("x")
    [seen] = queue.peek()
    take(queue).ack()
    assert (seen.state, seen.attempts, seen.body) == ("ready", 0, "x")


def test_looking_at_a_queue_that_is_not_there_makes_none(broker):
    never = broker.queue("never")
    assert never.stats() == (0, 0, 0, 0, 0.0, False, 0, 0, 0, 0, 0, 0)
    assert (never.peek(), never.get(5), never.purge()) == ([], None, 0)
    assert never.receive(timeout=0) is None
    assert never.receive_many(3, timeout=0) == []
    assert never.options()["visibility_timeout"] == 30.0
    never.publish_many([])
    assert broker.queues() == []


def test_in_would_take_messages_so_it_is_refused(queue):
    queue.publish("x")
    with pytest.raises(TypeError):
        _ = "x" in queue
    assert queue.stats().ready == 1


def test_the_oldest_age_is_that_of_the_next_message(queue, clock):
    queue.publish("x")
    clock.advance(5)
    queue.publish("y")
    clock.advance(7)
    assert queue.stats().oldest_age == 12
    take(queue).ack()
    assert queue.stats().oldest_age == 7
    take(queue)
    assert queue.stats().oldest_age == 0


# ── clearing ───────────────────────────────────────────────────────────────────────


def test_purge_drops_what_waits_and_says_how_many(queue, busy):
    assert queue.purge() == 4
    assert queue.stats()[:4] == (0, 1, 0, len("flying"))
    assert bodies(queue.peek(state="in_flight")) == ["flying"]
    assert queue.purge() == 0


def test_what_is_in_flight_at_a_purge_can_be_settled(queue):
    queue.publish_many(range(3))
    a, b = queue.receive_many(2)
    assert queue.purge() == 1
    a.ack()
    b.nack(delay=0)
    assert bodies(queue.receive_many(9, timeout=0)) == [1]


def test_publishing_goes_on_after_a_purge(queue):
    queue.publish("x")
    queue.purge()
    id = queue.publish("y")
    assert take(queue).id == id


def test_a_purge_of_nothing_writes_nothing(queue, broker):
    queue.publish("x")
    take(queue)
    end = broker._store.replica.log.end
    assert queue.purge() == 0
    assert broker._store.replica.log.end == end


# ── options and handles ────────────────────────────────────────────────────────────


def test_a_bare_handle_writes_nothing(broker):
    end = broker._store.replica.log.end
    broker.queue("mail")
    broker.queue("mail", type=int)
    assert broker.queues() == []
    assert broker._store.replica.log.end == end


def test_declaring_makes_the_queue(broker):
    broker.queue("mail", visibility_timeout=7)
    assert broker.queues() == ["mail"]
    assert broker.queue("mail").options()["visibility_timeout"] == 7.0


def test_declaring_the_same_again_writes_nothing(broker):
    broker.queue("mail", visibility_timeout=7)
    end = broker._store.replica.log.end
    broker.queue("mail", visibility_timeout=7.0)
    broker.queue("mail")
    assert broker._store.replica.log.end == end
    assert broker.queue("mail").options()["visibility_timeout"] == 7.0


def test_a_new_declaration_is_seen_by_every_handle(broker, clock):
    old = broker.queue("mail")
    old.publish("x")
    broker.queue("mail", visibility_timeout=2)
    assert old.options()["visibility_timeout"] == 2.0
    take(old)
    clock.advance(2)
    assert take(old).attempts == 2


def test_a_handle_says_what_it_is(broker, queue):
    assert queue.name == "mail"
    assert repr(queue) == f"<Queue 'mail' in {broker.path}>"


@pytest.mark.parametrize(
    "name", ["a", "x" * 255, "é" * 127, "with spaces and / \\ : * ?", "..", "日本語", "\U0001f600"]
)
def test_any_printable_name_will_do(broker, name):
    broker.queue(name).publish(name)
    assert broker.queues() == [name]
    assert broker.queue(name).receive(timeout=0).queue == name
