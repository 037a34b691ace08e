"""One queue as a pure machine: records in, answers at a time out."""

from __future__ import annotations

from copy import deepcopy
from random import Random

import pytest
from msgspec.structs import replace

from mq.delivery import records
from mq.delivery.attributes import Attributes
from mq.delivery.now import Now
from mq.delivery.queue import Flight, QueueState
from mq.delivery.ready import STALE_MAX
from mq.delivery.records import TIMED_OUT
from mq.delivery.retry import Backoff


def at(ms: int) -> Now:
    return Now(ms, ms)


def deliver(queue: QueueState, id: int, receipt: int, deadline: int) -> Flight | None:
    """As receive decides it: a flight that is taken again has timed out."""
    return queue.deliver(id, receipt, deadline, TIMED_OUT if id in queue.flights else 0)


@pytest.fixture
def queue() -> QueueState:
    """Messages 10, 20 and 30, of five bytes each, that nobody has tried."""
    made = QueueState(1, "mail")
    made.moment.backoff = Backoff(initial=0)  # what a timeout costs beside the attempt is asked further down
    for id in (10, 20, 30):
        made.publish(id, 5)
    return made


def test_the_first_published_is_delivered_first(queue):
    """P5."""
    assert queue.heads(at(0), 9) == [10, 20, 30]
    assert queue.head(at(0)) == 10


def test_asking_takes_nothing(queue):
    before = queue.counts(at(0))
    for _ in range(3):
        queue.head(at(0))
        queue.heads(at(0), 2)
        queue.ids("in_flight", at(0), 2)
        queue.seconds_to_next(at(0))
    assert queue.counts(at(0)) == before == (3, 0, 0)


def test_a_delivered_message_is_in_flight_until_its_deadline(queue):
    deliver(queue, 10, 40, 100)
    seen = [(queue.state_of(10, at(ms)), queue.head(at(ms)), queue.counts(at(ms))) for ms in (99, 100)]
    assert seen == [("in_flight", 20, (2, 1, 0)), ("ready", 10, (3, 0, 0))]


def test_a_timed_out_message_returns_to_its_place(queue):
    """P5: in front of what was published later."""
    deliver(queue, 10, 40, 100)
    deliver(queue, 20, 41, 50)
    assert queue.heads(at(100), 9) == [10, 20, 30]


def test_redelivery_after_the_deadline_counts_a_failed_attempt(queue):
    assert deliver(queue, 10, 40, 100).attempts == 1
    assert queue.totals.failed == 0
    assert deliver(queue, 10, 41, 200).attempts == 2
    assert queue.totals.failed == 1


def test_a_nacked_message_waits_for_its_due(queue):
    deliver(queue, 10, 40, 100)
    queue.nack(10, 70)
    assert [queue.state_of(10, at(ms)) for ms in (69, 70)] == ["delayed", "ready"]
    assert [queue.head(at(ms)) for ms in (69, 70)] == [20, 10]
    assert deliver(queue, 10, 41, 200).attempts == 2
    assert queue.totals.failed == 1


def test_a_released_message_is_back_at_once_and_not_counted(queue):
    deliver(queue, 10, 40, 100)
    queue.release(10)
    assert queue.head(at(0)) == 10
    assert queue.attempts(10) == 0
    assert deliver(queue, 10, 41, 100).attempts == 1
    assert queue.totals.failed == 0


@pytest.mark.parametrize(
    "come_back",
    [
        pytest.param(lambda queue: queue.release(10), id="released before"),
        pytest.param(lambda queue: queue.nack(10, 0), id="nacked at once before"),
        pytest.param(lambda queue: queue.head(at(100)), id="timed out before"),
    ],
)
def test_a_delay_counts_however_the_message_came_back_before(queue, come_back):
    """An id that was once ready again is not ready for ever."""
    deliver(queue, 10, 40, 100)
    come_back(queue)
    assert queue.heads(at(100), 1) == [10]
    deliver(queue, 10, 41, 300)
    queue.nack(10, 500)
    assert queue.head(at(101)) == 20
    assert queue.heads(at(101), 9) == [20, 30]
    assert queue.head(at(500)) == 10


