"""Watches: waiting without a thread, in one line with the receivers that sleep.

Where a store has no threads of its own (background=False) the test calls what watches are notified by.
"""

from __future__ import annotations

import gc
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from engines import Engine
from fakes import FakeClock
from test_waiting import PATIENCE, Receiver, hand_of_time

import mq
from mq.engine.channel import STALE_MAX
from mq.engine.waiters import SPARE

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]


class Rung:
    """A watch, and how often it was notified."""

    def __init__(self, broker: mq.Broker, do: Callable[[], object] = lambda: None) -> None:
        self.count, self._do, self._store = 0, do, broker._store
        self.watch = broker.watch(self._notify)

    def _notify(self) -> None:
        self.count += 1
        self._do()

    def arm(self, *queues: mq.Queue) -> float:
        return self.watch.arm(queues)


def told(*rung: Rung) -> list[int]:
    """How often each was notified by now."""
    rung[0]._store.notifier.call_all()
    return [each.count for each in rung]


@pytest.fixture
def broker(engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> mq.Broker:
    """The monotonic clock stands still: what falls due in ten seconds does so until the test is over."""
    hand_of_time(monkeypatch)
    return engine.open(clock=clock, background=False)


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue:
    queue = broker.queue("mail")
    queue.publish(b"first")
    queue.receive(timeout=0).ack()
    return queue


@pytest.fixture
def listening(broker: mq.Broker) -> None:
    """As if a thread came by each second: none is told of a time that is farther away."""
    broker._store.listener.watches_from = 2.0


def take(queue: mq.Queue) -> mq.Delivery:
    message = queue.receive(timeout=0)
    assert message
    return message


# ── one watch ──────────────────────────────────────────────────────────────────────


def test_what_is_there_already_is_said_by_zero_and_the_watch_is_not_armed(broker, queue):
    rung = Rung(broker)
    queue.publish(b"x")
    assert rung.arm(queue) == 0
    queue.publish(b"y")
    assert told(rung) == [0]


def test_a_publish_notifies_once(broker, queue):
    rung = Rung(broker)
    assert rung.arm(queue) == math.inf
    ids = [queue.publish(b"x"), *queue.publish_many([b"y", b"z"])]
    assert told(rung) == [1]
    assert [take(queue).id for _ in ids] == ids


def test_nothing_is_notified_before_it_is_armed(broker, queue):
    rung = Rung(broker)
    queue.publish(b"x")
    assert told(rung) == [0]


def test_armed_again_it_is_notified_again(broker, queue):
    rung = Rung(broker)
    for count in (1, 2, 3):
        assert rung.arm(queue) == math.inf
        queue.publish(b"x")
        assert told(rung) == [count]
        take(queue).ack()


def test_armed_twice_it_is_notified_once(broker, queue):
    rung = Rung(broker)
    assert rung.arm(queue) == rung.arm(queue) == math.inf
    queue.publish(b"x")
    queue.publish(b"y")
    assert told(rung) == [1]


def test_what_was_rung_and_not_called_is_not_called_once_it_is_armed_again(broker, queue):
    rung = Rung(broker)
    rung.arm(queue)
    queue.publish(b"x")
    take(queue).ack()
    assert rung.arm(queue) == math.inf
    assert told(rung) == [0]


def test_of_several_queues_each_notifies(broker, queue):
    other, rung = broker.queue("other"), Rung(broker)
    for count, each in enumerate((queue, other, queue), 1):
        assert rung.arm(queue, other) == math.inf
        each.publish(b"x")
        assert told(rung) == [count]
        take(each).ack()


def test_what_it_is_armed_for_takes_the_place_of_what_it_was_armed_for(broker, queue):
    other, rung = broker.queue("other"), Rung(broker)
    rung.arm(queue)
    rung.arm(other)
    queue.publish(b"x")
    assert told(rung) == [0]
    other.publish(b"x")
    assert told(rung) == [1]


def test_a_queue_that_is_not_there_yet_notifies_by_its_first_message(broker):
    rung, new = Rung(broker), broker.queue("new")
    assert rung.arm(new) == math.inf
    new.publish(b"x")
    assert told(rung) == [1]
    assert rung.arm(new) == 0


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param(lambda message: message.release(), id="release"),
        pytest.param(lambda message: message.nack(delay=0), id="nack without a delay"),
        pytest.param(lambda message: message.extend(0), id="extend to now"),
    ],
)
def test_a_message_that_comes_back_notifies(broker, queue, settle):
    queue.publish(b"x")
    message, rung = take(queue), Rung(broker)
    rung.arm(queue)
    settle(message)
    assert told(rung) == [1]
    assert rung.arm(queue) == 0


