"""What a signal handler, a `__del__` or a profile function begins inside an operation of its thread.

It is refused, and the operation goes on.  Only `close` works there: it is what people write
into a handler of SIGTERM.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from bytecodes import at_each_bytecode
from fakes import FakeClock, QuickDisk, maintaining, open_on

import mq

PATIENCE = 300.0


@contextmanager
def called_at(at: int, other: Callable[[], object]) -> Iterator[list[int]]:
    """Call *other* at bytecode number *at*, of mq or of what it calls; the list counts what is left."""
    left = [at]

    def look(_frame: FrameType, _before: str) -> None:
        if left[0] > 0:
            left[0] -= 1
            if not left[0]:
                other()

    with at_each_bytecode(look):
        yield left


def in_time(work: Callable[[], object]) -> None:
    """Fail, rather than hang, if *work* waits for itself."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it hangs"


def publish(queue: mq.Queue[Any]) -> None:
    queue.publish("new", headers={"a": "b"})


def publish_plain(queue: mq.Queue[Any]) -> None:
    queue.publish("new")


def publish_many(queue: mq.Queue[Any]) -> None:
    queue.publish_many(["new", "newer"])


def receive_and_ack(queue: mq.Queue[Any]) -> None:
    if message := queue.receive(timeout=0):
        message.ack()


def wait_in_vain(queue: mq.Queue[Any]) -> None:
    queue._store.channel("empty")
    assert mq.Queue(queue._store, queue._store.channel("empty")).receive(timeout=1e-4) is None


def look(queue: mq.Queue[Any]) -> None:
    queue.stats()
    queue.peek()


def watch_and_keep(queue: mq.Queue[Any]) -> None:
    broker = mq.Broker(queue._store)
    watch = broker.watch(lambda: None)
    assert watch.arm([queue]) == 0
    assert watch.arm([broker.queue("empty")]) == math.inf
    watch.close()
    assert not queue.join(timeout=0)
    if message := queue.receive(timeout=0):
        broker.keep(message)
        message.ack()


OUTER = (publish, publish_plain, publish_many, receive_and_ack, wait_in_vain, look, watch_and_keep)


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", [publish_plain, receive_and_ack], ids=["publish", "receive"])
def test_an_operation_begun_at_any_bytecode_of_another_one_is_refused_or_done(tmp_path, places, outer, inner):
    with open_on(QuickDisk(), tmp_path, sync="never", clock=FakeClock(), background=False) as broker:
        queue, other = broker.queue("mail"), broker.queue("other")
        other.publish_many(["old"] * 2000)
        refused: list[object] = []
        done: list[object] = []

        def nested() -> None:
            try:
                done.append(inner(other))
            except mq.UsageError as error:
                refused.append(error)

        def search() -> None:
            for at in places(123 if outer is look else 15):
                queue.publish("for receive")
                with called_at(at, nested) as left:
                    outer(queue)
                if left[0]:
                    break

        in_time(search)
        assert len(refused) > 5
        assert "inside another operation" in str(refused[0])
        assert broker._store.busy == set()
        assert not broker._store.waiters.asleep and not broker._store.waiters.armed
        count = 2000 + len(done) if inner is publish_plain else 2000 - len(done)
        assert other.stats().ready == count


def test_stats_of_the_store_begun_inside_themselves_are_refused(tmp_path):
    """They waited for themselves: the files were looked at with a lock held, and outside of an operation."""
    refused: list[mq.UsageError] = []

    class Looks(QuickDisk):
        def size(self, fd: int) -> int:
            if not refused and opened:
                with pytest.raises(mq.UsageError, match="inside another operation") as raised:
                    broker.stats()
                refused.append(raised.value)
            return super().size(fd)

    opened = False
    with open_on(Looks(), tmp_path, background=False) as broker:
        broker.queue("mail").publish("x")
        opened = True
        in_time(broker.stats)
        assert len(refused) == 1


@pytest.mark.parametrize("outer", [publish, publish_plain, publish_many, receive_and_ack, wait_in_vain])
def test_close_at_any_bytecode_of_an_operation(tmp_path, places, outer):
    """It returns normally, and then what it did holds; or it ends with Closed, and nothing was done."""
    ends: list[str] = []

    def once(at: int) -> bool:
        path, clock = tmp_path / str(at), FakeClock()
        broker = open_on(QuickDisk(), path, clock=clock, background=False)
        queue = broker.queue("mail")
        queue.publish("first")
        with called_at(at, broker.close) as left:
            try:
                outer(queue)
                ends.append("returned")
            except mq.Closed:
                ends.append("Closed")
        broker.close()
        with open_on(QuickDisk(), path, clock=clock, background=False, exclusive=True) as again:
            assert again._store.replica.verdict.value == "clean"
            totals = again.queue("mail").stats()
            published = 1 + {"publish_many": 2, "wait_in_vain": 0, "receive_and_ack": 0}.get(
                outer.__name__, 1
            )
            if ends[-1] == "returned":
                assert totals.published == published
                assert totals.acked == (outer is receive_and_ack)
            else:
                assert totals.published in (1, published)
        return not left[0]

    in_time(lambda: all(map(once, places(21))))
    assert set(ends) == {"returned", "Closed"}


