"""Topics that retain: what is read back, and subscriptions that start in the past."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from operator import sub
from typing import Any

import pytest
from engines import Engine
from fakes import FakeClock

import mq
from mq.delivery import due, records
from mq.engine import backfill, history, retaining

pytestmark = pytest.mark.conformance


@pytest.fixture
def topic(broker: mq.Broker) -> mq.Topic[Any]:
    return broker.topic("t.a", retain_count=1000)


def bodies(messages: Iterator[mq.Message[Any]] | list[mq.Message[Any]]) -> list[object]:
    return [message.body for message in messages]


def waiting(queue: mq.Queue[Any]) -> list[object]:
    return bodies(queue.peek(10_000))


def instant(clock: FakeClock) -> datetime:
    return datetime.fromtimestamp(clock.now, UTC)


def drained(queue: mq.Queue[Any]) -> list[object]:
    """All that is delivered, in order; acked."""
    found = []
    while delivery := queue.receive(timeout=0):
        found.append(delivery.body)
        delivery.ack()
    return found


# ── what is retained ───────────────────────────────────────────────────────────────


def test_without_a_limit_nothing_is_retained(broker: mq.Broker) -> None:
    topic = broker.topic("t")
    topic.publish("gone")
    assert list(topic.history()) == []
    assert broker.topics() == []


def test_the_newest_are_retained_by_count(broker: mq.Broker) -> None:
    topic = broker.topic("t", retain_count=3)
    for number in range(50):
        topic.publish(number)
        assert bodies(topic.history()) == list(range(max(0, number - 2), number + 1))
    assert broker.queues() == []


def test_the_newest_are_retained_by_bytes(broker: mq.Broker) -> None:
    topic = broker.topic("t", retain_bytes=1000)
    sizes = []
    for number in range(60):
        body = bytes([number]) * (7 * number % 300)
        topic.publish(body)
        [newest] = topic.history(limit=1)
        sizes.append((newest._size, body))
        kept, left = [], 1000
        for size, each in reversed(sizes):
            left -= size
            if left < 0:
                break
            kept.insert(0, each)
        assert bodies(topic.history()) == kept


def test_the_newest_are_retained_by_age(broker: mq.Broker, clock: FakeClock) -> None:
    topic = broker.topic("t", retain_for=10)
    for number in range(40):
        topic.publish(number)
        clock.advance(1)
        assert bodies(topic.history()) == list(range(max(0, number - 9), number + 1))
    clock.advance(9)
    assert bodies(topic.history()) == [39]
    clock.advance(0.001)
    assert bodies(topic.history()) == []


def test_each_limit_counts(broker: mq.Broker, clock: FakeClock) -> None:
    topic = broker.topic("t", retain_for=5, retain_count=3)
    for number in range(8):
        topic.publish(number)
        clock.advance(1)
    assert bodies(topic.history()) == [5, 6, 7]
    clock.advance(4)
    assert bodies(topic.history()) == [7]


def test_what_is_over_is_dropped_at_last(broker: mq.Broker, clock: FakeClock) -> None:
    """And not only hidden: or else it would live for ever."""
    by_count, by_bytes = broker.topic("count", retain_count=10), broker.topic("bytes", retain_bytes=100)
    by_age = broker.topic("age", retain_for=10)
    for _ in range(500):
        for each in (by_count, by_bytes, by_age):
            each.publish(bytes(1000))
        clock.advance(0.1)
    clock.advance(100)
    state = broker._store.replica.state
    for _ in range(5):
        broker.queue("other").publish("something falls due")
    assert len(state.topic("count").waiting) <= 30
    assert state.topic("bytes").bytes <= 70_000
    assert len(state.topic("age").waiting) == 0


def test_declaring_again_changes_only_what_is_named(broker: mq.Broker) -> None:
    topic = broker.topic("t", retain_count=100)
    for number in range(10):
        topic.publish(number)
    broker.topic("t", retain_for=3600)
    assert bodies(broker.topic("t").history()) == list(range(10))
    broker.topic("t", retain_count=4)
    assert bodies(topic.history()) == [6, 7, 8, 9]
    broker.topic("t", retain_count=None)  # it is retained by age still
    topic.publish(10)
    assert bodies(topic.history())[-5:] == [6, 7, 8, 9, 10]


def test_without_its_last_limit_all_that_was_retained_goes(broker: mq.Broker) -> None:
    topic = broker.topic("t", retain_count=100, retain_for=60)
    queue = broker.queue("q")
    queue.subscribe("t")
    for number in range(10):
        topic.publish(number)
    broker.topic("t", retain_count=None, retain_for=None)
    assert bodies(topic.history()) == []
    assert broker._store.replica.state.topics() == set()
    assert drained(queue) == list(range(10))  # what queues hold stays theirs
    broker.topic("t", retain_count=5)
    topic.publish("again")
    assert bodies(topic.history()) == ["again"]


@pytest.mark.parametrize("option", ["retain_for", "retain_count", "retain_bytes"])
@pytest.mark.parametrize("value", [0, -1, True, "7", float("nan")])
def test_limits_that_make_no_sense(broker: mq.Broker, option: str, value: object) -> None:
    with pytest.raises(mq.UsageError, match=option):
        broker.topic("t", **{option: value})
    assert broker.topics() == []


def test_other_options_are_refused_by_name(broker: mq.Broker) -> None:
    with pytest.raises(mq.UsageError, match="no topic option 'max_length'; known: retain_for"):
        broker.topic("t", max_length=5)


def test_a_retained_message_outlives_its_acks_and_its_own_time_to_live(
    broker: mq.Broker, topic: mq.Topic[Any], clock: FakeClock
) -> None:
    queue = broker.queue("q")
    queue.subscribe("#")
    id = topic.publish("x", ttl=5, priority=9, group="g", delay=1, headers={"a": "b"})
    clock.advance(2)
    assert drained(queue) == ["x"]
    clock.advance(60)
    [message] = topic.history()
    assert (message.id, message.body, message.topic, message.priority, message.group) == (
        id, "x", "t.a", 9, "g",
    )  # fmt: skip
    assert dict(message.headers) == {"a": "b"}


def test_a_message_of_history_is_as_it_was_published(
    broker: mq.Broker, topic: mq.Topic[Any], clock: FakeClock
) -> None:
    topic.publish(b"raw")
    [message] = topic.history()
    assert (message.state, message.attempts, message.queue, message.topic) == ("ready", 0, "", "t.a")
    assert message.created_at == instant(clock)
    assert (message.due_at, message.origin, message.failures) == (None, None, ())
    assert (message.raw, message.body) == (b"raw", b"raw")
    assert type(message) is mq.Message
    assert "t.a" in repr(message)


def test_bodies_are_of_the_topics_type(broker: mq.Broker) -> None:
    broker.topic("t", retain_count=9).publish({"a": 1})
    typed = broker.topic("t", type=dict[str, int])
    [message] = typed.history()
    assert message.body == {"a": 1}
    [wrong] = broker.topic("t", type=list[int]).history()
    with pytest.raises(mq.BadBody, match="topic's type"):
        _ = wrong.body


# ── reading ────────────────────────────────────────────────────────────────────────


def test_since_an_id_is_behind_it_and_since_a_time_is_from_it_on(
    topic: mq.Topic[Any], clock: FakeClock
) -> None:
    ids, times = [], []
    for number in range(10):
        times.append(instant(clock))
        ids.append(topic.publish(number))
        clock.advance(1)
    for number in range(10):
        assert bodies(topic.history(since=ids[number])) == list(range(number + 1, 10))
        assert bodies(topic.history(since=ids[number] - 1)) == list(range(number, 10))
        assert bodies(topic.history(since=times[number])) == list(range(number, 10))
        later = times[number] + timedelta(milliseconds=1)
        assert bodies(topic.history(since=later)) == list(range(number + 1, 10))
        assert bodies(topic.history(since=ids[number], limit=2)) == list(range(number + 1, 10))[:2]
        assert bodies(topic.history(limit=number)) == list(range(10 - number, 10))
    assert bodies(topic.history(limit=100)) == bodies(topic.history(since=0)) == list(range(10))


def test_what_makes_no_sense_is_refused_when_it_is_asked_for(topic: mq.Topic[Any]) -> None:
    for wrong in (datetime(2030, 1, 1), "yesterday", 1.5, -1, True):
        with pytest.raises(mq.UsageError, match="since"):
            topic.history(since=wrong)
    for wrong in (-1, 1.5, True, "7"):
        with pytest.raises(mq.UsageError, match="limit"):
            topic.history(limit=wrong)


def test_all_kinds_of_bodies_in_parts_of_all_sizes(
    topic: mq.Topic[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PART_IDS", 7)
    sent = [["x" * (number % 50), b"y" * 100, number, {"n": [number]}][number % 4] for number in range(60)]
    sent[30] = bytes(100_000)
    for body in sent:
        topic.publish(body)
    assert bodies(topic.history()) == sent
    assert bodies(topic.history(limit=33)) == sent[-33:]


def test_what_is_published_meanwhile_is_not_read(topic: mq.Topic[Any]) -> None:
    """It would never end beside a publisher."""
    topic.publish(0)
    found = []
    for number, message in enumerate(topic.history(), 1):
        found.append(message.body)
        topic.publish(number)
    assert found == [0]


def test_it_begins_when_the_first_is_asked_for(topic: mq.Topic[Any]) -> None:
    messages = topic.history()
    topic.publish("later")
    assert bodies(messages) == ["later"]


def test_reading_beside_publishing_trimming_and_cleaning(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error, nothing twice, nothing out of order, and no gap but at the front."""
    monkeypatch.setattr(history, "PART_IDS", 20)
    broker = engine.open(clock=clock, segment_bytes=8 << 10, background=False, sync="never")
    topic, queue = broker.topic("t", retain_count=100), broker.queue("q")
    queue.subscribe("t")
    number = 0

    def go_on() -> None:
        nonlocal number
        for _ in range(3):
            topic.publish((number, "x" * 100))
            number += 1
        for message in queue.receive_many(2, timeout=0):
            message.ack()
        broker._store.maintenance.run()

    for _ in range(50):
        go_on()
    for _ in range(4):
        last, found = -1, []
        begun = number
        for message in topic.history():
            assert message.id > last
            last = message.id
            found.append(message.body[0])
            go_on()
        assert found[0] == begun - 100
        assert found == sorted(set(found))
        assert found[-1] < begun
    left = [message.body[0] for message in topic.history()]
    assert left == list(range(number - 100, number))


