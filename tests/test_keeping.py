"""broker.keep: deliveries that are extended for as long as the process has the store open.

Where a store has no threads of its own (background=False) the test does what the keeper's thread does.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from engines import Engine
from fakes import FakeClock

import mq
from mq.delivery import records
from mq.engine.background import Worker

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]

PATIENCE = 60.0  # seconds after which a test that hangs has failed


@pytest.fixture
def broker(engine: Engine, clock: FakeClock) -> mq.Broker:
    return engine.open(clock=clock, background=False)


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue:
    queue = broker.queue("mail")
    queue.publish_many([b"first", b"second"])
    return queue


def take(queue: mq.Queue, **options: float) -> mq.Delivery:
    message = queue.receive(timeout=0, **options)
    assert message
    return message


def keep_for(broker: mq.Broker, clock: FakeClock, seconds: float) -> None:
    """Time passes, and the keeper looks each second."""
    for _ in range(int(seconds)):
        clock.advance(1)
        broker._store.keeper.step()


def extensions(broker: mq.Broker) -> int:
    log = broker._store.replica.log
    return sum(event[1] == records.EXTEND for event in log.following.appended_since(log.head))


def deadline(message: mq.Delivery) -> float:
    """Seconds from now until it times out."""
    queue = message._queue
    with queue._store.turn.mutex:  # the thread that extends takes it out for a moment
        flight = queue._channel.state.flights[message.id]
    return (flight.deadline - queue._store.clock.store_ms()) / 1000


# ── until when ─────────────────────────────────────────────────────────────────────


def test_what_is_kept_does_not_time_out(broker, queue, clock):
    message = take(queue)
    broker.keep(message)
    keep_for(broker, clock, 200)
    assert take(queue).raw == b"second"
    assert queue.receive(timeout=0) is None
    message.ack()
    assert queue.stats().acked == 1


def test_it_is_extended_when_half_of_the_visibility_timeout_is_left(broker, queue, clock):
    message = take(queue)
    broker.keep(message)
    keep_for(broker, clock, 14)
    assert deadline(message) == pytest.approx(16)
    keep_for(broker, clock, 1)
    assert deadline(message) == pytest.approx(30)
    keep_for(broker, clock, 14)
    assert deadline(message) == pytest.approx(16)


def test_one_that_was_received_for_shorter_is_extended_in_time(broker, queue, clock):
    message = take(queue, visibility_timeout=3)
    broker.keep(message)
    keep_for(broker, clock, 1)
    assert deadline(message) == pytest.approx(30)


def test_one_that_is_extended_for_longer_by_hand_stays_so(broker, queue, clock):
    message = take(queue)
    broker.keep(message)
    message.extend(1000)
    keep_for(broker, clock, 500)
    assert deadline(message) == pytest.approx(500)
    keep_for(broker, clock, 600)
    assert 14 < deadline(message) <= 30


@pytest.mark.parametrize("by", ["the delivery", "a receipt"])
def test_one_that_is_extended_for_shorter_by_hand_is_extended_in_time(broker, queue, clock, by):
    message = take(queue)
    broker.keep(message)
    keep_for(broker, clock, 1)
    message.extend(3) if by == "the delivery" else queue.extend_many([message.receipt], 3)
    keep_for(broker, clock, 1)
    assert deadline(message) == pytest.approx(30)
    keep_for(broker, clock, 100)
    assert broker._store.keeper.count() == 1
    assert 14 < deadline(message) <= 30


def test_a_queue_whose_visibility_timeout_is_very_short_is_extended_by_a_second(broker, clock):
    queue = broker.queue("short", visibility_timeout=0.01)
    queue.publish(b"x")
    message = take(queue)
    broker.keep(message)
    broker._store.keeper.step()
    assert deadline(message) == pytest.approx(1)


def test_many_are_extended_together(broker, clock):
    queue = broker.queue("many")
    queue.publish_many([b"x"] * 100)
    for message in queue.receive_many(100):
        broker.keep(message)
    clock.advance(15)
    broker._store.keeper.step()
    clock.advance(16)
    assert queue.receive(timeout=0) is None
    assert broker._store.keeper.count() == 100


@pytest.mark.parametrize("by", ["ack", "nack", "release", "reject", "a receipt", "purge", "delete"])
def test_what_is_settled_is_not_kept_any_more(broker, queue, clock, by):
    message = take(queue)
    broker.keep(message)
    if by == "a receipt":
        queue.ack_many([message.receipt])
    elif by == "purge":
        queue.purge(in_flight=True)
    elif by == "delete":
        queue.delete()
    else:
        getattr(message, by)()
    keep_for(broker, clock, 16)
    assert broker._store.keeper.count() == 0
    assert extensions(broker) == 0


def test_what_was_delivered_again_is_not_kept_any_more(broker, queue, clock):
    message = take(queue)
    broker.keep(message)
    clock.advance(30)
    again = take(queue)
    assert again.id == message.id
    keep_for(broker, clock, 16)
    assert broker._store.keeper.count() == 0
    assert deadline(again) == pytest.approx(14)


def test_what_is_stale_or_settled_by_then_is_not_kept(broker, queue, clock):
    settled, stale = take(queue), take(queue)
    settled.ack()
    clock.advance(30)
    take(queue)
    broker.keep(settled)
    broker.keep(stale)
    assert broker._store.keeper.count() == 0


def test_what_arrives_settled_is_not_kept(broker):
    queue = broker.queue("once", delivery="at_most_once")
    queue.publish(b"x")
    broker.keep(take(queue))
    assert broker._store.keeper.count() == 0


def test_kept_twice_it_is_kept_once(broker, queue, clock):
    message = take(queue)
    broker.keep(message)
    broker.keep(message)
    clock.advance(15)
    broker._store.keeper.step()
    assert broker._store.keeper.count() == 1


def test_a_delivery_that_the_program_forgets_is_kept(broker, queue, clock):
    broker.keep(take(queue))
    gc.collect()
    keep_for(broker, clock, 100)
    assert queue.stats().in_flight == 1


@pytest.mark.needs("conflicts")
def test_what_is_settled_in_the_moment_of_the_extension_stays_settled(engine, broker, queue, clock):
    message = take(queue)
    broker.keep(message)
    clock.advance(15)
    engine.meanwhile(broker, lambda rival: rival.queue("mail").ack_many([message.receipt]))
    broker._store.keeper.step()
    assert broker._store.keeper.count() == 0
    assert (queue.stats().acked, queue.stats().in_flight, queue.stats().ready) == (1, 0, 1)


def test_an_error_keeps_what_is_kept(broker, queue, clock, monkeypatch):
    message = take(queue)
    broker.keep(message)
    clock.advance(15)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):

        def no_memory(*args: object) -> None:
            raise MemoryError

        patch.setattr(broker._store.committer, "commit", no_memory)
        broker._store.keeper.step()
    broker._store.keeper.step()
    assert deadline(message) == pytest.approx(30)


@pytest.mark.parametrize("given", [None, 5, "1-2-3-4"])
def test_what_is_no_delivery_is_refused(broker, given):
    with pytest.raises(mq.UsageError, match="a delivery"):
        broker.keep(given)


def test_another_brokers_delivery_is_refused(engine, broker):
    other = engine.open("other").queue("q")
    other.publish(b"x")
    with pytest.raises(mq.UsageError, match="another broker"):
        broker.keep(take(other))


# ── the thread ─────────────────────────────────────────────────────────────────────


def keepers() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "mq-keeper"}


@pytest.fixture
def real(engine: Engine) -> Iterator[mq.Broker]:
    """A broker with threads of its own, and the system's clock."""
    yield engine.open("real")
    until(lambda: not keepers())  # one may be at its last lines


