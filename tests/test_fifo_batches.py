"""Several messages of a group in one batch: they are held together, and go back together."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from engines import Engine
from fakes import FakeClock

import mq
from mq.delivery import due
from mq.delivery.ready import HELD_TOGETHER_MAX

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]

TIMEOUT_SECONDS = 30.0
ALL = 10_000


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[str]:
    return broker.queue("q")


def publish(queue: mq.Queue[str], bodies: str, group: str | None = "g", **options: int) -> None:
    queue.publish_many(bodies.split(), **({"group": group} if group else {}), **options)  # type: ignore[misc]


def batch(queue: mq.Queue[str], per_group: int | None = None, limit: int = ALL) -> list[mq.Delivery[str]]:
    return queue.receive_many(limit, timeout=0, per_group=per_group)


def bodies(messages: Iterable[mq.Message[str]]) -> str:
    return " ".join(each.body for each in messages)


def tried(messages: Iterable[mq.Message[str]]) -> list[tuple[str, int]]:
    return [(each.body, each.attempts) for each in messages]


# ── what is taken ──────────────────────────────────────────────────────────────────


def test_a_batch_has_consecutive_messages_of_a_group(queue: mq.Queue[str]) -> None:
    publish(queue, "a b c")
    publish(queue, "x y", "h")
    publish(queue, "plain", None)
    assert bodies(batch(queue)) == "a b c x y plain"
    assert not batch(queue)


@pytest.mark.parametrize(
    "per_group, first, second",
    [(1, "a x", "b y"), (2, "a b x y", "c d z"), (3, "a b c x y z", "d"), (9, "a b c d x y z", "")],
)
def test_a_batch_has_so_many_of_each_group_at_most(
    queue: mq.Queue[str], per_group: int, first: str, second: str
) -> None:
    publish(queue, "a b c d")
    publish(queue, "x y z", "h")
    taken = batch(queue, per_group)
    assert bodies(taken) == first
    assert not batch(queue, per_group)
    queue.ack_many(taken)
    assert bodies(batch(queue, per_group)) == second


def test_a_batch_has_no_more_than_its_limit(queue: mq.Queue[str]) -> None:
    publish(queue, "a b c")
    assert bodies(batch(queue, limit=2)) == "a b"
    assert not batch(queue)


def test_a_batch_is_in_the_order_in_which_one_by_one_would_be(queue: mq.Queue[str]) -> None:
    """Priority chooses between groups, and never inside one."""
    publish(queue, "low", priority=1)
    publish(queue, "high", priority=9)
    publish(queue, "middle", "h", priority=5)
    publish(queue, "plain", None)
    assert bodies(batch(queue)) == "middle low high plain"


def test_a_batch_ends_at_what_is_delayed(queue: mq.Queue[str]) -> None:
    publish(queue, "a b")
    queue.publish("later", group="g", delay=60)
    publish(queue, "d")
    assert bodies(batch(queue)) == "a b"


def test_a_batch_passes_what_has_expired(queue: mq.Queue[str], clock: FakeClock) -> None:
    publish(queue, "a")
    queue.publish("gone", group="g", ttl=1)
    publish(queue, "c")
    clock.advance(2)
    assert bodies(batch(queue)) == "a c"


def test_what_came_back_from_the_dead_is_not_overtaken(broker: mq.Broker, queue: mq.Queue[str]) -> None:
    """An older one waits while one is held: the next batch begins with it."""
    publish(queue, "a b c")
    a, b = batch(queue, limit=2)
    a.reject()
    broker.queue("q.dead").replay()
    assert not batch(queue)
    b.extend(0)
    assert bodies(batch(queue)) == "b"


def test_a_run_is_bounded(queue: mq.Queue[str]) -> None:
    """It may go back as a whole."""
    queue.publish_many([str(n) for n in range(HELD_TOGETHER_MAX + 5)], group="g")
    assert len(batch(queue)) == HELD_TOGETHER_MAX


# ── held together ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_the_next_message_waits_until_all_are_settled(queue: mq.Queue[str], order: str) -> None:
    publish(queue, "a b c d")
    held = {each.body: each for each in batch(queue, 3)}
    for body in order:
        assert not batch(queue)
        held[body].ack()
    assert bodies(batch(queue)) == "d"


def test_one_that_is_rejected_leaves_the_others_where_they_are(queue: mq.Queue[str]) -> None:
    publish(queue, "a b c d")
    a, b, c = batch(queue, 3)
    a.reject("no")
    assert not batch(queue)
    b.ack()
    c.ack()
    assert bodies(batch(queue)) == "d"


@pytest.mark.parametrize("how", ["nack", "release"])
def test_one_that_goes_back_takes_those_behind_it_with_it(queue: mq.Queue[str], how: str) -> None:
    publish(queue, "a b c d e")
    a, b, c, d = batch(queue, 4)
    c.ack()
    b.nack(delay=0) if how == "nack" else b.release()
    with pytest.raises(mq.StaleReceipt) as caught:
        queue.ack_many([d])
    assert caught.value.ids == (d.id,)
    assert not batch(queue)  # until `a` is settled
    a.ack()
    assert tried(batch(queue)) == [("b", 2 if how == "nack" else 1), ("d", 1), ("e", 1)]
    assert queue.stats().failed == (how == "nack")


def test_what_backs_off_holds_those_behind_it(queue: mq.Queue[str], clock: FakeClock) -> None:
    publish(queue, "a b c")
    a, b, _ = batch(queue)
    a.ack()
    b.nack(delay=10)
    assert not batch(queue)
    clock.advance(10)
    assert bodies(batch(queue)) == "b c"


def test_the_last_attempt_dies_alone(broker: mq.Broker) -> None:
    """Those behind it go back, for its receiver does not know which attempt is the last."""
    queue = broker.queue("q", max_attempts=1)
    publish(queue, "a b c")
    batch(queue)[0].nack()
    assert bodies(broker.queue("q.dead").peek()) == "a"
    assert tried(batch(queue)) == [("b", 1), ("c", 1)]


@pytest.mark.parametrize("settle", ["nack_many", "release_many", "reject_many", "ack_many"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_batch_that_is_settled_in_one_call_is_settled_one_by_one(
    queue: mq.Queue[str], settle: str, order: int
) -> None:
    """None of them goes back with another, so that none is stale."""
    publish(queue, "a b c d e")
    taken = batch(queue, 4)
    getattr(queue, settle)(taken[:3][::order])
    stats = queue.stats()
    if settle in ("ack_many", "reject_many"):
        taken[3].ack()
    else:
        with pytest.raises(mq.StaleReceipt):
            taken[3].ack()
        assert stats.failed == (3 if settle == "nack_many" else 0)
        assert stats.in_flight == 0


def test_a_transaction_nacks_one_and_acks_those_behind_it(broker: mq.Broker, queue: mq.Queue[str]) -> None:
    publish(queue, "a b c")
    a, b, c = batch(queue)
    with broker.transaction() as tx:
        tx.nack(a, delay=0)
        tx.ack(b)
    with pytest.raises(mq.StaleReceipt):
        c.ack()
    assert tried(batch(queue)) == [("a", 2), ("c", 1)]


def test_an_exception_releases_all_behind_the_block(queue: mq.Queue[str]) -> None:
    publish(queue, "a b c")
    a, b, c = batch(queue)
    with a:
        pass
    with pytest.raises(KeyboardInterrupt), b:
        raise KeyboardInterrupt
    with pytest.raises(mq.StaleReceipt):
        c.ack()
    assert tried(batch(queue)) == [("b", 1), ("c", 1)]


# ── timeouts ───────────────────────────────────────────────────────────────────────


def test_one_that_times_out_takes_those_behind_it_with_it(queue: mq.Queue[str], clock: FakeClock) -> None:
    publish(queue, "a b c d")
    a, b, c = batch(queue, 3)
    queue.extend_many([a, c], 3 * TIMEOUT_SECONDS)
    clock.advance(TIMEOUT_SECONDS)
    queue.stats()
    assert not batch(queue)
    with pytest.raises(mq.StaleReceipt):
        c.ack()
    a.ack()
    assert tried(batch(queue)) == [("b", 2), ("c", 1), ("d", 1)]
    with pytest.raises(mq.StaleReceipt):
        b.ack()
    assert queue.stats().failed == 1


def test_of_a_batch_that_times_out_only_the_first_has_failed(queue: mq.Queue[str], clock: FakeClock) -> None:
    publish(queue, "a b c d")
    a, *_ = batch(queue, 3)
    clock.advance(TIMEOUT_SECONDS)
    assert tried(batch(queue, 2)) == [("a", 2), ("b", 1)]
    assert queue.stats().failed == 1
    with pytest.raises(mq.StaleReceipt):
        a.ack()


@pytest.mark.parametrize("noticed", [False, True])
def test_the_first_of_a_batch_that_timed_out_may_still_be_acked(
    broker: mq.Broker, queue: mq.Queue[str], clock: FakeClock, noticed: bool
) -> None:
    """It did not fail then.  Of the others the next one has, unless they had gone back by then."""
    publish(queue, "a b c")
    a, *_ = batch(queue)
    clock.advance(TIMEOUT_SECONDS)
    if noticed:
        broker.queue("other").publish("whichever process comes by")
    a.ack()
    assert tried(batch(queue)) == [("b", 1 if noticed else 2), ("c", 1)]


def test_of_a_batch_that_times_out_for_the_last_time_only_the_first_dies(
    broker: mq.Broker, clock: FakeClock
) -> None:
    queue = broker.queue("q", max_attempts=1)
    publish(queue, "a b c")
    batch(queue)
    clock.advance(TIMEOUT_SECONDS)
    assert tried(batch(queue)) == [("b", 1), ("c", 1)]
    assert bodies(broker.queue("q.dead").peek()) == "a"


def test_what_has_not_gone_back_yet_goes_back_when_the_first_is_delivered_again(
    queue: mq.Queue[str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What falls due is done in slices: the rest may still be to be done."""
    monkeypatch.setattr(due, "next_work", lambda *_: None)
    monkeypatch.setattr("mq.engine.commit.next_work", lambda *_: None)
    publish(queue, "a b c")
    publish(queue, "x y", "h")
    _, b, c, *_ = batch(queue)
    c.extend(3 * TIMEOUT_SECONDS)
    clock.advance(TIMEOUT_SECONDS)
    a = queue.receive(timeout=0)
    assert a
    assert (a.body, a.attempts) == ("a", 2)
    assert tried(batch(queue)) == [("x", 2)]
    with pytest.raises(mq.StaleReceipt):
        queue.ack_many([b, c])
    a.ack()
    assert tried(batch(queue)) == [("b", 1), ("c", 1)]


