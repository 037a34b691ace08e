"""queue.join: waiting until a queue is empty."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
from engines import Engine
from fakes import FakeClock
from test_waiting import PATIENCE, Receiver

import mq

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue:
    queue = broker.queue("q")
    queue.publish_many(["first", "second"])
    return queue


def take(queue: mq.Queue) -> mq.Delivery:
    message = queue.receive(timeout=0)
    assert message
    return message


def joining(queue: mq.Queue) -> Receiver:
    """A thread that waits, and goes on doing so until it is rung: it does not look by itself."""
    receiver = Receiver(queue.join)
    give_up = time.monotonic() + PATIENCE
    while not queue._channel.joiners:
        assert time.monotonic() < give_up
        time.sleep(0.001)
    return receiver


@pytest.fixture
def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS_MIN", "LOOK_SECONDS_MAX"):
        monkeypatch.setattr(f"mq.engine.joining.{name}", 10 * PATIENCE)


def test_an_empty_queue_is_joined_at_once(broker):
    assert broker.queue("none").join()
    assert broker.queue("declared", max_attempts=3).join(timeout=0)


@pytest.mark.parametrize("what", ["ready", "in flight", "delayed", "backing off"])
def test_what_is_there_in_whichever_state_is_waited_for(broker, what):
    queue = broker.queue("q")
    queue.publish("x", delay=100 if what == "delayed" else 0)
    if what in ("in flight", "backing off"):
        message = take(queue)
        if what == "backing off":
            message.nack()
    assert not queue.join(timeout=0)
    assert not queue.join(timeout=0.01)
    queue.purge(in_flight=True)
    assert queue.join(timeout=0)


@pytest.mark.usefixtures("never_looks")
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda queue: [take(queue).ack(), take(queue).ack()], id="ack"),
        pytest.param(lambda queue: queue.ack_many(queue.receive_many(2)), id="ack_many"),
        pytest.param(lambda queue: [take(queue).reject(), take(queue).reject()], id="reject"),
        pytest.param(lambda queue: queue.purge(), id="purge"),
        pytest.param(lambda queue: queue.delete(), id="delete"),
        pytest.param(lambda queue: [queue.cancel(each.id) for each in queue.peek()], id="cancel"),
    ],
)
def test_what_empties_the_queue_in_this_process_wakes_it(queue, end):
    waiting = joining(queue)
    end(queue)
    assert waiting.result() is True
    assert not queue._channel.joiners
    assert queue._channel.state is None or not queue._channel.state.acks_awaited


@pytest.mark.usefixtures("never_looks")
def test_a_transaction_that_empties_it_wakes_it(broker, queue):
    waiting = joining(queue)
    with broker.transaction() as tx:
        for message in queue.receive_many(2):
            tx.ack(message)
        tx.publish("out", "done")
    assert waiting.result() is True


@pytest.mark.usefixtures("never_looks")
def test_deliveries_that_arrive_settled_wake_it(broker):
    queue = broker.queue("once", delivery="at_most_once")
    queue.publish("x")
    waiting = joining(queue)
    take(queue)
    assert waiting.result() is True


@pytest.mark.usefixtures("never_looks")
@pytest.mark.needs("quiet")
def test_it_is_not_woken_before(queue):
    waiting = joining(queue)
    take(queue).ack()
    queue.publish("third")
    take(queue).ack()
    [joiner] = queue._channel.joiners
    assert joiner._bell.locked()
    take(queue).ack()
    assert waiting.result() is True


@pytest.mark.usefixtures("never_looks")
def test_closing_wakes_it_with_closed(broker, queue):
    waiting = joining(queue)
    broker.close()
    assert isinstance(waiting.result(), mq.Closed)


def test_what_expires_is_not_waited_for(broker, clock: FakeClock):
    queue = broker.queue("q")
    queue.publish("x", ttl=10)
    waiting = joining(queue)
    clock.advance(11)
    assert waiting.result() is True


@pytest.mark.file_store
def test_a_broker_that_only_reads_may_wait(tmp_path):
    with mq.open(tmp_path / "s") as writer, mq.open(tmp_path / "s", read_only=True) as reader:
        writer.queue("q").publish("x")
        assert not reader.queue("q").join(timeout=0)
        waiting = joining(reader.queue("q"))
        take(writer.queue("q")).ack()
        assert waiting.result() is True


@pytest.mark.parametrize("timeout", [-1, "x", float("nan")])
def test_what_is_no_timeout_is_refused(queue, timeout):
    with pytest.raises(mq.UsageError):
        queue.join(timeout=timeout)


@pytest.mark.needs("sharing")
def test_acks_of_another_broker_are_noticed(engine: Engine, clock: FakeClock, broker, queue):
    waiting = joining(queue)
    other = engine.open(clock=clock).queue("q")
    other.ack_many(other.receive_many(2))
    assert waiting.result() is True


@pytest.mark.needs("sharing")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_acks_of_another_process_are_noticed(engine: Engine):
    queue = engine.open("real").queue("q")
    queue.publish_many(["x"] * 20)
    if (child := os.fork()) == 0:
        try:
            while message := queue.receive(timeout=0):
                message.ack()
        finally:
            os._exit(0)
    assert queue.join(timeout=PATIENCE)
    os.waitpid(child, 0)
    assert queue.stats().acked == 20


def test_a_worker_that_acks_beside_it_is_not_held_up(queue):
    """The queue is joined again and again, while threads publish and ack."""
    stop, done = threading.Event(), []

    def work(do: Callable[[], object]) -> threading.Thread:
        def loop() -> None:
            while not stop.is_set():
                do()

        thread = threading.Thread(target=loop)
        thread.start()
        return thread

    def ack() -> None:
        if message := queue.receive(timeout=0.01):
            message.ack()
            done.append(message.id)

    threads = [work(ack) for _ in range(3)]
    try:
        for _ in range(100):
            queue.publish("x")
            assert queue.join(timeout=PATIENCE)
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(done) == 102
