"""Blocked receivers: who is woken, when, and that nobody polls.

Nothing here waits for time.  `Sleeps` stands between receivers and the lock that each
sleeps on: it notes for how long each means to sleep, and lets a test know when one has
begun to.  Meanwhile the time stands still, unless the test moves it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from engines import Engine
from fakes import FakeClock

import mq
import mq.api.queue
import mq.engine.channel
import mq.engine.listener
import mq.engine.waiters
import mq.engine.waiting
import mq.engine.watching
from mq.engine.commands import declare
from mq.engine.several import Asked, receive_from
from mq.engine.store import Store
from mq.engine.waiting import Sleeper
from mq.storage.shared import DIRTY

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]

PATIENCE = 60.0  # seconds after which a test that hangs has failed


def hand_of_time(patch: pytest.MonkeyPatch, hand: FakeClock | None = None) -> FakeClock:
    """The monotonic clock that waits go by, for the test to move."""
    hand = hand or FakeClock(0.0)
    for module in (mq.api.queue, mq.engine.channel, mq.engine.waiters, mq.engine.waiting, mq.engine.watching):
        patch.setattr(module, "time", SimpleNamespace(**{**vars(time), "monotonic": hand}))
    return hand


class Sleeps:
    """Every sleep of a receiver, and the wake-ups that receivers are sent."""

    def __init__(self, patch: pytest.MonkeyPatch, store: Store) -> None:
        self._patch, self._store = patch, store
        self.hand = hand_of_time(patch)
        self._ring = Sleeper.ring
        self._begun = threading.Semaphore(0)
        self.planned: list[float | None] = []
        self.notified = 0
        self.interrupt: dict[threading.Thread, BaseException] = {}
        self.held: dict[threading.Thread, threading.Event] = {}  # threads in a handler, until it ends
        patch.setattr(Sleeper, "sleep", lambda sleeper: self._sleep(sleeper))
        self.hearing()

    def _sleep(self, sleeper: Sleeper) -> None:
        forever = sleeper.wake_at == math.inf
        self.planned.append(None if forever else sleeper.wake_at - self.hand())
        self._begun.release()
        # Far longer than any test waits: an end of patience must not pass for a wake-up.
        sleeper._bell.acquire(timeout=10 * PATIENCE)
        if handler := self.held.get(threading.current_thread()):
            handler.wait(PATIENCE)
        if error := self.interrupt.get(threading.current_thread()):
            raise error

    def _count(self, sleeper: Sleeper) -> None:
        self.notified += 1
        self._ring(sleeper)

    def begin(self, count: int = 1) -> None:
        """Return when *count* more sleeps have begun."""
        for _ in range(count):
            assert self._begun.acquire(timeout=PATIENCE), "nobody went to sleep"

    def spurious(self) -> None:
        """Wake one receiver, for no reason."""
        with self._store.turn.mutex:
            self._ring(next(iter(self._store.waiters.asleep)))

    def deaf(self) -> None:
        """From now on no receiver is told anything."""
        self._patch.setattr(Sleeper, "ring", lambda sleeper: None)

    def hearing(self) -> None:
        self._patch.setattr(Sleeper, "ring", lambda sleeper: self._count(sleeper))


class Receiver(threading.Thread):
    """A thread that receives once, and keeps what came of it."""

    def __init__(self, receive: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._receive = receive
        self.got: object = None
        self.start()

    def run(self) -> None:
        try:
            self.got = self._receive()
        except (mq.MqError, Interrupt) as error:
            self.got = error

    def result(self) -> object:
        self.join(PATIENCE)
        assert not self.is_alive(), "still blocked"
        return self.got


class Interrupt(BaseException):
    """Ctrl-C, in a thread of the test's choice."""


@pytest.fixture
def queue(engine: Engine, clock: FakeClock) -> mq.Queue:
    queue = engine.open(clock=clock, background=False).queue("mail")
    queue.publish(b"first")
    queue.receive(timeout=0).ack()
    return queue


@pytest.fixture
def sleeps(queue, monkeypatch) -> Sleeps:
    return Sleeps(monkeypatch, queue._store)


def receivers(sleeps: Sleeps, count: int, receive: Callable[[], object]) -> list[Receiver]:
    """Threads that have gone to sleep, in this order."""
    made = []
    for _ in range(count):
        made.append(Receiver(receive))
        sleeps.begin()
    return made


