"""What queues do beyond first in, first out: each promise by itself, through the public handles.

All of it together, in random histories, is in test_model.py; through crashes, under tests/crash.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from engines import Engine
from fakes import CountingDisk, FakeClock, open_on

import mq
from mq.delivery import state
from mq.delivery.queue import QueueState
from mq.delivery.ready import Ready

pytestmark = pytest.mark.conformance

NO_BACKOFF = mq.Backoff(initial=0)
PATIENCE = 60.0  # seconds after which a test that hangs has failed


def bodies(messages: list[Any]) -> list[object]:
    return [message.body for message in messages]


def take(queue: mq.Queue[Any]) -> mq.Delivery[Any]:
    delivery = queue.receive(timeout=0)
    assert delivery
    return delivery


# ── what makes no sense is refused in one line, and nothing is done ─────────────────

BAD_PUBLISH: dict[str, dict[str, Any]] = {
    "priority 256": {"priority": 256},
    "priority -1": {"priority": -1},
    "priority true": {"priority": True},
    "priority text": {"priority": "high"},
    "delay and at": {"delay": 1, "at": datetime.now(UTC)},
    "naive at": {"at": datetime(2030, 1, 1)},
    "at a number": {"at": 5},
    "delay nan": {"delay": math.nan},
    "delay negative": {"delay": -1},
    "ttl infinite": {"ttl": math.inf},
    "group empty": {"group": ""},
    "group number": {"group": 7},
    "group long": {"group": "x" * 256},
    "dedup_id empty": {"dedup_id": ""},
    "headers list": {"headers": ["a"]},
    "headers number": {"headers": {"a": 1}},
    "headers large": {"headers": {"a": "x" * (1 << 20)}},
    "timeout nan": {"timeout": math.nan},
    "unknown": {"colour": "blue"},
}
BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "max_attempts 0": {"max_attempts": 0},
    "max_attempts text": {"max_attempts": "5"},
    "backoff tuple": {"backoff": (1, 2, 3, 0)},
    "backoff shrinks": {"backoff": mq.Backoff(factor=0.5)},
    "backoff nan": {"backoff": mq.Backoff(initial=math.nan)},
    "backoff jitter": {"backoff": mq.Backoff(jitter=2)},
    "ttl 0": {"ttl": 0},
    "expired": {"expired": "burn"},
    "max_length 0": {"max_length": 0},
    "max_bytes": {"max_bytes": 1.5},
    "overflow": {"overflow": "block"},
    "dedup_window": {"dedup_window": -1},
    "delivery": {"delivery": "exactly_once"},
    "delete_when_idle 0": {"delete_when_idle": 0},
    "delete_when_abandoned text": {"delete_when_abandoned": "10"},
    "delay -1": {"delay": -1},
    "delay None": {"delay": None},
    "dead_letter empty": {"dead_letter": ""},
    "dead_letter itself": {"dead_letter": "mail"},
    "unknown": {"colour": "blue"},
}


@pytest.mark.parametrize("said", BAD_PUBLISH.values(), ids=BAD_PUBLISH)
def test_a_publish_that_makes_no_sense_is_refused(broker: mq.Broker, said: dict[str, Any]) -> None:
    queue = broker.queue("mail")
    calls: list[Callable[[], object]] = [lambda: queue.publish("x", **said)]
    calls.append(lambda: queue.publish_many(["x"], **said))
    for call in calls:
        with pytest.raises(mq.UsageError) as raised:
            call()
        assert "\n" not in str(raised.value)
    with pytest.raises(mq.UsageError), broker.transaction() as tx:
        tx.publish(queue, "x", **said)
    assert broker.queues() == []


@pytest.mark.parametrize("options", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_make_no_sense_are_refused(broker: mq.Broker, options: dict[str, Any]) -> None:
    with pytest.raises(mq.UsageError) as raised:
        broker.queue("mail", **options)
    assert "\n" not in str(raised.value)
    assert broker.queues() == []


# ── priority, delay, expiry ────────────────────────────────────────────────────────


def test_higher_priorities_first_and_the_oldest_first_within_one(broker: mq.Broker) -> None:
    """P5."""
    queue = broker.queue("mail")
    for index, priority in enumerate([0, 255, 3, 255, 0, 3]):
        queue.publish(index, priority=priority)
    assert bodies(queue.peek()) == [1, 3, 2, 5, 0, 4]
    first = take(queue)
    assert (first.body, first.priority) == (1, 255)
    first.release()
    assert bodies(queue.receive_many(9)) == [1, 3, 2, 5, 0, 4]


def test_a_delay_longer_than_the_visibility_timeout_is_delivered_once(
    broker: mq.Broker, clock: FakeClock
) -> None:
    queue = broker.queue("mail", visibility_timeout=1)
    queue.publish("later", delay=1000)
    queue.publish("at", at=datetime.fromtimestamp(clock.now, UTC) + timedelta(seconds=2000))
    clock.advance(999.9)
    assert queue.receive(timeout=0) is None
    clock.advance(0.2)
    delivery = take(queue)
    assert (delivery.body, delivery.attempts) == ("later", 1)
    delivery.ack()
    clock.advance(1000)
    assert take(queue).body == "at"


def test_the_delay_of_a_queue_is_for_messages_that_name_none(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("mail", delay=50, visibility_timeout=999)
    queue.publish("the queue's")
    queue.publish_many(["also the queue's"])
    queue.publish("its own", delay=10)
    queue.publish("none", delay=0)
    queue.publish("a date", at=datetime.fromtimestamp(clock.now + 20, UTC))
    with broker.transaction() as tx:
        tx.publish(queue, "in a transaction")
    for seconds, ready in [(0, ["none"]), (10, ["its own"]), (10, ["a date"])]:
        clock.advance(seconds)
        assert bodies(queue.receive_many(9, timeout=0)) == ready
    broker.queue("mail", delay=0)
    queue.publish("later")
    assert take(queue).body == "later"
    clock.advance(30)
    assert bodies(queue.peek()) == ["the queue's", "also the queue's", "in a transaction"]


def test_dead_letters_and_replayed_messages_do_not_wait_for_the_delay_of_a_queue(
    broker: mq.Broker, clock: FakeClock
) -> None:
    queue, dead = broker.queue("mail", delay=50), broker.queue("mail.dead", delay=50)
    queue.publish("x", delay=0)
    take(queue).reject("no")
    assert bodies(dead.peek()) == ["x"]
    dead.replay()
    assert bodies(queue.peek()) == ["x"]


def test_what_waits_can_be_cancelled_and_rescheduled_and_what_is_in_flight_not(
    broker: mq.Broker, clock: FakeClock
) -> None:
    queue = broker.queue("mail")
    flying, gone, later = (queue.publish(name, delay=0) for name in ("flying", "gone", "later"))
    delivery = take(queue)
    assert (queue.cancel(flying), queue.reschedule(flying)) == (False, False)
    assert (queue.cancel(gone), queue.cancel(gone), queue.cancel(999_999)) == (True, False, False)
    assert queue.reschedule(later, delay=50)
    assert bodies(queue.peek(state="delayed")) == ["later"]
    assert queue.reschedule(later, at=datetime.fromtimestamp(clock.now + 5, UTC))
    clock.advance(5)
    assert take(queue).id == later
    delivery.ack()


def test_what_has_expired_is_never_delivered_and_counted(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("mail", ttl=10)
    queue.publish_many(range(300))
    queue.publish("stays", ttl=100)
    clock.advance(10)
    assert queue.get(queue.peek()[0].id).body == "stays"
    assert bodies(queue.receive_many(400, timeout=0)) == ["stays"]
    passers_by = 0
    while broker._store.replica.state.board.next <= clock.now * 1000:
        broker.queue("other").publish("comes by")
        passers_by += 1
    assert (queue.stats().expired, broker._store.replica.state.total() - queue.stats().in_flight) == (
        300,
        passers_by,
    )


def test_what_is_in_flight_does_not_expire_until_it_comes_back(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("mail")
    queue.publish("x", ttl=5)
    delivery = take(queue)
    clock.advance(20)
    delivery.nack(delay=0)
    assert queue.receive(timeout=0) is None
    assert queue.stats().expired == 1


def test_what_expired_in_flight_goes_once_it_has_timed_out_whoever_comes_by(
    broker: mq.Broker, clock: FakeClock
) -> None:
    """Also where nobody receives any more: who waits for its dead letters waits for just that."""
    queue = broker.queue("mail", ttl=5, expired="dead_letter", visibility_timeout=30)
    queue.publish_many(["x", "acked"])
    take(queue)
    take(queue).ack()
    clock.advance(10)
    assert broker.queue("mail.dead").receive(timeout=0) is None, "it is in flight"
    clock.advance(21)
    assert take(broker.queue("mail.dead")).origin == "mail"


def test_a_backoff_may_end_when_the_visibility_timeout_would_have(
    broker: mq.Broker, clock: FakeClock
) -> None:
    queue = broker.queue("mail", visibility_timeout=1, backoff=mq.Backoff(initial=1, jitter=0))
    queue.publish("x")
    take(queue).nack()
    clock.advance(1)
    assert queue.stats()[:3] == (1, 0, 0)
    assert take(queue).attempts == 2


def test_what_is_put_off_twice_to_the_same_moment_is_counted_once(
    broker: mq.Broker, clock: FakeClock
) -> None:
    queue = broker.queue("mail")
    ids = queue.publish_many(["a", "b"])
    at = datetime.fromtimestamp(clock.now + 60, UTC)
    for id in ids * 2:
        assert queue.reschedule(id, at=at)
    assert queue.stats()[:3] == (0, 0, 2)
    clock.advance(60)
    assert queue.stats()[:3] == (2, 0, 0)
    assert bodies(queue.receive_many(5, timeout=0)) == ["a", "b"]


# ── retries and dead letters ───────────────────────────────────────────────────────


@pytest.fixture
def dying(broker: mq.Broker) -> mq.Queue[Any]:
    return broker.queue("mail", max_attempts=3, backoff=NO_BACKOFF)


def test_five_attempts_are_five_deliveries(broker: mq.Broker) -> None:
    queue = broker.queue("mail", max_attempts=5, backoff=NO_BACKOFF)
    queue.publish("poison")
    for attempt in range(1, 6):
        delivery = take(queue)
        assert delivery.attempts == attempt
        delivery.nack(reason=f"no {attempt}")
    assert queue.receive(timeout=0) is None
    [dead] = broker.queue("mail.dead").peek()
    assert (dead.body, dead.origin, dead.attempts) == ("poison", "mail", 0)
    assert [(each.attempt, each.reason) for each in dead.failures] == [(n, f"no {n}") for n in range(1, 6)]
    assert (queue.stats().failed, queue.stats().dead_lettered) == (5, 1)


def test_a_message_that_kills_its_worker_dies_too(
    engine: Engine, broker: mq.Broker, clock: FakeClock
) -> None:
    """Nobody settles anything; each attempt is another process."""
    broker.queue("mail", max_attempts=2, backoff=NO_BACKOFF).publish("deadly")
    for _ in range(2):
        take(broker.queue("mail"))
        engine.abandon(broker)
        clock.advance(30)
        broker = engine.open(clock=clock)
    [dead] = broker.queue("mail.dead").receive_many(5, timeout=0)
    assert [each.reason for each in dead.failures] == ["the visibility timeout passed"] * 2
    assert broker.queue("mail").stats()[:3] == (0, 0, 0)


def test_a_timeout_backs_off_like_a_nack(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("mail", backoff=mq.Backoff(initial=100, maximum=100, jitter=0))
    queue.publish("x")
    late = take(queue)
    clock.advance(30 + 99.9)
    assert queue.stats()[:3] == (0, 0, 1)
    assert queue.receive(timeout=0) is None
    late.extend(1)  # nobody overtook it
    clock.advance(101)
    assert take(queue).attempts == 2
    with pytest.raises(mq.StaleReceipt):
        late.ack()


@pytest.mark.parametrize("how", ["receive", "receive_many", "extend", "lowered"])
def test_a_last_attempt_without_time_left_dies_as_soon_as_somebody_comes_by(
    broker: mq.Broker, clock: FakeClock, how: str
) -> None:
    queue = broker.queue("mail", max_attempts=None if how == "lowered" else 2, backoff=NO_BACKOFF)
    other = broker.queue("other")
    queue.publish("x")
    assert queue.receive(timeout=0, visibility_timeout=0)
    if how == "extend":
        delivery = take(queue)
        clock.advance(1)
        delivery.extend(0)
    elif how == "receive_many":
        assert queue.receive_many(9, timeout=0, visibility_timeout=0)
    else:
        assert queue.receive(timeout=0, visibility_timeout=0)
    if how == "lowered":
        broker.queue("mail", max_attempts=1)
    other.publish("somebody comes by")
    assert (queue.stats().in_flight, bodies(broker.queue("mail.dead").peek())) == (0, ["x"])


@pytest.mark.parametrize("shift", [-43_200, 43_200])
@pytest.mark.parametrize("again", ["live", "from the log", "from a checkpoint", "moved"])
def test_a_backoff_is_not_moved_by_the_wall_clock(
    engine: Engine, clock: FakeClock, shift: int, again: str
) -> None:
    """But the delay that a caller names is."""
    broker = engine.open(clock=clock, background=False)
    queue = broker.queue("mail", backoff=mq.Backoff(initial=10, jitter=0))
    queue.publish_many(["backs off", "is delayed"])
    take(queue).nack()
    take(queue).nack(delay=10)
    if again == "from a checkpoint":
        broker._store.maintenance.checkpoints.write()
    elif again == "moved":
        broker._store.maintenance.compact()
    if again != "live":
        broker = engine.reopen(broker)
    broker._store.clock.wall_ms = lambda: int((clock.now + shift) * 1000)  # type: ignore[method-assign]
    queue = broker.queue("mail")
    seen = []
    for seconds in (9.9, 0.2, abs(shift)):
        clock.advance(seconds)
        seen.append({message.body for message in queue.peek()})
    ahead = {"is delayed"} if shift > 0 else set()
    assert seen == [ahead, {"backs off"} | ahead, {"backs off", "is delayed"}]


def test_of_many_failures_the_first_and_the_last_few_are_kept(broker: mq.Broker) -> None:
    queue = broker.queue("mail", backoff=NO_BACKOFF)
    queue.publish("x")
    for attempt in range(1, 20):
        take(queue).nack(reason=str(attempt))
    assert [each.attempt for each in queue.peek()[0].failures] == [1, 16, 17, 18, 19]


def test_a_release_uses_up_no_attempt_and_a_reject_all_of_them(
    broker: mq.Broker, dying: mq.Queue[Any]
) -> None:
    dying.publish("x")
    for _ in range(9):
        take(dying).release()
    take(dying).reject("hopeless")
    assert [each.reason for each in broker.queue("mail.dead").peek()[0].failures] == ["hopeless"]


def test_replay_brings_dead_letters_back_to_their_place_with_the_count_reset(
    broker: mq.Broker, dying: mq.Queue[Any]
) -> None:
    ids = dying.publish_many(["one", "two", "three"])
    for delivery in dying.receive_many(2):
        delivery.reject()
    dead = broker.queue("mail.dead")
    receipt = take(dead).receipt
    assert dead.replay([ids[0]]) == 0, "what is in flight stays"
    assert dead.replay([ids[1], 5]) == 1
    assert bodies(dying.peek()) == ["two", "three"]
    assert (dying.peek()[0].attempts, dying.peek()[0].origin, dying.peek()[0].failures) == (0, None, ())
    dead.nack_many([receipt], delay=0)
    assert dead.replay(to="mail") == 1
    delivery = take(dying)
    assert (delivery.id, delivery.attempts) == (ids[0], 1)
    with pytest.raises(mq.StaleReceipt):
        dead.ack_many([receipt])
    assert bodies(dying.peek(state="in_flight")) == ["one"]


def test_a_batch_has_a_replayed_message_once(broker: mq.Broker) -> None:
    """It expired before it died, and does not expire any more."""
    queue = broker.queue("mail")
    for group in ("first", "replayed"):
        queue.publish(group, group=group, ttl=90)
    take(queue)
    take(queue).reject()
    assert broker.queue("mail.dead").replay() == 1
    assert bodies(queue.peek()) == ["replayed"]
    assert bodies(queue.receive_many(5, timeout=0)) == ["replayed"]


def test_replay_refuses_by_name_what_it_cannot_do(broker: mq.Broker, dying: mq.Queue[Any]) -> None:
    dying.publish("x")
    take(dying).reject()
    dead = broker.queue("mail.dead")
    direct = dead.publish("never died")
    with pytest.raises(mq.UsageError, match="no queue 'nowhere'"):
        dead.replay(to="nowhere")
    with pytest.raises(mq.UsageError, match=f"message {direct} did not die"):
        dead.replay([direct])
    dying.delete()
    with pytest.raises(mq.UsageError, match="died in 'mail', which is gone"):
        dead.replay()
    broker.queue("new", max_length=1).publish("full")
    with pytest.raises(mq.QueueFull):
        dead.replay(to="new")
    assert dead.stats().ready == 2


def test_dead_letters_in_a_circle_are_refused_by_name(broker: mq.Broker) -> None:
    broker.queue("a", dead_letter="b")
    broker.queue("b", dead_letter="c")
    with pytest.raises(mq.UsageError, match="'c' → 'a' → 'b' → 'c'"):
        broker.queue("c", dead_letter="a")
    broker.queue("a").publish("x")
    for name in ("a", "b", "c"):
        take(broker.queue(name)).reject(f"in {name}")
    [dead] = broker.queue("c.dead").peek()
    assert (dead.origin, [each.reason for each in dead.failures]) == ("c", ["in a", "in b", "in c"])


@pytest.mark.needs("byte positions")
def test_a_dead_lettering_copies_no_body(broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    queue.publish(b"x" * 100_000)
    before = broker._store.replica.log.end
    take(queue).reject("no")
    broker.queue("mail.dead").replay()
    assert broker._store.replica.log.end - before < 500
    assert take(queue).raw == b"x" * 100_000


# ── groups ─────────────────────────────────────────────────────────────────────────


def test_of_a_group_one_is_in_flight_in_order_and_others_go_on(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("mail", backoff=NO_BACKOFF)
    for index in range(3):
        for group in "xy":
            queue.publish(f"{group}{index}", group=group)
    queue.publish("free")
    first = queue.receive_many(9, timeout=0)
    assert bodies(first) == ["x0", "y0", "free"]
    assert queue.receive(timeout=0) is None
    first[0].nack(delay=10)
    first[1].ack()
    assert bodies(queue.receive_many(9, timeout=0)) == ["y1"]
    clock.advance(10)
    assert bodies(queue.receive_many(9, timeout=0)) == ["x0"]
    clock.advance(30)
    assert bodies(queue.receive_many(9, timeout=0)) == ["x0", "y1", "free"]


def test_priority_chooses_between_groups_never_inside_one(broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    queue.publish("x low", group="x")
    queue.publish("x high", group="x", priority=9)
    queue.publish("y", group="y", priority=5)
    assert bodies(queue.peek()) == ["y", "x low", "x high"]
    assert bodies(queue.receive_many(5)) == ["y", "x low"]


def test_a_group_is_held_over_a_restart(engine: Engine, broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    for index in range(3):
        queue.publish(index, group="g")
    receipt = take(queue).receipt
    broker._store.maintenance.checkpoints.write()
    queue = engine.reopen(broker).queue("mail")
    assert queue.receive(timeout=0) is None
    queue.ack_many([receipt])
    assert take(queue).body == 1


@pytest.mark.needs("quiet")
def test_a_hundred_thousand_groups_cost_no_scan(broker: mq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what is looked at does not grow with the number of groups."""
    queue = broker.queue("mail")
    state_of = broker._store.replica.state.named
    for index in range(300):
        queue.publish(index, group=str(index))
    state = state_of("mail")
    looked = 0
    is_ready = Ready.is_ready

    def counting(ready: Ready, id: int) -> bool:
        nonlocal looked
        looked += 1
        return is_ready(ready, id)

    monkeypatch.setattr(Ready, "is_ready", counting)
    for _ in range(300):
        take(queue).ack()
    assert looked < 5 * 300
    assert not state.ready.groups


