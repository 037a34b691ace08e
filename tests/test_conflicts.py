"""Another writer is first: what was decided on the state before it is decided again.

A log in files is kept by a lock, and meets no conflict; others are not.  Each test names what
the other writer does between the decision and the append.  The second decision counts, and takes
effect once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from engines import Engine
from fakes import FakeClock

import mq

pytestmark = [pytest.mark.conformance, pytest.mark.needs("conflicts")]

Act = Callable[[mq.Broker], object]
States = tuple[mq.State, ...]
STATES: States = ("ready", "in_flight", "delayed")


@pytest.fixture
def broker(engine: Engine, clock: FakeClock) -> mq.Broker:
    return engine.open(clock=clock, background=False)


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[Any]:
    return broker.queue("mail", visibility_timeout=30)


@pytest.fixture
def first(engine: Engine, broker: mq.Broker) -> Callable[[Act], None]:
    """Let another writer be first at the next append."""
    return lambda act: engine.meanwhile(broker, act)


@pytest.fixture(autouse=True)
def log_and_state_agree(engine: Engine, broker: mq.Broker) -> Any:
    """What is opened again is what was there."""
    yield
    before = seen(broker)
    assert seen(engine.reopen(broker)) == before


def seen(broker: mq.Broker) -> dict[str, Any]:
    def of(queue: mq.Queue[Any]) -> Any:
        shown = [
            [(each.id, each.body, each.attempts, each.due_at) for each in queue.peek(99, state=at)]
            for at in STATES
        ]
        return queue.stats(), queue.options(), dict(queue.meta()), shown

    return {name: of(broker.queue(name)) for name in broker.queues()}


def take(queue: mq.Queue[Any]) -> mq.Delivery[Any]:
    message = queue.receive(timeout=0)
    assert message
    return message


def bodies(messages: list[Any]) -> list[object]:
    return [message.body for message in messages]


def nothing(rival: mq.Broker) -> None:
    """Be first with a record that concerns no message."""
    rival.queue("elsewhere").publish("x")


# ── once ───────────────────────────────────────────────────────────────────────────

Use = Callable[[mq.Broker, mq.Queue[Any], list[mq.Delivery[Any]]], object]


def transact(broker: mq.Broker, queue: mq.Queue[Any], held: list[mq.Delivery[Any]]) -> None:
    with broker.transaction() as tx:
        tx.publish(queue, "x")
        tx.ack(held[0])
        tx.nack(held[1], delay=5)


# ready, in flight, delayed; published, acked, failed; of five messages of which two are held
ONCE: dict[str, tuple[Use, tuple[int, ...]]] = {
    "publish": (lambda broker, queue, held: queue.publish("x"), (4, 2, 0, 6, 0, 0)),
    "publish_many": (lambda broker, queue, held: queue.publish_many(["x", "y", "z"]), (6, 2, 0, 8, 0, 0)),
    "publish_many with options of their own": (
        lambda broker, queue, held: queue.publish_many(["x", mq.Outgoing("y", {"delay": 9})]),
        (4, 2, 1, 7, 0, 0),
    ),
    "publish with options": (lambda broker, queue, held: queue.publish("x", delay=9), (3, 2, 1, 6, 0, 0)),
    "receive": (lambda broker, queue, held: queue.receive(), (2, 3, 0, 5, 0, 0)),
    "receive_many": (lambda broker, queue, held: queue.receive_many(2), (1, 4, 0, 5, 0, 0)),
    "receive of several": (lambda broker, queue, held: broker.receive([queue]), (2, 3, 0, 5, 0, 0)),
    "ack": (lambda broker, queue, held: held[0].ack(), (3, 1, 0, 5, 1, 0)),
    "nack": (lambda broker, queue, held: held[0].nack(delay=5), (3, 1, 1, 5, 0, 1)),
    "release": (lambda broker, queue, held: held[0].release(), (4, 1, 0, 5, 0, 0)),
    "extend": (lambda broker, queue, held: held[0].extend(99), (3, 2, 0, 5, 0, 0)),
    "reject": (lambda broker, queue, held: held[0].reject("no"), (3, 1, 0, 5, 0, 1)),
    "ack_many": (lambda broker, queue, held: queue.ack_many(held), (3, 0, 0, 5, 2, 0)),
    "update_meta": (lambda broker, queue, held: queue.update_meta({"k": "v"}), (3, 2, 0, 5, 0, 0)),
    "ack_many of receipts": (
        lambda broker, queue, held: queue.ack_many([each.receipt for each in held]), (3, 0, 0, 5, 2, 0),
    ),
    "nack_many": (lambda broker, queue, held: queue.nack_many(held, delay=5), (3, 0, 2, 5, 0, 2)),
    "extend_many": (lambda broker, queue, held: queue.extend_many(held, 99), (3, 2, 0, 5, 0, 0)),
    "cancel": (lambda broker, queue, held: queue.cancel(queue.peek()[0].id), (2, 2, 0, 5, 0, 0)),
    "reschedule": (
        lambda broker, queue, held: queue.reschedule(queue.peek()[0].id, delay=9), (2, 2, 1, 5, 0, 0),
    ),
    "purge": (lambda broker, queue, held: queue.purge(), (0, 2, 0, 5, 0, 0)),
    "pause": (lambda broker, queue, held: queue.pause(), (3, 2, 0, 5, 0, 0)),
    "declare": (lambda broker, queue, held: broker.queue("mail", max_attempts=5), (3, 2, 0, 5, 0, 0)),
    "transaction": (transact, (4, 0, 1, 6, 1, 1)),
}  # fmt: skip


RESULTS = {"cancel": True, "reschedule": True, "purge": 3}


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("times", [1, 3])
def test_what_meets_conflicts_takes_effect_once(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], name: str, times: int
) -> None:
    use, expected = ONCE[name]
    queue.publish_many(range(5))
    held = queue.receive_many(2)
    for _ in range(times):
        first(nothing)
    result = use(broker, queue, held)
    assert result == RESULTS.get(name, result)
    stats = queue.stats()
    assert (*stats[:3], stats.published, stats.acked, stats.failed) == expected
    flying = {each.id: each.due_at for each in queue.peek(99, state="in_flight")}
    assert [flying.get(each.id, each.due_at) for each in held] == [each.due_at for each in held]
    every = [each.id for at in STATES for each in queue.peek(99, state=at)]
    assert len(every) == len(set(every))
    assert broker.queue("elsewhere").stats().published == times


def test_of_many_each_is_settled_once(queue: mq.Queue[Any], first: Callable[[Act], None]) -> None:
    """In several turns, of which the first and the last meet a conflict."""
    queue.publish_many(range(3000))
    held = queue.receive_many(3000)
    for _ in range(3):
        first(nothing)
    queue.nack_many(held, delay=5)
    assert (queue.stats()[:3], queue.stats().failed) == ((0, 0, 3000), 3000)


# ── publishing ─────────────────────────────────────────────────────────────────────


def test_a_dedup_id_that_another_writer_used_first_is_a_hit(
    queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    theirs: list[int] = []
    first(lambda rival: theirs.append(rival.queue("mail").publish("theirs", dedup_id="k")))
    assert [queue.publish("ours", dedup_id="k")] == theirs
    assert bodies(queue.peek()) == ["theirs"]


@pytest.mark.parametrize("many", [False, True], ids=["publish", "publish_many"])
def test_a_queue_that_another_writer_filled_is_full(
    broker: mq.Broker, first: Callable[[Act], None], many: bool
) -> None:
    queue = broker.queue("mail", max_length=2)
    queue.publish("first")
    first(lambda rival: rival.queue("mail").publish("theirs"))
    with pytest.raises(mq.QueueFull):
        queue.publish_many(["ours"]) if many else queue.publish("ours")
    assert bodies(queue.peek()) == ["first", "theirs"]


def test_the_oldest_is_dropped_for_each(broker: mq.Broker, first: Callable[[Act], None]) -> None:
    queue = broker.queue("mail", max_length=2, overflow="drop_oldest")
    queue.publish_many([1, 2])
    first(lambda rival: rival.queue("mail").publish(3))
    queue.publish(4)
    assert (bodies(queue.peek()), queue.stats().dropped) == ([3, 4], 2)


@pytest.mark.parametrize("options", [{}, {"priority": 3}], ids=["plain", "with options"])
def test_a_queue_that_another_writer_deleted_is_made_anew(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], options: dict[str, int]
) -> None:
    queue.publish("gone")
    first(lambda rival: rival.queue("mail").delete())
    queue.publish("stays", **options)
    assert (broker.queues(), bodies(queue.peek())) == (["mail"], ["stays"])


@pytest.mark.parametrize("name", ["new", "another"])
def test_two_writers_make_a_queue_at_once(broker: mq.Broker, first: Callable[[Act], None], name: str) -> None:
    first(lambda rival: rival.queue(name).publish("theirs"))
    broker.queue("new").publish("ours")
    expected = {"new": ["ours"], "another": ["theirs"]} if name == "another" else {"new": ["theirs", "ours"]}
    assert {each: bodies(broker.queue(each).peek()) for each in broker.queues()} == expected


# ── receiving ──────────────────────────────────────────────────────────────────────

RECEIVE: dict[str, Callable[[mq.Broker, mq.Queue[Any]], list[Any]]] = {
    "receive": lambda broker, queue: [take(queue)],
    "receive_many": lambda broker, queue: queue.receive_many(1, timeout=0),
    "receive of several": lambda broker, queue: [broker.receive([queue], timeout=0)],
}


@pytest.mark.parametrize("receive", RECEIVE.values(), ids=RECEIVE)
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_what_another_writer_received_first_is_not_received(
    broker: mq.Broker, first: Callable[[Act], None], receive: Any, delivery: Any
) -> None:
    """P12."""
    queue = broker.queue("mail", delivery=delivery)
    queue.publish_many(["theirs", "ours"])
    theirs: list[Any] = []
    first(lambda rival: theirs.append(take(rival.queue("mail"))))
    assert (bodies(receive(broker, queue)), bodies(theirs)) == (["ours"], ["theirs"])
    assert queue.receive(timeout=0) is None


TAKEN_AWAY: dict[str, Act] = {
    "received": lambda rival: take(rival.queue("mail")),
    "acked": lambda rival: take(rival.queue("mail")).ack(),
    "cancelled": lambda rival: rival.queue("mail").cancel(rival.queue("mail").peek()[0].id),
    "purged": lambda rival: rival.queue("mail").purge(),
    "delayed": lambda rival: rival.queue("mail").reschedule(rival.queue("mail").peek()[0].id, delay=9),
    "paused": lambda rival: rival.queue("mail").pause(),
    "deleted": lambda rival: rival.queue("mail").delete(),
}


@pytest.mark.parametrize("act", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("many", [False, True], ids=["receive", "receive_many"])
def test_a_receiver_whose_only_message_another_writer_took_away_gets_none(
    queue: mq.Queue[Any], first: Callable[[Act], None], act: Act, many: bool
) -> None:
    queue.publish("x")
    first(act)
    assert not (queue.receive_many(5, timeout=0) if many else queue.receive(timeout=0))


def test_a_message_of_a_group_of_which_another_writer_took_one_waits(
    queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    queue.publish_many(["first", "second"], group="g")
    queue.publish("free")
    first(lambda rival: take(rival.queue("mail")))
    assert take(queue).body == "free"


def test_what_another_writer_published_with_a_higher_priority_comes_first(
    queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    queue.publish("low")
    first(lambda rival: rival.queue("mail").publish("high", priority=9))
    assert take(queue).body == "high"


# ── settling ───────────────────────────────────────────────────────────────────────

SETTLE: dict[str, Callable[[mq.Queue[Any], mq.Delivery[Any]], object]] = {
    "ack": lambda queue, message: message.ack(),
    "nack": lambda queue, message: message.nack(),
    "release": lambda queue, message: message.release(),
    "reject": lambda queue, message: message.reject(),
    "extend": lambda queue, message: message.extend(5),
    "ack_many": lambda queue, message: queue.ack_many([message]),
    "nack_many": lambda queue, message: queue.nack_many([message.receipt]),
    "extend_many": lambda queue, message: queue.extend_many([message.receipt], 5),
}
THEIRS: dict[str, Callable[[mq.Queue[Any], str], object]] = {
    "acked": lambda queue, receipt: queue.ack_many([receipt]),
    "nacked": lambda queue, receipt: queue.nack_many([receipt], delay=0),
    "deleted": lambda queue, receipt: queue.delete(),
}


@pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE)
@pytest.mark.parametrize("theirs", THEIRS.values(), ids=THEIRS)
def test_a_delivery_that_another_writer_settled_first_is_stale(
    queue: mq.Queue[Any], first: Callable[[Act], None], settle: Any, theirs: Any
) -> None:
    queue.publish("x")
    message = take(queue)
    first(lambda rival: theirs(rival.queue("mail"), message.receipt))
    with pytest.raises(mq.StaleReceipt) as raised:
        settle(queue, message)
    assert raised.value.ids == (message.id,)
    assert queue.stats().acked + queue.stats().ready == (theirs is not THEIRS["deleted"])


def test_a_late_ack_of_what_another_writer_received_meanwhile_is_stale(
    queue: mq.Queue[Any], clock: FakeClock, first: Callable[[Act], None]
) -> None:
    queue.publish("x")
    late = take(queue)
    clock.advance(100)
    again: list[Any] = []
    first(lambda rival: again.append(take(rival.queue("mail")).receipt))
    with pytest.raises(mq.StaleReceipt):
        late.ack()
    queue.ack_many(again)


def test_of_many_only_those_that_another_writer_settled_are_stale(
    queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    queue.publish_many(range(4))
    held = queue.receive_many(4)
    first(lambda rival: rival.queue("mail").ack_many([held[1].receipt, held[3].receipt]))
    with pytest.raises(mq.StaleReceipt) as raised:
        queue.ack_many(held)
    assert raised.value.ids == (held[1].id, held[3].id)
    assert queue.stats().acked == 4


def test_a_last_failure_that_another_writer_gave_one_more_attempt_is_not_the_last(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    broker.queue("mail", max_attempts=1)
    queue.publish("x")
    message = take(queue)
    first(lambda rival: rival.queue("mail", max_attempts=2))
    message.nack(delay=5)
    assert (queue.stats().delayed, broker.queues()) == (1, ["mail"])


def test_what_another_writer_received_first_was_received_then(
    queue: mq.Queue[Any], clock: FakeClock, first: Callable[[Act], None]
) -> None:
    id = queue.publish("x")
    queue.publish("y")

    def act(rival: mq.Broker) -> None:
        take(rival.queue("mail")).release()
        clock.advance(5)

    first(act)
    message = take(queue)
    assert message.id == id
    assert message.first_received_at == datetime.fromtimestamp(clock.now - 5, UTC)


# ── transactions ───────────────────────────────────────────────────────────────────


def test_a_transaction_whose_receipt_another_writer_settled_leaves_no_trace(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    """P4."""
    queue.publish_many(["theirs", "ours"])
    theirs, ours = queue.receive_many(2)
    first(lambda rival: rival.queue("mail").ack_many([theirs.receipt]))
    with pytest.raises(mq.StaleReceipt) as raised, broker.transaction() as tx:
        tx.publish("out", "x")
        tx.ack(ours)
        tx.ack(theirs)
    assert raised.value.ids == (theirs.id,)
    assert (broker.queues(), queue.stats().in_flight, queue.stats().acked) == (["mail"], 1, 1)
    ours.ack()


def test_a_transaction_whose_dedup_id_another_writer_used_publishes_nothing_for_it(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    theirs: list[int] = []
    first(lambda rival: theirs.append(rival.queue("out").publish("theirs", dedup_id="k")))
    queue.publish("x")  # not in the transaction
    message = take(queue)
    first(lambda rival: theirs.append(rival.queue("out").publish("more", dedup_id="l")))
    with broker.transaction() as tx:
        for key in ("k", "l", "m"):
            tx.publish("out", "ours", dedup_id=key)
        tx.ack(message)
    assert list(tx.ids[:2]) == theirs
    assert bodies(broker.queue("out").peek()) == ["theirs", "more", "ours"]


# ── what waits ─────────────────────────────────────────────────────────────────────

CHANGE: dict[str, Callable[[mq.Queue[Any], int], bool]] = {
    "cancel": lambda queue, id: queue.cancel(id),
    "reschedule": lambda queue, id: queue.reschedule(id, delay=9),
}


@pytest.mark.parametrize("change", CHANGE.values(), ids=CHANGE)
@pytest.mark.parametrize("act", ["received", "acked", "cancelled", "purged", "deleted"])
def test_what_another_writer_took_away_cannot_be_changed(
    queue: mq.Queue[Any], first: Callable[[Act], None], change: Any, act: str
) -> None:
    id = queue.publish("x")
    first(TAKEN_AWAY[act])
    assert change(queue, id) is False


def test_a_purge_counts_what_is_left(queue: mq.Queue[Any], first: Callable[[Act], None]) -> None:
    queue.publish_many(range(4))
    held = take(queue)

    def act(rival: mq.Broker) -> None:
        take(rival.queue("mail"))
        rival.queue("mail").publish("more")
        rival.queue("mail").ack_many([held.receipt])

    first(act)
    assert queue.purge() == 3
    assert (queue.stats()[:3], queue.stats().acked) == ((0, 1, 0), 1)


def test_what_another_writer_published_to_a_queue_that_is_deleted_is_gone(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    queue.publish("x")
    first(lambda rival: rival.queue("mail").publish("y"))
    queue.delete()
    assert broker.queues() == []


@pytest.mark.parametrize("deleted", [False, True], ids=["replayed", "deleted"])
def test_dead_letters_that_another_writer_took_are_not_replayed(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], deleted: bool
) -> None:
    queue.publish_many(["a", "b"])
    for message in queue.receive_many(2):
        message.reject("no")
    dead = broker.queue("mail.dead")
    ids = [each.id for each in dead.peek()]

    def act(rival: mq.Broker) -> None:
        rival.queue("mail.dead").delete() if deleted else rival.queue("mail.dead").replay(ids[:1])

    first(act)
    assert dead.replay() == (0 if deleted else 1)
    assert bodies(queue.peek()) == ([] if deleted else ["a", "b"])
    assert dead.stats().ready == 0


def test_a_replay_to_a_queue_that_another_writer_filled_is_refused(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    broker.queue("mail", max_length=1)
    queue.publish("a")
    take(queue).reject("no")
    first(lambda rival: rival.queue("mail").publish("theirs"))
    with pytest.raises(mq.QueueFull):
        broker.queue("mail.dead").replay()
    assert broker.queue("mail.dead").stats().ready == 1


# ── declarations ───────────────────────────────────────────────────────────────────


def test_of_two_declarations_at_once_each_changes_what_it_names(
    broker: mq.Broker, first: Callable[[Act], None]
) -> None:
    first(lambda rival: rival.queue("mail", visibility_timeout=7, ttl=9))
    broker.queue("mail", visibility_timeout=5, max_attempts=3)
    options = broker.queue("mail").options()
    assert (options["visibility_timeout"], options["ttl"], options["max_attempts"]) == (5, 9, 3)


def test_dead_letters_in_a_circle_that_another_writer_closed_are_refused(
    broker: mq.Broker, first: Callable[[Act], None]
) -> None:
    first(lambda rival: rival.queue("b", dead_letter="a"))
    with pytest.raises(mq.UsageError, match="'a' → 'b' → 'a'"):
        broker.queue("a", dead_letter="b")


def test_pausing_and_resuming_at_once(queue: mq.Queue[Any], first: Callable[[Act], None]) -> None:
    queue.publish("x")
    queue.pause()
    first(lambda rival: rival.queue("mail").publish("y"))
    queue.resume()
    assert bodies(queue.receive_many(5, timeout=0)) == ["x", "y"]


def test_of_two_compare_and_sets_the_second_one_does_nothing(
    queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    queue.update_meta({"owner": "nobody", "a": "1"})
    theirs: list[bool] = []
    first(lambda rival: theirs.append(rival.queue("mail").update_meta({"owner": "rival", "b": "2"})))
    assert queue.update_meta({"owner": "ours", "c": "3"}, expect={"owner": "nobody"}) is False
    assert (theirs, queue.meta()) == ([True], {"owner": "rival", "a": "1", "b": "2"})


def test_of_two_changes_of_other_texts_both_are_made(
    queue: mq.Queue[Any], first: Callable[[Act], None]
) -> None:
    first(lambda rival: rival.queue("mail").update_meta({"a": "1", "b": "2"}))
    assert queue.update_meta({"b": None, "c": "3"})
    assert queue.meta() == {"a": "1", "c": "3"}


# ── what falls due, and maintenance ────────────────────────────────────────────────


def test_a_last_attempt_that_another_writer_acks_late_does_not_die(
    broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock, first: Callable[[Act], None]
) -> None:
    broker.queue("mail", max_attempts=1)
    queue.publish("x")
    message = take(queue)
    clock.advance(31)

    def act(rival: mq.Broker) -> None:
        rival._store.replica.state.board.next = 1 << 62  # it is quicker than what falls due
        rival.queue("mail").ack_many([message.receipt])

    first(act)
    broker.queue("other").publish("comes by")
    assert (queue.stats().acked, queue.stats().dead_lettered) == (1, 0)


def test_what_falls_due_is_done_once(
    broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock, first: Callable[[Act], None]
) -> None:
    broker.queue("mail", max_attempts=1, ttl=50)
    queue.publish_many(["dies", "expires"])
    take(queue)
    clock.advance(60)
    for _ in range(2):
        first(nothing)
    assert queue.receive(timeout=0) is None
    assert (queue.stats().dead_lettered, queue.stats().expired, queue.stats()[:3]) == (1, 1, (0, 0, 0))
    assert bodies(broker.queue("mail.dead").peek()) == ["dies"]


@pytest.mark.parametrize("act", ["acked", "received", "delayed", "purged", "deleted"])
def test_compaction_moves_what_is_live_when_it_is_moved(engine: Engine, clock: FakeClock, act: str) -> None:
    broker = engine.open("other", clock=clock, background=False, segment_bytes=1024)
    queue = broker.queue("mail")
    garbage = queue.publish("garbage")
    ids = queue.publish_many([str(number) * 300 for number in range(8)])
    queue.cancel(garbage)
    engine.meanwhile(broker, TAKEN_AWAY[act])
    engine.meanwhile(broker, nothing)
    broker._store.maintenance.compact()
    left = [each.id for at in STATES for each in queue.peek(99, state=at)]
    expected = {"acked": ids[1:], "received": ids, "delayed": ids, "purged": [], "deleted": []}[act]
    assert sorted(left) == expected
    before = seen(broker)
    assert seen(engine.reopen(broker)) == before
