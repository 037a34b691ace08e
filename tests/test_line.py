"""Threads that are busy at the same time wait in line, and take turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engines import PATIENCE

import mq
from mq.engine import line as module
from mq.engine.line import SLICE_SECONDS, Line

ONE, TWO, THREE = 1, 2, 3  # threads


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Bell:
    """A lock on which a thread sleeps: *while_asleep* happens then; whether it was woken."""

    while_asleep: Callable[[], object] = staticmethod(lambda: None)
    sleeps: list[float]

    def __init__(self) -> None:
        self.rang = False

    def acquire(self, timeout: float = -1) -> bool:
        if timeout < 0:  # its own thread takes it first
            return True
        self.sleeps.append(timeout)
        assert len(self.sleeps) < 100, "it waits for ever"
        Bell.while_asleep()
        return self.rang

    def release(self) -> None:
        self.rang = True


class Mutex:
    """One that another thread has, or none."""

    def __init__(self) -> None:
        self.held = self.own = False

    def acquire(self, blocking: bool) -> bool:
        assert not blocking
        return not self.held

    def release(self) -> None:
        if self.held:
            raise RuntimeError("cannot release un-acquired lock")

    def _is_owned(self) -> bool:
        return self.own


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    Bell.sleeps, Bell.while_asleep = [], staticmethod(lambda: None)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "threading", SimpleNamespace(Lock=Bell))
    yield clock
    Bell.while_asleep = staticmethod(lambda: None)


@pytest.fixture
def mutex() -> Mutex:
    return Mutex()


@pytest.fixture
def line(clock: Clock, mutex: Mutex) -> Line:
    return Line(mutex, used=True)


def test_a_thread_inside_an_operation_begins_none(line: Line) -> None:
    with pytest.raises(mq.UsageError):
        line.wait(ONE, {ONE, TWO}, ())


def test_while_no_other_thread_is_in_its_turn_none_waits(line: Line) -> None:
    line.wait(ONE, {TWO}, ())
    assert Bell.sleeps == []


def test_beside_threads_that_wait_for_messages_the_mutex_is_not_asked_for(line: Line, mutex: Mutex) -> None:
    mutex.held = True  # else it would be seen
    line.wait(ONE, {TWO, THREE}, ("asleep", "asleep"))
    assert Bell.sleeps == []


def test_a_thread_that_must_not_wait_does_not(line: Line, mutex: Mutex) -> None:
    mutex.held = mutex.own = True
    line.wait(ONE, {TWO}, ())
    assert Bell.sleeps == []


def test_where_publishes_wait_for_the_disk_there_is_no_line(clock: Clock, mutex: Mutex) -> None:
    mutex.held = True
    Line(mutex, used=False).wait(ONE, {TWO}, ())
    assert Bell.sleeps == []


def test_a_thread_in_line_looks_after_longer_and_longer_times(line: Line, mutex: Mutex) -> None:
    mutex.held, busy = True, {TWO}

    def look() -> None:
        assert busy == {ONE, TWO}, "the thread that goes ahead does not know of it"
        mutex.held = len(Bell.sleeps) < 9

    Bell.while_asleep = staticmethod(look)
    line.wait(ONE, busy, ())
    assert Bell.sleeps == [50e-6 * 2**n for n in range(7)] + [module.LOOK_SECONDS_MAX] * 2
    assert busy == {TWO}


def test_a_thread_in_line_does_not_wait_for_long(line: Line, clock: Clock, mutex: Mutex) -> None:
    """Batches and transactions wake no thread, and one may follow the other closely."""
    mutex.held = True

    def sleep() -> None:
        clock.now += Bell.sleeps[-1]

    Bell.while_asleep = staticmethod(sleep)
    line.wait(ONE, {TWO}, ())
    assert sum(Bell.sleeps) <= module.STAND_SECONDS_MAX + module.LOOK_SECONDS_MAX


def in_the_slice_of_one(line: Line, clock: Clock) -> Any:
    """ONE goes ahead, and TWO is the first in line; on what it sleeps."""
    bell: Any = Bell()
    line._first, line._until = ONE, clock.now + SLICE_SECONDS
    line._waiting.append((TWO, bell))
    return bell


def test_in_its_slice_a_thread_goes_on(line: Line, clock: Clock) -> None:
    bell = in_the_slice_of_one(line, clock)
    line.wait(ONE, {TWO}, ())
    assert Bell.sleeps == [] and not bell.rang


def test_when_its_slice_is_over_a_thread_wakes_the_next_and_waits(line: Line, clock: Clock) -> None:
    bell = in_the_slice_of_one(line, clock)
    clock.now += SLICE_SECONDS

    def look() -> None:
        assert bell.rang and (line._first, line._until) == (TWO, clock.now + SLICE_SECONDS)
        assert [thread for thread, _ in line._waiting] == [ONE]

    Bell.while_asleep = staticmethod(look)
    line.wait(ONE, {TWO}, ())
    assert Bell.sleeps and line._first == ONE, "no other thread was in its turn: it goes ahead"


def test_a_thread_that_comes_in_the_slice_of_another_waits_behind_the_others(
    line: Line, clock: Clock
) -> None:
    bell = in_the_slice_of_one(line, clock)

    def look() -> None:
        assert [thread for thread, _ in line._waiting] == [TWO, THREE]

    Bell.while_asleep = staticmethod(look)
    line.wait(THREE, {ONE, TWO}, ())
    assert Bell.sleeps and not bell.rang, "the first in line was woken before its time"


@pytest.mark.parametrize("rung", [False, True])
def test_an_exception_in_line_leaves_nothing_behind(line: Line, mutex: Mutex, rung: bool) -> None:
    mutex.held, busy = True, {TWO}

    def interrupt() -> None:
        if rung:
            line._ring(0.0)
        raise KeyboardInterrupt

    Bell.while_asleep = staticmethod(interrupt)
    with pytest.raises(KeyboardInterrupt):
        line.wait(ONE, busy, ())
    assert busy == {TWO} and not line._waiting


def test_whether_a_real_mutex_is_held_is_seen_and_changes_nothing() -> None:
    mutex = threading.RLock()
    line = Line(mutex, used=True)
    assert not line._is_held()
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with mutex:
            taken.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(PATIENCE)
    assert line._is_held()
    over.set()
    thread.join(PATIENCE)
    assert not line._is_held()
    with mutex:
        assert not line._is_held(), "a thread waits for itself"


def test_a_thread_that_finds_another_one_in_its_turn_publishes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one stays in its turn until the first stands in line, as `busy` shows."""
    monkeypatch.setattr(module, "STAND_SECONDS_MAX", PATIENCE)  # however late the other one looks
    with mq.open(tmp_path / "s", sync="never") as broker:
        queue, store = broker.queue("q"), broker._store
        queue.publish(b"one")
        inside, two = threading.Event(), threading.Thread(target=queue.publish, args=(b"two",))

        def stay() -> None:
            inside.set()
            give_up = time.monotonic() + PATIENCE
            while not store.turn.line._waiting and time.monotonic() < give_up:
                time.sleep(0)
            assert len(store.busy) == 2 and store.turn.line._waiting

        def hold() -> None:
            store.busy.add(threading.get_ident())
            store.turn.take(stay)
            store.busy.discard(threading.get_ident())

        one = threading.Thread(target=hold)
        one.start()
        assert inside.wait(PATIENCE)
        two.start()
        for thread in (one, two):
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert [message.raw for message in queue.peek()] == [b"one", b"two"]
        assert not store.busy and not store.turn.line._waiting


@pytest.mark.parametrize("sync", ["always", "never", 0.1])
def test_only_a_store_whose_publishes_do_not_wait_for_the_disk_has_a_line(
    tmp_path: Path, sync: mq.Sync
) -> None:
    with mq.open(tmp_path / "s", sync=sync) as broker:
        assert broker._store.turn.line.used == (sync != "always")


def test_the_child_of_a_fork_has_a_line_of_its_own(tmp_path: Path) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker:
        turn = broker._store.turn
        before = turn.line
        turn.after_fork(broker._store.disk)
        assert turn.line is not before and turn.line.used and turn.line._mutex is turn.mutex