# ── dedup and limits ───────────────────────────────────────────────────────────────


@pytest.mark.needs("segments")
def test_a_dedup_id_is_remembered_for_its_window_even_after_the_message_is_gone(
    engine: Engine, clock: FakeClock
) -> None:
    broker = engine.open(clock=clock, segment_bytes=4096)
    queue = broker.queue("mail", dedup_window=100)
    first = queue.publish("x", dedup_id="k")
    assert queue.publish("y", dedup_id="k") == first
    take(queue).ack()
    for _ in range(60):  # its segment goes
        broker.queue("other").publish(b"." * 500)
        take(broker.queue("other")).ack()
        broker._store.maintenance.run(0)
    assert broker._store.replica.log.head > first
    broker = engine.reopen(broker)
    queue = broker.queue("mail")
    assert queue.publish("z", dedup_id="k") == first
    assert queue.stats().ready == 0
    clock.advance(100)
    assert queue.publish("z", dedup_id="k") > first
    assert len(broker._store.replica.state.named("mail").dedup) == 1


@pytest.mark.file_store
def test_a_dedup_hit_waits_for_the_disk(tmp_path: Path) -> None:
    disk = CountingDisk()
    with open_on(disk, tmp_path / "s", sync="always") as broker:
        queue = broker.queue("mail")
        queue.publish("x", dedup_id="k")
        take(queue)  # something that nobody waited for
        before = disk.log_syncs()
        queue.publish("x", dedup_id="k")
        assert disk.log_syncs() == before + 1


