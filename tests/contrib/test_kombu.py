"""kombu's broker interface on mq, in one process: what its documentation promises of a transport."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kombu", reason='kombu is not installed: pip install "mq[celery]"')

import kombu
from kombu import Exchange, Queue
from kombu.asynchronous import Hub
from kombu.exceptions import ChannelError, OperationalError
from kombu.pidbox import Mailbox
from kombu.transport import virtual

import mq
import mq.contrib.kombu
from mq.contrib import stores

PATIENCE = 120.0  # seconds, for what comes at once


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[..., kombu.Connection]]:
    """Connections to one store, closed at the end."""
    made: list[kombu.Connection] = []

    def connect(query: str = "sync=never", **options: Any) -> kombu.Connection:
        connection = kombu.Connection(f"mq:///{path}?{query}", transport_options=options)
        made.append(connection)
        return connection

    yield connect
    for each in made:
        each.close()
    assert not [key for key in stores._brokers if key[0] == str(path)], "a broker was left open"


@pytest.fixture
def connection(connect) -> kombu.Connection:
    return connect()


@pytest.fixture
def broker(connection) -> mq.Broker:
    """The one that the connection uses."""
    connection.connect()
    return connection.transport.broker


def publish(connection: kombu.Connection, body: object, queue: str = "q", **options: Any) -> None:
    connection.Producer().publish(body, routing_key=queue, **options)


def drain(connection: kombu.Connection, timeout: float = 0.0) -> int:
    """Hand on all there is; how many events there were."""
    events = 0
    while True:
        try:
            connection.drain_events(timeout=timeout)
        except TimeoutError:
            return events
        events += 1


class Collected(list[kombu.Message]):
    """A callback that keeps messages."""

    def __init__(self, *, ack: bool = False) -> None:
        self._ack = ack

    def __call__(self, body: object, message: kombu.Message) -> None:
        self.append(message)
        if self._ack:
            message.ack()

    @property
    def bodies(self) -> list[Any]:
        return [each.payload for each in self]


def consume(
    connection: kombu.Connection, *queues: Queue | str, ack: bool = True, **options: Any
) -> Collected:
    got = Collected(ack=ack)
    named = [each if isinstance(each, Queue) else Queue(each, no_declare=True) for each in queues]
    options.setdefault("accept", ["json", "pickle", "application/data", "text/plain"])
    connection.Consumer(named, callbacks=[got], **options).consume()
    return got


# ── messages ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"a": [1, 2.5, None, "ä\U0001f600"]}, {}),
        (b"\0\xff", {"content_type": "application/data", "content_encoding": "binary"}),
        ("text", {"content_type": "text/plain", "content_encoding": "utf-8"}),
        ({1, (2, 3)}, {"serializer": "pickle"}),
        (["x" * 10_000], {"compression": "zlib"}),
        (datetime(2030, 1, 1, tzinfo=UTC), {}),
        (["x" * 5_000_000], {}),
    ],
    ids=["json", "bytes", "text", "pickle", "compressed", "json of a time", "5 MB"],
)
def test_a_body_comes_back_as_it_was(connection, body, options) -> None:
    publish(connection, body, **options)
    got = consume(connection, "q")
    assert drain(connection) == 1
    assert got.bodies == [body]


def test_headers_and_properties_come_back_as_they_were(connection) -> None:
    headers = {
        "at": datetime(2030, 1, 1),
        "id": uuid.UUID(int=7),
        "sum": Decimal("1.10"),
        "n": None,
        "l": [{}],
    }
    publish(connection, {}, headers=headers, correlation_id="c", reply_to="r", priority=3, content_type=None)
    got = consume(connection, "q")
    drain(connection)
    assert got[0].headers == headers
    assert {name: got[0].properties[name] for name in ("correlation_id", "reply_to", "priority")} == {
        "correlation_id": "c", "reply_to": "r", "priority": 3,
    }  # fmt: skip
    assert got[0].delivery_info == {"exchange": "", "routing_key": "q"}


def test_messages_come_in_order_each_once(connection, broker) -> None:
    for number in range(100):
        publish(connection, number)
    got = consume(connection, "q")
    assert drain(connection) == 100, "one event for each message: callers count them"
    assert got.bodies == list(range(100))
    assert broker.queue("q").stats()[:3] == (0, 0, 0)


def test_what_is_no_message_of_kombu_goes_to_the_dead_letters(connection, broker, caplog) -> None:
    for body in ("no JSON", b"\xff", {"a": 1}, '["list"]', '{"properties": 1, "body": 2}'):
        broker.queue("q").publish(body)
    publish(connection, "good")
    got = consume(connection, "q")
    drain(connection)
    assert got.bodies == ["good"]
    assert broker.queue("q.dead").stats().ready == 5
    assert "no message of kombu" in broker.queue("q.dead").peek()[0].failures[-1].reason
    assert caplog.text.count("went to its dead letters") == 5
    broker.queue("p").publish("no JSON")
    assert connection.default_channel.basic_get("p") is None


# ── settling ───────────────────────────────────────────────────────────────────────


def test_what_is_not_settled_is_released_when_the_connection_closes(connect, connection, broker) -> None:
    publish(connection, 1)
    other = connect()
    consume(other, "q", ack=False)
    drain(other)
    assert broker.queue("q").stats().in_flight == 1
    other.close()
    assert broker.queue("q").peek()[0].attempts == 0, "it was not tried"
    got = consume(connection, "q")
    drain(connection)
    assert "redelivered" not in got[0].delivery_info


def test_a_requeued_message_comes_again_first_and_says_so(connection, broker) -> None:
    publish(connection, 1)
    publish(connection, 2)
    got = consume(connection, "q", ack=False)
    connection.drain_events(timeout=0)
    got[0].requeue()
    drain(connection)
    assert got.bodies == [1, 1, 2]
    assert got[1].delivery_info["redelivered"] and "redelivered" not in got[2].delivery_info
    assert broker.queue("q").peek(state="in_flight")[0].attempts == 2, "so that max_attempts counts it"


def test_a_rejected_message_goes_to_the_dead_letters_and_back(connection, broker) -> None:
    publish(connection, 1)
    got = consume(connection, "q", ack=False)
    drain(connection)
    got[0].reject()
    assert broker.queue("q.dead").replay() == 1
    drain(connection)
    assert got.bodies == [1, 1]
    got[1].ack()
    assert broker.queue("q").stats().ready == 0


def test_recover_gives_back_all_that_is_unacked(connection) -> None:
    publish(connection, 1)
    got = consume(connection, "q", ack=False)
    drain(connection)
    got[0].channel.basic_recover(requeue=True)
    drain(connection)
    assert got.bodies == [1, 1]


def test_settling_too_late_is_logged_and_touches_no_other_delivery(connection, broker, caplog) -> None:
    publish(connection, 1)
    got = consume(connection, "q", ack=False)
    drain(connection)
    (held,) = got[0].channel.qos._held.values()
    held.nack(delay=0)
    taken = broker.queue("q").receive(timeout=0)
    got[0].ack()
    assert "acked or rejected too late" in caplog.text
    assert taken is not None and broker.queue("q").stats().in_flight == 1
    taken.ack()


@pytest.mark.parametrize("again", [False, True])
def test_what_could_not_be_settled_can_be_again_or_is_released(
    connect, connection, broker, monkeypatch, again
) -> None:
    publish(connection, 1)
    other = connect()
    got = consume(other, "q", ack=False)
    drain(other)

    def full(self: mq.Delivery[Any]) -> None:
        raise mq.DiskFull(broker.path, "no space left on the device")

    with monkeypatch.context() as disk:
        disk.setattr(mq.Delivery, "ack", full)
        with pytest.raises(mq.DiskFull):
            got[0].ack()
    if again:
        got[0].ack()
    other.close()
    assert broker.queue("q").stats()[:3] == (0 if again else 1, 0, 0)


def test_a_lease_is_kept_while_the_connection_lives(connect, outlive) -> None:
    """Longer than the visibility timeout; and it ends with the lease, not with the message."""
    connection = connect("sync=never&visibility_timeout=30")
    connection.default_channel.queue_declare("q")
    publish(connection, 1)
    got = consume(connection, "q", ack=False)
    drain(connection)
    broker = connection.transport.broker
    outlive(lambda: broker.queue("q").peek(state="in_flight")[0], 30)
    assert broker.queue("q").receive(timeout=0) is None
    assert broker.queue("q").stats().in_flight == 1, "else it failed, and is delayed"
    got[0].ack()
    assert broker.queue("q").stats()[:3] == (0, 0, 0)


def test_no_ack_acks_as_it_takes(connection, broker) -> None:
    publish(connection, 1)
    got = consume(connection, "q", ack=False, no_ack=True)
    drain(connection)
    assert got.bodies == [1] and broker.queue("q").stats()[:3] == (0, 0, 0)


def test_get_takes_one(connection, broker) -> None:
    channel = connection.default_channel
    assert channel.basic_get("q") is None
    publish(connection, 1)
    publish(connection, 2)
    one = channel.basic_get("q")
    assert one.payload == 1 and broker.queue("q").stats().in_flight == 1
    one.ack()
    assert channel.basic_get("q", no_ack=True).payload == 2
    assert broker.queue("q").stats()[:3] == (0, 0, 0)


# ── prefetch ───────────────────────────────────────────────────────────────────────


def test_no_more_is_held_than_prefetch_allows(connection, broker) -> None:
    for number in range(5):
        publish(connection, number)
    got = Collected()
    consumer = connection.Consumer([Queue("q", no_declare=True)], callbacks=[got], prefetch_count=2)
    consumer.consume()
    drain(connection)
    assert got.bodies == [0, 1] and broker.queue("q").stats().in_flight == 2
    got[0].ack()
    drain(connection)
    assert got.bodies == [0, 1, 2]
    consumer.qos(prefetch_count=4)
    drain(connection)
    assert got.bodies == [0, 1, 2, 3, 4]


def test_an_ack_of_another_thread_makes_room(connection) -> None:
    publish(connection, 1)
    publish(connection, 2)
    got = Collected()
    connection.Consumer([Queue("q", no_declare=True)], callbacks=[got], prefetch_count=1).consume()
    connection.drain_events(timeout=0)
    thread = threading.Timer(0.05, got[0].ack)
    thread.start()
    connection.drain_events(timeout=PATIENCE)
    thread.join()
    assert got.bodies == [1, 2]


def test_queues_are_asked_by_turns(connection) -> None:
    for name in ("a", "b", "c"):
        for number in range(3):
            publish(connection, f"{name}{number}", name)
    got = consume(connection, "a", "b", "c")
    drain(connection)
    assert sorted(got.bodies[:3]) != ["a0", "a1", "a2"]
    assert {body[0] for body in got.bodies[:3]} == {"a", "b", "c"}


# ── waiting ────────────────────────────────────────────────────────────────────────


def test_draining_is_woken_by_a_publish_and_ends_in_time(connect, connection) -> None:
    got = consume(connection, "q")
    other = connect()
    thread = threading.Timer(0.05, publish, (other, 1))
    thread.start()
    connection.drain_events(timeout=PATIENCE)
    thread.join()
    assert got.bodies == [1]
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.01)


def test_draining_is_woken_when_something_falls_due(connection, broker) -> None:
    got = consume(connection, "q")
    eta = datetime.now(UTC) + timedelta(seconds=0.3)
    publish(connection, 1, headers={"task": "t", "eta": eta.isoformat()})
    assert broker.queue("q").stats().delayed == 1 or datetime.now(UTC) >= eta, "unless it is due by now"
    connection.drain_events(timeout=PATIENCE)
    assert got.bodies == [1] and datetime.now(UTC) >= eta


# ── callbacks that go wrong ────────────────────────────────────────────────────────


def test_what_a_callback_raises_costs_no_message(connection, broker) -> None:
    for number in range(3):
        publish(connection, number)

    def fail(body: object, message: kombu.Message) -> None:
        raise ZeroDivisionError

    with connection.Consumer([Queue("q", no_declare=True)], callbacks=[fail]):
        with pytest.raises(ZeroDivisionError):
            connection.transport._deliver_up_to(10)
        assert broker.queue("q").stats()[:2] == (2, 1)


def test_a_consumer_that_is_cancelled_by_a_callback_gets_no_more(connection, broker) -> None:
    for number in range(3):
        publish(connection, number)
    got: list[object] = []

    def stop(body: object, message: kombu.Message) -> None:
        got.append(body)
        message.ack()
        consumer.cancel()

    consumer = connection.Consumer([Queue("q", no_declare=True)], callbacks=[stop])
    consumer.consume()
    connection.transport._deliver_up_to(10)
    assert got == [0]
    assert broker.queue("q").stats()[:2] == (2, 0)
    assert [each.attempts for each in broker.queue("q").peek()] == [0, 0]


# ── exchanges ──────────────────────────────────────────────────────────────────────


def bound(name: str, exchange: Exchange, key: str = "") -> Queue:
    return Queue(name, exchange, routing_key=key)


def test_a_direct_exchange_routes_by_the_whole_key(connection) -> None:
    exchange = Exchange("jobs", "direct")
    got = {key: consume(connection, bound(key, exchange, key)) for key in ("a", "b", "a.b")}
    for key in ("a", "a.b", "c"):
        connection.Producer().publish(key, exchange=exchange, routing_key=key)
    drain(connection)
    assert {key: each.bodies for key, each in got.items()} == {"a": ["a"], "b": [], "a.b": ["a.b"]}


def test_a_durable_publish_is_one_sync_in_whichever_way_it_is_routed(connect, count_syncs) -> None:
    connection = connect("sync=always")
    direct, fanout = Exchange("jobs", "direct"), Exchange("all", "fanout")
    got = consume(connection, bound("a", direct, "a"), bound("b", fanout), bound("c", fanout))
    producer = connection.Producer()
    producer.publish(0, exchange=direct, routing_key="a")
    syncs = count_syncs(connection.transport.broker)
    for number, (exchange, key) in enumerate([(direct, "a"), (fanout, ""), ("", "a")], 1):
        producer.publish(number, exchange=exchange, routing_key=key)
        assert len(syncs) == number
    drain(connection)
    assert sorted(got.bodies) == [0, 1, 2, 2, 3]


def test_a_topic_exchange_routes_by_words(connection) -> None:
    exchange = Exchange("news", "topic")
    got = {key: consume(connection, bound(key, exchange, key)) for key in ("eu.*", "eu.#", "#", "*.sport")}
    for key in ("eu", "eu.sport", "us.sport", "eu.sport.now"):
        connection.Producer().publish(key, exchange=exchange, routing_key=key)
    drain(connection)
    assert {key: each.bodies for key, each in got.items()} == {
        "eu.*": ["eu.sport"],
        "eu.#": ["eu", "eu.sport", "eu.sport.now"],
        "#": ["eu", "eu.sport", "us.sport", "eu.sport.now"],
        "*.sport": ["eu.sport", "us.sport"],
    }


def test_a_fanout_reaches_all_queues_of_all_connections_with_one_record(connect, connection, broker) -> None:
    exchange = Exchange("all", "fanout")
    others = [connect() for _ in range(3)]
    got = [consume(each, bound(f"q{n}", exchange)) for n, each in enumerate(others)]
    connection.Producer().publish("x", exchange=exchange, routing_key="what.ever", declare=[exchange])
    assert {broker.queue(f"q{n}").peek()[0].id for n in range(3)} == {broker.queue("q0").peek()[0].id}
    assert [drain(each) for each in others] == [1, 1, 1]
    assert [each.bodies for each in got] == [["x"]] * 3


def test_a_producer_needs_to_know_no_exchange_and_no_binding(connect, connection) -> None:
    got = consume(connection, bound("q", Exchange("e", "topic"), "a.*"))
    other = connect()
    other.Producer().publish("x", exchange="e", routing_key="a.b")
    drain(connection)
    assert got.bodies == ["x"]


def test_bindings_are_read_once_and_again_when_one_changes(connection, broker, monkeypatch) -> None:
    channel = connection.default_channel
    bound("q", Exchange("e", "topic"), "a.*")(channel).declare()
    asked = []
    listed = mq.Broker.subscriptions
    monkeypatch.setattr(
        mq.Broker, "subscriptions", lambda self, *given: asked.append(given) or listed(self, *given)
    )
    for _ in range(5):
        connection.Producer().publish(1, exchange="e", routing_key="a.b")
        assert channel.get_table("e") == [("a.*", "", "q")]
    assert len(asked) == 1
    bound("p", Exchange("e", "topic"), "b")(channel).declare()
    assert list(channel.list_bindings()) == [("q", "e", "a.*"), ("p", "e", "b")]
    assert connection.get_manager().get_bindings()[0] == {
        "destination": "q",
        "source": "e",
        "routing_key": "a.*",
    }


def test_an_unbound_queue_gets_no_more(connection, broker) -> None:
    exchange, channel = Exchange("e", "direct"), connection.default_channel
    queue = bound("q", exchange, "k")(channel)
    queue.declare()
    queue.unbind_from(exchange, "k")
    connection.Producer().publish(1, exchange="e", routing_key="k")
    assert broker.queue("q").stats().ready == 0 and broker.stats().unrouted == 1
    queue.bind_to(exchange, "k")
    exchange(channel).delete()
    connection.Producer().publish(1, exchange="e", routing_key="k")
    assert broker.subscriptions() == [] and broker.queues() == ["q"]


def test_exchanges_are_declared_as_kombu_has_it(connection) -> None:
    channel = connection.default_channel
    channel.exchange_declare("e", "topic")
    channel.exchange_declare("e", "topic")
    channel.exchange_declare("e", passive=True)
    with pytest.raises(virtual.base.NotEquivalentError):
        channel.exchange_declare("e", "fanout")
    with pytest.raises(ChannelError, match="no exchange 'other'"):
        channel.exchange_declare("other", passive=True)
    with pytest.raises(ChannelError, match="no exchanges of type 'headers', only direct, fanout, topic"):
        channel.exchange_declare("h", "headers")
    with pytest.raises(ChannelError, match="declare it on this connection"):
        channel.queue_bind("q", "other", "k")
    with pytest.raises(NotImplementedError):
        channel.exchange_bind("a", "b")
    assert "topic" in connection.transport.implements.exchange_type


def test_what_no_queue_gets_may_go_to_a_queue_for_that(connect) -> None:
    connection = connect(deadletter_queue="lost")
    connection.Producer().publish(1, exchange=Exchange("e", "direct"), routing_key="none")
    bound("q", Exchange("e", "direct"), "k")(connection.default_channel).declare()
    connection.Producer().publish(2, exchange="e", routing_key="k")
    got, found = consume(connection, "lost"), consume(connection, "q")
    drain(connection)
    assert got.bodies == [1] and found.bodies == [2]


# ── queues ─────────────────────────────────────────────────────────────────────────


def test_a_queue_is_declared_counted_purged_and_deleted(connection, broker) -> None:
    channel = connection.default_channel
    assert channel.queue_declare("q") == ("q", 0, 0)
    assert channel.queue_declare().queue.startswith("amq.gen-")
    publish(connection, 1)
    publish(connection, 2)
    assert channel.queue_declare("q", passive=True).message_count == 2
    channel.queue_delete("q", if_empty=True)
    assert channel.queue_purge("q") == 2
    consume(connection, "q")
    channel.queue_delete("q", if_unused=True)
    assert "q" in broker.queues()
    channel.queue_delete("q")
    assert "q" not in broker.queues()
    with pytest.raises(ChannelError, match="no queue 'q'"):
        channel.queue_declare("q", passive=True)


def test_a_declaration_changes_only_what_it_names(connect, connection, broker) -> None:
    connection.default_channel.queue_declare("q", arguments={"x-max-length": 3})
    assert broker.queue("q").options()["visibility_timeout"] == 30
    other = connect("sync=never&visibility_timeout=7&max_attempts=4")
    other.default_channel.queue_declare("q")
    connection.default_channel.queue_declare("q")
    options = broker.queue("q").options()
    assert (options["visibility_timeout"], options["max_attempts"], options["max_length"]) == (7, 4, 3)


def test_arguments_of_queues_reach_the_store(connection, broker) -> None:
    dead = bound("bad", Exchange("dlx", "direct"), "gone")
    dead(connection.default_channel).declare()
    Queue(
        "q", expires=90, message_ttl=30, max_length=2, max_length_bytes=5000, max_priority=5,
        queue_arguments={"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "gone"},
    )(connection.default_channel).declare()  # fmt: skip
    options = broker.queue("q").options()
    assert (options["delete_when_abandoned"], options["ttl"], options["max_length"]) == (90, 30, 2)
    assert (options["max_bytes"], options["overflow"], options["dead_letter"]) == (5000, "drop_oldest", "bad")
    for number in range(3):
        publish(connection, number)
    got = consume(connection, Queue("q", no_declare=True), ack=False)
    drain(connection)
    assert got.bodies == [1, 2]
    got[0].reject()
    assert broker.queue("bad").stats().ready == 1


def test_dead_letters_have_one_queue(connection) -> None:
    arguments = {"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "gone"}
    with pytest.raises(ChannelError, match="declare and bind it before"):
        connection.default_channel.queue_declare("q", arguments=arguments)


def test_a_queue_that_refuses_more_raises(connection) -> None:
    connection.default_channel.queue_declare(
        "q", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    publish(connection, 1)
    with pytest.raises(mq.QueueFull):
        publish(connection, 2)
    with pytest.raises(OperationalError):
        publish(connection, 2, retry=True, retry_policy={"max_retries": 1, "interval_start": 0})


def test_an_exclusive_queue_goes_with_its_consumer(connection, broker) -> None:
    queue = Queue("mine", Exchange("e", "fanout"), exclusive=True)
    with connection.Consumer([queue], callbacks=[print]):
        assert "mine" in broker.queues()
    assert broker.queues() == [] and broker.subscriptions() == []


def test_a_temporary_queue_that_went_under_its_consumer_is_made_anew(connection, broker) -> None:
    """A worker that was kept from looking for long: stopped, or in one task without a loop."""
    exchange = Exchange("all", "fanout")
    queue = Queue("mine", exchange, auto_delete=True, expires=10)
    got = consume(connection, queue)
    assert broker.queue("mine").options()["delete_when_abandoned"] == 60
    broker.queue("mine").delete()
    drain(connection)
    connection.Producer().publish("x", exchange=exchange)
    drain(connection)
    assert got.bodies == ["x"]


# ── priority and time ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("order", "expected"), [("high_first", [9, 5, 0]), ("low_first", [0, 5, 9])])
def test_priority_has_both_orders(connect, order, expected) -> None:
    connection = connect(priority_order=order)
    for priority in (5, 0, 9):
        publish(connection, priority, priority=priority)
    got = consume(connection, "q")
    drain(connection)
    assert got.bodies == expected


def test_a_message_of_kombu_expires_and_a_task_does_not(connection, broker) -> None:
    """Its worker has to revoke it: its caller, and what watches events, is told so."""
    publish(connection, 1, expiration=30)
    publish(connection, 2, expiration=30, headers={"task": "t", "expires": "2030-01-01T00:00:00+00:00"})
    message, task = broker.queue("q").peek()
    assert message.expires_at is not None and task.expires_at is None


def test_a_dedup_id_is_published_once(connection, broker) -> None:
    for _ in range(3):
        publish(connection, 1, dedup_id="once")
    assert broker.queue("q").stats().published == 1


# ── connections ────────────────────────────────────────────────────────────────────


def test_a_connection_prints_its_url(path) -> None:
    url = f"mq:///{path}?sync=0.1"
    connection = kombu.Connection(url)
    assert connection.as_uri() == url and connection.clone().as_uri() == url
    named = kombu.Connection(url, transport="mq.contrib.kombu:Transport")
    assert named.as_uri() == url and isinstance(named.transport, mq.contrib.kombu.Transport)
    assert kombu.Connection("mq:///data").as_uri() == "mq:///data"
    assert connection.transport.driver_version() == mq.__version__
    assert not path.exists(), "nothing is opened before it is used"


def test_connections_of_a_process_share_a_broker_until_the_last_closes(connect) -> None:
    one, other, apart = connect(), connect(), connect("sync=0.5")
    for each in (one, other, apart):
        each.connect()
    assert one.transport.broker is other.transport.broker is not apart.transport.broker
    broker = one.transport.broker
    one.close()
    publish(other, 1)
    other.close()
    with pytest.raises(mq.Closed):
        broker.queues()


def test_a_broker_that_was_closed_is_opened_anew(connect) -> None:
    connection = connect()
    publish(connection, 1)
    connection.transport.broker.close()
    assert not connection.connected
    publish(connection, 2, retry=True, retry_policy={"max_retries": 3})
    got = consume(connection, "q")
    drain(connection)
    assert got.bodies == [1, 2]


def test_a_url_that_is_none_is_told_before_anything_is_made() -> None:
    with pytest.raises(mq.UsageError, match="names no directory"):
        kombu.Connection("mq://").connect()


def test_a_store_that_cannot_be_opened_is_an_error_of_the_connection(path) -> None:
    path.mkdir()
    (path / "something else").touch()
    connection = kombu.Connection(f"mq:///{path}")
    with pytest.raises(OperationalError, match="other files are in there"):
        connection.ensure_connection(max_retries=1, interval_start=0)


# ── what kombu builds on it ────────────────────────────────────────────────────────


def test_a_simple_queue(connection) -> None:
    with connection.SimpleQueue("simple") as queue:
        queue.put({"a": 1})
        assert queue.qsize() == 1
        message = queue.get(timeout=PATIENCE)
        assert message.payload == {"a": 1}
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get(block=False)


def test_a_mailbox_asks_all_nodes_and_collects_their_replies(connect) -> None:
    """What `celery inspect` and `celery control` are made of."""
    mailbox = Mailbox("test", type="fanout")
    ask = mailbox(connect())
    threads, stop = [], threading.Event()

    def serve(number: int) -> None:
        with connect() as connection:
            node = mailbox(connection).Node(f"node{number}", channel=connection.default_channel)
            node.handler(lambda state, **given: {"pong": number}).__name__ = "ping"
            node.handlers["ping"] = lambda state, **given: {"pong": number}
            node.listen()
            ready.release()
            while not stop.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.2)

    ready = threading.Semaphore(0)
    for number in range(2):
        threads.append(threading.Thread(target=serve, args=(number,)))
        threads[-1].start()
    for _ in threads:
        assert ready.acquire(timeout=PATIENCE)
    for _ in range(2):
        replies = ask.multi_call("ping", timeout=PATIENCE, limit=2)
        assert sorted(each[name]["pong"] for each in replies for name in each) == [0, 1]
    stop.set()
    for each in threads:
        each.join()
    broker = ask.connection.transport.broker
    assert [name for name in broker.queues() if "reply" in name] == [], "a reply queue goes once it was read"


# ── forks ──────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_lets_go_of_nothing_that_is_its_parents(connection, broker) -> None:
    """A pool of workers closes the connections that it inherits."""
    publish(connection, 1)
    exclusive = Queue("mine", exclusive=True)
    got = consume(connection, "q", ack=False)
    consume(connection, exclusive)
    drain(connection)
    pid = os.fork()
    if pid == 0:
        try:
            got[0].channel.qos.restore_unacked_once()
            connection.collect()
            publish(kombu.Connection(connection.as_uri()), "of the child", "p")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert broker.queue("q").stats()[:2] == (0, 1) and "mine" in broker.queues()
    got[0].ack()
    found = consume(connection, "p")
    drain(connection)
    assert found.bodies == ["of the child"] and broker.queue("q").stats()[:2] == (0, 0)


# ── in an event loop ───────────────────────────────────────────────────────────────


class Loop:
    """Celery's loop, turned by hand."""

    def __init__(self, connection: kombu.Connection) -> None:
        self.hub = Hub()
        self.hub.call_later(10 * PATIENCE, print)
        plain = self.hub.fire_timers  # a hub turns once a second, whatever happens; here tests want to go on
        self.hub.fire_timers = lambda **given: plain(min_delay=0.01, max_delay=0.01, **given)
        connection.connect()
        connection.register_with_event_loop(self.hub)

    def until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            self.hub.run_once()
            assert time.monotonic() < end

    def turn(self) -> None:
        """Once, without sleeping."""
        ready, write = os.pipe()
        os.write(write, b"!")
        self.hub.add_reader(ready, lambda: None)
        self.hub.run_once()
        self.hub.remove_reader(ready)
        os.close(ready)
        os.close(write)


