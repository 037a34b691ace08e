"""Topics: a publish is stored once, and waits in every queue that subscribes."""

from __future__ import annotations

import threading
import time

import pytest
from fakes import FakeClock

import mq
from mq.errors import QueueFull, UsageError

pytestmark = pytest.mark.conformance
PATIENCE = 60.0  # seconds after which a test that hangs has failed


def bodies(queue: mq.Queue) -> list:
    return [each.body for each in queue.peek(100)]


def fanned(broker: mq.Broker, *names: str, pattern: str = "orders.#") -> list[mq.Queue]:
    queues = [broker.queue(name) for name in names]
    for queue in queues:
        queue.subscribe(pattern)
    return queues


def shared(broker: mq.Broker) -> mq.Broker:
    return broker._store.replica.state.board.shared


def exact(broker: mq.Broker) -> None:
    """The register says what counting says."""
    state = broker._store.replica.state
    held: dict[int, list[int]] = {}
    for number in {*state.queues, *(image.number for image in state.unloaded)}:
        for id in state.queue(number).everything():
            held.setdefault(id, []).append(number)
    several = {id: tuple(sorted(numbers)) for id, numbers in held.items() if len(numbers) > 1}
    assert {id: shared(broker).holders(id) for id in several} == several
    assert len(shared(broker)) == len(several)
    extra = 0
    for id, numbers in several.items():
        assert len({state.queue(number).position(id) for number in numbers}) == 1
        extra += broker._store.committer.size_of(state.queue(numbers[0]), id) * (len(numbers) - 1)
    assert shared(broker).extra_bytes == extra


def test_a_publish_waits_in_every_queue_that_subscribes_with_one_id(broker):
    mail, bills, other = fanned(broker, "mail", "bills") + fanned(broker, "other", pattern="returns.*")
    id = broker.topic("orders.eu.paid").publish({"n": 1})
    again = broker.topic("orders.eu.paid").publish(b"2")
    assert again > id
    assert [each.id for each in mail.peek()] == [each.id for each in bills.peek()] == [id, again]
    assert bodies(mail) == bodies(bills) == [{"n": 1}, b"2"]
    assert bodies(other) == []
    message = mail.receive(timeout=0)
    assert (message.topic, message.queue, message.id) == ("orders.eu.paid", "mail", id)
    exact(broker)


def test_a_message_of_a_queue_has_no_topic(broker):
    broker.queue("mail").publish("x", headers={"a": "b"})
    assert broker.queue("mail").receive(timeout=0).topic is None


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("orders", "orders", True),
        ("orders", "orders.eu", False),
        ("orders.*", "orders.eu", True),
        ("orders.*", "orders", False),
        ("orders.*", "orders.eu.paid", False),
        ("orders.#", "orders", True),
        ("orders.#", "orders.eu.paid", True),
        ("#.paid", "orders.eu.paid", True),
        ("#.paid", "paid", True),
        ("*.*.paid", "orders.eu.paid", True),
        ("#", "anything.at.all", True),
    ],
)
def test_patterns(broker, pattern, topic, fits):
    broker.queue("mail").subscribe(pattern)
    broker.topic(topic).publish("x")
    assert bool(bodies(broker.queue("mail"))) is fits
    assert broker.subscriptions(topic) == ([(pattern, "mail")] if fits else [])


def test_a_queue_gets_a_message_once_however_many_of_its_patterns_fit(broker):
    mail = broker.queue("mail")
    for pattern in ("orders.*", "orders.#", "#"):
        mail.subscribe(pattern)
    broker.topic("orders.eu").publish("x")
    assert bodies(mail) == ["x"]
    assert mail.subscriptions() == ["#", "orders.#", "orders.*"]


def test_headers_choose(broker):
    eu, every = broker.queue("eu"), broker.queue("every")
    eu.subscribe("orders", match={"region": "eu"})
    every.subscribe("orders")
    topic = broker.topic("orders")
    topic.publish("both", headers={"region": "eu", "more": "1"})
    topic.publish("one", headers={"region": "us"})
    topic.publish("plain")
    assert bodies(eu) == ["both"]
    assert bodies(every) == ["both", "one", "plain"]
    eu.subscribe("orders", match={"region": "us"})  # in place of the one before
    topic.publish("us", headers={"region": "us"})
    assert bodies(eu) == ["both", "us"]


def test_subscribing_makes_the_queue_and_is_written_once(broker):
    mail = broker.queue("mail")
    mail.subscribe("orders")
    assert broker.queues() == ["mail"]
    end, generation = broker._store.replica.log.end, broker.generation
    mail.subscribe("orders")
    assert (broker._store.replica.log.end, broker.generation) == (end, generation)
    assert mail.unsubscribe("orders") is True
    assert mail.unsubscribe("orders") is False
    assert broker.generation != generation
    assert broker.topic("orders").publish("x")
    assert bodies(mail) == []