def test_a_full_queue_refuses_or_drops_the_oldest(broker: mq.Broker) -> None:
    queue = broker.queue("mail", max_length=2, max_bytes=10)
    queue.publish_many([b"12345", b"1234"])
    for call in (lambda: queue.publish(b""), lambda: queue.publish_many([b"x"] * 3)):
        with pytest.raises(mq.QueueFull, match="nothing was published"):
            call()
    broker.queue("mail", overflow="drop_oldest")
    queue.publish(b"123456789")
    assert bodies(queue.peek()) == [b"123456789"]
    flying = take(queue)
    with pytest.raises(mq.QueueFull):
        queue.publish(b"12")
    flying.ack()
    assert (queue.publish(b"12") > 0, queue.stats().dropped) == (True, 2)


def test_a_publisher_waits_for_room(broker: mq.Broker) -> None:
    queue = broker.queue("mail", max_length=1)
    queue.publish("first")
    done = threading.Event()

    def publish() -> None:
        queue.publish("second", timeout=PATIENCE)
        done.set()

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    while not broker._store.waiters.asleep:
        pass
    take(queue).ack()
    assert done.wait(PATIENCE)
    thread.join()
    assert take(queue).body == "second"


# ── transactions, and settled on arrival ───────────────────────────────────────────


def test_a_transaction_happens_as_a_whole(broker: mq.Broker) -> None:
    source, sink = broker.queue("in"), broker.queue("out")
    source.publish_many(["a", "b"])
    a, b = source.receive_many(2)
    with broker.transaction() as tx:
        tx.publish(sink, "A", dedup_id="k")
        tx.publish("out", "again", dedup_id="k")
        tx.ack(a)
        tx.nack(b.receipt, delay=0, reason="not yet")
        assert (sink.stats().published, source.stats().in_flight) == (0, 2)
    assert tx.ids[0] == tx.ids[1]
    assert (bodies(sink.peek()), bodies(source.peek())) == (["A"], ["b"])
    with pytest.raises(mq.UsageError, match="over"):
        tx.ack(a)


