"""The threads beside the work: nothing ends them in silence, and without them callers do their work."""

from __future__ import annotations

import errno
import gc
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any
from weakref import ref

import pytest
from companions import until
from fakes import CountingDisk, open_on

import mq
from mq.engine import background, cleaning
from mq.engine.background import ASLEEP, GIVE_UP, Worker
from mq.engine.closing import Closing
from mq.engine.store import Store
from mq.storage import cleaner, real_disk
from mq.storage.real_disk import RealDisk

PATIENCE = 60  # seconds after which something that does not happen has failed
SEGMENT_BYTES = 4096
ENDING: list[BaseException] = [MemoryError(), KeyError("a mistake"), SystemExit(), GeneratorExit()]


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "BACKOFF_SECONDS", 0.0)


class Owner:
    """Has a thread that is rung at once, whose first steps raise."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.steps = list(errors), 0
        self.done, self.ended = threading.Event(), threading.Event()
        self.worker = Worker("mq-test", "here", self.step, behind=self.look, ended=self.end)

    def step(self) -> bool:
        self.steps += 1
        if self.errors:
            raise self.errors.pop(0)
        self.done.set()
        return False

    def look(self) -> None:
        pass

    def end(self) -> None:
        self.ended.set()

    def begin(self) -> None:
        assert self.worker.start()
        self.worker.ring()


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.worker.stop()
    owner.worker.join()


class Threads:
    """Whether the library gets threads; those of some names, perhaps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.there_are_none = True
        self.refused: list[str] = []
        start = threading.Thread.start

        def start_or_not(thread: threading.Thread) -> None:
            if self.there_are_none and thread.name in names:
                self.refused.append(thread.name)
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_not)


def use_up(queue: mq.Queue[Any], times: int = 40) -> None:
    for _ in range(times):
        queue.publish(bytes(300))
        queue.receive(timeout=0).ack()


# ── a worker ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", ENDING, ids=lambda error: type(error).__name__)
def test_a_thread_goes_on_whatever_a_step_raises(owner: Owner, error: BaseException, caplog) -> None:
    owner.errors = [error] * 5
    owner.begin()
    assert owner.done.wait(PATIENCE)
    assert owner.worker.failures == {type(error).__name__: 5}
    (line,) = caplog.records  # each kind once a minute
    assert f"here: the thread mq-test met {type(error).__name__}, 1 times by now" in line.getMessage()


def test_what_it_met_is_logged_with_where_unless_it_is_an_error_of_the_tree(owner: Owner, caplog) -> None:
    owner.errors = [MemoryError(), mq.StorageError("here", "a reason"), MemoryError()]
    owner.begin()
    assert owner.done.wait(PATIENCE)
    assert [bool(line.exc_info) for line in caplog.records] == [True, False]


def test_a_thread_waits_longer_after_each_failure_and_no_longer_than_the_most(monkeypatch) -> None:
    monkeypatch.setattr(background, "BACKOFF_SECONDS", 0.5)
    waits: list[float] = []
    now = [0.0]

    class Bell:
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if timeout > 0:
                waits.append(timeout)
                now[0] += timeout
            return False

        def release(self) -> None:
            pass

    monkeypatch.setattr(background, "time", SimpleNamespace(monotonic=lambda: now[0]))
    owner = Owner(*[MemoryError()] * 8)
    owner.worker._bell = Bell()
    owner.worker._sleep = lambda: None
    for _ in range(9):
        assert not owner.worker._go_on()
    assert owner.steps == 9
    assert waits == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_a_logging_handler_that_raises_does_not_end_the_thread(owner: Owner) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise MemoryError

    handler = Raising()
    logging.getLogger("mq").addHandler(handler)
    try:
        owner.errors = [KeyError(number) for number in range(GIVE_UP + 50)]
        owner.begin()
        assert owner.done.wait(PATIENCE)
    finally:
        logging.getLogger("mq").removeHandler(handler)