@pytest.fixture
def loop(connection) -> Iterator[Loop]:
    loop = Loop(connection)
    yield loop
    if connection.connected:
        connection.transport.unregister_from_event_loop(connection.connection, loop.hub)
    loop.hub.close()


def test_the_loop_is_woken_by_another_connection(connect, connection, loop) -> None:
    got = consume(connection, "q")
    thread = threading.Timer(0.1, publish, (connect(), 1))
    thread.start()
    loop.until(lambda: len(got) == 1)
    thread.join()
    assert got.bodies == [1]


def test_a_message_is_handed_on_before_the_ticks_of_a_turn(connection, loop, monkeypatch) -> None:
    """A pool of processes looks there for what it has to write, and else sleeps on it."""
    order: list[str] = []
    poll = loop.hub.poller.poll
    monkeypatch.setattr(loop.hub.poller, "poll", lambda *given: order.append("poll") or poll(*given))
    loop.hub.on_tick.add(lambda: order.append("tick"))
    publish(connection, 1)
    queue = Queue("q", no_declare=True)
    connection.Consumer([queue], callbacks=[lambda body, message: order.append("message")]).consume()
    loop.until(lambda: "message" in order)
    loop.turn()
    assert order[order.index("message") + 1] == "tick"


def test_the_loop_is_woken_by_room_for_a_message(connection, loop) -> None:
    for number in range(3):
        publish(connection, number)
    got = Collected()
    connection.Consumer([Queue("q", no_declare=True)], callbacks=[got], prefetch_count=1).consume()
    for number in range(3):
        loop.until(lambda wanted=number + 1: len(got) == wanted)
        thread = threading.Timer(0.02, got[-1].ack)
        thread.start()
    thread.join()
    assert got.bodies == [0, 1, 2]


