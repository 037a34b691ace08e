"""What falls due, and that the board says so: however it came to be due."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from stretches import alone, declare

from mq.delivery import fold, records
from mq.delivery.attributes import Attributes, Changes
from mq.delivery.now import Now
from mq.delivery.options import Declaration, replaced
from mq.delivery.queue import QueueState
from mq.delivery.retry import Backoff
from mq.delivery.snapshot import encode, freeze, restore
from mq.delivery.state import State

LAST, LATER = 1, 10**9


def at(ms: int) -> Now:
    return Now(ms, ms)


def made(**options: object) -> tuple[State, QueueState]:
    state = State()
    declared = Declaration(name="mail", backoff=Backoff(initial=0), **options)  # type: ignore[arg-type]
    queue = declare(state, 1, 1, declared)
    queue.advance(at(1000))
    while state.board.due(at(1000)):  # nothing: and from now on it knows how the clocks stand
        queue.reset_alarms(at(1000))
    return state, queue


def last_attempt(queue: QueueState, deadline: int) -> None:
    queue.publish(10, 5)
    queue.deliver(10, 40, deadline, 0)


def no_time_left(state: State, queue: QueueState) -> None:
    last_attempt(queue, 1000)


def several_with_no_time_left(state: State, queue: QueueState) -> None:
    for id in (10, 11):
        queue.publish(id, 5)
    queue.deliver_run([10, 11], 40, 1000, 0)


def extended_to_now(state: State, queue: QueueState) -> None:
    last_attempt(queue, LATER)
    queue.extend(10, 1000)


def extended_to_now_after_its_time(state: State, queue: QueueState) -> None:
    last_attempt(queue, 1000)
    queue.extend(10, 999)


def relocated_behind_its_deadline(state: State, queue: QueueState) -> None:
    queue.relocate(10, 50, 5, LAST, records.IN_FLIGHT, 40, 900)


def attempts_max_lowered(state: State, queue: QueueState) -> None:
    changed = Declaration(name="mail", max_attempts=5, backoff=Backoff(initial=0))
    declare(state, 1, 2, changed)
    last_attempt(queue, 1000)
    declare(state, 1, 3, replaced(changed, {"max_attempts": LAST}))


def indexed_anew(state: State, queue: QueueState) -> None:
    last_attempt(queue, 1000)
    queue.reindex()


def wall_clock_set_back(state: State, queue: QueueState) -> None:
    last_attempt(queue, 1000)
    queue.advance(Now(1000, 5))


DYING: list[Callable[[State, QueueState], None]] = [
    no_time_left, several_with_no_time_left, extended_to_now, extended_to_now_after_its_time,
    relocated_behind_its_deadline, attempts_max_lowered, indexed_anew, wall_clock_set_back,
]  # fmt: skip


@pytest.mark.parametrize("happens", DYING, ids=lambda each: each.__name__)
def test_a_last_attempt_without_time_left_falls_due_at_once(happens):
    state, queue = made(max_attempts=LAST)
    happens(state, queue)
    assert state.board.next <= 1000
    assert state.board.due(at(1000)) == 1
    assert 10 in queue.due_to_go(at(1000), 9)[1]


@pytest.mark.parametrize("happens", DYING, ids=lambda each: each.__name__)
def test_it_falls_due_also_when_something_earlier_was_done_meanwhile(happens):
    state, queue = made(max_attempts=LAST)
    queue.publish(5, 5)
    queue.deliver(5, 30, 500, 0)
    assert state.board.due(at(1000)) == 1
    queue.take(5)
    queue.reset_alarms(at(1000))
    happens(state, queue)
    assert state.board.next <= 1000
    assert state.board.due(at(1000)) == 1


def expired_on_arrival(state: State, queue: QueueState) -> None:
    queue.publish_with(10, 5, Attributes(expires=900))


def nacked_after_its_time(state: State, queue: QueueState) -> None:
    queue.publish_with(10, 5, Attributes(expires=900))
    queue.deliver(10, 40, LATER, 0)
    queue.reset_alarms(at(1000))
    queue.nack(10, 0)


def released_after_its_time(state: State, queue: QueueState) -> None:
    queue.publish_with(10, 5, Attributes(expires=900))
    queue.deliver(10, 40, LATER, 0)
    queue.reset_alarms(at(1000))
    queue.release(10)


def timed_out_after_its_time(state: State, queue: QueueState) -> None:
    queue.publish_with(10, 5, Attributes(expires=900))
    queue.deliver(10, 40, LATER, 0)
    queue.reset_alarms(at(1000))
    queue.extend(10, 1000)


def rescheduled_after_its_time(state: State, queue: QueueState) -> None:
    queue.publish_with(10, 5, Attributes(expires=900, due=LATER))
    queue.reschedule(10, 0)


def relocated_after_its_time(state: State, queue: QueueState) -> None:
    queue.relocate(10, 50, 5, 0, records.WAITING, 0, 0, Attributes(), Changes(expires=900))


def arrived_from_elsewhere(state: State, queue: QueueState) -> None:
    other = declare(state, 2, 2, Declaration(name="other"))
    other.publish(10, 5)
    moved = records.encode_move(records.Move(10, 5, 1, 1000, 900, "other", "because"))
    fold.apply(state, alone([(60, records.MOVE, records.DIED, 2, 0, moved, 0, len(moved))]))


@pytest.mark.parametrize(
    "happens",
    [
        expired_on_arrival, nacked_after_its_time, released_after_its_time, timed_out_after_its_time,
        rescheduled_after_its_time, relocated_after_its_time, arrived_from_elsewhere,
    ],
    ids=lambda each: each.__name__,
)  # fmt: skip
def test_what_comes_back_after_its_time_to_live_falls_due_at_once(happens):
    state, queue = made()
    happens(state, queue)
    assert queue.head(at(1000)) is None
    assert state.board.next <= 1000
    assert state.board.due(at(1000)) == 1
    assert queue.due_to_go(at(1000), 9) == ([10], [])


@pytest.mark.parametrize("happens", [no_time_left, expired_on_arrival, relocated_behind_its_deadline])
def test_what_a_checkpoint_holds_falls_due(happens):
    state, queue = made(max_attempts=LAST)
    happens(state, queue)
    again = restore(b"".join(encode(freeze(state), lambda words: (0, 0, 0, 0))[0]), lambda *_: None)
    assert again.board.next <= 1000
    assert again.board.due(at(1000)) == 1
    assert any(again.queue(1).due_to_go(at(1000), 9))


@pytest.mark.parametrize("ahead", [-(10**8), 0, 10**8])
def test_a_state_that_was_just_read_knows_not_yet_how_the_clocks_stand(ahead):
    """Store time less wall time: what expires by the wall clock falls due although nobody has looked yet."""
    state = State()
    declare(state, 1, 1, Declaration(name="mail"))
    state.queues[1].publish_with(10, 5, Attributes(expires=10**9))
    now = Now(10**9 + ahead, 10**9)
    assert state.board.next <= now.store
    assert state.board.due(now) == 1


@pytest.mark.parametrize("jump", [-(10**6), 10**6])
def test_a_wall_clock_that_jumps_moves_what_expires_and_nothing_else(jump):
    state, queue = made(max_attempts=LAST)
    queue.publish_with(10, 5, Attributes(expires=5000))
    last_attempt_at = 6000
    queue.publish(11, 5)
    queue.deliver(11, 40, last_attempt_at, 0)
    now = Now(1001, 1000 + jump)
    queue.head(now)
    assert (state.board.next <= now.store) == (jump > 0)
    assert queue.due_to_go(Now(last_attempt_at - 1, 1000 + jump), 9)[1] == []
    assert queue.due_to_go(Now(last_attempt_at, 1000 + jump), 9)[1] == [11]