def test_a_paused_queue_has_nothing_until_it_is_resumed(broker, queue):
    queue.publish(b"x")
    queue.publish(b"y", delay=5)
    queue.pause()
    rung = Rung(broker)
    assert rung.arm(queue) == math.inf
    queue.resume()
    assert told(rung) == [1]
    assert rung.arm(queue) == 0


def test_no_more_is_notified_once_it_is_closed_and_it_can_be_armed_again(broker, queue):
    rung = Rung(broker)
    rung.arm(queue)
    rung.watch.close()
    rung.watch.close()
    queue.publish(b"x")
    assert told(rung) == [0]
    take(queue).ack()
    assert rung.arm(queue) == math.inf
    queue.publish(b"y")
    assert told(rung) == [1]


@pytest.mark.parametrize("notify", [None, 5, "f"])
def test_what_is_no_function_is_refused(broker, notify):
    with pytest.raises(mq.UsageError, match="notify is a function"):
        broker.watch(notify)


def test_what_are_no_queues_of_the_broker_are_refused(engine, broker, queue):
    watch = broker.watch(lambda: None)
    for queues in ([], [None], queue, 5):
        with pytest.raises(mq.UsageError):
            watch.arm(queues)
    with pytest.raises(mq.UsageError, match="another broker's"):
        watch.arm([engine.open("another").queue("mail")])


# ── when something falls due ───────────────────────────────────────────────────────


def test_a_delay_is_said_in_seconds(broker, queue, clock):
    queue.publish(b"x", delay=12.5)
    rung = Rung(broker)
    assert rung.arm(queue) == pytest.approx(12.5)
    clock.advance(12.5)
    assert rung.arm(queue) == 0


def test_a_visibility_timeout_is_said_in_seconds(broker, queue, clock):
    queue.publish(b"x")
    take(queue)
    rung = Rung(broker)
    assert rung.arm(queue) == pytest.approx(30)
    clock.advance(30)
    assert rung.arm(queue) == 0


def test_the_earliest_of_several_queues_is_said(broker, queue):
    other, rung = broker.queue("other"), Rung(broker)
    queue.publish(b"x", delay=20)
    other.publish(b"x", delay=7)
    assert rung.arm(queue, other) == pytest.approx(7)
    assert rung.arm(queue) == pytest.approx(20)


def test_what_falls_due_sooner_notifies(broker, queue):
    queue.publish(b"x", delay=100)
    rung = Rung(broker)
    assert rung.arm(queue) == pytest.approx(100)
    queue.publish(b"y", delay=10)
    assert told(rung) == [1]
    assert rung.arm(queue) == pytest.approx(10)


def test_what_falls_due_later_notifies_nothing(broker, queue):
    queue.publish(b"x", delay=10)
    rung = Rung(broker)
    rung.arm(queue)
    queue.publish(b"y", delay=100)
    assert told(rung) == [0]


def test_one_of_several_is_told_of_what_falls_due_sooner(broker, queue):
    several = [Rung(broker) for _ in range(5)]
    for each in several:
        each.arm(queue)
    queue.publish(b"x", delay=10)
    assert told(*several) == [1, 0, 0, 0, 0]
    assert several[0].arm(queue) == pytest.approx(10)
    queue.publish(b"y", delay=20)
    assert told(*several) == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("leave", ["close", "arm elsewhere", "forget"])
def test_what_a_watch_would_have_looked_for_is_handed_on(broker, queue, leave):
    first, second = Rung(broker), Rung(broker)
    second.arm(queue)
    first.arm(queue)
    queue.publish(b"x", delay=10)
    [keeper] = [each for each in (first, second) if told(each) == [1]]
    [other] = {first, second} - {keeper}
    assert keeper.arm(queue) == pytest.approx(10)
    if leave == "close":
        keeper.watch.close()
    elif leave == "arm elsewhere":
        keeper.arm(broker.queue("elsewhere"))
    else:
        del keeper.watch
        gc.collect()
        queue.publish(b"y", delay=5)  # sooner, so that one is told
    assert told(other) == [1]