def test_the_loop_is_woken_when_a_task_is_due(connection, broker, loop) -> None:
    """Also when one comes that is due before the one that the loop had in mind."""
    got = consume(connection, "q")
    for seconds in (3600, 0.2):
        eta = datetime.now(UTC) + timedelta(seconds=seconds)
        publish(connection, seconds, headers={"task": "t", "eta": eta.isoformat()})
        loop.turn()
    loop.until(lambda: len(got) == 1)
    assert got.bodies == [0.2] and datetime.now(UTC) >= eta
    (later,) = broker.queue("q").peek(state="delayed")
    eta = datetime.now(UTC) + timedelta(seconds=0.2)
    broker.queue("q").reschedule(later.id, at=eta)
    loop.until(lambda: len(got) == 2)
    assert got.bodies == [0.2, 3600] and datetime.now(UTC) >= eta


def test_the_loop_hands_on_a_long_backlog_with_turns_in_between(connection, loop) -> None:
    for number in range(100):
        publish(connection, number)
    got, seen = consume(connection, "q"), []
    loop.hub.on_tick.add(lambda: seen.append(len(got)))
    loop.until(lambda: len(got) == 100)
    assert got.bodies == list(range(100))
    assert max(after - before for before, after in pairwise(seen)) <= 64


def test_a_loop_asks_the_store_for_nothing_while_nothing_happens(connection, loop, monkeypatch) -> None:
    consume(connection, "q")
    for _ in range(3):
        loop.turn()
    asked = []
    for owner, name in ((mq.Queue, "receive_many"), (mq.Watch, "arm")):
        plain = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given, plain=plain, **more: asked.append(plain) or plain(*given, **more)
        )
    for _ in range(50):
        loop.turn()
    assert asked == []