def test_a_thread_that_has_ended_says_so_and_another_is_begun(owner: Owner, monkeypatch) -> None:
    def fail(worker: Worker) -> bool:
        raise MemoryError

    monkeypatch.setattr(Worker, "_go_on", fail)
    owner.begin()
    assert owner.ended.wait(PATIENCE)
    owner.worker.join()
    assert not owner.worker.runs()
    monkeypatch.undo()
    owner.begin()
    assert owner.done.wait(PATIENCE)


def test_no_thread_to_be_had_is_said_and_tried_again(owner: Owner, monkeypatch) -> None:
    for error in (RuntimeError("can't create new thread at interpreter shutdown"), MemoryError()):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda thread, error=error: _raise(error))
            assert not owner.worker.start()
        owner.worker.join()
    owner.begin()
    assert owner.done.wait(PATIENCE)


def test_what_a_handler_raises_as_a_thread_begins_is_raised_as_it_is(owner: Owner, monkeypatch) -> None:
    """CPython takes it for a failure to start, and made a KeyError of it."""
    name = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
    start = getattr(threading, name)

    def interrupted(live: Any, *given: Any, **options: Any) -> None:
        start(live, *given, **options)
        until(lambda: live.__self__ not in threading._limbo)  # type: ignore[attr-defined]
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(threading, name, interrupted)
        with pytest.raises(Interrupted):
            owner.worker.start()
    owner.begin()
    assert owner.done.wait(PATIENCE)


def _raise(error: BaseException) -> None:
    raise error


def test_a_thread_whose_owner_is_forgotten_ends() -> None:
    owner = Owner()
    owner.begin()
    assert owner.done.wait(PATIENCE)
    worker, there = owner.worker, ref(owner)
    del owner
    while there() is not None:  # the thread may be in the midst of its step
        gc.collect()
    worker.ring()
    worker.join()
    assert not worker.runs()


def test_a_step_may_stop_its_own_thread(owner: Owner) -> None:
    def stop() -> bool:
        owner.worker.stop()
        owner.worker.join()  # returns at once: a thread cannot wait for itself
        owner.done.set()
        return False

    owner.worker._step = stop
    owner.begin()
    assert owner.done.wait(PATIENCE)


class Interrupted(Exception):
    """Out of a signal's handler."""


@contextmanager
def interrupted(inside: CodeType) -> Iterator[None]:
    """A signal whose handler raises comes while the block waits, *inside* this function, and ends it."""

    def interrupt(_number: int, frame: FrameType | None) -> None:
        if frame and frame.f_code is inside:
            raise Interrupted
        signal.setitimer(signal.ITIMER_REAL, 0.02)  # it does not wait yet

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Interrupted):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_wait_for_a_thread_that_is_interrupted_does_not_pass_for_its_end(owner: Owner) -> None:
    """Thread.join of Python 3.11 takes it for that."""
    inside, go_on = threading.Event(), threading.Event()

    def stay() -> bool:
        inside.set()
        assert go_on.wait(PATIENCE)
        owner.done.set()
        return False

    owner.worker._step = stay
    before = set(threading.enumerate())  # the thread of another test may be at its last lines
    owner.begin()
    assert inside.wait(PATIENCE)
    with interrupted(Worker.join.__code__):
        owner.worker.join()
    assert owner.worker.runs()
    assert owner.worker.start()
    assert [each.name for each in threading.enumerate() if each not in before].count("mq-test") == 1
    owner.worker.stop()
    threading.Timer(0.05, go_on.set).start()
    owner.worker.join()
    assert owner.done.is_set()
    assert not owner.worker.runs()