def test_many_batches_that_time_out_are_released_in_slices(
    broker: mq.Broker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "SLICE", 4)
    queue = broker.queue("q", max_attempts=1)
    for group in "ghijk":
        publish(queue, "1 2 3", group)
    assert len(batch(queue)) == 15
    clock.advance(TIMEOUT_SECONDS)
    for _ in range(20):
        broker.queue("other").publish("whichever process comes by")
    assert bodies(broker.queue("q.dead").peek(ALL)) == "1 1 1 1 1"
    assert queue.stats()[:3] == (10, 0, 0)


def test_a_visibility_timeout_of_nothing(queue: mq.Queue[str]) -> None:
    publish(queue, "a b c")
    taken = queue.receive_many(3, timeout=0, visibility_timeout=0, per_group=None)
    assert bodies(taken) == "a b c"
    assert tried(batch(queue)) == [("a", 2), ("b", 1), ("c", 1)]


# ── what else happens to them ──────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["closed", "killed", "from a checkpoint", "compacted"])
def test_they_are_held_together_over_a_restart(
    engine: Engine, broker: mq.Broker, clock: FakeClock, how: str
) -> None:
    queue = broker.queue("q")
    publish(queue, "a b c d")
    receipts = [each.receipt for each in batch(queue, 3)]
    if how == "closed":
        broker = engine.reopen(broker)
    else:
        if how == "from a checkpoint":
            broker._store.maintenance.checkpoints.write()
        elif how == "compacted":
            broker._store.maintenance.compact()
        engine.abandon(broker)
        broker = engine.open(clock=clock)
    queue = broker.queue("q")
    assert not batch(queue)
    queue.ack_many(receipts[:1])
    queue.nack_many(receipts[1:2], delay=0)
    with pytest.raises(mq.StaleReceipt):
        queue.ack_many(receipts[2:])
    assert tried(batch(queue)) == [("b", 2), ("c", 1), ("d", 1)]


