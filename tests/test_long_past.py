"""A subscription to a long past: what it brings is put aside in slices, and is seen once it is whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from engines import Engine
from fakes import FakeClock

import mq
from mq.delivery import records
from mq.delivery.plan import Plan
from mq.engine import backfill

pytestmark = pytest.mark.conformance

SLICE = 3
PAST = 20
SLICES = 7
Between = Callable[[Callable[[int], object]], None]


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "MANY", 1)
    monkeypatch.setattr(backfill, "ASIDE_IDS", SLICE)
    monkeypatch.setattr(backfill, "FEW", SLICE)


@pytest.fixture
def broker(engine: Engine, clock: FakeClock) -> mq.Broker:
    return engine.open(clock=clock, background=False, sync="never")


@pytest.fixture
def topic(broker: mq.Broker) -> mq.Topic[Any]:
    topic = broker.topic("t", retain_count=1000)
    for number in range(PAST):
        topic.publish(number)
    return topic


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[Any]:
    return broker.queue("q", max_attempts=3)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Have something done behind each slice, which is given how many there were."""

    def do(what: Callable[[int], object]) -> None:
        done = 0

        def give_way(_: object) -> None:
            nonlocal done
            done += 1
            what(done)

        monkeypatch.setattr(backfill, "give_way", give_way)

    return do


def drained(queue: mq.Queue[Any]) -> list[Any]:
    found = []
    while delivery := queue.receive(timeout=0):
        found.append(delivery.body)
        delivery.ack()
    return found


# ── slices ─────────────────────────────────────────────────────────────────────────