def test_draining_beside_a_loop_leaves_nothing_behind(connect, connection, loop) -> None:
    """A worker asks others who is there (mingle) on its own connection, before its loop runs."""
    got, other = consume(connection, "q"), connect()
    for _ in range(3):
        loop.turn()
    thread = threading.Timer(0.05, publish, (other, 1))
    thread.start()
    connection.drain_events(timeout=PATIENCE)
    thread.join()
    publish(other, 2)  # the loop was not told of the first one, and has to look
    loop.until(lambda: len(got) == 2)


def test_a_ring_that_comes_late_goes_to_no_other_file(connect) -> None:
    """Of a thread that was about to ring as the connection was closed."""
    connection = connect()
    connection.connect()
    transport = connection.transport
    ring, numbers = transport._bell.ring, (transport._bell.fd, transport._bell._in)
    connection.close()
    others = [os.pipe() for _ in range(4)]
    assert not set(numbers) & {fd for each in others for fd in each}
    ring()
    transport.look()
    del ring
    more = os.pipe()
    assert set(more) <= set(numbers), "they are closed when no thread has them any more"
    for each in (*others, more):
        os.close(each[0])
        os.close(each[1])


def test_a_connection_leaves_the_loop_as_it_closes(connection, loop) -> None:
    consume(connection, "q")
    loop.turn()
    assert loop.hub.readers
    connection.close()
    assert not loop.hub.on_tick and not loop.hub.readers