def test_a_close_that_waits_for_another_one_and_is_interrupted_waits_again(tmp_path: Path) -> None:
    """It is over when the store is closed: the files that a thread uses are there until it ends."""
    inside, go_on, over = threading.Event(), threading.Event(), []

    class Slow(RealDisk):
        def sync(self, fd: int) -> None:
            if threading.current_thread().name == "mq-close":
                inside.set()
                assert go_on.wait(PATIENCE)
            super().sync(fd)

    broker = open_on(Slow(), tmp_path, sync="never")
    broker.queue("mail").publish("one")
    broker._store.busy.add(threading.get_ident())
    broker.close()  # as in a handler, inside an operation
    broker._store.busy.clear()
    assert inside.wait(PATIENCE)
    with interrupted(Closing.close.__code__):
        broker.close()
    threading.Timer(0.05, lambda: (over.append(True), go_on.set())).start()
    broker.close()
    assert over
    mq.open(tmp_path, exclusive=True).close()


def test_of_two_threads_that_close_none_comes_back_before_it_is_closed(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(RealDisk):
        def sync(self, fd: int) -> None:
            inside.set()
            assert go_on.wait(PATIENCE)
            super().sync(fd)

    disk = Slow()
    go_on.set()
    broker = open_on(disk, tmp_path, sync="never")
    broker.queue("mail").publish("one")
    go_on.clear()
    inside.clear()
    first = threading.Thread(target=broker.close)
    first.start()
    assert inside.wait(PATIENCE)
    threading.Timer(0.05, go_on.set).start()
    broker.close()
    mq.open(tmp_path, exclusive=True).close()
    first.join()


# ── the cleaner ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [MemoryError(), SystemExit()], ids=["MemoryError", "SystemExit"])
def test_space_is_given_back_after_the_cleaner_had_no_memory(tmp_path, monkeypatch, error) -> None:
    """P11."""
    failures, clean, gone = [], cleaner.clean, threading.Event()

    def no_memory(*args: Any) -> int:
        if len(failures) < 3:
            failures.append(1)
            raise error
        given = clean(*args)
        gone.set()
        return given

    monkeypatch.setattr(cleaner, "clean", no_memory)
    with open_on(RealDisk(), tmp_path, sync="never", segment_bytes=SEGMENT_BYTES) as broker:
        use_up(broker.queue("mail"))
        assert gone.wait(PATIENCE), "nothing is cleaned any more"


def test_while_no_thread_can_be_had_publishers_give_space_back(tmp_path, monkeypatch, caplog) -> None:
    threads = Threads(monkeypatch, "mq-maintenance")
    with open_on(RealDisk(), tmp_path, sync="never", segment_bytes=SEGMENT_BYTES) as broker:
        queue = broker.queue("mail")
        use_up(queue, 150)
        assert threads.refused
        assert broker.stats().segments < 8
        assert caplog.text.count("no thread can be started") == 1
        threads.there_are_none = False
        use_up(queue, 40)
        assert broker._store.maintenance.worker.runs()


class Stubborn(RealDisk):
    """Some attempts to remove a segment, or to sync a directory, fail."""

    def __init__(self) -> None:
        super().__init__()
        self.unlinks = self.directories = 0

    def unlink(self, path: str) -> None:
        if self.unlinks and path.endswith(".seg"):
            self.unlinks -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        super().unlink(path)

    def sync_directory(self, path: str) -> None:
        if self.directories and path.endswith("log"):
            self.directories -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        super().sync_directory(path)


def test_what_could_not_be_given_back_is_tried_again_and_later_each_time(
    tmp_path, monkeypatch, caplog
) -> None:
    """An error that passes must not cost the space for as long as the store is open."""
    now, stubborn = [1000.0], Stubborn()
    monkeypatch.setattr(cleaning, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None))
    with open_on(stubborn, tmp_path, sync="never", segment_bytes=SEGMENT_BYTES, background=False) as broker:
        inner, queue = broker._store.maintenance, broker.queue("mail")

        def run_after(seconds: float) -> int:
            now[0] += seconds
            before = stubborn.unlinks
            inner.run()
            return before - stubborn.unlinks

        stubborn.unlinks = 1000
        use_up(queue, 200)
        assert inner.cleaning.trouble
        inner.cleaning._again_seconds, inner.cleaning._again_at = 2.0, now[0] + 1.0
        assert [run_after(seconds) for seconds in (0.5, 0.6, 1.9, 0.2, 3.9, 0.2)] == [0, 1, 0, 1, 0, 1]
        assert caplog.text.count("space is not given back") == 1
        stubborn.unlinks = 0
        many = broker.stats().segments
        run_after(1000)
        assert inner.cleaning.trouble is None
        assert broker.stats().segments < many