def test_no_turn_brings_more_than_a_slice(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = []
    commit = broker._store.committer.commit

    def counted(plan: Plan) -> list[int]:
        positions = commit(plan)
        drafts = [payload for kind, _, _, payload in plan.drafts if kind == records.BACKFILL]
        brought.append(sum((len(payload) - 2) // 12 for payload in drafts))
        return positions

    monkeypatch.setattr(broker._store.committer, "commit", counted)
    queue.subscribe("t", since=0)
    assert sum(brought) == PAST
    assert max(brought) == SLICE


def test_nothing_is_seen_before_it_is_whole(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between
) -> None:
    seen = []

    def look(_: int) -> None:
        assert queue.receive(timeout=0) is None
        stats = broker.stats()
        seen.append((broker.queues(), broker.topics(), queue.subscriptions(), stats.queues, stats.live_bytes))

    before = ["q"], ["t"], [], broker.stats().queues, broker.stats().live_bytes
    between(look)
    queue.subscribe("t", since=0)
    assert seen == [before] * SLICES
    assert broker.queues() == ["q"]
    assert drained(queue) == [*range(PAST)]


def test_the_queue_stays_what_it_was(broker: mq.Broker, topic: mq.Topic[Any], clock: FakeClock) -> None:
    """Its options, meta, totals and other patterns are those of the queue that takes its place."""
    queue = broker.queue("q", max_attempts=1, ttl=1000)
    queue.update_meta({"a": "b"})
    queue.publish("before")
    assert drained(queue) == ["before"]
    queue.subscribe("other.*", match={"k": "v"})
    queue.pause()
    queue.subscribe("t", since=0)
    assert queue.subscriptions() == ["other.*", "t"]
    assert queue.meta() == {"a": "b"}
    stats = queue.stats()
    assert (stats.paused, stats.published, stats.acked, stats.ready) == (True, PAST + 1, 1, PAST)
    queue.resume()
    broker.topic("other.x").publish("no")
    broker.topic("other.x").publish("yes", headers={"k": "v"})
    queue.receive().nack()
    assert [each.body for each in broker.queue("q.dead").peek(9)] == [0]
    clock.advance(999)
    assert len(queue.peek(100)) == PAST
    clock.advance(1)
    assert queue.peek(100) == []


def test_a_watch_at_the_queue_hears_of_it(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any]
) -> None:
    rung: list[int] = []
    watch = broker.watch(lambda: rung.append(1))
    watch.arm([queue])
    queue.subscribe("t", since=0)
    broker._store.notifier.call_all()
    assert rung == [1]


# ── meanwhile ──────────────────────────────────────────────────────────────────────


def test_publishes_retention_and_cleaning_leave_no_gap(
    engine: Engine, clock: FakeClock, between: Between
) -> None:
    """The newest go first: what the topic drops meanwhile is older than all that is aside."""
    broker = engine.open("small", clock=clock, background=False, sync="never", segment_bytes=4096)
    topic, number = broker.topic("t", retain_count=3 * PAST), 0

    def publish() -> None:
        nonlocal number
        topic.publish(number, headers={"pad": "x" * 200})
        number += 1

    def meanwhile(_: int) -> None:
        publish()
        broker._store.maintenance.run(0)

    for _ in range(3 * PAST):
        publish()
    between(meanwhile)
    queue = broker.queue("q")
    queue.subscribe("t", since=0)
    publish()
    found = drained(queue)
    assert found == [*range(found[0], number)]
    assert found[0] <= number - 3 * PAST
    assert [each.body for each in topic.history()] == [*range(number - 3 * PAST, number)]


def test_what_the_topic_drops_of_what_came_meanwhile_leaves_no_gap(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between
) -> None:
    """The whole past is aside when the topic drops it, and some of what was published behind it."""

    def meanwhile(done: int) -> None:
        if done == SLICES:
            for number in range(PAST, 2 * PAST):
                topic.publish(number)
        if done == SLICES + 1:
            broker.topic("t", retain_count=PAST - 2 * SLICE)

    between(meanwhile)
    queue.subscribe("t", since=0)
    assert drained(queue) == [*range(PAST + 2 * SLICE, 2 * PAST)]


def test_a_topic_that_retains_nothing_any_more_gives_what_is_aside(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between
) -> None:
    between(lambda done: done == 2 and broker.topic("t", retain_count=None))
    queue.subscribe("t", since=0)
    topic.publish("new")
    assert drained(queue) == [*range(PAST - 2 * SLICE, PAST), "new"]


@pytest.mark.parametrize(
    "change",
    [
        lambda broker: broker.queue("q").publish("more"),
        lambda broker: broker.queue("q").publish("more", dedup_id="d"),
        lambda broker: broker.queue("q").subscribe("other"),
        lambda broker: broker.queue("q").delete(),
        lambda broker: broker.queue("q", max_length=1000),
        lambda broker: broker.queue("q", ttl=1000),
        lambda broker: broker._store.maintenance.run(0),
    ],
    ids=["a message", "a dedup id", "a pattern", "deleted", "a limit", "a time to live", "cleaned"],
)
@pytest.mark.parametrize("when", [1, SLICES])
def test_a_queue_that_changes_meanwhile_gets_all_the_same(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between,
    change: Callable[[mq.Broker], object], when: int, clock: FakeClock,
) -> None:  # fmt: skip
    between(lambda done: done == when and change(broker))
    queue.subscribe("t", since=0)
    others = {pattern for pattern in queue.subscriptions() if pattern != "t"}
    assert others <= {"other"}
    if broker._store.replica.state.named("q").options.ttl:
        clock.advance(1000)
        assert queue.peek(100) == []
    else:
        assert [body for body in drained(queue) if body != "more"] == [*range(PAST)]
    assert broker._store.replica.state.size() == 2  # the queue, and what the topic retains


def test_two_subscriptions_of_one_queue_at_once(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between
) -> None:
    def meanwhile(done: int) -> None:
        if done == 2:
            queue.subscribe("#", since=0)

    between(meanwhile)
    queue.subscribe("t", since=0)
    topic.publish("new")
    assert drained(queue) == [*range(PAST), "new"]


# ── ends ───────────────────────────────────────────────────────────────────────────


class Struck(BaseException):
    pass


@pytest.mark.parametrize("after", [1, SLICES])
def test_an_exception_leaves_nothing(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between, after: int
) -> None:
    def strike(done: int) -> None:
        if done == after:
            raise Struck

    before = broker.stats().live_bytes
    between(strike)
    with pytest.raises(Struck):
        queue.subscribe("t", since=0)
    assert (queue.subscriptions(), queue.stats().ready, broker.stats().live_bytes) == ([], 0, before)
    assert broker._store.replica.state.size() == 2
    between(lambda done: None)
    queue.subscribe("t", since=0)
    assert drained(queue) == [*range(PAST)]


@pytest.mark.parametrize("after", [1, SLICES])
def test_a_process_that_dies_leaves_nothing_that_is_seen_and_its_space_returns(
    engine: Engine, broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between,
    after: int, clock: FakeClock,
) -> None:  # fmt: skip
    def die(done: int) -> None:
        if done == after:
            engine.abandon(broker)
            raise Struck

    between(die)
    with pytest.raises(Struck):
        queue.subscribe("t", since=0)
    broker = engine.open(clock=clock, background=False, sync="never")
    queue = broker.queue("q")
    assert (broker.queues(), queue.subscriptions(), queue.stats().ready) == (["q"], [], 0)
    assert len(list(broker.topic("t").history())) == PAST
    assert broker._store.replica.state.size() == 3
    clock.advance(1.25 * backfill.ABANDONED_SECONDS + 1)
    assert queue.receive(timeout=0) is None
    assert broker._store.replica.state.size() == 2
    between(lambda done: None)
    queue.subscribe("t", since=0)
    assert drained(queue) == [*range(PAST)]


def test_it_is_not_abandoned_while_it_grows(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between, clock: FakeClock
) -> None:
    tried = []

    def meanwhile(done: int) -> None:
        tried.append(done)
        clock.advance(backfill.ABANDONED_SECONDS / 2)

    between(meanwhile)
    queue.subscribe("t", since=0)
    assert tried == [*range(1, SLICES + 1)]
    assert drained(queue) == [*range(PAST)]


def test_one_that_was_abandoned_is_gathered_again(
    broker: mq.Broker, topic: mq.Topic[Any], queue: mq.Queue[Any], between: Between, clock: FakeClock
) -> None:
    """The process was stopped for a while, and another one has deleted what was aside."""

    def meanwhile(done: int) -> None:
        if done == 2:
            clock.advance(1.25 * backfill.ABANDONED_SECONDS + 1)
            assert queue.receive(timeout=0) is None

    between(meanwhile)
    queue.subscribe("t", since=0)
    assert drained(queue) == [*range(PAST)]
