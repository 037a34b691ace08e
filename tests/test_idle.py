"""A store that has nothing to do does nothing.

The thread of `sync=seconds` sleeps until the log grows, and what is appended then is on the disk within those
seconds, whatever appends it.  The listener looks only where something may have happened.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from companions import until
from fakes import CountingDisk, FakeClock, maintaining, open_on

import mq
import mq.engine.listener
from mq.delivery.now import Now
from mq.engine import flusher, scheduler
from mq.engine.background import Worker
from mq.engine.flusher import Flusher
from mq.engine.quiet import BEATS
from mq.engine.scheduler import Scheduler
from mq.storage import shared
from mq.storage.log import Log

PATIENCE = 60  # seconds after which something that does not happen has failed
SECONDS = 0.1
Act = Callable[[], object]


class Bell:
    """What a thread sleeps on, with a time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._rings = False
        self._until: float | None = None  # the thread sleeps until then; None: it does something
        self._changed = threading.Condition()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        with self._changed:
            self._until = math.inf if timeout < 0 else self.now + timeout
            self._changed.notify_all()
            while not self._rings and self.now < self._until:
                self._changed.wait()
            rang, self._rings, self._until = self._rings, False, None
            return rang

    def release(self) -> None:
        with self._changed:
            if self._rings:
                raise RuntimeError("release unlocked lock")
            self._rings = True
            self._changed.notify_all()

    def _sleeps(self) -> bool:
        return self._until is not None and not self._rings and self.now < self._until

    def next(self) -> float:
        """Until when the thread sleeps, once it does."""
        with self._changed:
            assert self._changed.wait_for(self._sleeps, PATIENCE)
            assert self._until is not None
            return self._until

    def let_pass(self) -> None:
        """The time passes until the thread wakes, and it does what it has to do."""
        until = self.next()
        assert until < math.inf
        with self._changed:
            self.now = until
            self._changed.notify_all()
        self.next()


class Rung(Worker):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bell: Any = Bell()