def test_work_of_another_queue_that_falls_due_is_said_once(broker, queue, clock):
    """Dead letters of what expires elsewhere: any process may have to do that, one of its watches comes."""
    dying = broker.queue("dying", expired="dead_letter", dead_letter="mail")
    dying.publish(b"x", ttl=50)
    first, second = Rung(broker), Rung(broker)
    assert first.arm(queue) == pytest.approx(50, abs=0.01)
    assert second.arm(queue) == math.inf
    clock.advance(51)
    assert first.arm(queue) == 0
    assert take(queue).raw == b"x"


def test_a_queue_that_goes_when_it_is_idle_stays_while_it_is_watched(broker, clock):
    queue, rung = broker.queue("q", delete_when_abandoned=10), Rung(broker)
    for _ in range(5):
        seconds = rung.arm(queue)
        assert 0 < seconds < 5.001  # a sum of seconds since the machine was started: they are rounded
        clock.advance(seconds)
    assert broker.queues() == ["q"]


def test_the_listener_tells_of_what_was_far_away(engine, clock):
    """So that nothing is woken for it when it is published."""
    broker = engine.open(clock=clock)
    queue, notified = broker.queue("mail"), threading.Event()
    watch = broker.watch(notified.set)
    assert watch.arm([queue]) == math.inf
    queue.publish(b"x", delay=1000)
    clock.advance(1000)
    assert notified.wait(PATIENCE)
    assert watch.arm([queue]) == 0


# ── several watches, and receivers ─────────────────────────────────────────────────


@pytest.mark.needs("quiet")
@pytest.mark.usefixtures("listening")
def test_each_message_wakes_one_watch_and_the_line_goes_round(broker, queue):
    several = [Rung(broker) for _ in range(3)]
    for each in several:
        each.arm(queue)
    for counts in ([1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 2]):
        before = told(*several)
        queue.publish(b"x")
        assert told(*several) == counts
        take(queue).ack()
        [mine] = [each for each, count in zip(several, before, strict=True) if each.count > count]
        mine.arm(queue)


def test_publish_many_tells_as_many_as_there_are_messages(broker, queue):
    several = [Rung(broker) for _ in range(5)]
    for each in several:
        each.arm(queue)
    queue.publish_many([b"x", b"y", b"z"])
    assert told(*several) == [1, 1, 1, 0, 0]


@pytest.mark.needs("quiet")
@pytest.mark.usefixtures("listening")
def test_one_that_takes_and_sees_another_message_wakes_the_next(broker, queue):
    several = [Rung(broker) for _ in range(3)]
    for each in several:
        each.arm(queue)
    for _ in range(3):
        queue.publish(b"x")
    assert told(*several) == [1, 0, 0]  # it is on its way
    take(queue)
    assert told(*several) == [1, 1, 0]
    queue.receive_many(1)
    assert told(*several) == [1, 1, 1]


def test_one_that_does_not_take_hands_on_when_it_is_armed_again(broker, queue):
    first, second = Rung(broker), Rung(broker)
    first.arm(queue)
    second.arm(queue)
    queue.publish(b"x")
    assert told(first, second) == [1, 0]
    assert first.arm(queue) == 0
    assert told(first, second) == [1, 1]


def test_one_that_does_not_take_hands_on_when_it_is_armed_elsewhere(broker, queue):
    first, second = Rung(broker), Rung(broker)
    first.arm(queue)
    second.arm(queue)
    queue.publish(b"x")
    assert first.arm(broker.queue("elsewhere")) == math.inf
    assert told(second) == [1]


def test_one_that_does_not_take_hands_on_when_it_is_closed(broker, queue):
    first, second = Rung(broker), Rung(broker)
    first.arm(queue)
    second.arm(queue)
    queue.publish(b"x")
    first.watch.close()
    assert told(first, second) == [0, 1]