def test_a_closed_broker_ends_the_loop_that_its_signal_handler_interrupts(tmp_path):
    """SIGTERM beside a working loop: what was published is there, and the log is closed in order."""
    code = """
import os, signal, sys, threading, mq
broker = mq.open(sys.argv[1])
queue = broker.queue("mail")
signal.signal(signal.SIGTERM, lambda *_: broker.close())
def stop():
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=stop, daemon=True).start()
count = 0
try:
    while True:
        queue.publish(b"x" * 100)
        count += 1
        if count == 50:
            print("ready", flush=True)
        queue.receive(timeout=0).ack()
except mq.Closed:
    print(count, flush=True)
broker.close()
print("closed", flush=True)
"""
    for n in range(3):
        path = tmp_path / str(n)
        with subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdin and worker.stdout
            assert worker.stdout.readline() == "ready\n"
            worker.stdin.write("go\n")
            worker.stdin.flush()
            try:
                count = int(worker.stdout.readline())
                assert worker.stdout.readline() == "closed\n"
                assert worker.wait(PATIENCE) == 0
            finally:
                worker.kill()
        with mq.open(path) as broker:
            assert broker._store.replica.verdict.value == "clean"
            assert broker.queue("mail").stats().published in (count, count + 1)


class Limit(Exception):
    """A time limit, out of the handler of a signal."""


@contextmanager
def handled(what: Callable[[], object]) -> Iterator[None]:
    """SIGALRM calls *what*."""

    def handle(*_: object) -> None:
        what()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in thread started by:pytest.PytestUnraisableExceptionWarning"
)
def test_an_exception_out_of_a_handler_ends_a_receive_beside_busy_threads(tmp_path):
    """P1: nothing is released that this thread does not hold, so the others go on undisturbed."""

    def limit() -> None:
        raise Limit

    broker = mq.open(tmp_path, sync="never")
    queue, other = broker.queue("q"), broker.queue("o", max_length=50, overflow="drop_oldest")
    wrong: list[BaseException] = []
    counts = [0, 0, 0]
    over = threading.Event()

    def work(index: int) -> None:
        try:
            while not over.is_set():
                other.publish_many([b"x" * 100_000] * 5)
                counts[index] += 5
        except BaseException as error:  # noqa: BLE001 it is looked at below
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(3)]
    for thread in threads:
        thread.start()
    ended = 0
    with handled(limit):
        for n in range(60):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.003 + 0.0002 * (n % 20))
                queue.receive(timeout=0.003)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Limit:
                ended += 1
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []
    assert ended > 5
    assert not broker._store.waiters.asleep
    assert other.stats().published == sum(counts)
    queue.publish("still works")
    assert queue.receive(timeout=0).body == "still works"
    broker.close()
    assert broker._store.busy == set()  # now: before, the listener may just be looking


def test_a_handler_that_publishes_is_refused_while_its_thread_waits_and_the_waiting_goes_on(tmp_path):
    told: list[BaseException] = []
    struck = threading.Event()

    def handle() -> None:
        if struck.is_set():
            return
        struck.set()
        try:
            queue.publish("from the handler")
        except mq.UsageError as error:
            told.append(error)
            threading.Thread(target=queue.publish, args=("from a thread",)).start()

    def later() -> None:
        while not broker._store.waiters.asleep:
            pass
        strike_until(struck)

    with mq.open(tmp_path) as broker, handled(handle):
        queue = broker.queue("mail")
        striking = threading.Thread(target=later)
        striking.start()
        assert queue.receive(timeout=PATIENCE).body == "from a thread"
        striking.join(PATIENCE)
    assert len(told) == 1


def strike_until(struck: threading.Event) -> None:
    """CPython looks for signals before a thread sleeps: one that comes in between wakes no thread."""
    os.kill(os.getpid(), signal.SIGALRM)
    while not struck.wait(1):
        os.kill(os.getpid(), signal.SIGALRM)


def test_close_from_a_handler_ends_a_waiting_receive_with_closed(tmp_path):
    broker = mq.open(tmp_path)
    with handled(broker.close):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(mq.Closed):
            broker.queue("mail").receive(timeout=PATIENCE)
    broker.close()
    mq.open(tmp_path, exclusive=True).close()


def test_a_waiting_receiver_that_is_interrupted_hands_on_what_it_was_woken_for(tmp_path):
    """The exception comes while another thread is inside the store: it is raised once that has left."""

    def limit() -> None:
        if not struck.is_set():
            struck.set()
            raise Limit

    struck = threading.Event()
    with mq.open(tmp_path, sync="never") as broker, handled(limit):
        queue, store = broker.queue("mail"), broker._store
        got: list[Any] = []
        inside, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with maintaining(store):
                inside.set()
                strike_until(struck)
                assert leave.wait(PATIENCE)

        def later() -> None:
            while not store.waiters.asleep:
                pass
            holding = threading.Thread(target=hold)
            holding.start()
            inside.wait(PATIENCE)
            leave.set()
            holding.join(PATIENCE)

        striking = threading.Thread(target=later)
        striking.start()
        with pytest.raises(Limit):
            queue.receive(timeout=PATIENCE)
        striking.join(PATIENCE)  # no signal comes any more
        waiting = threading.Thread(target=lambda: got.append(queue.receive(timeout=PATIENCE)))
        waiting.start()
        queue.publish("x")
        waiting.join(PATIENCE)
        assert [message.body for message in got] == ["x"]


@pytest.mark.parametrize("inside", ["clock", "profile"])
def test_user_code_that_mq_calls_inside_an_operation_may_not_begin_another_one(tmp_path: Path, inside):
    said: list[BaseException] = []

    def nested(*_: object) -> float:
        if queue is not None and not said:
            try:
                queue.publish("nested")
            except mq.UsageError as error:
                said.append(error)
        return 1_700_000_000.0

    queue = None
    clock = nested if inside == "clock" else FakeClock()
    with open_on(QuickDisk(), tmp_path, clock=clock, background=False) as broker:
        queue = broker.queue("mail")
        if inside == "profile":
            sys.setprofile(functools.partial(nested))
        try:
            queue.publish("outer")
        finally:
            sys.setprofile(None)
        bodies = [message.body for message in queue.peek(10**6)]
        assert bodies.count("outer") == 1
        assert len(said) == 1