@pytest.fixture
def one_thread(monkeypatch, queue, clock) -> list[float]:
    """Sleeping moves the clock, instead of taking time: what was slept, in order."""
    slept: list[float] = []

    def sleep(sleeper: Sleeper) -> None:
        assert sleeper.wake_at < math.inf, "nothing would ever wake this receiver"
        assert len(slept) < 20, "polling"
        slept.append(sleeper.wake_at - clock())
        clock.advance(slept[-1])

    hand_of_time(monkeypatch, clock)
    monkeypatch.setattr(Sleeper, "sleep", sleep)
    return slept


# ── one receiver ───────────────────────────────────────────────────────────────────


def test_a_publish_wakes_the_receiver_at_once_and_once(queue, sleeps):
    [receiver] = receivers(sleeps, 1, queue.receive)
    id = queue.publish(b"x")
    assert receiver.result().id == id
    assert sleeps.planned == [None]
    assert sleeps.notified == 1


def test_publish_many_wakes_the_receiver(queue, sleeps):
    [receiver] = receivers(sleeps, 1, queue.receive)
    ids = queue.publish_many([b"x", b"y"])
    assert receiver.result().id == ids[0]
    assert sleeps.planned == [None]


def test_the_first_publish_of_all_wakes_who_waited_for_the_queue_to_exist(queue, sleeps):
    new = queue._store.channel("new")
    handle = mq.Queue(queue._store, new)
    [receiver] = receivers(sleeps, 1, handle.receive)
    assert handle.publish(b"x") == receiver.result().id


def test_two_handles_on_one_queue_are_one_queue(queue, sleeps):
    [receiver] = receivers(sleeps, 1, queue.receive)
    other = mq.Queue(queue._store, queue._store.channel("mail"))
    assert other.publish(b"x") == receiver.result().id


def test_nobody_is_notified_when_nobody_waits(queue, sleeps):
    queue.publish(b"x")
    queue.publish_many([b"y", b"z"])
    message = queue.receive(timeout=0)
    message.release()
    queue.receive(timeout=0).nack(delay=0)
    queue.receive(timeout=0).extend(1)
    assert sleeps.notified == 0


def test_a_timeout_of_zero_never_sleeps(queue, sleeps):
    assert queue.receive(timeout=0) is None
    assert queue.receive_many(5, timeout=0) == []
    assert sleeps.planned == []


def test_a_timeout_ends_in_none_after_one_sleep(queue, one_thread):
    assert queue.receive(timeout=7) is None
    assert queue.receive_many(3, timeout=2) == []
    assert one_thread == [pytest.approx(7), pytest.approx(2)]


def test_a_passed_visibility_timeout_is_slept_for_in_one_go(queue, one_thread):
    queue.publish(b"x")
    first = queue.receive()
    again = queue.receive()
    assert (again.id, again.attempts) == (first.id, 2)
    assert one_thread == [pytest.approx(30)]


def test_a_delay_is_slept_for_in_one_go(queue, one_thread):
    queue.publish(b"x")
    queue.receive().nack(delay=12.5)
    assert queue.receive(timeout=60).attempts == 2
    assert one_thread == [pytest.approx(12.5)]


def test_the_earliest_of_all_times_is_slept_for(queue, one_thread):
    first, second, third = queue.publish_many([b"1", b"2", b"3"])
    queue.receive(visibility_timeout=40)
    queue.receive().nack(delay=20)
    queue.receive(visibility_timeout=50)
    assert [queue.receive(visibility_timeout=500).id for _ in range(3)] == [second, first, third]
    assert one_thread == [pytest.approx(20), pytest.approx(20), pytest.approx(10)]


def test_a_settled_delivery_is_not_slept_for(queue, one_thread):
    queue.publish_many([b"1", b"2"])
    queue.receive(visibility_timeout=5).ack()
    queue.receive(visibility_timeout=8)
    assert queue.receive().attempts == 2
    assert one_thread == [pytest.approx(8)]


def test_an_extended_delivery_is_slept_for_to_its_new_end(queue, one_thread):
    queue.publish(b"x")
    queue.receive().extend(100)
    assert queue.receive().attempts == 2
    assert one_thread == [pytest.approx(100)]


def test_a_spurious_wake_up_changes_nothing(queue, sleeps):
    [receiver] = receivers(sleeps, 1, queue.receive)
    sleeps.spurious()
    sleeps.begin()
    id = queue.publish(b"x")
    assert receiver.result().id == id
    assert sleeps.planned == [None, None]