def test_a_deadline_counts_although_the_one_before_had_passed(queue):
    deliver(queue, 10, 40, 100)
    assert queue.head(at(100)) == 10
    queue.extend(10, 300)
    assert queue.head(at(101)) == 20
    assert queue.head(at(300)) == 10


def test_a_wall_clock_that_is_set_back_delays_again_and_loses_nothing(queue):
    deliver(queue, 10, 40, 10_000)
    queue.nack(10, 500)
    assert queue.head(Now(500, 500)) == 10
    assert queue.head(Now(501, 400)) == 20
    assert queue.seconds_to_next(Now(501, 400)) == pytest.approx(0.1)
    assert queue.head(Now(601, 500)) == 10


def test_a_backoff_follows_store_time_and_a_delay_wall_time(queue):
    deliver(queue, 10, 40, 100)
    queue.nack(10, 500, 90, "why", backoff=True)
    deliver(queue, 20, 41, 100)
    queue.nack(20, 500)
    assert queue.seconds_to_next(Now(400, 20)) == 0.1
    for now, states in (
        (Now(499, 499), ("delayed", "delayed")),
        (Now(499, 10**9), ("delayed", "ready")),
        (Now(500, 20), ("ready", "delayed")),
        (Now(500, 500), ("ready", "ready")),
    ):
        assert (queue.state_of(10, now), queue.state_of(20, now)) == states
        ready = [id for id, state in zip((10, 20), states, strict=True) if state == "ready"]
        assert queue.heads(now, 9) == [*ready, 30]
        assert queue.counts(now) == (1 + len(ready), 0, 2 - len(ready))
        assert queue.ids("delayed", now, 9) == [id for id in (10, 20) if id not in ready]
    assert (queue.changes_at(10, at(499)), queue.facts(10)) == (500, (1, records.BACKING_OFF, 0, 500))


def test_a_group_goes_on_when_the_backoff_of_its_first_is_over(queue):
    for id in (40, 50):
        queue.publish_with(id, 5, Attributes(group="g"))
    for id in (10, 20, 30):
        queue.take(id)
    deliver(queue, 40, 60, 100)
    queue.nack(40, 500, backoff=True)
    assert [queue.head(Now(ms, 10**9)) for ms in (499, 500)] == [None, 40]


def test_a_backoff_that_ends_when_an_earlier_one_would_have_is_counted_once(queue):
    """The one of a delivery that had timed out, was released, and left its entry."""
    queue.moment.backoff = Backoff()
    ends = queue.moment.returns_at(deliver(queue, 10, 100, 1000))
    queue.head(at(1001))
    queue.release(10)
    others = (Flight(receipt, 1050, 1, 10) for receipt in range(1000))
    same = next(each for each in others if queue.moment.returns_at(each) == ends)
    deliver(queue, 10, same.receipt, same.deadline)
    assert queue.counts(at(ends)) == (3, 0, 0)


def test_what_backs_off_can_be_rescheduled(queue):
    deliver(queue, 10, 40, 100)
    queue.nack(10, 500, backoff=True)
    queue.reschedule(10, 0)
    assert queue.head(at(90)) == 10
    assert queue.facts(10) == (1, records.DELAYED, 0, 0)


def test_deadlines_follow_store_time_and_dues_wall_time(queue):
    deliver(queue, 10, 40, 100)
    deliver(queue, 20, 41, 1000)
    queue.nack(20, 100)
    assert queue.heads(Now(99, 100), 9) == [20, 30]
    assert queue.heads(Now(100, 99), 9) == [10, 30]


def test_an_ack_buries_a_message_and_its_bytes(queue):
    deliver(queue, 10, 40, 100)
    queue.ack(10, 5)
    assert (queue.totals.acked, queue.bytes, queue.total()) == (1, 10, 2)
    assert 10 not in queue
    assert queue.heads(at(1000), 9) == [20, 30]