# ── a disk that fails, or is full ──────────────────────────────────────────────────


def test_a_store_whose_sync_failed_is_opened_anew_and_loses_nothing(connect, fail_next_sync) -> None:
    one, other = connect("sync=always"), connect("sync=always")
    publish(one, 1)
    publish(other, 2)
    failed = fail_next_sync()
    publish(one, 3, retry=True, retry_policy={"max_retries": 3, "interval_start": 0})
    publish(other, 4, retry=True, retry_policy={"max_retries": 3, "interval_start": 0})
    assert failed
    got = consume(other, "q")
    drain(other)
    assert sorted(set(got.bodies)) == [1, 2, 3, 4], "3 is there once or twice: its outcome was unknown"


def test_a_full_disk_refuses_tasks_and_lets_what_is_there_be_worked_off(connect, monkeypatch) -> None:
    connection = connect()
    publish(connection, 1)
    broker = connection.transport.broker

    def full(self: mq.Queue[Any], body: object, **options: Any) -> int:
        raise mq.DiskFull(broker.path, "no space left on the device")

    with monkeypatch.context() as disk:
        disk.setattr(mq.Queue, "publish", full)
        with pytest.raises(OperationalError, match="no space left"):
            publish(connection, 2, retry=True, retry_policy={"max_retries": 1, "interval_start": 0})
    got = consume(connection, "q")
    drain(connection)
    assert got.bodies == [1] and connection.transport.broker.queue("q").stats()[:3] == (0, 0, 0)