@pytest.mark.parametrize(
    ("settle", "attempts"),
    [
        pytest.param(lambda message: message.release(), 1, id="release"),
        pytest.param(lambda message: message.nack(delay=0), 2, id="nack without a delay"),
        pytest.param(lambda message: message.extend(0), 2, id="extend to now"),
    ],
)
def test_a_message_that_comes_back_wakes_the_receiver(queue, sleeps, settle, attempts):
    queue.publish(b"x")
    message = queue.receive()
    [receiver] = receivers(sleeps, 1, queue.receive)
    settle(message)
    assert receiver.result().attempts == attempts


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param(lambda message: message.nack(delay=10), id="nack"),
        pytest.param(lambda message: message.extend(10), id="extend"),
    ],
)
def test_a_nearer_time_shortens_the_sleep(queue, sleeps, settle):
    queue.publish(b"x")
    message = queue.receive()
    receivers(sleeps, 1, queue.receive)
    settle(message)
    sleeps.begin()
    assert sleeps.planned == [pytest.approx(30), pytest.approx(10)]


def test_a_farther_time_wakes_nobody(queue, sleeps):
    queue.publish(b"x")
    message = queue.receive()
    receivers(sleeps, 1, queue.receive)
    message.extend(60)
    assert sleeps.notified == 0


# ── a receiver that lingers ────────────────────────────────────────────────────────


def bodies(deliveries):
    return [each.body for each in deliveries]


def test_one_that_lingers_returns_as_soon_as_its_batch_is_full(queue, sleeps):
    [receiver] = receivers(sleeps, 1, lambda: queue.receive_many(3, linger=PATIENCE))
    queue.publish_many([b"1", b"2"])
    sleeps.begin()
    assert queue.stats()[:3] == (2, 0, 0)  # nothing is taken before
    queue.publish(b"3")
    assert bodies(receiver.result()) == [b"1", b"2", b"3"]


def test_one_that_lingers_takes_what_is_there_when_the_time_is_over(queue, one_thread, clock):
    queue.publish(b"first")
    queue.publish(b"second", delay=4)
    queue.publish(b"late", delay=11)
    [first, second] = queue.receive_many(9, timeout=0, linger=10)
    assert bodies([first, second]) == [b"first", b"second"]
    assert sum(one_thread) == 10
    assert first.due_at.timestamp() == clock() + queue.options()["visibility_timeout"]  # it begins now


def test_one_that_lingers_waits_for_the_first_as_long_as_its_timeout(queue, one_thread):
    assert queue.receive_many(9, timeout=3, linger=10) == []
    assert sum(one_thread) == 3


def test_the_time_to_linger_begins_with_the_first_message(queue, one_thread):
    queue.publish(b"x", delay=5)
    assert bodies(queue.receive_many(9, timeout=6, linger=10)) == [b"x"]
    assert sum(one_thread) == 15


def test_a_full_batch_does_not_linger(queue, one_thread):
    queue.publish_many([b"1", b"2"])
    assert bodies(queue.receive_many(2, linger=10)) == [b"1", b"2"]
    assert not one_thread


def test_one_that_lingers_keeps_no_message_from_another_receiver(queue, sleeps):
    """It was woken for the message, and wakes the other one before it waits on."""
    [lingers, other] = [
        *receivers(sleeps, 1, lambda: queue.receive_many(3, linger=PATIENCE)),
        *receivers(sleeps, 1, queue.receive),
    ]
    queue.publish(b"1")
    assert other.result().body == b"1"
    queue.publish_many([b"2", b"3", b"4"])
    assert bodies(lingers.result()) == [b"2", b"3", b"4"]


def test_several_that_linger_do_not_wake_each_other_again_and_again(queue, sleeps):
    """Each looks when something comes, and the one whose batch is full first takes it."""
    waiting = receivers(sleeps, 2, lambda: queue.receive_many(2, linger=PATIENCE))
    queue.publish(b"1")
    sleeps.begin(2)
    planned = len(sleeps.planned)
    queue.publish_many([b"2", b"3", b"4"])
    got = [bodies(each.result()) for each in waiting]
    assert sorted(got) == [[b"1", b"2"], [b"3", b"4"]]
    assert len(sleeps.planned) <= planned + 2