def test_what_was_there_before_stays_when_a_pattern_goes(broker):
    (mail,) = fanned(broker, "mail")
    broker.topic("orders").publish("x")
    mail.unsubscribe("orders.#")
    assert bodies(mail) == ["x"]


def test_subscriptions_go_with_their_queue(broker):
    mail, bills = fanned(broker, "mail", "bills")
    assert broker.subscriptions() == [("orders.#", "bills"), ("orders.#", "mail")]
    mail.delete()
    assert broker.subscriptions() == [("orders.#", "bills")]
    broker.topic("orders").publish("x")
    assert broker.queues() == ["bills"]
    assert bodies(bills) == ["x"]
    broker.queue("mail").publish("a new queue")
    assert broker.queue("mail").subscriptions() == []


def test_topics_are_those_that_a_pattern_spells_out(broker):
    fanned(broker, "mail", pattern="orders.paid")
    fanned(broker, "bills", pattern="orders.*")
    assert broker.topics() == ["orders.paid"]


def test_attempts_acks_and_delays_are_each_queues_own(broker, clock: FakeClock):
    mail, bills = fanned(broker, "mail", "bills")
    id = broker.topic("orders").publish("x")
    mail.receive(timeout=0).nack(delay=5)
    assert (mail.get(id).state, mail.get(id).attempts) == ("delayed", 1)
    assert (bills.get(id).state, bills.get(id).attempts) == ("ready", 0)
    bills.receive(timeout=0).ack()
    exact(broker)
    assert bills.get(id) is None
    clock.advance(5)
    again = mail.receive(timeout=0)
    assert (again.id, again.attempts, again.body) == (id, 2, "x")
    again.ack()
    exact(broker)
    assert mail.stats().bytes == bills.stats().bytes == 0


def test_options_hold_in_each_queue(broker, clock: FakeClock):
    mail, bills = fanned(broker, "mail", "bills")
    topic = broker.topic("orders")
    topic.publish("low")
    topic.publish("high", priority=9)
    topic.publish("late", delay=10)
    topic.publish("short", ttl=5)
    topic.publish("g1", group="g")
    topic.publish("g2", group="g", headers={"a": "b"})
    for queue in (mail, bills):
        assert bodies(queue) == ["high", "low", "short", "g1", "g2"]
        assert [each.body for each in queue.peek(state="delayed")] == ["late"]
        assert {each.body for each in queue.receive_many(9, 0)} == {"high", "low", "short", "g1"}
    exact(broker)


def test_a_time_to_live_and_a_delay_of_the_queue_hold_where_none_is_named(broker, clock: FakeClock):
    broker.queue("short", ttl=5), broker.queue("slow", delay=10), broker.queue("plain")
    short, slow, plain = fanned(broker, "short", "slow", "plain")
    broker.topic("orders").publish("x")
    broker.topic("orders").publish("named", ttl=60, delay=2)
    assert [len(each.peek()) for each in (short, slow, plain)] == [1, 0, 1]
    clock.advance(5)
    assert [bodies(each) for each in (short, slow, plain)] == [["named"], ["named"], ["x", "named"]]
    clock.advance(5)
    assert bodies(slow) == ["x", "named"]
    exact(broker)


def test_a_dedup_id_is_the_topics(broker, clock: FakeClock):
    mail, bills = fanned(broker, "mail", "bills")
    id = broker.topic("orders").publish("x", dedup_id="o-1")
    assert broker.topic("orders").publish("again", dedup_id="o-1") == id
    assert bodies(mail) == bodies(bills) == ["x"]
    assert broker.topic("orders.eu").publish("other topic", dedup_id="o-1") != id
    mail.publish("other place", dedup_id="o-1")
    assert bodies(mail) == ["x", "other topic", "other place"]
    clock.advance(301)
    assert broker.topic("orders").publish("later", dedup_id="o-1") > id


def test_a_dedup_id_counts_without_subscribers_too(broker):
    id = broker.topic("orders").publish("x", dedup_id="o-1")
    (mail,) = fanned(broker, "mail")
    assert broker.topic("orders").publish("x", dedup_id="o-1") == id
    assert bodies(mail) == []


def test_a_publish_without_subscribers_is_counted(broker):
    assert broker.stats().unrouted == 0
    first = broker.topic("orders").publish(b"x" * 10_000)
    assert broker.topic("orders").publish("y", priority=2) > first
    assert broker.stats().unrouted == 2
    assert broker.queues() == []