class Idle:
    """A store, and what it is about to do once it has been idle."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.disk = path, FakeClock(), CountingDisk()
        self.broker = open_on(
            self.disk, path, sync=SECONDS, clock=self.clock, background=False, segment_bytes=4096
        )
        self.others: list[mq.Broker] = []
        self.queue = self.broker.queue("mail")
        self.queue.publish_many([b"1", b"2", b"3"])

    @property
    def log(self) -> Any:
        return self.broker._store.replica.log

    @property
    def bell(self) -> Bell:
        found = self.broker._store._flusher
        assert found
        bell: Any = found.worker._bell
        return bell

    def fall_asleep(self) -> None:
        for _ in range(3):
            if self.bell.next() == math.inf:
                break
            self.bell.let_pass()
        assert self.bell.next() == math.inf, "it wakes though there is nothing to do"
        assert self.log.end == self.log.synced

    def is_synced_in_time(self) -> None:
        end, until = self.log.end, self.bell.next()
        assert until <= self.bell.now + SECONDS, "nothing wakes the thread that syncs"
        self.bell.let_pass()
        assert self.log.synced >= end


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Idle]:
    monkeypatch.setattr(flusher, "Worker", Rung)
    idle = Idle(tmp_path / "store")
    with idle.broker:
        yield idle
    for other in idle.others:
        other.close()


# ── what may append ────────────────────────────────────────────────────────────────


def publish(idle: Idle) -> Act:
    return lambda: idle.queue.publish(b"x")


def publish_with_a_plan(idle: Idle) -> Act:
    return lambda: idle.queue.publish(b"x", delay=5)


def publish_many(idle: Idle) -> Act:
    return lambda: idle.queue.publish_many([b"x", b"y"])


def receive(idle: Idle) -> Act:
    return lambda: idle.queue.receive(timeout=0)


def receive_many(idle: Idle) -> Act:
    return lambda: idle.queue.receive_many(2, timeout=0)


def ack(idle: Idle) -> Act:
    return idle.queue.receive(timeout=0).ack


def ack_many(idle: Idle) -> Act:
    taken = idle.queue.receive_many(2, timeout=0)
    return lambda: idle.queue.ack_many(taken)


def nack(idle: Idle) -> Act:
    return idle.queue.receive(timeout=0).nack


def extend(idle: Idle) -> Act:
    message = idle.queue.receive(timeout=0)
    return lambda: message.extend(99)


def timeout(idle: Idle) -> Act:
    idle.queue.receive(timeout=0, visibility_timeout=1)

    def act() -> None:
        idle.clock.advance(2)
        idle.queue.receive(timeout=0)

    return act


def transaction(idle: Idle) -> Act:
    def act() -> None:
        with idle.broker.transaction() as tx:
            tx.publish(idle.queue, b"x")

    return act


def fan_out(idle: Idle) -> Act:
    for name in ("one", "two"):
        idle.broker.queue(name).subscribe("news")
    topic = idle.broker.topic("news")
    topic.publish(b"x")
    return lambda: topic.publish(b"x")


def declare(idle: Idle) -> Act:
    return lambda: idle.broker.queue("other", max_attempts=3)


def purge(idle: Idle) -> Act:
    return idle.queue.purge


def tick(idle: Idle) -> Act:
    idle.broker.schedule("often", idle.queue, b"x", every=10)

    def act() -> None:
        idle.clock.advance(11)
        scheduler.tick(idle.broker._store)

    return act


def cleaner(idle: Idle) -> Act:
    store = idle.broker._store

    def act() -> None:
        with maintaining(store) as (log, now_ms, _):
            log.append_head(now_ms, log.head)

    return act


def asyncio_publish(idle: Idle) -> Act:
    async def go() -> None:
        broker = await mq.AsyncBroker(lambda: idle.broker)
        await broker.queue("mail").publish(b"x")

    return lambda: asyncio.run(go())


def another_process(idle: Idle) -> Act:
    """It may die before it syncs: a process that has followed what it appended syncs that, too."""
    other = open_on(CountingDisk(), idle.path, sync="never", clock=idle.clock, background=False)
    idle.others.append(other)

    def act() -> None:
        other.queue("mail").publish(b"x")
        assert idle.queue.stats().ready == 4

    return act


ACTS = [
    publish, publish_with_a_plan, publish_many, receive, receive_many, ack, ack_many, nack, extend, timeout,
    transaction, fan_out, declare, purge, tick, cleaner, asyncio_publish, another_process,
]  # fmt: skip


@pytest.mark.parametrize("prepare", ACTS, ids=lambda prepare: prepare.__name__)
def test_what_is_appended_after_an_idle_time_is_synced_in_time(idle: Idle, prepare) -> None:
    act = prepare(idle)
    idle.fall_asleep()
    before = idle.log.end
    act()
    assert idle.log.end > before
    idle.is_synced_in_time()
    idle.fall_asleep()


def test_an_idle_store_is_not_synced(idle: Idle) -> None:
    idle.fall_asleep()
    syncs = idle.disk.log_syncs()
    for _ in range(3):
        idle.queue.stats()
        idle.queue.peek()
    assert idle.bell.next() == math.inf
    assert idle.disk.log_syncs() == syncs


def test_a_busy_store_is_synced_each_time_and_the_thread_never_sleeps_for_long(idle: Idle) -> None:
    idle.queue.publish(b"x")
    for number in range(5):
        idle.is_synced_in_time()
        idle.queue.publish(b"%d" % number)
        assert idle.bell.next() == idle.bell.now + SECONDS


def test_it_does_not_fall_asleep_while_a_thread_may_be_about_to_append(idle: Idle) -> None:
    while idle.log.end > idle.log.synced:
        idle.bell.let_pass()
    with idle.broker._store.turn.mutex:
        for _ in range(3):
            idle.bell.let_pass()
            assert idle.bell.next() < math.inf
    idle.fall_asleep()


def test_what_is_appended_just_before_it_falls_asleep_is_synced(idle: Idle, monkeypatch) -> None:
    fall_asleep, left = Flusher._fall_asleep, [1]

    def publish_before(self: Flusher) -> None:
        if left:
            left.clear()
            idle.queue.publish(b"x")
        fall_asleep(self)

    monkeypatch.setattr(Flusher, "_fall_asleep", publish_before)
    while left:
        idle.bell.let_pass()
    idle.is_synced_in_time()


@pytest.mark.parametrize("when", ["before", "behind"])
def test_an_exception_around_the_ring_loses_no_sync(idle: Idle, monkeypatch, when: str) -> None:
    """As the handler of a signal raises, where the thread is about to be woken."""
    idle.fall_asleep()
    ring = idle.log._growth

    def interrupted() -> None:
        if when == "behind":
            ring()
        raise KeyboardInterrupt

    idle.log._growth = interrupted
    with pytest.raises(KeyboardInterrupt):
        idle.queue.publish(b"x")
    assert idle.log._growth is interrupted, "it is not called again"
    idle.log._growth = ring
    idle.queue.publish(b"y")
    idle.is_synced_in_time()


def test_close_does_not_wait_for_a_thread_that_sleeps(idle: Idle) -> None:
    idle.fall_asleep()
    idle.queue.publish(b"x")
    idle.bell.let_pass()
    idle.fall_asleep()
    idle.broker.close()
    assert not idle.broker._store.threads() or not idle.broker._store._flusher.runs()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_child_of_a_fork_has_its_own(idle: Idle) -> None:
    idle.fall_asleep()
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)
        code = 1
        try:
            idle.queue.publish(b"of the child")
            idle.is_synced_in_time()
            idle.fall_asleep()
            idle.queue.receive(timeout=0).ack()
            idle.is_synced_in_time()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert idle.bell.next() == math.inf, "the parent's was woken by its child"
    idle.queue.publish(b"of the parent")
    idle.is_synced_in_time()


# ── bugs that these tests have to find ─────────────────────────────────────────────


def _arm_no_append(log: Log, ring: Callable[[], object]) -> bool:
    log._growth = ring
    return log.end <= log.synced


def _never_ring(log: Log) -> None:
    log._growth = None


@pytest.mark.parametrize("prepare", [publish, ack, asyncio_publish], ids=lambda prepare: prepare.__name__)
@pytest.mark.parametrize(
    "name, bug", [("await_growth", _arm_no_append), ("grows", _never_ring)], ids=["not armed", "not rung"]
)
def test_a_planted_bug_is_found(idle: Idle, monkeypatch, prepare, name: str, bug: Any) -> None:
    monkeypatch.setattr(Log, name, bug)
    with pytest.raises(AssertionError, match="nothing wakes"):
        test_what_is_appended_after_an_idle_time_is_synced_in_time(idle, prepare)


# ── the listener ───────────────────────────────────────────────────────────────────


class Listening:
    """A receiver waits in a store; the test comes by in place of the listener's thread."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mq.engine.listener, "HEARTBEAT_SECONDS", 100 * PATIENCE)
        monkeypatch.setattr(scheduler, "LOOK_SECONDS", 0.01)  # so that the thread for ticks sleeps soon
        self.path, self.clock, self.disk = path, FakeClock(), Locking()
        self.broker = open_on(self.disk, path, sync="never", clock=self.clock, background=True)
        self.store = self.broker._store
        self.queue = self.broker.queue("mail")
        self.queue.publish(b"1")
        self.queue.receive(timeout=0).ack()
        self.rung = threading.Event()
        self.watch = self.broker.watch(self.rung.set)
        assert self.watch.arm([self.queue]) == math.inf
        self.store.hear()

    def looks(self) -> bool:
        """Whether it looks, when it comes by now."""
        if self.store.is_quiet():
            return False
        self.store.hear()
        return True