@pytest.mark.needs("plenty")
def test_reading_uses_little_memory(broker: mq.Broker) -> None:
    """However much there is."""
    topic = broker.topic("t", retain_count=1 << 40)
    for _ in range(5000):
        topic.publish(bytes(1000))
    messages = topic.history()
    next(messages)
    tracemalloc.start()
    try:
        count = sum(1 for _ in messages)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 4999
    assert peak < 1_000_000


def test_a_damaged_message_is_named_and_the_reader_goes_on_behind_it(
    topic: mq.Topic[Any], broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [topic.publish(number) for number in range(5)]
    read, replica = type(broker._store.replica).read, broker._store.replica
    monkeypatch.setattr(type(replica.log.reader), "read_run", lambda *_: ([], [], []))

    def damaged(self: Any, held: Any, id: int, position: int) -> Any:
        if id == ids[2]:
            raise mq.CorruptStore("log", "damaged", 0, (id,))
        return read(self, held, id, position)

    monkeypatch.setattr(type(replica), "read", damaged)
    found = []
    with pytest.raises(mq.CorruptStore) as raised:
        for message in topic.history():
            found.append(message.body)
    assert found == [0, 1]
    assert bodies(topic.history(since=raised.value.ids[0])) == [3, 4]


def test_a_closed_broker_says_so(topic: mq.Topic[Any], broker: mq.Broker) -> None:
    topic.publish(1)
    messages = topic.history()
    broker.close()
    with pytest.raises(mq.Closed):
        next(messages)


# ── limits that change ─────────────────────────────────────────────────────────────


def found(topic: mq.Topic[Any]) -> list[object]:
    """The history, which is the same behind the first id of all."""
    shown = bodies(topic.history())
    assert bodies(topic.history(since=0)) == shown
    return shown


LIMITS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"retain_count": 1}, {"retain_count": 4}),
    ({"retain_bytes": 60}, {"retain_bytes": 1000}),
    ({"retain_for": 10}, {"retain_for": 3600}),
]