@pytest.mark.needs("byte positions")
def test_the_body_of_a_publish_without_subscribers_is_not_stored(broker):
    broker.topic("orders").publish(b"x" * 10_000)
    assert broker._store.replica.log.end < 10_000


def test_a_full_queue_that_rejects_refuses_it_for_all(broker):
    broker.queue("full", max_length=1)
    mail, full = fanned(broker, "mail", "full")
    broker.topic("orders").publish("x")
    with pytest.raises(QueueFull, match="'full'"):
        broker.topic("orders").publish("y")
    assert bodies(mail) == bodies(full) == ["x"]
    exact(broker)


def test_a_full_queue_that_drops_the_oldest_drops_it_there(broker):
    broker.queue("last", max_length=1, overflow="drop_oldest")
    mail, last = fanned(broker, "mail", "last")
    for body in "xyz":
        broker.topic("orders").publish(body)
    assert (bodies(mail), bodies(last)) == (["x", "y", "z"], ["z"])
    assert last.stats().dropped == 2
    exact(broker)


def test_dead_letters_of_two_queues_in_one_queue_are_two_messages(broker):
    for name in ("mail", "bills"):
        broker.queue(name, dead_letter="dead", max_attempts=1)
    mail, bills = fanned(broker, "mail", "bills")
    id = broker.topic("orders").publish({"n": 1}, headers={"a": "b"})
    mail.receive(timeout=0).nack(reason="first")
    bills.receive(timeout=0).reject("second")
    first, second = broker.queue("dead").peek()
    assert (first.id, first.origin, first.failures[-1].reason) == (id, "mail", "first")
    assert (second.origin, second.failures[-1].reason, second.attempts) == ("bills", "second", 0)
    assert second.id > id
    assert (second.body, second.headers, second.topic) == ({"n": 1}, {"a": "b"}, "orders")
    assert second.created_at == first.created_at
    assert broker.queue("dead").stats().published == 2
    assert (bills.stats().dead_lettered, bills.stats().failed, bills.stats().bytes) == (1, 1, 0)
    exact(broker)
    assert broker.queue("dead").replay() == 2
    assert [(each.id, each.origin) for each in bills.peek()] == [(second.id, None)]
    assert [each.id for each in mail.peek()] == [id]
    exact(broker)


def test_dead_letters_in_one_transaction_are_two_messages(broker):
    for name in ("mail", "bills"):
        broker.queue(name, dead_letter="dead", max_attempts=1)
    mail, bills = fanned(broker, "mail", "bills")
    broker.topic("orders").publish("x")
    with broker.transaction() as tx:
        tx.nack(mail.receive(timeout=0))
        tx.nack(bills.receive(timeout=0))
    assert [each.origin for each in broker.queue("dead").peek()] == ["mail", "bills"]
    exact(broker)


def test_replay_to_a_queue_that_holds_it(broker):
    broker.queue("mail", max_attempts=1)
    mail, bills = fanned(broker, "mail", "bills")
    id = broker.topic("orders").publish("x")
    mail.receive(timeout=0).nack()
    assert broker.queue("mail.dead").replay(to="bills") == 1
    assert [each.body for each in bills.peek()] == ["x", "x"]
    assert bills.peek()[0].id == id
    exact(broker)
    for message in bills.receive_many(5, 0):
        message.ack()
    exact(broker)


def test_last_attempts_and_times_to_live_that_end(broker, clock: FakeClock):
    for name in ("mail", "bills"):
        broker.queue(name, dead_letter="dead", max_attempts=1, expired="dead_letter")
    mail, _ = fanned(broker, "mail", "bills")
    broker.topic("orders").publish("x", ttl=60)
    mail.receive(timeout=0)
    clock.advance(61)
    broker.queue("other").publish("do what is due")
    broker.queue("other").publish("and more")
    assert sorted(each.origin for each in broker.queue("dead").peek()) == ["bills", "mail"]
    exact(broker)


@pytest.mark.parametrize("way", ["purge", "delete", "cancel", "ttl"])
def test_ways_out_of_one_queue(broker, clock: FakeClock, way):
    mail, bills = fanned(broker, "mail", "bills")
    ids = [broker.topic("orders").publish(n, ttl=50) for n in range(3)]
    held = mail.receive(timeout=0)
    if way == "purge":
        assert mail.purge() == 2
    elif way == "delete":
        mail.delete()
    elif way == "cancel":
        assert mail.cancel(ids[1])
    else:
        clock.advance(51)
        broker.queue("other").publish("do what is due")
    exact(broker)
    assert held.id == ids[0]
    assert len(bodies(bills)) == (0 if way == "ttl" else 3)


def test_at_most_once(broker):
    broker.queue("once", delivery="at_most_once")
    once, mail = fanned(broker, "once", "mail")
    broker.topic("orders").publish("x")
    assert once.receive(timeout=0).body == "x"
    assert bodies(mail) == ["x"]
    exact(broker)