@pytest.mark.needs("sharing")
def test_another_process_settles_what_is_held_together(engine: Engine, clock: FakeClock) -> None:
    ours, theirs = engine.open(clock=clock).queue("q"), engine.open(clock=clock).queue("q")
    publish(ours, "a b c d")
    a, b, c = batch(ours, 3)
    assert not batch(theirs)
    theirs.ack_many([a.receipt])
    theirs.release_many([b.receipt])
    with pytest.raises(mq.StaleReceipt):
        c.ack()
    assert bodies(batch(theirs)) == "b c d"
    assert not batch(ours)


@pytest.mark.parametrize("how", ["purge", "delete"])
def test_nothing_is_held_in_a_queue_that_was_emptied(queue: mq.Queue[str], how: str) -> None:
    publish(queue, "a b c")
    batch(queue)
    queue.purge(in_flight=True) if how == "purge" else queue.delete()
    publish(queue, "d e")
    assert bodies(batch(queue)) == "d e"


def test_a_purge_leaves_what_is_held_together(queue: mq.Queue[str]) -> None:
    publish(queue, "a b c d")
    a, b = batch(queue, 2)
    assert queue.purge() == 2
    publish(queue, "e")
    a.release()
    with pytest.raises(mq.StaleReceipt):
        b.ack()
    assert bodies(batch(queue)) == "a b e"