def test_processes_that_were_killed_before_leave_no_trace_on_the_page(tmp_path: Path) -> None:
    """None of them is inside, or waits: else no listener would be quiet, and pipes would be rung in vain."""
    mq.open(tmp_path).close()
    with (tmp_path / "mark").open("r+b") as page:
        for word in (shared.INSIDE + 3, shared.WAITS + 5):
            page.seek(8 * word)
            page.write((1).to_bytes(8, "little"))
    with mq.open(tmp_path) as broker:
        words = broker._store.turn.mark.tolist()
        assert not any(words[shared.WAITS : shared.INSIDE + shared.SLOTS])


class Locking(CountingDisk):
    locks = 0

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        self.locks += 1
        return super().lock(fd, shared=shared)


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    listening = Listening(tmp_path / "store", monkeypatch)
    yield listening
    listening.watch.close()
    listening.broker.close()


def test_a_listener_looks_each_ten_seconds_where_nothing_happens(listening: Listening) -> None:
    before = listening.disk.locks
    assert [listening.looks() for _ in range(3 * (BEATS + 1))] == 3 * [*BEATS * [False], True]
    assert listening.disk.locks == before + 3


def dead_behind_its_append(it: Listening) -> None:
    """Another process has appended, and died before it rang."""
    with open_on(CountingDisk(), it.path, sync="never", clock=it.clock, background=False) as other:
        other._store.listener.ring = lambda word: None  # type: ignore[method-assign]
        other.queue("mail").publish(b"x")