def test_batches(broker):
    mail, bills = fanned(broker, "mail", "bills")
    ids = [broker.topic("orders").publish(b"%d" % n) for n in range(300)]
    taken = mail.receive_many(200, 0)
    assert [each.id for each in taken] == ids[:200]
    assert [each.raw for each in taken] == [b"%d" % n for n in range(200)]
    mail.ack_many(taken)
    exact(broker)
    bills.ack_many(each.receipt for each in bills.receive_many(300, 0))
    exact(broker)
    assert mail.stats().ready == 100


def test_a_transaction_publishes_to_topics(broker):
    mail, bills = fanned(broker, "mail", "bills")
    with broker.transaction() as tx:
        tx.publish(broker.topic("orders"), "x")
        tx.publish(bills, "y")
        tx.publish("bills", "z")
    assert (bodies(mail), bodies(bills)) == (["x"], ["x", "y", "z"])
    assert [each.id for each in bills.peek()] == tx.ids


def test_consumer_groups_each_get_everything_and_members_compete(broker, clock: FakeClock):
    mail, bills = fanned(broker, "mail", "bills")
    ids = [broker.topic("orders").publish(n) for n in range(4)]
    members = mail, broker.queue("mail")
    taken = [member.receive(timeout=0).id for member in (*members, *members)]
    assert taken == ids
    assert [each.id for each in bills.receive_many(9, 0)] == ids
    clock.advance(60)
    assert sorted(each.id for each in members[1].receive_many(9, 0)) == ids  # of a member that died


@pytest.mark.parametrize("name", ["", "a..b", ".a", "a.", "a.*", "#", "a\0b", "x" * 256, 5])
def test_names_of_topics_that_are_none(broker, name):
    with pytest.raises(UsageError):
        broker.topic(name)


@pytest.mark.parametrize("pattern", ["", "a..b", "a*", "a.b#", "x" * 256, None])
def test_patterns_that_are_none(broker, pattern):
    with pytest.raises(UsageError):
        broker.queue("mail").subscribe(pattern)
    assert broker.queues() == []


def test_topics_of_another_broker_are_refused_in_a_transaction(broker):
    with (
        mq.open(":memory:") as other,
        broker.transaction() as tx,
        pytest.raises(UsageError, match="the topic 'orders' is another broker's"),
    ):
        tx.publish(other.topic("orders"), "x")


def test_a_queue_that_is_called_like_a_topic_is_another_thing(broker):
    mail = broker.queue("orders")
    mail.publish("to the queue")
    broker.topic("orders").publish("to nobody")
    assert bodies(mail) == ["to the queue"]


@pytest.mark.parametrize("options", [{}, {"priority": 1}], ids=["plain", "with a plan"])
def test_a_publish_wakes_a_receiver_at_each_queue(broker, options):
    queues = fanned(broker, "mail", "bills")
    broker.topic("orders").publish("first")  # which declares what topics need
    for queue in queues:
        queue.receive(timeout=0).ack()
    found: dict[str, object] = {}

    def receive(queue: mq.Queue) -> None:
        found[queue.name] = queue.receive(timeout=PATIENCE).body

    threads = [threading.Thread(target=receive, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    while len(broker._store.waiters.asleep) < 2:
        time.sleep(0.001)
    broker.topic("orders").publish("x", **options)
    for thread in threads:
        thread.join(PATIENCE)
    assert found == {"mail": "x", "bills": "x"}


def test_a_publish_waits_for_room_in_the_queue_that_is_full(broker):
    broker.queue("full", max_length=1)
    mail, full = fanned(broker, "mail", "full")
    broker.topic("orders").publish("x")
    thread = threading.Thread(target=lambda: broker.topic("orders").publish("y", timeout=PATIENCE))
    thread.start()
    while not broker._store.waiters.asleep:
        time.sleep(0.001)
    full.receive(timeout=0).ack()
    thread.join(PATIENCE)
    assert (bodies(mail), bodies(full)) == (["x", "y"], ["y"])


@pytest.mark.needs("sharing")
def test_another_process_sees_subscriptions_and_what_is_published(engine, broker, clock: FakeClock):
    (mail,) = fanned(broker, "mail")
    with engine.open(clock=clock) as other:
        other.topic("orders").publish("first")
        assert other.queue("mail").subscriptions() == ["orders.#"]
        assert broker.topic("orders").publish("second")
        other.queue("bills").subscribe("#")
        broker.topic("orders").publish("third")
        assert bodies(mail) == ["first", "second", "third"]
        assert bodies(broker.queue("bills")) == ["third"]
        exact(broker)
        exact(other)