def test_at_most_once_settles_a_batch_as_it_is_delivered(broker: mq.Broker) -> None:
    queue = broker.queue("q", delivery="at_most_once")
    publish(queue, "a b c")
    assert bodies(batch(queue, 2)) == "a b"
    assert bodies(batch(queue)) == "c"


def test_a_paused_queue_delivers_none_of_it(queue: mq.Queue[str]) -> None:
    publish(queue, "a b")
    queue.pause()
    assert not batch(queue)
    queue.resume()
    assert bodies(batch(queue)) == "a b"


def test_one_that_expires_in_flight_goes_once_it_has_timed_out(
    queue: mq.Queue[str], clock: FakeClock
) -> None:
    publish(queue, "a")
    queue.publish("gone", group="g", ttl=5)
    publish(queue, "c")
    assert bodies(batch(queue)) == "a gone c"
    clock.advance(TIMEOUT_SECONDS)
    assert tried(batch(queue)) == [("a", 2), ("c", 1)]


def test_what_timed_out_behind_one_that_is_held_is_listed(queue: mq.Queue[str], clock: FakeClock) -> None:
    publish(queue, "a b c")
    a, _, _ = batch(queue)
    a.extend(3 * TIMEOUT_SECONDS)
    clock.advance(TIMEOUT_SECONDS)
    broker = queue._store
    broker.turn.take(broker.committer.do_due)
    assert queue.stats()[:3] == (2, 1, 0)
    assert bodies(queue.peek()) == "b c"
    assert bodies(queue.peek(state="in_flight")) == "a"
    assert queue.receive(timeout=0) is None
    a.ack()
    assert tried(batch(queue)) == [("b", 2), ("c", 1)]


# ── what is refused ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("per_group", [0, -1, 1.0, "1", True])
def test_what_is_no_number_of_messages_is_refused(queue: mq.Queue[str], per_group: object) -> None:
    with pytest.raises(mq.UsageError, match="per_group"):
        queue.receive_many(1, timeout=0, per_group=per_group)  # type: ignore[arg-type]