def is_extended(message: mq.Delivery) -> bool:
    return deadline(message) > 0.2


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def test_one_thread_keeps_all_and_there_is_none_while_nothing_is_kept(real):
    queue = real.queue("q", visibility_timeout=0)
    queue.publish_many([b"x"] * 10)
    assert not keepers()
    for _ in range(2):
        messages = queue.receive_many(10, timeout=0, visibility_timeout=0.05)
        for message in messages:
            real.keep(message)
        assert len(keepers()) == 1
        for message in messages:
            until(partial(is_extended, message))
        queue.release_many(messages)
        until(lambda: not keepers())
    real.close()


def test_the_thread_goes_by_the_clock_of_the_program(engine, clock, monkeypatch):
    monkeypatch.setattr("mq.engine.keeping.CUSTOM_CLOCK_SECONDS", 0.001)
    broker = engine.open(clock=clock)
    queue = broker.queue("q")
    queue.publish(b"x")
    message = take(queue)
    broker.keep(message)
    for _ in range(10):
        clock.advance(16)
        until(lambda: deadline(message) > 29)
    broker.close()


def test_closing_ends_it_and_what_is_kept_times_out(engine, real):
    queue = real.queue("q", visibility_timeout=0)
    queue.publish(b"x")
    message = take(queue, visibility_timeout=5)
    real.keep(message)
    worker = real._store.keeper.worker
    worker.let_begin(PATIENCE)  # before that it runs until it sees that it is to end
    real.close()
    assert not worker.runs()
    with pytest.raises(mq.Closed):
        real.keep(message)


def test_without_a_thread_keep_says_so(real, monkeypatch):
    queue = real.queue("q")
    queue.publish(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "start", lambda *args: False)
        with pytest.raises(mq.StorageError, match="no new thread"):
            real.keep(take(queue))
    real.close()


@pytest.mark.needs("sharing")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_keeps_nothing_that_its_parent_keeps(real):
    queue = real.queue("q")
    queue.publish_many([b"x", b"y"])
    real.keep(take(queue))
    if (child := os.fork()) == 0:
        try:
            if real._store.keeper.count() or keepers():
                os._exit(1)
            real.keep(take(queue))
            os._exit(0 if real._store.keeper.count() == 1 else 2)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert real._store.keeper.count() == 1
    real.close()


def test_handlers_that_settle_at_the_same_moment_meet_no_error(real, caplog):
    """Threads settle what the keeper extends, all the time."""
    queue = real.queue("q", visibility_timeout=10 * PATIENCE)
    count, done = 300, []
    queue.publish_many([str(number) for number in range(count)])

    def work() -> None:
        while message := queue.receive(timeout=0):
            real.keep(message)
            real._store.keeper.worker.ring()
            message.extend(PATIENCE)  # so that it is due at once
            message.ack()
            done.append(message.body)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(done, key=int) == [str(number) for number in range(count)]
    assert (queue.stats().acked, queue.stats().failed) == (count, 0)
    assert not caplog.messages
    real.close()