@pytest.mark.parametrize("how", ["exception", "stale", "full"])
def test_what_stops_a_transaction_leaves_no_trace(broker: mq.Broker, how: str) -> None:
    source, sink = broker.queue("in"), broker.queue("out", max_length=1)
    source.publish("a")
    message = take(source)
    end = None
    with pytest.raises((ValueError, mq.StaleReceipt, mq.QueueFull)), broker.transaction() as tx:
        tx.publish(sink, "A")
        tx.publish("elsewhere", "A")
        if how == "full":
            tx.publish(sink, "B")
        tx.ack(message)
        if how == "stale":
            message.release()
            message = take(source)
        end = broker._store.replica.log.end
        if how == "exception":
            raise ValueError
    assert broker._store.replica.log.end == end
    assert broker.queues() == ["in", "out"]
    message.ack()


@pytest.mark.parametrize("settle", ["ack", "nack"])
@pytest.mark.parametrize("how", ["commits", "exception", "full"])
def test_a_block_inside_a_transaction_leaves_its_message_to_it(
    broker: mq.Broker, settle: str, how: str
) -> None:
    """An ack at the end of the inner block would lose the message if the transaction fails behind it."""
    source, sink = broker.queue("in"), broker.queue("out", max_length=1)
    source.publish("a")
    message = take(source)
    with suppress(ValueError, mq.QueueFull), broker.transaction() as tx:
        tx.publish(sink, "A")
        if how == "full":
            tx.publish(sink, "B")
        with message:
            getattr(tx, settle)(message)
        assert source.stats().in_flight == 1
        if how == "exception":
            raise ValueError
    if how == "commits":
        assert (bodies(sink.peek()), source.stats().in_flight) == (["A"], 0)
    else:
        assert (sink.peek(), source.stats().in_flight) == ([], 1)
        with message:  # it is the caller's again
            pass
        assert source.stats().acked == 1


def test_a_block_that_raises_inside_a_transaction_nacks_its_message(broker: mq.Broker) -> None:
    source = broker.queue("in")
    source.publish("a")
    with pytest.raises(ValueError, match="no"), broker.transaction() as tx, take(source) as message:
        tx.ack(message)
        raise ValueError("no")
    assert (source.stats().failed, source.stats().in_flight) == (1, 0)


def test_the_block_of_a_loop_inside_a_transaction_leaves_its_message_to_it(broker: mq.Broker) -> None:
    source = broker.queue("in")
    source.publish("a")
    with pytest.raises(ValueError, match="no"), broker.transaction() as tx:
        for message in source:
            with message:
                tx.ack(message)
            break
        raise ValueError("no")
    assert (source.stats().acked, source.stats().in_flight) == (0, 1)


@pytest.mark.parametrize(
    "give",
    [
        "receive", "ack_many", "nack_many", "release_many", "reject_many", "extend_many", "publish_many",
        "replay",
    ],
)  # fmt: skip
def test_a_queue_is_no_list_of_messages_or_queues(broker: mq.Broker, give: str) -> None:
    """To go through it would take all that it holds, and wait for more."""
    queue = broker.queue("mail")
    queue.publish("x")
    with pytest.raises(mq.UsageError, match="never ends"):
        getattr(broker if give == "receive" else queue, give)(queue)
    assert queue.stats()[:3] == (1, 0, 0)


@pytest.mark.file_store
def test_at_most_once_arrives_settled_and_on_the_disk(tmp_path: Path) -> None:
    disk = CountingDisk()
    with open_on(disk, tmp_path / "s", sync="always") as broker:
        queue = broker.queue("mail", delivery="at_most_once")
        queue.publish_many(["a", "b", "c"])
        before = disk.log_syncs()
        message = take(queue)
        assert disk.log_syncs() == before + 1
        assert (message.body, message.attempts, queue.stats().acked) == ("a", 1, 1)
        for settle in (message.ack, message.nack, message.release, message.reject, message.extend):
            with pytest.raises(mq.StaleReceipt):
                settle()
        with message:
            pass
        assert bodies(queue.receive_many(5)) == ["b", "c"]