def test_a_directory_whose_sync_failed_keeps_its_segments_until_the_store_is_opened_again(
    tmp_path, monkeypatch
) -> None:
    """P9: a second sync proves nothing, and a gap in the log would pass for damage."""
    now, stubborn = [1000.0], Stubborn()
    monkeypatch.setattr(cleaning, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None))
    with open_on(stubborn, tmp_path, sync="never", segment_bytes=SEGMENT_BYTES, background=False) as broker:
        inner, queue = broker._store.maintenance, broker.queue("mail")
        use_up(queue, 20)
        stubborn.directories = 1
        inner.run()
        while not inner.cleaning.trouble:
            queue.publish(bytes(300))
            queue.receive(timeout=0).ack()
            inner.run()
        names = os.listdir(tmp_path / "log")
        now[0] += 1000
        use_up(queue)
        inner.run()
        assert set(names) <= set(os.listdir(tmp_path / "log"))
    with mq.open(tmp_path) as again:
        assert again.queue("mail").stats().ready == 0


# ── hearing ────────────────────────────────────────────────────────────────────────


class Receiver(threading.Thread):
    """Waits for a message that another process, in truth another broker, publishes."""

    def __init__(self, queue: mq.Queue[Any]) -> None:
        super().__init__(daemon=True)
        self._queue, self.got = queue, None
        self.start()

    def run(self) -> None:
        self.got = self._queue.receive(timeout=PATIENCE)

    def wait_until_asleep(self) -> None:
        while not self._queue._store.waiters.asleep:
            self.join(0.001)

    def body(self) -> object:
        self.join(PATIENCE)
        assert self.got, "the receiver never heard of it"
        return self.got.body


@pytest.fixture
def both(tmp_path) -> Iterator[tuple[mq.Broker, mq.Broker]]:
    with mq.open(tmp_path, sync="never") as here, mq.open(tmp_path, sync="never") as there:
        there.queue("mail", visibility_timeout=60.0)
        yield here, there


@pytest.mark.parametrize("error", [MemoryError(), SystemExit()], ids=["MemoryError", "SystemExit"])
def test_a_receiver_hears_other_processes_after_the_listener_had_no_memory(both, monkeypatch, error) -> None:
    here, there = both
    hear, failures = Store.hear, []

    def no_memory(store: Store) -> None:
        if len(failures) < 3:
            failures.append(1)
            raise error
        hear(store)

    monkeypatch.setattr(Store, "hear", no_memory)
    queue = here.queue("mail")
    for number in range(5):
        receiver = Receiver(queue)
        receiver.wait_until_asleep()
        there.queue("mail").publish(number)
        assert receiver.body() == number
    assert here._store.listener.worker.runs()


def test_without_a_thread_a_receiver_looks_for_itself(both, monkeypatch) -> None:
    here, there = both
    threads = Threads(monkeypatch, "mq-listener")
    receiver = Receiver(here.queue("mail"))
    receiver.wait_until_asleep()
    there.queue("mail").publish("one")
    assert receiver.body() == "one"
    assert threads.refused