def test_one_that_never_looks_hands_on_after_a_second(broker, queue):
    """The listener comes by each second."""
    several = [Rung(broker) for _ in range(3)]
    for each in several:
        each.arm(queue)
    queue.publish(b"x")
    for counts in ([1, 0, 0], [1, 1, 0], [1, 1, 1]):
        assert told(*several) == counts
        broker._store.hear()


def test_one_that_works_on_a_message_keeps_no_other_one_waiting(broker, queue):
    """It was told of the first message, and has taken it, before the second one came to wait."""
    first, second = Rung(broker), Rung(broker)
    first.arm(queue)
    queue.publish(b"x")
    take(queue)
    assert told(first) == [1]
    second.arm(queue)
    queue.publish(b"y")
    assert told(first, second) == [1, 1]


def test_a_watch_that_is_forgotten_is_passed_over(broker, queue):
    first, second = Rung(broker), Rung(broker)
    first.arm(queue)
    second.arm(queue)
    gone = weakref.ref(first.watch)
    del first.watch
    gc.collect()
    assert gone() is None
    queue.publish(b"x")
    assert told(second) == [1]


def test_watches_that_are_forgotten_leave_nothing_behind(broker, queue):
    store = broker._store
    for number in range(5 * SPARE):
        queues = [queue, broker.queue(f"reply-{number}")]
        broker.watch(lambda: None).arm(queues)
    gc.collect()
    assert len(store.waiters.asleep) <= SPARE + 1
    assert len(queue._channel.armed) <= SPARE + 1
    assert len(store.waiters.channels.items()) <= SPARE + 2


def test_the_times_of_watches_that_are_armed_again_and_again_take_no_room(broker, queue):
    queue.publish(b"x", delay=1000)
    rung = Rung(broker)
    for _ in range(10 * STALE_MAX):
        rung.arm(queue)
    assert len(queue._channel.alarms._heap) <= STALE_MAX + 3


@pytest.mark.needs("quiet")
@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("sleeps_first", [True, False])
def test_a_sleeping_receiver_and_a_watch_stand_in_one_line(broker, queue, sleeps_first):
    rung = Rung(broker)
    if not sleeps_first:
        rung.arm(queue)
    receiver = Receiver(queue.receive)
    while len(broker._store.waiters.asleep) < 2 - sleeps_first:
        time.sleep(0.001)
    if sleeps_first:
        rung.arm(queue)
    id = queue.publish(b"x")
    if sleeps_first:
        assert receiver.result().id == id
        assert told(rung) == [0]
    else:
        assert told(rung) == [1]
        rung.arm(queue)  # it does not take it
        assert receiver.result().id == id


def test_a_receiver_of_several_queues_is_told_beside_a_watch(broker, queue):
    rung = Rung(broker)
    rung.arm(queue)
    receiver = Receiver(lambda: broker.receive([broker.queue("other"), queue]))
    while len(broker._store.waiters.asleep) < 2:
        time.sleep(0.001)
    id = queue.publish(b"x")
    assert receiver.result().id == id
    assert told(rung) == [1]


# ── what notify may do ─────────────────────────────────────────────────────────────


@pytest.fixture
def real(engine: Engine) -> mq.Broker:
    """A broker with threads of its own."""
    return engine.open("real")


def test_notify_may_use_the_broker(real):
    queue, done = real.queue("mail"), threading.Event()
    bodies = []

    def notify() -> None:
        while message := queue.receive(timeout=0):
            bodies.append(message.body)
            message.ack()
        if len(bodies) < 3:
            queue.publish(f"echo {bodies[-1]}")
        if watch.arm([queue]) == 0:
            notify()
        elif len(bodies) == 3:
            done.set()

    watch = real.watch(notify)
    watch.arm([queue])
    queue.publish("x")
    assert done.wait(PATIENCE)
    assert bodies == ["x", "echo x", "echo echo x"]