@pytest.mark.parametrize(
    "record",
    [
        lambda queue: queue.ack(99, 5),
        lambda queue: queue.nack(99, 5),
        lambda queue: queue.release(99),
        lambda queue: queue.extend(99, 5),
        lambda queue: deliver(queue, 99, 98, 5),
    ],
    ids=["ack", "nack", "release", "extend", "deliver"],
)
def test_a_record_about_what_is_not_there_changes_nothing(queue, record):
    """A tombstone may outlive what it buried."""
    record(queue)
    assert queue.counts(at(1000)) == (3, 0, 0)
    assert queue.bytes == 15


def test_an_ack_counts_though_the_record_of_its_delivery_was_lost(queue):
    """P2: whether the message waits, as far as is known, or is delayed."""
    queue.ack(10, 5)
    deliver(queue, 20, 40, 100)
    queue.nack(20, 10_000)
    queue.ack(20, 5)
    assert queue.ids("ready", at(20_000), 9) == [30]
    assert queue.bytes == 5


def test_a_purge_leaves_what_is_in_flight(queue):
    deliver(queue, 10, 40, 100)
    deliver(queue, 20, 41, 300)
    queue.publish(50, 5)
    queue.purge(100, [(20, 5)])
    assert queue.ids("in_flight", at(100), 9) == [20]
    assert queue.counts(at(100)) == (0, 1, 0)
    assert queue.bytes == 5
    assert queue.heads(at(1000), 9) == [20]


def test_a_purge_takes_what_is_delayed(queue):
    deliver(queue, 10, 40, 100)
    queue.nack(10, 10_000)
    queue.purge(0, [])
    assert queue.total() == 0
    assert queue.head(at(20_000)) is None
    assert queue.seconds_to_next(at(0)) is None


@pytest.mark.parametrize(
    ("now", "seconds"), [(0, 0.05), (49, 0.001), (50, 0.0), (5000, 0.0)], ids=lambda value: str(value)
)
def test_the_next_event_is_the_earliest_of_deadlines_and_dues(queue, now, seconds):
    deliver(queue, 10, 40, 100)
    deliver(queue, 20, 41, 300)
    queue.nack(20, 50)
    assert queue.seconds_to_next(at(now)) == pytest.approx(seconds)


def test_nothing_falls_due_when_nothing_is_held(queue):
    assert queue.seconds_to_next(at(0)) is None
    deliver(queue, 10, 40, 100)
    queue.ack(10, 5)
    assert queue.seconds_to_next(at(0)) is None


def test_messages_are_listed_by_when_their_state_changes(queue):
    deliver(queue, 10, 40, 300)
    deliver(queue, 20, 41, 200)
    assert queue.ids("in_flight", at(0), 9) == [20, 10]
    queue.nack(10, 900)
    queue.nack(20, 950)
    assert queue.ids("delayed", at(0), 9) == [10, 20]
    assert queue.ids("delayed", at(0), 1) == [10]
    assert queue.ids("delayed", at(900), 9) == [20]
    assert queue.ids("ready", at(900), 9) == [10, 30]


def test_a_message_that_times_out_and_is_delayed_at_once_appears_once(queue):
    deliver(queue, 10, 40, 100)
    queue.head(at(100))
    queue.extend(10, 100)
    assert queue.heads(at(100), 9) == [10, 20, 30]
    assert queue.counts(at(100)) == (3, 0, 0)


@pytest.mark.parametrize(
    "settle", [lambda queue: queue.release(10), lambda queue: queue.nack(10, 7)], ids=["release", "nack"]
)
def test_one_message_that_comes_back_for_ever_costs_no_memory(queue, settle):
    """P11: the indexes are swept."""
    for turn in range(20 * STALE_MAX):
        assert queue.head(at(10 + turn)) == 10
        deliver(queue, 10, 100 + turn, 11 + turn)
        settle(queue)
    timers = queue.timers
    indexes = queue.ready.size() + sum(
        each.size() for each in (timers.deadlines, timers.dues, timers.returns)
    )
    assert indexes < 4 * STALE_MAX