@pytest.mark.parametrize("how", ["here", "elsewhere", "reopen", "abandon"])
@pytest.mark.parametrize(("narrow", "wide"), LIMITS, ids=["count", "bytes", "age"])
@pytest.mark.parametrize("first", ["narrow", "wide"])
def test_what_a_limit_left_out_does_not_come_back_with_a_wider_one(
    engine: Engine, clock: FakeClock, how: str, narrow: dict[str, Any], wide: dict[str, Any], first: str
) -> None:
    """Published into the narrow limit, or into the wide one, which is narrow in between."""
    if how == "elsewhere" and "sharing" in engine.lacks:
        pytest.skip("one process at a time")
    options: dict[str, Any] = {"segment_bytes": 8 << 10, "background": False, "sync": "never"}
    broker = engine.open(clock=clock, **options)

    def next_broker() -> mq.Broker:
        if how == "here":
            return broker
        if how == "reopen":
            return engine.reopen(broker)
        if how == "abandon":
            engine.abandon(broker)
        return engine.open(clock=clock, **options)

    topic = broker.topic("t", **(narrow if first == "narrow" else wide))
    for body in ("a" * 40, "b" * 40):
        topic.publish(body)
    clock.advance(10.5)  # less than what has to be over before it is dropped
    topic.publish("c" * 40)
    broker = next_broker()
    topic = broker.topic("t", **narrow)
    assert found(topic) == ["c" * 40]
    broker = next_broker()
    topic = broker.topic("t", **wide)
    assert found(topic) == ["c" * 40]
    topic.publish("d" * 40)
    broker._store.maintenance.run(0)
    broker = next_broker()
    topic = broker.topic("t", retain_count=100, retain_bytes=100_000, retain_for=10_000)
    assert found(topic) == ["c" * 40, "d" * 40]
    broker.queue("late").subscribe("t", since=0)
    assert waiting(broker.queue("late")) == ["c" * 40, "d" * 40]