def rung(it: Listening) -> None:
    mark = it.store.turn.mark
    mark[it.queue._channel.word] &= ~it.store.listener.bit


def say(word: int) -> Callable[[Listening], None]:
    def set_word(it: Listening) -> None:
        it.store.turn.mark[word] = 1

    return set_word


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(dead_behind_its_append, id="another process died behind its append"),
        pytest.param(say(shared.DIRTY), id="one died in the midst of a write"),
        pytest.param(say(shared.INSIDE + 5), id="one died inside without LOCK"),
        pytest.param(rung, id="one rang"),
        pytest.param(lambda it: it.queue.publish(b"x", delay=3600), id="a message is there, for later"),
        pytest.param(lambda it: it.broker.queue("other").publish(b"x", ttl=1), id="work falls due"),
    ],
)
def test_a_listener_looks_at_once_where_something_may_have_happened(listening: Listening, happens) -> None:
    assert not listening.looks()
    happens(listening)
    assert listening.looks()


def test_what_falls_due_later_keeps_a_listener_looking_from_then_on(listening: Listening) -> None:
    listening.broker.queue("other").publish(b"x", ttl=10)
    assert listening.watch.arm([listening.queue]) == pytest.approx(10)
    assert listening.looks()
    assert not listening.looks()
    listening.clock.advance(11)
    assert listening.looks()


def test_a_listener_looks_each_second_while_there_is_a_message_where_one_waits(listening: Listening) -> None:
    """Its deadlines are watched for here: see `Channel.rearm`."""
    id = listening.queue.publish(b"x", delay=3600)
    assert listening.watch.arm([listening.queue]) == pytest.approx(3600)
    assert [listening.looks() for _ in range(3)] == [True] * 3
    listening.queue.cancel(id)
    assert [listening.looks() for _ in range(3)] == [True, False, False]


def test_a_wall_clock_that_is_set_is_looked_at(listening: Listening, monkeypatch) -> None:
    clock, ahead = listening.store.clock, [0]
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: Now(now.store, now.wall + ahead[0]))
    assert not listening.looks()
    ahead[0] = 3_600_000
    assert listening.looks()
    assert not listening.looks()


def test_what_a_process_that_died_behind_its_append_has_left_is_heard(listening: Listening) -> None:
    dead_behind_its_append(listening)
    assert listening.looks()
    assert listening.rung.wait(PATIENCE)


# ── the thread for ticks ───────────────────────────────────────────────────────────


def asleep(listening: Listening) -> Scheduler:
    """The thread for ticks, not rung: it would wake once more, at a time that the test cannot see."""
    ticks = listening.store.scheduler
    until(lambda: ticks._seconds[0] == scheduler.ASLEEP)
    return ticks


def test_the_listener_looks_for_schedules_while_there_is_none(listening: Listening) -> None:
    """One that another process declares, and closes the store behind it."""
    ticks = asleep(listening)
    with open_on(CountingDisk(), listening.path, sync="never", clock=listening.clock) as other:
        other.schedule("often", "mail", b"x", every=60)
    assert ticks._seconds[0] == scheduler.ASLEEP
    assert listening.looks()
    until(lambda: ticks._seconds[0] > 0)
    listening.broker.unschedule("often")


def test_the_thread_for_ticks_looks_for_itself_once_the_listener_has_ended(listening: Listening) -> None:
    ticks, heard = asleep(listening), listening.store.listener
    heard.worker.let_begin(PATIENCE)  # to join it returns at once before that
    heard.worker._stopped = True
    heard.stop()
    heard.worker.join()
    heard._wake_all()
    until(lambda: ticks._seconds[0] > 0)