def test_a_close_ends_a_linger_and_nothing_is_held(engine, clock, monkeypatch):
    broker = engine.open("another", clock=clock, background=False)
    queue, sleeps = broker.queue("mail"), Sleeps(monkeypatch, broker._store)
    [receiver] = receivers(sleeps, 1, lambda: queue.receive_many(3, linger=PATIENCE))
    queue.publish(b"1")
    sleeps.begin()
    broker.close()
    assert isinstance(receiver.result(), mq.Closed)
    assert engine.reopen(broker).queue("mail").stats()[:3] == (1, 0, 0)


@pytest.mark.needs("sharing")
def test_one_that_lingers_hears_what_another_broker_publishes(engine, clock):
    ours, theirs = engine.open("another", clock=clock), engine.open("another", clock=clock)
    receiver = Receiver(lambda: ours.queue("mail").receive_many(2, linger=PATIENCE))
    for body in (b"1", b"2"):
        while not ours._store.waiters.asleep:
            time.sleep(0)
        theirs.queue("mail").publish(body)
    assert bodies(receiver.result()) == [b"1", b"2"]


def test_an_exception_ends_a_linger_and_nothing_is_held(queue, sleeps):
    [receiver] = receivers(sleeps, 1, lambda: queue.receive_many(3, linger=PATIENCE))
    queue.publish(b"1")
    sleeps.begin()
    sleeps.interrupt[receiver] = Interrupt()
    sleeps.spurious()
    assert isinstance(receiver.result(), Interrupt)
    assert queue.receive(timeout=0).attempts == 1
    assert not queue._store.waiters.asleep


# ── several receivers ──────────────────────────────────────────────────────────────


def test_each_message_wakes_one_receiver(queue, sleeps):
    blocked = receivers(sleeps, 3, queue.receive)
    ids = [queue.publish(b"x") for _ in range(3)]
    assert sorted(each.result().id for each in blocked) == ids


def test_publish_many_wakes_as_many_as_there_are_messages(queue, sleeps):
    blocked = receivers(sleeps, 3, queue.receive)
    ids = queue.publish_many([b"x", b"y", b"z"])
    assert sorted(each.result().id for each in blocked) == ids


def test_one_wake_up_is_enough_for_all_that_is_ready(queue, sleeps):
    """Whoever takes a message and sees another wakes the next: no wake-up can be missing."""
    blocked = receivers(sleeps, 3, queue.receive)
    sleeps.deaf()
    ids = queue.publish_many([b"x", b"y", b"z"])
    sleeps.hearing()
    sleeps.spurious()
    assert sorted(each.result().id for each in blocked) == ids


def test_no_second_receiver_is_woken_while_one_is_on_its_way(queue, sleeps):
    """It takes the first message, sees the second, and wakes the next."""
    blocked = receivers(sleeps, 3, queue.receive)
    with queue._store.turn.mutex:  # so that none of them looks yet
        ids = [queue.publish(b"x"), queue.publish(b"y")]
        assert sleeps.notified == 1
    assert sorted(each.result().id for each in blocked[:2]) == ids
    assert queue.publish(b"z") == blocked[2].result().id


def test_a_receiver_that_is_kept_from_looking_keeps_no_message(queue, sleeps):
    """A signal's handler may take its time: the listener comes by each second, and wakes another one."""
    first, second = receivers(sleeps, 2, queue.receive)
    handler = threading.Event()
    sleeps.interrupt[first] = Interrupt()
    sleeps.held[first] = handler
    id = queue.publish(b"x")
    queue._store.hear()
    assert second.result().id == id
    assert queue.publish(b"y")
    handler.set()
    assert isinstance(first.result(), Interrupt)


def test_an_interrupted_receiver_does_not_swallow_the_wake_up(queue, sleeps):
    first, second = receivers(sleeps, 2, queue.receive)
    sleeps.interrupt[first] = Interrupt()
    id = queue.publish(b"x")
    assert isinstance(first.result(), Interrupt)
    assert second.result().id == id


def test_a_receiver_takes_over_the_deadline_of_what_another_took(queue, sleeps):
    """It went to sleep when there was nothing to wait for; now there is."""
    receivers(sleeps, 2, lambda: queue.receive(visibility_timeout=25))
    queue.publish(b"x")
    sleeps.begin()
    assert sleeps.planned == [None, None, pytest.approx(25)]