def test_partial_failures_are_reported_item_by_item(broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    queue.publish_many(range(4))
    a, b, c, d = queue.receive_many(4)
    a.ack()
    for call in (lambda: queue.extend_many([a, b], 9), lambda: queue.nack_many([a, c], delay=0)):
        with pytest.raises(mq.StaleReceipt) as raised:
            call()
        assert raised.value.ids == (a.id,)
    assert bodies(queue.peek()) == [2]
    queue.ack_many([b, d])


# ── queues ─────────────────────────────────────────────────────────────────────────


def test_a_paused_queue_delivers_nothing_to_anybody(engine: Engine, broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    queue.publish("x")
    queue.pause()
    assert (queue.receive(timeout=0), queue.receive_many(3, timeout=0)) == (None, [])
    assert broker.receive([queue], timeout=0) is None
    queue = engine.reopen(broker).queue("mail")
    assert queue.stats().paused
    queue.resume()
    assert take(queue).body == "x"


def test_a_deleted_queue_is_gone_with_all_it_holds(engine: Engine, broker: mq.Broker) -> None:
    queue = broker.queue("mail", max_attempts=3)
    queue.publish_many(range(3))
    delivery = take(queue)
    queue.delete()
    with pytest.raises(mq.StaleReceipt):
        delivery.ack()
    assert (broker.queues(), queue.stats().published, queue.options()["max_attempts"]) == ([], 0, None)
    queue.publish("anew")
    assert bodies(engine.reopen(broker).queue("mail").peek()) == ["anew"]


def test_a_queue_that_nobody_uses_goes_if_it_is_meant_to(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("idle", delete_when_idle=10)
    other = broker.queue("other")
    for _ in range(5):
        clock.advance(9)
        assert queue.receive(timeout=0) is None
        other.publish("x")
    clock.advance(12)
    other.publish("x")
    assert "idle" in broker.queues()
    clock.advance(0.5)  # a quarter of its time late
    other.publish("x")
    assert "idle" not in broker.queues()


def test_a_queue_never_goes_early(broker: mq.Broker, clock: FakeClock) -> None:
    """Whether a receive has written a RENEW or not."""
    for late in range(11):
        queue = broker.queue("replies", delete_when_abandoned=10)
        for seconds in (late, late / 2):
            clock.advance(seconds)
            assert queue.receive(timeout=0) is None
        queue.publish("a reply")
        clock.advance(9.99)
        broker.queue("other").publish("comes by")
        assert take(queue).body == "a reply", late
        queue.delete()


def put_ready(queue: mq.Queue[Any]) -> None:
    queue.publish("x")


def put_delayed(queue: mq.Queue[Any]) -> None:
    queue.publish("x", delay=1000)


def put_in_flight(queue: mq.Queue[Any]) -> None:
    queue.publish("x")
    assert queue.receive(timeout=0, visibility_timeout=1000)


@pytest.mark.parametrize("put", [put_ready, put_delayed, put_in_flight], ids=lambda put: put.__name__)
def test_an_idle_queue_goes_only_when_it_is_empty_and_an_abandoned_one_with_all_it_holds(
    broker: mq.Broker, clock: FakeClock, put: Callable[[mq.Queue[Any]], None]
) -> None:
    idle, other = broker.queue("idle", delete_when_idle=10), broker.queue("other")
    abandoned = broker.queue("abandoned", delete_when_abandoned=10)
    both = broker.queue("both", delete_when_idle=10, delete_when_abandoned=40)
    for queue in (idle, abandoned, both):
        put(queue)
    for seconds, left in ((11, {"idle", "both"}), (28, {"idle", "both"}), (2, {"idle"}), (500, {"idle"})):
        clock.advance(seconds)
        for _ in range(3):
            other.publish("comes by")
        assert set(broker.queues()) - {"other"} == left
        assert broker._store.replica.state.board.next > clock.now * 1000  # no process looks all the time
    assert sum(idle.stats()[:3]) == 1
    idle._store.replica.state.named("idle").purge(1 << 62, ())  # the last one goes
    clock.advance(3)
    other.publish("comes by")
    assert broker.queues() == ["other"]


def test_a_receiver_keeps_queues_that_would_go(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("both", delete_when_idle=20, delete_when_abandoned=10)
    for _ in range(9):
        clock.advance(9)
        assert queue.receive(timeout=0) is None
    assert broker.queues() == ["both"]
    clock.advance(12.5)
    assert queue.receive(timeout=0) is None
    assert broker.queues() == []


@pytest.mark.parametrize("option", ["delete_when_idle", "delete_when_abandoned"])
@pytest.mark.parametrize("again", ["live", "from the log", "from a checkpoint"])
def test_to_shorten_how_long_an_idle_queue_stays_counts_at_once(
    engine: Engine, clock: FakeClock, option: str, again: str
) -> None:
    broker = engine.open(clock=clock, background=False)
    broker.queue("mail", **{option: 100_000})
    broker.queue("mail", **{option: 10})
    if again == "from a checkpoint":
        broker._store.maintenance.checkpoints.write()
    if again != "live":
        broker = engine.reopen(broker)
    for seconds, left in ((9, ["mail"]), (1, [])):
        clock.advance(seconds)
        broker.queue("other").publish("comes by")
        assert [name for name in broker.queues() if name != "other"] == left


@pytest.mark.needs("sharing")
@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
@pytest.mark.parametrize("seconds", [2, 60, 40_000])
def test_time_without_any_process_does_not_count(
    engine: Engine, clock: FakeClock, killed: bool, seconds: float
) -> None:
    """Not once, and not again; and one process says so for all."""
    broker = engine.open(clock=clock, background=False)
    queue = broker.queue("mail", delete_when_abandoned=10)
    queue.publish("x")
    broker.queue("gone already", delete_when_idle=1)
    for _ in range(3):
        clock.advance(3)  # of its ten, in each life
        broker.queue("other").publish("comes by")
        engine.abandon(broker) if killed else broker.close()
        clock.advance(seconds)
        broker = engine.open(clock=clock, background=False)
        with engine.open(clock=clock, background=False) as second:
            second.queue("other").publish("comes by")
            assert second.queues() == ["mail", "other"]
        assert broker.queue("mail").stats().ready == 1
    for more, left in ((0.5, ["mail", "other"]), (0.6, ["other"])):
        clock.advance(more)
        broker.queue("other").publish("comes by")
        assert broker.queues() == left


def test_a_store_without_idle_queues_is_opened_without_a_record(engine: Engine, clock: FakeClock) -> None:
    broker = engine.open(clock=clock, background=False)
    broker.queue("mail").publish("x")
    broker.close()
    clock.advance(1000)
    broker = engine.reopen(broker)
    end = broker._store.replica.log.end
    broker.queue("mail").peek()
    assert broker._store.replica.log.end == end


def test_the_first_of_several_queues_that_has_one(broker: mq.Broker) -> None:
    a, b = broker.queue("a"), broker.queue("b")
    b.publish("b")
    message = broker.receive([a, b], timeout=0)
    assert message and message.queue == "b"
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(broker.receive([a, b])), daemon=True)
    thread.start()
    while not broker._store.waiters.asleep:
        pass
    b.publish("woken")
    thread.join(PATIENCE)
    assert [message.body for message in got] == ["woken"]  # type: ignore[attr-defined]
    with pytest.raises(mq.UsageError):
        broker.receive([])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues that are asked for what is next."""
    found: list[str] = []
    head = QueueState.head
    monkeypatch.setattr(QueueState, "head", lambda queue, now: found.append(queue.name) or head(queue, now))
    return found


@pytest.mark.needs("sharing", "quiet")
def test_of_many_queues_only_those_that_hold_something_are_asked(
    engine: Engine, clock: FakeClock, asked: list[str]
) -> None:
    broker = engine.open(clock=clock, background=False)
    queues = [broker.queue(f"q{number}") for number in range(50)]
    for queue in queues:
        queue.publish("passes")
        queue.receive().ack()
    queues[7].publish("late", delay=60)
    assert broker.receive(queues, timeout=0) is None
    for queue in (queues[40], queues[20]):
        queue.publish(queue.name)
        asked.clear()
        assert take_from(broker, queues) == queue.name
        assert asked[:2] == ["q7", queue.name] and len(asked) <= 4
    assert take_from(broker, queues[30:]) == "q40"
    clock.advance(60)
    assert take_from(broker, queues) == "late"
    while message := broker.receive(queues, timeout=0):
        message.ack()
    queues[45].publish("kept by the checkpoint")
    broker._store.maintenance.checkpoints.write()
    broker = engine.reopen(broker)
    queues = [broker.queue(f"q{number}") for number in range(50)]
    assert take_from(broker, queues) == "kept by the checkpoint"
    with engine.open(clock=clock, background=False) as other:
        other.queue("q3").publish("by another process")
        assert take_from(broker, queues) == "by another process"
        other.queue("q3").delete()
        assert take_from(broker, queues) == "kept by the checkpoint"
        other.queue("q3").publish("anew")
    assert take_from(broker, queues) == "anew"
    queues[3].purge()
    assert take_from(broker, [*queues[:10], queues[0]]) is None
    asked.clear()
    assert take_from(broker, [*queues[:10], queues[0]]) is None
    assert "q3" not in asked


def take_from(broker: mq.Broker, queues: list[mq.Queue]) -> object:
    """The body of the next message, which is given back."""
    message = broker.receive(queues, timeout=0)
    if message:
        message.release()
    return message and message.body


def test_headers_have_a_mebibyte_together(engine: Engine, broker: mq.Broker) -> None:
    broker.queue("mail", max_attempts=1)
    headers = {str(number): "x" * 1000 for number in range(1000)}
    headers["rest"] = "y" * ((1 << 20) - sum(map(len, [*headers, *headers.values()])) - 4)
    broker.queue("mail").publish("x", headers=headers, group="g")
    with pytest.raises(mq.UsageError, match="1,048,576 is the most"):
        broker.queue("mail").publish("x", headers={**headers, "more": ""})
    take(broker.queue("mail")).nack()
    broker._store.maintenance.compact()
    again = engine.reopen(broker)
    dead = take(again.queue("mail.dead"))
    assert (dead.body, dead.headers, dead.group) == ("x", headers, "g")
    dead.ack()
    assert again.queue("mail.dead").stats().bytes == 0


def test_each_message_of_a_batch_may_have_options_of_its_own(broker: mq.Broker, clock: FakeClock) -> None:
    queue = broker.queue("mail", visibility_timeout=999)
    later = datetime.fromtimestamp(clock.now + 20, UTC)
    ids = queue.publish_many(
        [
            "as the call says",
            mq.Outgoing("its own", {"priority": 9, "headers": {"a": "1"}, "delay": 0}),
            mq.Outgoing("a date", {"at": later}),
            mq.Outgoing({"plain": 1}, {}),
        ],
        delay=10, priority=5, ttl=100,
    )  # fmt: skip
    assert ids == sorted(set(ids))
    message = take(queue)
    assert (message.body, message.id, message.priority, message.headers) == ("its own", ids[1], 9, {"a": "1"})
    assert queue.receive(timeout=0) is None
    clock.advance(10)
    assert [(each.body, each.priority) for each in queue.receive_many(9, timeout=0)] == [
        ("as the call says", 5),
        ({"plain": 1}, 5),
    ]
    clock.advance(10)
    assert take(queue).body == "a date"
    assert queue.publish_many([mq.Outgoing(b"alone", {})]) > ids


def test_a_batch_is_all_or_nothing_whatever_options_its_messages_have(broker: mq.Broker) -> None:
    queue = broker.queue("mail", max_length=3)
    first = queue.publish("x", dedup_id="k")
    again, new, twice = queue.publish_many(
        [
            mq.Outgoing("x", {"dedup_id": "k"}),
            mq.Outgoing("y", {"dedup_id": "l"}),
            mq.Outgoing("z", {"dedup_id": "l"}),
        ]
    )
    assert again == first < new == twice
    assert bodies(queue.peek()) == ["x", "y"]
    with pytest.raises(mq.QueueFull):
        queue.publish_many(["a", mq.Outgoing("b", {"priority": 1})])
    bad: list[Any] = [
        mq.Outgoing("b", {"priority": 256}), mq.Outgoing("b", {"colour": 1}),  # type: ignore[typeddict-unknown-key]
        mq.Outgoing("b", ["priority"]), mq.Outgoing(range(3), {}),  # type: ignore[arg-type]
        mq.Outgoing("b", {"delay": 1, "at": datetime.now(UTC)}),
    ]  # fmt: skip
    for each in bad:
        with pytest.raises(mq.UsageError):
            queue.publish_many(["a", each])
    with pytest.raises(mq.UsageError):
        queue.publish_many([mq.Outgoing("b", {})], dedup_id="m")  # type: ignore[call-arg]
    assert bodies(queue.peek()) == ["x", "y"]


def test_one_outgoing_is_no_body(broker: mq.Broker) -> None:
    """It was stored as a list of its body and its options, and these did not hold."""
    queue, topic, outgoing = broker.queue("mail"), broker.topic("t"), mq.Outgoing("b", {"delay": 60})
    with broker.transaction() as tx:
        for publish in (
            queue.publish, topic.publish, partial(tx.publish, queue),
            lambda body: queue.publish_many([mq.Outgoing(body, {})]),
            lambda body: broker.schedule("s", queue, body, every=60),
        ):  # fmt: skip
            with pytest.raises(mq.UsageError, match=r"an mq\.Outgoing is for publish_many"):
                publish(outgoing)
    assert (queue.stats().published, broker.schedules()) == (0, [])


def test_headers_come_back_as_they_were_given(engine: Engine, broker: mq.Broker) -> None:
    broker.queue("mail").publish("x", headers={"ключ": "значение", "empty": ""})
    broker = engine.reopen(broker)
    message = take(broker.queue("mail"))
    assert message.headers == {"ключ": "значение", "empty": ""}
    assert (message.body, broker.queue("mail").get(message.id).headers) == ("x", message.headers)


def test_somebody_asleep_elsewhere_does_what_falls_due(engine: Engine) -> None:
    """A receiver of the dead letters wakes when the last attempt times out, although nobody else is there."""
    got: list[object] = []
    real = engine.open()  # real time: this one does sleep
    queue, dead = real.queue("mail", max_attempts=1, visibility_timeout=0.05), real.queue("mail.dead")
    queue.publish("x")
    thread = threading.Thread(target=lambda: got.append(dead.receive(timeout=PATIENCE)), daemon=True)
    thread.start()
    while not real._store.waiters.asleep:
        pass
    take(queue)
    thread.join(PATIENCE)
    assert [message.body for message in got] == ["x"]  # type: ignore[attr-defined]


# ── what has come to its end, and nobody came by yet ───────────────────────────────


@pytest.mark.parametrize("how", ["delayed", "backing off"])
def test_what_expired_before_its_time_came_is_counted_nowhere(
    broker: mq.Broker, clock: FakeClock, how: str
) -> None:
    queue = broker.queue("mail", visibility_timeout=1, backoff=mq.Backoff(50, 1, 50, 0))
    queue.publish("x", ttl=5, delay=100 if how == "delayed" else 0)
    assert (queue.receive(timeout=0) is None) == (how == "delayed")
    clock.advance(6)
    assert queue.stats()[:3] == (0, 0, 0)
    assert queue.peek() + queue.peek(state="delayed") == []


def test_a_last_attempt_that_times_out_dies_also_if_the_time_to_live_is_over(
    broker: mq.Broker, clock: FakeClock
) -> None:
    """Nothing is dropped by failing."""
    queue = broker.queue("mail", max_attempts=1, ttl=5)
    queue.publish("x")
    take(queue)
    clock.advance(31)
    assert queue.receive(timeout=0) is None
    assert (queue.stats().expired, queue.stats().dead_lettered) == (0, 1)
    assert bodies(broker.queue("mail.dead").peek()) == ["x"]


@pytest.fixture
def lapsed(broker: mq.Broker, clock: FakeClock) -> mq.Delivery[Any]:
    """A delivery that has timed out, so its message is ready, and nobody has it."""
    queue = broker.queue("mail", backoff=NO_BACKOFF, max_length=1, overflow="drop_oldest")
    queue.publish("x")
    delivery = take(queue)
    clock.advance(31)
    assert queue.stats()[:3] == (1, 0, 0)
    return delivery


@pytest.mark.parametrize("how", ["cancel", "reschedule", "drop_oldest"])
def test_what_has_timed_out_is_not_in_flight(
    broker: mq.Broker, clock: FakeClock, lapsed: mq.Delivery[Any], how: str
) -> None:
    queue = broker.queue("mail")
    if how == "cancel":
        assert queue.cancel(lapsed.id)
        assert queue.stats()[:4] == (0, 0, 0, 0)
    elif how == "reschedule":
        assert queue.reschedule(lapsed.id, delay=50)
        assert (queue.receive(timeout=0), queue.stats().failed) == (None, 1)
        clock.advance(50)
        delivery = take(queue)
        assert (delivery.attempts, len(delivery.failures)) == (2, 1)
    else:
        queue.publish("y")
        assert (bodies(queue.peek()), queue.stats().dropped) == (["y"], 1)
    with pytest.raises(mq.StaleReceipt):
        lapsed.ack()


def test_a_dead_letter_that_somebody_looked_at_and_let_go_of_is_replayed(
    broker: mq.Broker, dying: mq.Queue[Any], clock: FakeClock
) -> None:
    dying.publish("x")
    take(dying).reject()
    dead = broker.queue("mail.dead")
    take(dead)
    clock.advance(31)
    assert dead.replay() == 1
    assert bodies(dying.peek()) == ["x"]


def test_what_a_transaction_acks_late_is_not_what_it_drops_for_room(
    broker: mq.Broker, lapsed: mq.Delivery[Any]
) -> None:
    queue = broker.queue("mail")
    with broker.transaction() as tx:
        tx.ack(lapsed)
        tx.publish(queue, "y")
    assert (bodies(queue.peek()), queue.stats().dropped, queue.stats().acked) == (["y"], 0, 1)


def test_what_dies_in_a_transaction_makes_room_in_it(broker: mq.Broker) -> None:
    queue = broker.queue("mail", max_attempts=1, max_length=1)
    queue.publish("x")
    with broker.transaction() as tx:
        tx.nack(take(queue))
        tx.publish(queue, "y")
    assert (bodies(queue.peek()), bodies(broker.queue("mail.dead").peek())) == (["y"], ["x"])


def test_to_extend_the_same_delivery_twice_at_once_is_no_mistake(broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    queue.publish("x")
    delivery = take(queue)
    queue.extend_many([delivery, delivery.receipt], 99)
    delivery.ack()


@pytest.mark.needs("sharing")
def test_dedup_ids_whose_window_is_over_are_forgotten_in_every_process(
    engine: Engine, broker: mq.Broker, clock: FakeClock
) -> None:
    other = engine.open(clock=clock)
    queue = broker.queue("mail", dedup_window=10)
    for index in range(30):
        queue.publish(index, dedup_id=str(index))
        clock.advance(1)
        other.queues()
    for each in (broker, other):
        assert len(each._store.replica.state.named("mail").dedup) <= 12


@pytest.mark.parametrize("again", ["live", "from a checkpoint", "from the log", "moved"])
@pytest.mark.parametrize("goes_on", [True, False], ids=["while more come", "though no more come"])
def test_dedup_ids_behind_one_with_a_long_window_are_forgotten(
    engine: Engine, clock: FakeClock, again: str, goes_on: bool
) -> None:
    broker = engine.open(sync="never", clock=clock, background=False)
    queue = broker.queue("mail", dedup_window=100_000)
    long = queue.publish("long", dedup_id="long")
    broker.queue("mail", dedup_window=10)
    for index in range(200):
        queue.publish(index, dedup_id=str(index))
    if again == "moved":
        broker._store.maintenance.compact()
    if again == "from a checkpoint":
        broker._store.maintenance.checkpoints.write()
    if again in ("from a checkpoint", "from the log"):
        broker = engine.reopen(broker)
        queue = broker.queue("mail")
    remembered = broker._store.replica.state.named("mail").dedup
    clock.advance(15)
    if goes_on:
        for index in range(100):
            queue.publish(index, dedup_id=f"again {index}")
        assert len(remembered) <= 101
    else:
        clock.advance(10)
        broker.queue("other").publish("comes by")
        assert len(remembered) == 1
        assert broker._store.replica.state.board.next > clock.now * 1000
    assert queue.publish("long", dedup_id="long") == long
    clock.advance(200_000)
    broker.queue("other").publish("comes by")
    assert (len(remembered), remembered.bytes, len(remembered._ends)) == (0, 0, 0)
    assert queue.publish("long", dedup_id="long") > long


def test_a_queue_that_is_to_go_keeps_nothing_from_being_declared_anew(
    broker: mq.Broker, clock: FakeClock
) -> None:
    for _ in range(2):
        queue = broker.queue("idle", delete_when_abandoned=10, max_attempts=3)
        assert queue.stats().ready == 0
        queue.publish("x")
        assert queue.options()["max_attempts"] == 3
        clock.advance(11)


def test_dead_letters_in_a_circle_through_a_queue_to_come_are_refused(broker: mq.Broker) -> None:
    with pytest.raises(mq.UsageError, match=r"'mail\.dead' → 'mail' → 'mail\.dead'"):
        broker.queue("mail.dead", dead_letter="mail")


@pytest.mark.needs("sharing")
def test_whoever_has_not_heard_yet_that_a_queue_is_paused_resumes_it(
    engine: Engine, broker: mq.Broker, clock: FakeClock
) -> None:
    other = engine.open(clock=clock)
    broker.queue("mail").pause()
    other.queue("mail").resume()
    assert not broker.queue("mail").stats().paused


def test_what_has_expired_makes_room_also_if_the_wall_clock_jumps(
    broker: mq.Broker, clock: FakeClock
) -> None:
    clock.advance(-1000)  # store time stands still, until the wall's has caught up
    queue = broker.queue("mail", max_length=1, ttl=5)
    queue.publish("x")
    clock.advance(20)
    queue.publish("y")
    assert (bodies(queue.peek()), queue.stats().expired) == (["y"], 1)


def test_a_queue_of_dead_letters_that_cannot_be_made_stops_nobody(
    broker: mq.Broker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying, other = broker.queue("dying", max_attempts=1), broker.queue("other")
    dying.publish("dies")
    other.publish("x")
    monkeypatch.setattr(state, "QUEUES_MAX", 2)
    dying.receive(timeout=0)
    clock.advance(31)
    assert other.receive(timeout=0) is not None
    other.publish("y")
    assert dying.stats()[:3] == (0, 1, 0)
    other.delete()
    clock.advance(2)
    broker.queue("dying").publish("another")
    assert bodies(broker.queue("dying.dead").receive_many(5, timeout=0)) == ["dies"]


@pytest.mark.parametrize("expired", [False, True])
def test_work_that_cannot_be_done_keeps_no_other_from_being_done(
    broker: mq.Broker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    expired: bool,
) -> None:  # fmt: skip
    """What cannot move to the dead letters stays, with a warning, and moves once it can."""
    options: dict[str, Any] = {"ttl": 25, "expired": "dead_letter"} if expired else {"max_attempts": 1}
    dying = broker.queue("dying", **options)
    dies = dying.publish("dies")
    monkeypatch.setattr(state, "QUEUES_MAX", 3)
    if not expired:
        assert dying.receive(timeout=0, visibility_timeout=25)
    other, abandoned = broker.queue("other", ttl=28), broker.queue("abandoned", delete_when_abandoned=30)
    abandoned.publish("x")
    for _ in range(40):
        clock.advance(1)
        other.publish("x")
    assert other.stats().expired == 12  # those of the first twelve seconds, at each second anew
    assert "abandoned" not in broker.queues()
    assert "queue 'dying': messages that have expired, or failed for the last time, stay" in caplog.text
    graves = broker.queue("dying.dead")  # there is room, now that one queue is gone
    assert [(each.id, each.body) for each in graves.receive_many(5, timeout=0)] == [(dies, "dies")]


def test_a_damaged_message_that_cannot_die_costs_the_others_nothing(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are acked as they arrive: what is raised then would lose them."""
    queue = broker.queue("mail", delivery="at_most_once", max_attempts=1)
    [damaged, _] = queue.publish_many(["damaged", "whole"])
    monkeypatch.setattr(state, "QUEUES_MAX", 1)
    read = broker._store.replica.log.read

    def reads(position: int) -> Any:
        if position == damaged:
            raise mq.CorruptStore("data", "damaged", 0, (damaged,))
        return read(position)

    monkeypatch.setattr(broker._store.replica.log, "read", reads)
    assert bodies(queue.receive_many(5, timeout=0)) == ["whole"]


def failing(*args: Any, **options: Any) -> Any:
    raise mq.DiskFull("data", "no room")


def test_extending_says_the_new_deadline_only_if_that_was_written(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = broker.queue("mail")
    queue.publish("x")
    message = queue.receive()
    before = message.due_at
    with monkeypatch.context() as patch, pytest.raises(mq.DiskFull):
        patch.setattr(broker._store.replica.log, "append_group", failing)
        message.extend(3600)
    assert message.due_at == before
    message.extend(3600)
    assert message.due_at > before


def test_an_ack_that_was_written_has_succeeded_whatever_else_falls_due(
    broker: mq.Broker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = broker.queue("mail", ttl=5)
    queue.publish_many(["taken", "expires"])
    message = queue.receive()
    clock.advance(6)
    monkeypatch.setattr(broker._store.committer, "size_of", failing)
    message.ack()
    assert queue.stats().acked == 1


@pytest.mark.parametrize("options", [{"queue": "y"}, {"flags": 1}, {"delya": 1}])
def test_what_is_no_option_of_a_publish_is_refused_by_name(
    broker: mq.Broker, options: dict[str, Any]
) -> None:
    with pytest.raises(mq.UsageError, match=f"no publish option {next(iter(options))!r}"):
        broker.queue("q").publish("x", **options)
    with pytest.raises(mq.UsageError), broker.transaction() as tx:
        tx.publish("q", "x", **options)


def test_a_receipt_of_what_was_settled_on_arrival_is_stale(broker: mq.Broker) -> None:
    queue = broker.queue("q", delivery="at_most_once")
    queue.publish("x")
    message = queue.receive(timeout=0)
    assert message is not None
    with pytest.raises(mq.StaleReceipt):
        queue.ack_many([message.receipt])


def test_a_message_that_is_settled_before_it_is_read_is_passed_over(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, read = broker.queue("mail"), broker._store.replica.read
    queue.publish_many(["gone", "there", "gone too", "last"])
    answers = iter([True, False, True, False])
    monkeypatch.setattr(broker._store.replica, "read", lambda *args: None if next(answers) else read(*args))
    reader = broker._store.replica.log.reader
    monkeypatch.setattr(reader, "at_hand", lambda *_: None)
    monkeypatch.setattr(reader, "read_run", lambda *_: ([], [], []))  # each by itself
    message = queue.receive(300)
    assert message is not None and message.body == "there"
    assert bodies(queue.receive_many(1)) == ["last"]


def test_peek_shows_what_waits_for_a_delayed_one_of_its_group_last(broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    _, second, _ = queue.publish_many(["one", "two", "three"], group="g")
    queue.publish("alone")
    queue.reschedule(second, delay=60)
    assert bodies(queue.peek()) == ["one", "alone", "three"]
    queue.receive()
    assert bodies(queue.peek()) == ["alone", "three"]


def test_peek_shows_what_waits_for_one_in_flight_in_publish_order_whatever_its_priority(
    broker: mq.Broker,
) -> None:
    queue = broker.queue("mail")
    queue.publish_many(["one", "two"], group="g")
    queue.receive()
    queue.publish("urgent", group="g", priority=9)
    queue.publish("other", group="h", priority=1)
    assert bodies(queue.peek()) == ["other", "two", "urgent"]


def test_peek_shows_what_is_due_at_one_moment_by_id(broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    first, second = queue.publish_many(["first", "second"], delay=60)
    queue.reschedule(second, delay=90)
    queue.reschedule(first, delay=90)
    assert bodies(queue.peek(state="delayed")) == ["first", "second"]
