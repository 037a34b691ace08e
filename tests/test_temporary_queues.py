"""P11: queues that are made, used and deleted leave nothing in memory, whatever their options."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

from fakes import QuickDisk, open_on

import mq
from mq.api.options import QueueOptions
from mq.delivery.board import NEVER, STALE_MAX, Alarms, Board
from mq.delivery.now import Now
from mq.weakly import SPARE, Weakly

QUEUES = 2_000
LOOKS = 40
BYTES_A_QUEUE = 10  # what a run of them may grow by, each

OPTIONS: dict[str, QueueOptions] = {
    "undeclared": {},
    "declared": {"visibility_timeout": 5.0, "max_attempts": 3},
    "deleted when idle": {"delete_when_idle": 3600.0},
    "with a time to live": {"ttl": 600.0, "dedup_window": 60.0},
}


def use(broker: mq.Broker, number: int, options: QueueOptions) -> None:
    queue: mq.Queue[Any] = broker.queue(f"reply-{number}", **options)
    queue.publish(b"x", dedup_id="once", ttl=300.0)
    message = queue.receive(timeout=0)
    assert message
    message.ack()
    queue.publish(b"is lost with the queue", delay=60.0)
    queue.delete()


def test_a_deleted_queue_leaves_nothing_in_memory(tmp_path) -> None:
    """Heaps keep some of what is stale, and clear it now and then: so the least of many looks counts."""
    sizes = []
    with open_on(QuickDisk(), tmp_path, sync="never", background=False) as broker:
        every = list(OPTIONS.values())
        tracemalloc.start()
        try:
            for number in range(QUEUES):
                use(broker, number, every[number % len(every)])
                if number % (QUEUES // LOOKS) == 0:
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert broker.queues() == []
    early, late = sizes[LOOKS // 4 : LOOKS // 2], sizes[-LOOKS // 4 :]
    assert min(late) - min(early) < QUEUES // 2 * BYTES_A_QUEUE


def test_a_name_that_was_only_asked_about_leaves_nothing(broker: mq.Broker) -> None:
    for number in range(10 * SPARE):
        assert broker.queue(f"never-{number}").stats().ready == 0
    gc.collect()
    assert broker._store.waiters.channels.items() == []
    assert len(broker._store.waiters.channels) <= 2 * SPARE


def test_handles_on_one_name_share_what_is_known_of_it_while_there_is_one(broker: mq.Broker) -> None:
    one, other = broker.queue("mail"), broker.queue("mail")
    assert one._channel is other._channel
    one.publish(b"x")
    del one
    gc.collect()
    assert other.receive(timeout=0) is not None
    del other
    gc.collect()
    assert broker.queue("mail").stats().in_flight == 1


def test_what_is_known_weakly_goes_with_the_object_and_takes_few_entries() -> None:
    class Thing:
        pass

    known: Weakly[int, Thing] = Weakly()
    things = {number: Thing() for number in range(3 * SPARE)}
    for number, thing in things.items():
        known.add(number, thing)
    del thing
    assert dict(known.items()) == things
    for number in range(10 * SPARE):
        known.add(number + 1_000, Thing())
        assert len(known) <= 2 * (len(things) + SPARE)
    things.clear()
    assert known.get(1) is None
    assert known.items() == []


def test_deleted_in_another_process_it_leaves_nothing_here_either(tmp_path) -> None:
    with mq.open(tmp_path, sync="never") as here, mq.open(tmp_path, sync="never") as there:
        for number in range(50):
            use(there, number, OPTIONS["deleted when idle"])
        assert here.queues() == []
        state = here._store.replica.state
        assert not state.board.changed
        assert state.board.due(Now(NEVER - 1, NEVER - 1)) is None


def test_alarms_that_are_set_anew_do_not_pile_up() -> None:
    alarms = Alarms()
    for when in range(10_000, 0, -1):  # each earlier than the one before, so each is put down
        alarms.add(when, 7)
        assert len(alarms._heap) <= 2 + STALE_MAX
    assert alarms.first() == (1, 7)
    for number in range(1_000):
        alarms.add(5, number + 10)
        alarms.forget(number + 10)
    assert len(alarms._heap) <= 2 + STALE_MAX
    assert alarms.first() == (1, 7)
    alarms.done(7, 0)
    assert alarms.first() == (1, 7)
    alarms.done(7, 1)
    assert alarms.first() is None


def test_a_queue_is_called_at_its_earliest_alarm_and_others_wait_for_theirs() -> None:
    board = Board()
    board.at_store(50, 1)
    board.at_store(30, 1)
    board.at_store(40, 2)
    board.at_wall(20, 3)
    assert board.due(Now(10, 10)) is None
    assert board.next == 20
    assert board.due(Now(25, 25)) == 3
    board.done(3, Now(25, 25))
    assert board.due(Now(45, 45)) == 1
    board.done(1, Now(45, 45))
    assert board.due(Now(45, 45)) == 2
    board.forget(2)
    assert board.due(Now(45, 45)) is None
    assert board.next == NEVER