@pytest.mark.needs("quiet")
def test_receive_many_hands_its_deadline_on_too(queue, sleeps):
    receivers(sleeps, 1, queue.receive)
    sleeps.deaf()
    queue.publish_many([b"x", b"y"])
    sleeps.hearing()
    queue.receive_many(5, visibility_timeout=25)
    sleeps.begin()
    assert sleeps.planned == [None, pytest.approx(25)]


def test_one_of_several_keeps_the_timer_for_all(queue, sleeps):
    queue.publish(b"x")
    message = queue.receive(visibility_timeout=1000)
    blocked = receivers(sleeps, 3, queue.receive)
    message.extend(20)
    sleeps.begin()
    assert sleeps.planned[3] == pytest.approx(20)
    assert all(each.is_alive() for each in blocked)


def test_the_timer_passes_on_when_its_keeper_is_interrupted(queue, sleeps):
    first, second = receivers(sleeps, 2, queue.receive)
    sleeps.deaf()
    queue.publish(b"x")
    queue.receive(timeout=0, visibility_timeout=20)
    sleeps.hearing()
    sleeps.interrupt[first] = Interrupt()
    sleeps.spurious()  # the first; nobody has the timer now but who is woken next
    assert isinstance(first.result(), Interrupt)
    sleeps.begin()
    assert sleeps.planned == [None, None, pytest.approx(20)]
    assert second.is_alive()


def test_the_timer_passes_on_when_its_keeper_gives_up(queue, sleeps):
    """Its timeout came first, so nobody else was told of what falls due after it."""
    queue.publish(b"x")
    message = queue.receive(visibility_timeout=1000)
    [first] = receivers(sleeps, 1, lambda: queue.receive(timeout=5))
    [second] = receivers(sleeps, 1, queue.receive)
    message.extend(20)
    sleeps.hand.advance(5)
    sleeps.spurious()  # the first: its time is up
    assert first.result() is None
    sleeps.begin()
    assert sleeps.planned[2] == pytest.approx(20)
    assert second.is_alive()


def test_a_receiver_that_finds_the_message_gone_sleeps_on(queue, sleeps):
    [receiver] = receivers(sleeps, 1, queue.receive)
    sleeps.deaf()
    queue.publish(b"x")
    sleeps.hearing()
    taken = queue.receive(timeout=0)
    sleeps.begin()  # told of the delivery's deadline
    taken.ack()
    assert queue.publish(b"y") == receiver.result().id


# ── closing ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "receive",
    [
        pytest.param(lambda queue: queue.receive(), id="receive"),
        pytest.param(lambda queue: queue.receive(timeout=600), id="receive with a timeout"),
        pytest.param(lambda queue: queue.receive_many(5), id="receive_many"),
    ],
)
def test_closing_wakes_every_receiver_with_closed(queue, sleeps, receive):
    blocked = receivers(sleeps, 3, lambda: receive(queue))
    queue._store.close()
    assert all(isinstance(each.result(), mq.Closed) for each in blocked)


def test_closing_wakes_receivers_of_a_queue_that_never_was(queue, sleeps):
    handle = mq.Queue(queue._store, queue._store.channel("never"))
    [receiver] = receivers(sleeps, 1, handle.receive)
    queue._store.close()
    assert isinstance(receiver.result(), mq.Closed)


def test_closing_ends_an_iteration(queue, sleeps):
    queue.publish_many([b"x", b"y"])
    [receiver] = receivers(sleeps, 1, lambda: [message.raw for message in queue])
    queue._store.close()
    assert receiver.result() == [b"x", b"y"]


@pytest.mark.needs("failing")
def test_a_failed_store_is_said_to_who_waits(queue, sleeps):
    [receiver] = receivers(sleeps, 1, queue.receive)
    failed = queue._store.replica.log.fail(OSError(5, "Input/output error"))
    queue._store.turn.mark[DIRTY] = 1
    sleeps.spurious()
    assert isinstance(failed, mq.StoreFailed)
    assert isinstance(receiver.result(), mq.StoreFailed)


@pytest.mark.file_store
def test_what_a_handler_raises_as_the_first_wait_begins_is_raised_as_it_is(tmp_path, monkeypatch):
    """TimeoutError is an OSError, and says nothing of the disk."""

    def limit(*args: object, **options: object) -> None:
        raise TimeoutError("enough")

    with mq.open(tmp_path) as broker:
        monkeypatch.setattr(os, "mkfifo", limit)
        with pytest.raises(TimeoutError) as caught:
            broker.queue("mail").receive(timeout=0.01)
    assert (str(caught.value), caught.value.filename) == ("enough", None)