def test_a_listener_that_ends_is_replaced_while_receivers_sleep(both, monkeypatch) -> None:
    here, there = both
    before = set(threading.enumerate())  # a listener of another test may be at its last lines
    queue = here.queue("mail")
    worker = here._store.listener.worker
    while not worker.runs():  # the timeout may be over before the wait begins
        assert queue.receive(timeout=0.001) is None
    worker.let_begin(PATIENCE)
    [first] = [each for each in threading.enumerate() if each.name == "mq-listener" and each not in before]
    go_on = Worker._go_on

    def fail(self: Worker) -> bool:
        if self is worker and threading.current_thread() is first:
            raise MemoryError
        return go_on(self)

    receiver = Receiver(queue)
    receiver.wait_until_asleep()
    monkeypatch.setattr(Worker, "_go_on", fail)
    here._store.disk.ring(here._store.listener._bell)
    first.join(PATIENCE)
    while not worker.runs():
        receiver.join(0.001)
    there.queue("mail").publish("one")
    assert receiver.body() == "one"
    assert worker.runs()


def test_a_receiver_hears_other_processes_where_there_is_no_poll(both, monkeypatch) -> None:
    """eventlet takes it out of the module."""
    monkeypatch.delattr(select, "poll")
    here, there = both
    for number in range(3):
        receiver = Receiver(here.queue("mail"))
        receiver.wait_until_asleep()
        there.queue("mail").publish(number)
        assert receiver.body() == number


def test_where_nothing_can_wait_for_the_pipe_it_is_looked_at_often(monkeypatch, tmp_path) -> None:
    monkeypatch.delattr(select, "poll")

    def select_in_vain(*args: object) -> None:
        raise ValueError("filedescriptor out of range in select()")

    naps: list[float] = []
    monkeypatch.setattr(select, "select", select_in_vain)
    monkeypatch.setattr(real_disk, "time", SimpleNamespace(sleep=naps.append))
    real = RealDisk()
    real.make_fifo(str(tmp_path / "bell"))
    fd = real.open_fifo(str(tmp_path / "bell"))
    real.listen(fd, 1.0)
    real.ring(fd)
    real.listen(fd, 0.001)
    real.close(fd)
    assert naps == [real_disk.DEAF_SECONDS, 0.001]


# ── syncing ────────────────────────────────────────────────────────────────────────


def test_the_background_sync_goes_on_after_it_had_no_memory(tmp_path, monkeypatch) -> None:
    counting = CountingDisk()
    with open_on(counting, tmp_path, sync=0.001, background=False) as broker:
        log, failures = broker._store.replica.log, []
        flusher, sync = broker._store._flusher, log.sync
        broker.queue("mail").publish(b"the log is open")
        assert flusher
        until(lambda: flusher._nap[0] == ASLEEP)

        def no_memory(upto: int) -> None:
            if len(failures) < 3:
                failures.append(1)
                raise MemoryError
            sync(upto)

        monkeypatch.setattr(log, "sync", no_memory)
        broker.queue("mail").publish(b"one")
        until(lambda: log.synced >= log.end)
        assert len(failures) == 3


def test_publishers_sync_when_the_thread_has_ended_and_no_other_can_be_had(tmp_path, monkeypatch) -> None:
    counting = CountingDisk()
    with open_on(counting, tmp_path, sync=0.001, background=False) as broker:
        threads = Threads(monkeypatch, "mq-sync")
        flusher, queue = broker._store._flusher, broker.queue("mail")
        assert flusher
        flusher.worker.let_begin(PATIENCE)  # to join it returns at once before that

        def fail(self: Worker) -> bool:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(Worker, "_go_on", fail)
            queue.publish(b"for a thread that may be asleep")
            flusher.worker.join()
        until(lambda: flusher.missing)  # the thread says so with its last lines
        while not threads.refused or broker._store.replica.log.synced < broker._store.replica.log.end:
            queue.publish(b"x")
        threads.there_are_none = False
        while flusher.missing:
            queue.publish(b"x")
        assert flusher.runs()