def test_notify_may_close_the_broker(real):
    closed = threading.Event()
    watch = real.watch(lambda: (real.close(), closed.set()))
    watch.arm([real.queue("mail")])
    real.queue("mail").publish("x")
    assert closed.wait(PATIENCE)
    with pytest.raises(mq.Closed):
        watch.arm([real.queue("mail")])


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_notify_raises_is_logged_and_breaks_nothing(real, error, caplog):
    queue, other = real.queue("mail"), threading.Event()

    def fail() -> None:
        raise error

    failing, good = real.watch(fail), real.watch(other.set)
    failing.arm([queue])
    good.arm([real.queue("other")])
    queue.publish("x")
    real.queue("other").publish("x")
    assert other.wait(PATIENCE)
    assert any(type(error).__name__ in message for message in caplog.messages)


def test_notify_that_blocks_keeps_no_publisher_and_no_close_waiting(real):
    queue, begun, go_on = real.queue("mail"), threading.Event(), threading.Event()
    watch = real.watch(lambda: (begun.set(), go_on.wait(PATIENCE)))
    watch.arm([queue])
    queue.publish("x")
    assert begun.wait(PATIENCE)
    queue.publish("y")
    assert queue.receive(timeout=0).body == "x"
    real.close()
    go_on.set()


# ── closing, forks ─────────────────────────────────────────────────────────────────


def test_closing_the_broker_notifies_each_watch_and_arm_raises_closed(real):
    events = [threading.Event() for _ in range(3)]
    watches = [real.watch(each.set) for each in events]
    for each in watches:
        each.arm([real.queue("mail")])
    real.close()
    assert all(each.wait(PATIENCE) for each in events)
    for each in watches:
        with pytest.raises(mq.Closed):
            each.arm([real.queue("mail")])
        each.close()


def threads_of(name: str) -> Iterator[threading.Thread]:
    return (each for each in threading.enumerate() if each.name == name)


def test_the_thread_that_notifies_ends_with_the_broker(real):
    before = set(threads_of("mq-notifier"))
    watch = real.watch(lambda: None)
    assert set(threads_of("mq-notifier")) <= before
    watch.arm([real.queue("mail")])
    [mine] = set(threads_of("mq-notifier")) - before
    real.close()
    mine.join(PATIENCE)
    assert not mine.is_alive()


def test_a_broker_that_is_forgotten_with_its_watches_is_let_go_of(engine):
    broker = engine.open("forgotten")
    watch = broker.watch(lambda: None)
    watch.arm([broker.queue("mail")])
    gone = weakref.ref(watch)
    del watch
    gc.collect()
    assert gone() is None


@pytest.mark.needs("sharing")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_a_child_a_watch_is_not_armed_and_can_be(engine):
    broker = engine.open("forked")
    queue, notified = broker.queue("mail"), threading.Event()
    watch = broker.watch(notified.set)
    watch.arm([queue])
    if (child := os.fork()) == 0:
        try:
            queue.publish("x")
            if notified.wait(0.01) or watch.arm([queue]) != 0:
                os._exit(1)
            queue.receive(timeout=0).ack()
            if watch.arm([queue]) != math.inf:
                os._exit(2)
            queue.publish("y")
            os._exit(0 if notified.wait(PATIENCE) else 3)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert notified.wait(PATIENCE)  # in the parent: the child published


@pytest.mark.needs("sharing")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_notify_may_fork(engine):
    """The child is the thread that notifies; the other watches that were rung are the parent's to notify."""
    broker = engine.open("forked")
    queue, other, codes = broker.queue("mail"), broker.queue("other"), []
    begun, done, notified = threading.Event(), threading.Event(), threading.Event()

    def fork() -> None:
        begun.wait(PATIENCE)  # until both are rung
        if (child := os.fork()) == 0:
            try:
                again = threading.Event()
                watch = broker.watch(again.set)
                if watch.arm([queue]) != 0 or notified.wait(0.01):
                    os._exit(1)
                queue.receive(timeout=0).ack()
                if watch.arm([queue]) != math.inf:
                    os._exit(2)
                queue.publish("from the child")
                os._exit(0 if again.wait(PATIENCE) else 3)
            finally:
                os._exit(9)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()

    forking, good = broker.watch(fork), broker.watch(notified.set)
    forking.arm([queue])
    good.arm([other])
    queue.publish("x")
    other.publish("x")
    begun.set()
    assert done.wait(PATIENCE) and notified.wait(PATIENCE)
    assert codes == [0]
    assert queue.receive(timeout=0).body == "from the child"