# ── a paused queue, a clock that jumps, no memory ──────────────────────────────────


@pytest.mark.parametrize(
    "receive",
    [
        pytest.param(lambda queue: queue.receive(timeout=7), id="receive"),
        pytest.param(lambda queue: queue.receive_many(5, timeout=7), id="receive_many"),
        pytest.param(lambda queue: receive_any(queue, 7), id="several queues"),
    ],
)
def test_a_message_that_falls_due_in_a_paused_queue_wakes_no_receiver(queue, clock, one_thread, receive):
    queue.publish(b"x", delay=1)
    queue.publish(b"y", delay=3)
    queue.pause()
    assert not receive(queue)
    assert one_thread == [pytest.approx(7)]


def receive_any(queue: mq.Queue, timeout: float) -> object:
    other = mq.Queue(queue._store, queue._store.channel("other"))
    return receive_from(Asked([other, queue]), mq.engine.waiting.time.monotonic() + timeout)


def test_resume_wakes_who_waits_at_a_paused_queue(queue, sleeps):
    queue.publish(b"x")
    queue.pause()
    [receiver] = receivers(sleeps, 1, queue.receive)
    queue.resume()
    assert receiver.result().raw == b"x"


def test_a_wall_clock_that_jumps_is_noticed_within_a_second_by_a_receiver_that_waits(sleeps, queue, clock):
    """The listener comes by each second: what the clock's jump made due wakes the receiver."""
    queue.publish(b"x", delay=3600)
    [receiver] = receivers(sleeps, 1, queue.receive)
    clock.advance(2 * 3600)
    queue._store.hear()
    assert receiver.result().raw == b"x"


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "shared"])
def test_the_listener_comes_by_in_every_kind_of_store(engine, clock, monkeypatch, exclusive):
    monkeypatch.setattr(mq.engine.listener, "HEARTBEAT_SECONDS", 0.01)
    broker = engine.open(clock=clock, exclusive=exclusive)
    queue = broker.queue("mail")
    queue.publish(b"x", delay=3600)
    receiver = Receiver(queue.receive)
    while not broker._store.waiters.asleep:
        time.sleep(0.001)
    clock.advance(2 * 3600)
    assert receiver.result().raw == b"x"


@pytest.mark.needs("quiet")
def test_a_listener_wakes_one_for_a_deadline_that_was_far_away(engine, clock, monkeypatch):
    """So nobody is woken to carry it when the message is taken."""
    monkeypatch.setattr(mq.engine.listener, "HEARTBEAT_SECONDS", 100.0)  # the test comes by in its place
    broker = engine.open(clock=clock)
    queue = broker.queue("mail", visibility_timeout=1000)
    sleeps = Sleeps(monkeypatch, broker._store)
    first, second = receivers(sleeps, 2, queue.receive)
    id = queue.publish(b"x")
    assert first.result().id == id
    assert (sleeps.planned, sleeps.notified) == ([None, None], 1)
    clock.advance(1001)
    broker._store.hear()
    assert second.result().attempts == 2


def test_what_expires_by_a_jump_of_the_clock_reaches_those_that_wait_for_it(sleeps, queue, clock):
    broker_store = queue._store
    dying = mq.Queue(broker_store, broker_store.channel("dying"))
    declare(broker_store, dying._channel, {"expired": "dead_letter", "dead_letter": "mail"})
    dying.publish(b"x", ttl=3600)
    [receiver] = receivers(sleeps, 1, queue.receive)
    clock.advance(2 * 3600)
    broker_store.hear()
    assert receiver.result().raw == b"x"


@pytest.mark.parametrize("many", [False, True], ids=["receive", "receive_many"])
def test_a_receive_without_memory_gives_back_what_it_had_taken(queue, monkeypatch, many):
    ids = queue.publish_many([b"1", b"2", b"3"])

    def no_memory(*args):
        raise MemoryError

    reader = queue._store.replica.log.reader if many else queue._store.replica
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(queue._store.replica.log.reader, "at_hand", lambda *_: None)
        patch.setattr(reader, "read_run" if many else "read", no_memory)
        queue.receive_many(3) if many else queue.receive()
    assert queue.stats()[:3] == (3, 0, 0)
    assert [(message.id, message.attempts) for message in queue.receive_many(3)] == [(id, 1) for id in ids]