@pytest.mark.parametrize("seed", range(20))
def test_a_plain_queue_delivers_the_head_of_what_waits(seed):
    """Whatever happened to it: `plain_until` is all that a receive looks at."""
    draw, queue, now, flying, plain = Random(seed), QueueState(1, "q"), 1000, [], 0
    for id in range(10, 400):
        kind = draw.randrange(20)
        if kind < 5:
            queue.publish(id, 1)
        elif kind == 5:
            said = [{"priority": 3}, {"due": now + 7}, {"expires": now + 7}, {"group": "g"}]
            queue.publish_with(id, 1, Attributes(**draw.choice(said)))
        elif kind == 6 and flying:
            gone = flying.pop(draw.randrange(len(flying)))
            settle, rest = draw.choice([("nack", (now + 5,)), ("release", ()), ("ack", (1,)), ("ack", (1,))])
            getattr(queue, settle)(gone, *rest)
        elif kind == 7:
            queue.declare(replace(queue.options, paused=draw.random() < 0.2), 1)
        now += draw.randrange(3)
        head, is_plain = queue.waiting.head, now < queue.moment.plain_until
        found = queue.head(at(now))
        if is_plain:
            plain += 1
            assert found == head
        if found is not None and kind > 7:
            deliver(queue, found, 1000 + id, now + draw.choice([5, 500]))
            flying.append(found)
        flying = [id for id in flying if queue.is_in_flight(id, at(now))]
    assert plain


def test_deadlines_of_acked_messages_cost_no_memory():
    """P11."""
    queue = QueueState(1, "mail")
    for id in range(20 * STALE_MAX):
        queue.publish(id, 1)
        deliver(queue, id, 10**6 + id, 10**9)
        queue.ack(id, 1)
    assert queue.timers.deadlines.size() < 4 * STALE_MAX


# ── compaction ─────────────────────────────────────────────────────────────────────

PUT = {
    "waiting": lambda queue: None,
    "in flight": lambda queue: deliver(queue, 10, 40, 100),
    "delayed": lambda queue: (deliver(queue, 10, 40, 100), queue.nack(10, 700)),
    "released": lambda queue: (deliver(queue, 10, 40, 100), queue.release(10)),
}


def shown(queue: QueueState) -> list[object]:
    """All that can be seen of a queue at a few times; of a copy, for store time never goes back."""
    queue = deepcopy(queue)
    times = [at(ms) for ms in (0, 99, 100, 699, 700, 2000)]
    return [
        [(queue.heads(now, 9), queue.counts(now), queue.state_of(10, now)) for now in times],
        (queue.attempts(10), queue.bytes, queue.flights.get(10) and queue.flights[10].receipt),
    ]


@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
def test_a_message_that_moves_is_the_same_message(queue, put):
    put(queue)
    before = shown(queue)
    attempts, place, receipt, when = queue.facts(10)
    assert queue.position(10) == 10
    queue.relocate(10, 5000, 5, attempts, place, receipt, when)
    assert queue.position(10) == 5000
    assert shown(queue) == before


@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
def test_where_the_log_begins_behind_a_message_its_last_record_says_all(queue, put):
    """A fold from the new head gives what the fold from the old one gave."""
    put(queue)
    later = QueueState(1, "mail")
    later.moment.backoff = queue.moment.backoff
    later.publish(20, 5)
    later.publish(30, 5)
    later.relocate(10, 5000, 5, *queue.facts(10))
    assert shown(later) == shown(queue)
    assert later.position(10) == 5000


def test_a_message_keeps_its_new_position_whatever_happens_to_it(queue):
    queue.relocate(10, 5000, 5, 0, records.WAITING, 0, 0)
    assert deliver(queue, 10, 40, 100).position == 5000
    queue.nack(10, 700)
    assert queue.position(10) == 5000
    assert deliver(queue, 10, 41, 900).position == 5000
    queue.release(10)
    assert queue.position(10) == 5000
    assert queue.position(77) is None