@pytest.mark.parametrize("limit", [None, 4])
def test_what_a_limit_leaves_stays_when_another_is_taken_away(broker: mq.Broker, limit: int | None) -> None:
    topic = broker.topic("t", retain_count=2, retain_for=3600)
    for body in "abc":
        topic.publish(body)
    broker.topic("t", retain_count=limit)
    assert found(topic) == ["b", "c"]


def test_very_much_is_dropped_in_slices_before_a_limit_is_wider(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all that was published since it began in the last turn: publishers may be faster than slices."""
    topic, turns = broker.topic("t", retain_count=1000), 0
    for number in range(30):
        topic.publish(number)
    broker.topic("t", retain_count=20)

    def publish() -> None:
        for number in range(9):
            topic.publish(f"{turns}: {number}")

    def give_way(store: object) -> None:
        nonlocal turns
        turns += 1
        publisher = threading.Thread(target=publish)
        publisher.start()
        publisher.join()

    monkeypatch.setattr(due, "SLICE", 4)
    monkeypatch.setattr(retaining, "give_way", give_way)
    broker.topic("t", retain_count=1000)
    assert 2 < turns <= 8, "thirty were there when it began, and four go in a slice"
    shown = found(topic)
    assert shown == [f"{turn}: {number}" for turn in range(1, turns + 1) for number in range(9)][-20:]
    topic.publish("next")
    assert found(topic) == [*shown, "next"]


def test_a_slice_of_what_is_over_in_bytes_reads_few_sizes(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = broker.topic("t", retain_bytes=1_000_000)
    read: list[int] = []
    for number in range(30):
        topic.publish(number)
    [newest] = topic.history(limit=1)
    broker.topic("t", retain_bytes=newest._size)
    size_of = broker._store.committer.size_of

    def noted(queue: Any, id: int) -> int:
        read.append(id)
        return size_of(queue, id)

    monkeypatch.setattr(broker._store.committer, "size_of", noted)
    monkeypatch.setattr(due, "SLICE", 4)
    broker.topic("t", retain_bytes=1_000_000)
    began = [
        at for at in range(len(read)) if not at or read[at] <= read[at - 1]
    ]  # each slice, in order of ids
    assert max(map(sub, [*began[1:], len(read)], began)) == 5, "four, and one to know whether there are more"
    assert found(topic) == [29]


# ── after a restart ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["reopen", "abandon"])
@pytest.mark.parametrize("turned_over", [False, True])
def test_what_is_retained_outlives_the_process(
    engine: Engine, clock: FakeClock, how: str, turned_over: bool
) -> None:
    options: dict[str, Any] = {"segment_bytes": 8 << 10, "background": False, "sync": "never"}
    broker = engine.open(clock=clock, **options)
    topic, queue = broker.topic("t", retain_count=20), broker.queue("q")
    queue.subscribe("t")
    sent = []
    for number in range(60):
        topic.publish(number, headers={"n": str(number)}, priority=number % 3, ttl=5 if number % 2 else 1000)
        sent.append(number)
        if turned_over:
            broker.queue("other").publish(bytes(500))
            with broker.queue("other").receive(timeout=0):  # type: ignore[union-attr]
                pass
            broker._store.maintenance.run(0)
    if how == "reopen":
        broker = engine.reopen(broker)
    else:
        engine.abandon(broker)
        broker = engine.open(clock=clock, **options)
    found = list(broker.topic("t").history())
    assert bodies(found) == sent[-20:]
    assert [message.headers["n"] for message in found] == [str(each) for each in sent[-20:]]
    broker.topic("t").publish("next")
    assert bodies(broker.topic("t").history()) == [*sent[-19:], "next"]
    assert sorted(waiting(broker.queue("q")), key=str) == sorted([*sent, "next"], key=str)


# ── subscriptions that start in the past ───────────────────────────────────────────


@pytest.fixture(params=[1, backfill.MANY], ids=["aside", "in one turn"])
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """From how many on what is retained is put aside, in slices, before the queue subscribes."""
    monkeypatch.setattr(backfill, "MANY", request.param)
    monkeypatch.setattr(backfill, "ASIDE_IDS", 3)


def test_a_subscription_without_since_starts_now(broker: mq.Broker, topic: mq.Topic[Any]) -> None:
    topic.publish("before")
    queue = broker.queue("q")
    queue.subscribe("t.a")
    topic.publish("after")
    assert waiting(queue) == ["after"]


@pytest.mark.usefixtures("many")
def test_a_subscription_starts_behind_an_id_or_at_a_time(
    broker: mq.Broker, topic: mq.Topic[Any], clock: FakeClock
) -> None:
    ids, times = [], []
    for number in range(6):
        times.append(instant(clock))
        ids.append(topic.publish(number))
        clock.advance(1)
    for index, since in enumerate([0, ids[2], times[3], ids[5], instant(clock)]):
        broker.queue(f"q{index}").subscribe("t.*", since=since)
    topic.publish(6)
    assert [waiting(broker.queue(f"q{index}")) for index in range(5)] == [
        [0, 1, 2, 3, 4, 5, 6], [3, 4, 5, 6], [3, 4, 5, 6], [6], [6],
    ]  # fmt: skip
    assert drained(broker.queue("q0")) == [0, 1, 2, 3, 4, 5, 6]
    assert bodies(topic.history()) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("many")
def test_a_message_has_one_id_in_history_and_in_all_queues(broker: mq.Broker, topic: mq.Topic[Any]) -> None:
    id = topic.publish("x")
    for name in ("p", "q"):
        broker.queue(name).subscribe("#", since=0)
    assert [message.id for name in "pq" for message in broker.queue(name).peek()] == [id, id]
    live = broker._store.replica.state.live_bytes()
    for name in ("p", "q"):
        broker.queue(name).receive(timeout=0).ack()  # type: ignore[union-attr]
    assert broker._store.replica.state.live_bytes() >= live - 2 * records.MESSAGE_OVERHEAD_BYTES
    assert bodies(topic.history()) == ["x"]


@pytest.mark.usefixtures("many")
def test_several_topics_are_merged_in_publish_order(broker: mq.Broker) -> None:
    topics = [broker.topic(f"t.{name}", retain_count=100) for name in "abc"]
    broker.topic("other", retain_count=100).publish("not this")
    for number in range(30):
        topics[number * 7 % 3].publish(number)
    queue = broker.queue("q")
    queue.subscribe("t.#", since=0)
    assert drained(queue) == list(range(30))


@pytest.mark.usefixtures("many")
def test_headers_choose_among_retained_messages_too(broker: mq.Broker, topic: mq.Topic[Any]) -> None:
    for number in range(6):
        topic.publish(number, headers={"kind": "odd" if number % 2 else "even"})
    queue = broker.queue("q")
    queue.subscribe("t.a", match={"kind": "odd"}, since=0)
    topic.publish(6, headers={"kind": "even"})
    topic.publish(7, headers={"kind": "odd"})
    assert waiting(queue) == [1, 3, 5, 7]


@pytest.mark.usefixtures("many")
def test_what_an_earlier_subscription_gave_does_not_come_again(
    broker: mq.Broker, topic: mq.Topic[Any]
) -> None:
    queue = broker.queue("q")
    topic.publish(0)
    queue.subscribe("t.*")
    topic.publish(1)
    queue.subscribe("none.of.these", since=0)
    assert drained(queue) == [1]
    topic.publish(2)
    queue.subscribe("t.a", since=0)  # 1 was delivered, and 2 waits
    topic.publish(3)
    assert drained(queue) == [0, 2, 3]


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("how", ["id", "time"])
def test_what_an_earlier_since_brought_does_not_come_again(
    broker: mq.Broker, topic: mq.Topic[Any], clock: FakeClock, how: str
) -> None:
    """Whatever became of it; and what that since left out comes with another one."""
    other, ids, times = broker.topic("t.b", retain_count=1000), [], []
    for number in range(8):
        clock.advance(1)
        times.append(instant(clock))
        ids.append((topic if number % 2 else other).publish(number))
    queue = broker.queue("q")
    queue.subscribe("t.a", since=ids[2] if how == "id" else times[3])
    assert drained(queue) == [3, 5, 7]
    queue.subscribe("t.*", since=ids[0] if how == "id" else times[1])
    assert drained(queue) == [1, 2, 4, 6]
    topic.publish(8)
    queue.subscribe("#", since=0)
    assert drained(queue) == [0, 8]
    queue.subscribe("*.*", since=0)
    assert drained(queue) == []


@pytest.mark.usefixtures("many")
def test_what_other_headers_kept_away_comes_with_another_pattern(
    broker: mq.Broker, topic: mq.Topic[Any]
) -> None:
    for number in range(6):
        topic.publish(number, headers={"kind": "odd" if number % 2 else "even"})
    queue = broker.queue("q")
    queue.subscribe("t.*", match={"kind": "odd"}, since=0)
    assert drained(queue) == [1, 3, 5]
    queue.subscribe("t.a", since=0)
    assert drained(queue) == [0, 2, 4]


@pytest.mark.usefixtures("many")
def test_what_a_pattern_brought_that_is_gone_comes_again_unless_it_waits(
    broker: mq.Broker, topic: mq.Topic[Any]
) -> None:
    for number in range(4):
        topic.publish(number)
    queue = broker.queue("q")
    queue.subscribe("t.a", since=0)
    queue.receive().ack()
    queue.receive()
    queue.unsubscribe("t.a")
    queue.subscribe("t.*", since=0)
    assert waiting(queue) == [0, 2, 3]


@pytest.mark.usefixtures("many")
def test_subscribing_again_changes_the_headers_and_ignores_since(
    broker: mq.Broker, topic: mq.Topic[Any]
) -> None:
    queue = broker.queue("q")
    topic.publish(0)
    for _ in range(3):  # as a program does that subscribes at every start
        queue.subscribe("t.a", since=0)
    assert drained(queue) == [0]
    queue.subscribe("t.a", match={"a": "b"}, since=0)
    topic.publish(1)
    topic.publish(2, headers={"a": "b"})
    assert drained(queue) == [2]
    queue.unsubscribe("t.a")
    queue.subscribe("t.a", since=0)
    assert drained(queue) == [0, 1, 2]


@pytest.mark.usefixtures("many")
def test_priority_group_delay_and_time_to_live_count_in_the_queue(
    broker: mq.Broker, topic: mq.Topic[Any], clock: FakeClock
) -> None:
    topic.publish("low")
    topic.publish("expired", ttl=1)
    topic.publish("g1", group="g")
    topic.publish("g2", group="g")
    topic.publish("high", priority=9)
    topic.publish("later", delay=100)
    topic.publish("mortal", ttl=50)
    clock.advance(2)
    queue = broker.queue("q")
    queue.subscribe("t.a", since=0)
    assert waiting(queue) == ["high", "low", "g1", "g2", "mortal"]
    assert bodies(queue.peek(state="delayed")) == ["later"]
    assert bodies(queue.receive_many(9, timeout=0)) == ["high", "low", "g1", "mortal"]
    clock.advance(100)
    assert "later" in waiting(queue)


@pytest.mark.usefixtures("many")
def test_the_time_to_live_of_the_queue_counts_from_when_they_arrive(
    broker: mq.Broker, topic: mq.Topic[Any], clock: FakeClock
) -> None:
    topic.publish("old")
    clock.advance(1000)
    queue = broker.queue("q", ttl=10)
    queue.subscribe("t.a", since=0)
    clock.advance(9)
    assert waiting(queue) == ["old"]
    clock.advance(2)
    assert waiting(queue) == []


def test_a_queue_without_room_is_not_subscribed(broker: mq.Broker, topic: mq.Topic[Any]) -> None:
    for number in range(10):
        topic.publish(number)
    queue = broker.queue("q", max_length=5)
    with pytest.raises(mq.QueueFull, match="'q'"):
        queue.subscribe("t.a", since=0)
    assert queue.subscriptions() == []
    broker.queue("q", overflow="drop_oldest")
    queue.subscribe("t.a", since=0)
    assert waiting(queue) == [5, 6, 7, 8, 9]


@pytest.mark.usefixtures("many")
def test_only_what_is_retained_by_then_comes(broker: mq.Broker, clock: FakeClock) -> None:
    topic = broker.topic("t", retain_for=10, retain_count=15)
    for number in range(20):
        topic.publish(number)
        clock.advance(1)
    queue = broker.queue("q")
    queue.subscribe("t", since=0)
    assert waiting(queue) == bodies(topic.history()) == list(range(10, 20))


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("few", [0, 3, 256])
def test_what_is_published_while_it_is_gathered_comes_once(
    broker: mq.Broker, topic: mq.Topic[Any], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """No gap and no double between what was gathered and what the subscription gives."""
    monkeypatch.setattr(backfill, "FEW", few)
    monkeypatch.setattr(history, "PART_IDS", 4)
    number = 0

    def publish() -> None:
        nonlocal number
        topic.publish(number)
        number += 1

    for _ in range(20):
        publish()
    read_on = history.read_on

    def meanwhile(*args: Any) -> Any:
        found = read_on(*args)
        publish()
        return found

    monkeypatch.setattr(history, "read_on", meanwhile)
    queue = broker.queue("q")
    queue.subscribe("#", since=0)
    publish()
    assert drained(queue) == list(range(number))


@pytest.mark.usefixtures("many")
@pytest.mark.needs("conflicts")
def test_another_writer_may_be_first_and_the_subscription_takes_effect_once(
    broker: mq.Broker, topic: mq.Topic[Any], engine: Engine
) -> None:
    for number in range(5):
        topic.publish(number)
    queue = broker.queue("q")
    queue.publish("first")
    engine.meanwhile(broker, lambda other: other.topic("t.a").publish(5))
    queue.subscribe("t.a", since=0)
    topic.publish(6)
    assert sorted(drained(queue), key=str) == [0, 1, 2, 3, 4, 5, 6, "first"]


def test_a_bad_since_is_refused(broker: mq.Broker) -> None:
    for wrong in (datetime(2030, 1, 1), "yesterday", -1, True):
        with pytest.raises(mq.UsageError, match="since"):
            broker.queue("q").subscribe("t", since=wrong)
    assert broker.queues() == []


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("how", ["reopen", "abandon"])
def test_what_came_from_the_past_outlives_the_process(engine: Engine, clock: FakeClock, how: str) -> None:
    options: dict[str, Any] = {"segment_bytes": 8 << 10, "background": False, "sync": "never"}
    broker = engine.open(clock=clock, **options)
    topic = broker.topic("t", retain_count=10)
    for number in range(30):
        topic.publish(number, priority=number % 2)
    broker.queue("q").subscribe("t", since=0)
    for number in range(30, 50):  # the topic does not retain any more what the queue holds
        topic.publish(number)
    broker.queue("other").publish_many([bytes(1000)] * 20)
    broker.queue("other").ack_many(broker.queue("other").receive_many(20, timeout=0))
    broker._store.maintenance.run(0)
    if how == "reopen":
        broker = engine.reopen(broker)
    else:
        engine.abandon(broker)
        broker = engine.open(clock=clock, **options)
    order = sorted(range(20, 30), key=lambda number: (-(number % 2), number)) + list(range(30, 50))
    assert drained(broker.queue("q")) == order
    assert bodies(broker.topic("t").history()) == list(range(40, 50))


# ── space, and memory ──────────────────────────────────────────────────────────────


@pytest.mark.needs("segments")
def test_the_body_stays_while_it_is_retained_and_its_space_returns_afterwards(
    engine: Engine, clock: FakeClock
) -> None:
    segment = 64 << 10
    broker = engine.open(clock=clock, segment_bytes=segment, background=False, sync="never")
    topic, queue = broker.topic("t", retain_for=3600), broker.queue("q")
    queue.subscribe("t")
    for number in range(1000):
        topic.publish(bytes([number % 256]) * 1000)
    for message in queue.receive_many(1000, timeout=0):
        message.ack()
    broker._store.maintenance.run()
    stats = broker.stats()
    assert stats.live_bytes >= 1_000_000
    assert stats.disk_bytes >= 1_000_000
    assert sum(1 for _ in topic.history()) == 1000
    clock.advance(3700)
    for _ in range(10):
        queue.publish("x")
        queue.receive(timeout=0).ack()  # type: ignore[union-attr]
    broker._store.maintenance.run()
    stats = broker.stats()
    assert stats.live_bytes < 10_000
    assert stats.disk_bytes <= 4 * segment
    assert list(topic.history()) == []


@pytest.mark.needs("plenty")
def test_a_retained_message_costs_few_bytes_of_memory(broker: mq.Broker) -> None:
    """P11."""
    topic = broker.topic("t", retain_count=1 << 40)
    topic.publish(b"first")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20_000):
            topic.publish(b"x")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    log = broker._store.disk
    size = sum(len(data) for data in getattr(log, "_files", {}).values()) if broker.path == ":memory:" else 0
    assert after - before - size <= 24 * 20_000 + 64_000


@pytest.mark.needs("plenty")
def test_a_reader_that_all_it_began_with_has_left_behind_ends(engine: Engine) -> None:
    """What was published after it began is not shown, however much of it there is."""
    broker = engine.open(sync="never")
    topic = broker.topic("t", retain_count=5000)
    for n in range(8000):
        topic.publish(n)
    reader = topic.history()
    first = next(reader)
    for n in range(8000, 18_500):  # what is retained then is in two chunks
        topic.publish(n)
    seen = [first.body, *(each.body for each in reader)]
    assert max(seen) < 8000
    assert seen == sorted(set(seen))
