"""A broker that was open before a fork: the child opens the store for itself when it first uses it.

What the parent has stays the parent's: its locks, its place in the log, its deliveries.
"""

from __future__ import annotations

import errno
import gc
import importlib
import linecache
import os
import pickle
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import forking
import pytest
from bytecodes import HERE
from fakes import QuickDisk, maintaining, open_on
from forking import PATIENCE, Forking, ForksInMemory, watched

import mq
from mq import forks
from mq.engine import looking
from mq.engine.channel import Channel
from mq.engine.opening import Opening
from mq.engine.store import Store
from mq.storage import locks
from mq.storage.real_disk import RealDisk

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # it is what is tested
]


class Child:
    """A fork of this process that does one thing."""

    def __init__(self, work: Callable[[], Any]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            self._work(work, writer)
        os.close(writer)
        self._answer = reader

    @staticmethod
    def _work(work: Callable[[], Any], writer: int) -> NoReturn:
        try:
            signal.alarm(PATIENCE)
            try:
                answer = True, work()
            except (mq.MqError, AssertionError) as error:
                answer = False, error
            with open(writer, "wb") as pipe:
                pickle.dump(answer, pipe)
            os._exit(0)
        finally:
            os._exit(1)  # what it raised is not for the test runner's copy

    def result(self) -> Any:
        """What it returned or, raised, what it raised."""
        with open(self._answer, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        assert status == 0, f"the child ended with {status}"
        done, came = pickle.loads(answer)
        if not done:
            raise came
        return came


def in_child(work: Callable[[], Any]) -> Any:
    return Child(work).result()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def broker(path: Path) -> Iterator[mq.Broker]:
    with mq.open(path) as broker:
        yield broker


@pytest.fixture
def mail(broker: mq.Broker) -> mq.Queue[Any]:
    mail = broker.queue("mail", visibility_timeout=1000.0)
    mail.publish("before")
    return mail


def ready(queue: mq.Queue[Any]) -> list[object]:
    return [message.body for message in queue.peek(100)]


# ── both go on ─────────────────────────────────────────────────────────────────────

FIRST_USES: dict[str, Callable[[mq.Broker, mq.Queue[Any]], object]] = {
    "publish": lambda broker, mail: mail.publish("child's"),
    "publish_many": lambda broker, mail: mail.publish_many(["child's"]),
    "publish to a new queue": lambda broker, mail: broker.queue("new").publish("child's"),
    "declare": lambda broker, mail: broker.queue("new", visibility_timeout=5).options(),
    "receive": lambda broker, mail: mail.receive().body,
    "receive_many": lambda broker, mail: [each.body for each in mail.receive_many(5)],
    "peek": lambda broker, mail: ready(mail),
    "get": lambda broker, mail: mail.get(4711),
    "stats": lambda broker, mail: mail.stats()[:3],
    "options": lambda broker, mail: mail.options()["visibility_timeout"],
    "purge": lambda broker, mail: mail.purge(),
    "queues": lambda broker, mail: broker.queues(),
    "broker's stats": lambda broker, mail: broker.stats().queues["mail"].published,
    "flush": lambda broker, mail: broker.flush(),
}


@pytest.mark.parametrize("use", FIRST_USES.values(), ids=FIRST_USES)
def test_whatever_the_child_does_first_works_and_the_parent_goes_on(broker, mail, use):
    """P12."""

    def work() -> tuple[object, int]:
        came = use(broker, mail)
        return came, mail.publish("and more from the child")

    came, id = in_child(work)
    expected = {
        "receive": "before", "receive_many": ["before"], "peek": ["before"], "stats": (1, 0, 0),
        "options": 1000.0, "purge": 1, "queues": ["mail"], "broker's stats": 1,
    }  # fmt: skip
    for name, value in expected.items():
        if FIRST_USES[name] is use:
            assert came == value
    assert mail.get(id).body == "and more from the child"
    assert mail.publish("parent's") > id
    assert mail.receive(timeout=0) is not None


def test_both_publish_at_once_and_no_message_is_lost_or_doubled(broker, mail):
    """P1, P3, P12."""
    children = [Child(lambda n=n: [mail.publish([n, m]) for m in range(50)]) for n in range(3)]
    ids = [mail.publish(["parent", m]) for m in range(50)]
    for child in children:
        ids += child.result()
    assert len(set(ids)) == 200
    assert sorted(ids) == [message.id for message in mail.peek(1000)][1:]


def test_a_grandchild_too(broker, mail):
    def generation(left: int) -> list[object]:
        if left:
            in_child(lambda: generation(left - 1))
        mail.publish(left)
        return ready(mail)

    assert in_child(lambda: generation(2)) == ["before", 0, 1, 2]
    assert in_child(lambda: in_child(lambda: ready(mail))) == ["before", 0, 1, 2]  # the first did not use it


@pytest.mark.parametrize("use", [each for name, each in FIRST_USES.items() if name != "broker's stats"])
def test_a_handle_in_the_child_follows_a_rename_by_the_parent(broker, mail, use):
    reader, writer = os.pipe()

    def work() -> str:
        os.read(reader, 1)
        use(broker, mail)
        mail.publish("child's")
        return mail.name

    child = Child(work)
    mail.rename("letters")
    letters = broker.queue("letters")
    os.write(writer, b"x")
    assert child.result() == "letters"
    assert "mail" not in broker.queues()
    assert ready(letters)[-1:] == ["child's"]
    os.close(reader)
    os.close(writer)


def test_a_handle_in_the_child_means_the_new_queue_of_a_deleted_one(broker, mail):
    reader, writer = os.pipe()

    def work() -> list[object]:
        os.read(reader, 1)
        return ready(mail)

    child = Child(work)
    mail.delete()
    mail.publish("new")
    os.write(writer, b"x")
    assert child.result() == ["new"]
    os.close(reader)
    os.close(writer)


def test_a_queue_that_is_first_named_in_the_child(broker, mail):
    def work() -> object:
        other = broker.queue("other")
        other.publish("x")
        return ready(broker.queue("mail")), ready(other)

    assert in_child(work) == (["before"], ["x"])
    assert ready(broker.queue("other")) == ["x"]


def test_the_background_sync_goes_on_in_the_child(path):
    with mq.open(path, sync=0.001) as broker:
        queue = broker.queue("mail")
        queue.publish("before")

        def work() -> bool:
            queue.publish("child's")
            log = broker._store.replica.log
            end = log.end
            while log.synced < end:
                assert broker._store._flusher.runs()
            return True

        assert in_child(work)


def test_reading_goes_on_in_the_child(path, broker, mail):
    with mq.open(path, read_only=True) as reader:
        seen = reader.queue("mail")
        assert ready(seen) == ["before"]
        mail.publish("after")
        assert in_child(lambda: ready(seen)) == ["before", "after"]
        with pytest.raises(mq.Unsupported):
            in_child(lambda: seen.publish("x"))


def test_children_wait_for_each_other(mail):
    """Each of two processes is woken by the other; nobody would wake them otherwise."""
    mail.receive(timeout=0).ack()

    def answer() -> object:
        with mail.receive(timeout=PATIENCE) as message:
            return mail.publish(message.body + " and there")

    child = Child(answer)
    mail.publish("here")
    id = child.result()
    assert mail.get(id).body == "here and there"


# ── what is the parent's stays so ──────────────────────────────────────────────────


def test_the_child_lets_go_of_nothing_that_the_parent_holds(path, broker, mail):
    """Neither by leaving, nor by closing."""
    in_child(lambda: None)
    in_child(broker.close)
    with pytest.raises(mq.StoreLocked):  # the parent is there
        mq.open(path, exclusive=True)
    mail.publish("after")
    assert ready(mail) == ["before", "after"]


def test_a_child_that_has_used_it_and_closed_it_has_closed_it_for_itself(broker, mail):
    def work() -> None:
        mail.publish("child's")
        broker.close()
        mail.publish("too late")

    with pytest.raises(mq.Closed, match="the broker is closed"):
        in_child(work)
    assert ready(mail) == ["before", "child's"]


def test_what_was_closed_before_the_fork_is_closed_in_the_child(broker, mail):
    broker.close()
    with pytest.raises(mq.Closed, match="the broker is closed"):
        in_child(lambda: mail.publish("x"))
    in_child(broker.close)


def test_a_child_that_lives_on_and_does_not_use_it_keeps_nothing(path):
    broker = mq.open(path)
    broker.queue("mail").publish("one")
    reader, writer = os.pipe()

    def until_told() -> None:
        os.close(writer)
        os.read(reader, 1)

    child = Child(until_told)
    try:
        broker.close()
        with mq.open(path, exclusive=True) as again:
            assert again.queue("mail").stats().ready == 1
    finally:
        os.close(writer)
        os.close(reader)
    child.result()


class Forked(RealDisk):
    """Somebody else has every file open too: a child that has not come to closing them yet."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[int] = []

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        fd = super().open(path, write=write, create=create)
        self.copies.append(os.dup(fd))
        return fd


def test_a_lock_that_was_let_go_of_is_not_the_childs_either(path):
    """A lock belongs to what was opened, and lasts as long as anybody has a descriptor of that."""
    disk = Forked()
    try:
        with open_on(disk, path, background=False) as broker, mq.open(path) as other:
            broker.queue("mail").publish("x")
            broker._store.maintenance.run(1)
            with other._store.alone_cleaning() as ours:
                assert ours
            assert locks.look(disk, str(path), broker._store.replica.identity.key).held
            other.queue("mail").publish("y")
            other.close()
            assert broker._store.closing.is_alone()
        assert not locks.look(disk, str(path), broker._store.replica.identity.key).held
        with mq.open(path, exclusive=True) as again:
            assert again.queue("mail").stats().ready == 2
    finally:
        for fd in disk.copies:
            os.close(fd)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count descriptors in")
def test_the_child_has_no_descriptor_of_the_parents(path, mail):
    """P11: neither before it opens the store for itself, nor after it has closed it."""
    for n in range(20):
        mail.publish(n)
    mail.receive_many(30, timeout=0)
    while not mail._store.listener.bit:  # the bell is made, once the wait begins before the timeout is over
        assert mail.receive(timeout=0.01) is None

    def work() -> list[list[str]]:
        before = opened(path)
        mail.publish("child's")
        between = opened(path)
        mail._store.close()
        return [before, between, opened(path)]

    maps = [] if sys.version_info >= (3, 13) else ["mark"]  # before, mmap kept a descriptor of its own
    assert in_child(work) == [
        [],  # nor is the parent's page mapped
        [".", "FORMAT", "LOCK", "log/00000000000000000000.seg", "mark", *maps, "wake/0"],  # which it rang
        [],
    ]
    assert len(opened(path)) > 4


def opened(path: Path) -> list[str]:
    """The files of the store that this process has open."""
    gc.collect()
    descriptors = Path("/proc/self/fd")
    names = [os.readlink(each) for each in descriptors.iterdir() if os.path.lexists(each)]
    return sorted(os.path.relpath(name, path) for name in names if name.startswith(str(path)))


def test_a_fork_beside_a_thread_that_opens_leaves_no_lock_with_the_child(path, monkeypatch):
    """The child cannot use that store, and does not know of it."""
    begin, inside, go_on = Opening._recover_if_alone, threading.Event(), threading.Event()

    def held(self: Opening) -> bool:
        inside.set()
        assert go_on.wait(PATIENCE)
        return begin(self)

    monkeypatch.setattr(Opening, "_recover_if_alone", held)
    opening = threading.Thread(target=lambda: mq.open(path).close())
    opening.start()
    assert inside.wait(PATIENCE)
    names = in_child(lambda: opened(path))
    go_on.set()
    opening.join(PATIENCE)
    assert names == []


# ── deliveries ─────────────────────────────────────────────────────────────────────


def leave_well(message: mq.Delivery[Any]) -> None:
    with message:
        pass


def leave_badly(message: mq.Delivery[Any]) -> None:
    with pytest.raises(ZeroDivisionError), message:
        raise ZeroDivisionError


def leave_interrupted(message: mq.Delivery[Any]) -> None:
    with pytest.raises(KeyboardInterrupt), message:
        raise KeyboardInterrupt


@pytest.mark.parametrize("leave", [leave_well, leave_badly, leave_interrupted])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_leaving_the_block_in_the_child_settles_nothing(mail, leave, used):
    """The work is the parent's: the fork was made inside."""
    message = mail.receive()

    def work() -> tuple[int, ...]:
        if used:
            mail.publish("child's")
        leave(message)
        return mail.stats()[:3]

    assert in_child(work) == (int(used), 1, 0)
    leave_well(message)
    assert mail.stats().acked == 1


def test_a_fork_inside_the_block(mail):
    with mail.receive() as message:
        child = Child(lambda: message.body)
    assert child.result() == "before"
    assert mail.stats()[:3] == (0, 0, 0)


def test_what_the_child_received_itself_it_settles_as_anybody(mail):
    def work() -> None:
        with mail.receive():
            pass

    in_child(work)
    assert (mail.stats().acked, mail.stats().in_flight) == (1, 0)


SETTLE: dict[str, Callable[[mq.Queue[Any], mq.Delivery[Any]], object]] = {
    "ack": lambda mail, message: message.ack(),
    "nack": lambda mail, message: message.nack(delay=0),
    "release": lambda mail, message: message.release(),
    "ack_many": lambda mail, message: mail.ack_many([message]),
    "ack_many, by receipt": lambda mail, message: mail.ack_many([message.receipt]),
    "nack, and receive again": lambda mail, message: (message.nack(delay=0), mail.receive(timeout=0))[0],
}


@pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE)
def test_after_a_fork_the_first_to_settle_wins(mail, settle):
    message = mail.receive()
    in_child(lambda: settle(mail, message))
    with pytest.raises(mq.StaleReceipt) as stale:
        message.ack()
    assert stale.value.ids == (message.id,)


@pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE)
def test_after_a_fork_the_parent_may_be_the_first(mail, settle):
    message = mail.receive()
    reader, writer = os.pipe()

    def work() -> None:
        os.close(writer)
        os.read(reader, 1)
        settle(mail, message)

    child = Child(work)
    message.ack()
    os.close(writer)
    os.close(reader)
    with pytest.raises(mq.StaleReceipt):
        child.result()
    assert mail.stats().acked == 1


def test_extending_in_the_child_extends_by_the_queues_timeout(mail):
    message = mail.receive(visibility_timeout=5.0)
    due = message.due_at
    in_child(message.extend)
    (seen,) = mail.peek(state="in_flight")
    assert (seen.due_at - due).total_seconds() > 900


def test_a_receipt_is_the_same_text_in_the_child(mail):
    message = mail.receive()
    assert in_child(lambda: message.receipt) == message.receipt


# ── a fork in the midst of it ──────────────────────────────────────────────────────


class Holder(threading.Thread):
    """Has the mutex and the store's lock until it is told to let go."""

    def __init__(self, broker: mq.Broker) -> None:
        super().__init__(daemon=True)
        self._store, self._inside, self._let_go = broker._store, threading.Event(), threading.Event()
        self.start()
        assert self._inside.wait(PATIENCE)

    def run(self) -> None:
        with maintaining(self._store):
            self._inside.set()
            assert self._let_go.wait(PATIENCE)

    def let_go(self) -> None:
        self._let_go.set()
        self.join(PATIENCE)


def test_a_fork_while_another_thread_has_mutex_and_lock_hangs_nobody(broker, mail):
    holder = Holder(broker)
    child = Child(lambda: mail.publish("in the child"))
    holder.let_go()
    id = child.result()
    assert [message.id for message in mail.peek()][1:] == [id]


def test_the_parent_is_killed_while_another_of_its_threads_has_the_lock_and_the_child_goes_on(path):
    """PROTOCOL, interleaving 14: what the child inherited does not hold the lock for the dead."""
    reader, writer = os.pipe()

    def parent() -> None:
        broker = mq.open(path)
        mail = broker.queue("mail")
        mail.publish_many(["one", "two"])
        message = mail.receive()
        Holder(broker)
        gone_reader, gone_writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(PATIENCE)
                os.close(gone_writer)
                os.read(gone_reader, 1)  # until the parent is dead
                with message:
                    mail.publish("the parent is dead")
                with mail.receive(timeout=0) as second:
                    os.write(writer, second.body.encode())
                os._exit(0)
            finally:
                os._exit(1)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            parent()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"two"  # and the end: the child has gone too
    with mq.open(path) as broker:
        mail = broker.queue("mail")
        assert ready(mail) == ["the parent is dead"]
        assert (mail.stats().acked, mail.stats().in_flight) == (1, 1)  # the block settled nothing


def test_a_fork_while_another_thread_syncs_hangs_nobody(path, monkeypatch):
    """The child's first publish waits for the disk itself."""
    with mq.open(path) as broker:
        mail = broker.queue("mail")
        mail.publish("before")
        inside, go_on = threading.Event(), threading.Event()
        plain, parent = RealDisk.sync, os.getpid()

        def sync(disk: RealDisk, fd: int) -> None:
            if os.getpid() == parent:
                inside.set()
                assert go_on.wait(PATIENCE)
            plain(disk, fd)

        monkeypatch.setattr(RealDisk, "sync", sync)
        publisher = threading.Thread(target=mail.publish, args=("in the midst",))
        publisher.start()
        assert inside.wait(PATIENCE)
        child = Child(lambda: mail.publish("in the child"))
        go_on.set()
        child.result()
        publisher.join(PATIENCE)
        assert ready(mail) == ["before", "in the midst", "in the child"]


# ── in the handler of a signal, inside an operation ────────────────────────────────


class ForksInside(Forking):
    """Each call of the system may be the one."""


for _name in (
    "lock", "open", "exists", "unlink", "rename", "allocate", "pwrite", "size", "sync", "sync_directory"
):  # fmt: skip
    setattr(ForksInside, _name, watched(_name))


OPERATIONS: dict[str, Callable[[mq.Queue[Any]], object]] = {
    "publish": lambda mail: mail.publish("inside"),
    "publish in a new segment": lambda mail: mail.publish("inside" + "." * 1000),
    "publish_many": lambda mail: mail.publish_many(["inside", "inside too"]),
    "receive": lambda mail: mail.receive().body,
    "stats of the store": lambda mail: mq.Broker(mail._store).stats().disk_bytes,
}


INSIDE = [
    *(pytest.param(each, ForksInside, "always", id=name) for name, each in OPERATIONS.items()),
    *(pytest.param(OPERATIONS[name], ForksInMemory, "never", id=f"{name}, mapped") for name in (
        "publish", "publish in a new segment", "publish_many", "receive")),
]  # fmt: skip


@pytest.mark.parametrize("operation, kind, sync", INSIDE)
def test_a_child_that_goes_on_inside_an_operation_changes_nothing_of_the_parents(
    tmp_path, operation, kind, sync
):
    """It wrote the end of the log as it was, so that what the parent had stored since was written over."""
    parent, forks = os.getpid(), 0
    for point in range(1, 100):
        path, disk = tmp_path / str(point), kind()
        broker = open_on(disk, path, sync=sync, segment_bytes=1024, background=False)
        mail = broker.queue("mail")
        mail.publish("before")
        disk.left = point
        try:
            operation(mail)
        except mq.StorageError:
            assert os.getpid() != parent
        except BaseException:
            if os.getpid() != parent:
                os._exit(2)
            raise
        if os.getpid() != parent:
            try:
                broker.queue("children").publish("and goes on")
                broker.close()
                os._exit(0)
            finally:
                os._exit(1)
        disk.left = -1
        if not disk.child:
            broker.close()
            break
        forks += 1
        theirs = [f"{number} of the parent" + "." * 300 for number in range(5)]
        for body in theirs:
            mail.publish(body)
        assert disk.let_go() == 0, f"at call {point}"
        mail.publish("the last")
        broker.close()
        with mq.open(path) as again:
            assert again._store.replica.verdict.name == "CLEAN"
            mail = again.queue("mail")
            # If the child had begun nothing when it came to be, it did the same as the parent.
            bodies = sorted(
                each.body for state in ("ready", "in_flight") for each in mail.peek(99, state=state)
            )
            assert [body for body in bodies if "of the parent" in body] == theirs
            assert {"before", "the last"} <= set(bodies)
            assert again.queue("children").stats().ready == 1
    assert forks > 2


def test_a_child_makes_no_copy_that_its_parent_gave_up():
    """By the time that it would, another record stands there."""
    assert forking.explore() == ""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="no /proc to see what is mapped")
def test_the_child_has_no_file_of_the_parents_mapped(path):
    with open_on(ForksInMemory(), path, sync="never") as broker:
        mail = broker.queue("mail")
        mail.publish("before")

        def mapped() -> bool:
            return f"{path}/log/" in Path("/proc/self/maps").read_text()

        def work() -> tuple[bool, list[str]]:
            return mapped(), opened(path)

        assert mapped()
        assert in_child(work) == (False, [])
        assert mapped()
        mail.publish("after")
        assert in_child(lambda: mail.publish("child's"))
        assert ready(mail) == ["before", "after", "child's"]


def forked_while(work: Callable[[], object], function: str, then: Callable[[], object]) -> int:
    """Fork in a signal's handler while *work* is in mq's *function*; how the child ended, which does *then*.

    In mq's: the start of a thread, here, waits in a function `wait` too.
    """
    parent, main = os.getpid(), threading.get_ident()
    children: list[int] = []
    done = threading.Event()

    def fork(number: int, frame: Any) -> None:
        code = frame.f_code
        if not children and code.co_name == function and code.co_filename.startswith(HERE):
            children.append(os.fork())
            if children == [0]:
                signal.alarm(PATIENCE)
            else:
                done.set()

    def send() -> None:
        while not done.wait(0.002):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, fork)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        try:
            work()
        except mq.MqError:
            assert os.getpid() != parent
        if os.getpid() != parent:
            then()
            os._exit(0)
    finally:
        if os.getpid() != parent:
            os._exit(1)
        done.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    return os.waitpid(children[0], 0)[1]


def test_a_child_that_waits_for_the_mutex_of_a_thread_that_is_not_there_goes_on(broker, mail, monkeypatch):
    monkeypatch.setattr(forks, "FORK_SECONDS", 0.01)  # it does not let go of it
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with broker._store.turn.mutex:
            held.set()
            assert forked.wait(PATIENCE)

    os.register_at_fork(after_in_parent=forked.set)
    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)
    assert forked_while(lambda: mail.publish("both"), "publish", lambda: mail.publish("child's")) == 0
    holder.join()
    assert ready(mail).count("child's") == 1


WAITING: dict[str, tuple[Callable[[Store], Any], Callable[[mq.Broker], object], str]] = {
    "log.using": (lambda store: store.replica.log.using, lambda broker: broker.flush(), "sync_now"),
    "commit.gate": (
        lambda store: store.replica.log.syncing.commit.gate, lambda broker: broker.flush(), "wait"
    ),
    "maintenance.working": (lambda store: store.maintenance.working, lambda broker: broker.close(), "_run"),
    "reader.files": (
        lambda store: store.replica.log.reader.files,
        lambda broker: looking.files(broker._store),
        "disk_bytes",
    ),
    "reader.files, in a turn": (
        lambda store: store.replica.log.reader.files, lambda broker: broker.stats(), "bytes_at"
    ),
}  # fmt: skip


@pytest.mark.parametrize("lock_of, work, function", WAITING.values(), ids=WAITING)
def test_a_child_that_waits_for_any_other_lock_of_a_thread_that_is_not_there_goes_on(
    path, monkeypatch, lock_of, work, function
):
    monkeypatch.setattr(forks, "FORK_SECONDS", 0.01)  # it does not let go of it
    held, forked = threading.Event(), threading.Event()
    with mq.open(path, sync="never") as broker:
        mail = broker.queue("mail")
        mail.publish("before")

        def hold() -> None:
            with lock_of(broker._store):
                held.set()
                assert forked.wait(PATIENCE)

        os.register_at_fork(after_in_parent=forked.set)
        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(PATIENCE)

        def then() -> None:
            broker.close()
            with mq.open(path) as again:
                again.queue("mail").publish("child's")

        assert forked_while(lambda: work(broker), function, then) == 0
        holder.join()
    with mq.open(path) as again:
        assert ready(again.queue("mail")) == ["before", "child's"]


def test_a_fork_inside_a_fork_gives_back_all_locks(broker, mail):
    """Another handler comes, and forks too, while the locks are taken for the first one."""
    store, taken, inner = broker._store, forks.Taken(), []
    store.scheduler.worker.let_begin(PATIENCE)  # to join it returns at once before that
    store.scheduler.stop()  # its thread has its own lock for as long as it lives
    store.scheduler.worker.join()

    class Nesting:
        def __init__(self) -> None:
            self.busy = {threading.get_ident()}

        def locks(self) -> list[tuple[Any, float]]:
            if not inner:
                inner.append(True)
                taken.take([self])
                taken.let_go()
            return store._child.locks()

        def let_threads_begin(self, seconds: float) -> None:
            pass

    taken.take([Nesting()])
    assert all(lock._is_owned() for lock, _ in store._child.locks())
    taken.let_go()
    assert not any(forks.is_held(lock) for lock, _ in store._child.locks())


def test_a_child_that_waits_for_a_thread_to_begin_goes_on(broker, mail, monkeypatch):
    """Thread.start returns when the thread says that it runs, and it is not in the child."""
    worker, waiting = broker._store.maintenance.worker, threading.Event()
    begin, wait = threading.Thread._bootstrap_inner, threading.Event.wait

    def slowly(thread: threading.Thread) -> None:
        if thread.name == worker.name:
            assert waiting.wait(PATIENCE)
        begin(thread)

    def tell(event: threading.Event, timeout: float | None = None) -> bool:
        if sys._getframe(2).f_code.co_filename.startswith(HERE):
            signal.signal(signal.SIGALRM, lambda *_: children.append(fork()))
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        return wait(event, timeout)

    def fork() -> int:
        threading.Timer(0.05, waiting.set).start()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
        return child

    children: list[int] = []
    parent = os.getpid()
    monkeypatch.setattr(threading.Thread, "_bootstrap_inner", slowly)
    monkeypatch.setattr(threading.Event, "wait", tell)
    broker._store.busy.add(threading.get_ident())
    try:
        worker.start()
        monkeypatch.undo()
        broker._store.busy.discard(threading.get_ident())
        if os.getpid() != parent:
            mail.publish("child's")
            os._exit(0)
    finally:
        if os.getpid() != parent:
            os._exit(1)
    assert os.waitpid(children[0], 0)[1] == 0
    assert ready(mail) == ["before", "child's"]


def test_a_child_that_waits_for_a_mutex_that_changes_hands_goes_on(broker, mail):
    """A thread of the parent had it already, and was not noted as its owner yet."""
    mutex, held, done = broker._store.turn.mutex, threading.Event(), threading.Event()
    interval, over = sys.getswitchinterval(), []

    def hold() -> None:
        mutex.acquire()
        held.set()
        assert done.wait(PATIENCE)  # else another thread might have its number, and with it the mutex

    def hand_over() -> None:
        """No other thread runs meanwhile: the one that waits gets the lock, and can not say so."""
        if not over:
            over.append(True)
            sys.setswitchinterval(6)
            mutex._release_save()
            give_up = time.monotonic() + 1  # some interpreters hand over a lock only to a thread that runs
            while time.monotonic() < give_up and mutex.acquire(blocking=False):
                mutex._release_save()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)
    other = threading.Thread(target=mail.publish, args=("other's",))
    other.start()
    while not is_waiting(other, broker._store):
        pass
    os.register_at_fork(before=hand_over)
    try:
        assert forked_while(lambda: mail.publish("both"), "publish", lambda: mail.publish("child's")) == 0
    finally:
        over.append(True)
        sys.setswitchinterval(interval)
        done.set()
    other.join(PATIENCE)
    assert sorted(ready(mail)) == ["before", "both", "both", "child's", "other's"]


def is_waiting(thread: threading.Thread, store: Store) -> bool:
    """Whether it waits for the mutex: at the line that takes it, and cannot run, for this one does."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and "turn.mutex" in linecache.getline(frame.f_code.co_filename, frame.f_lineno)


def test_a_child_that_follows_a_leader_that_is_not_there_is_told(path):
    """Its message is in the log, and the parent has it synced."""
    syncing, forked = threading.Event(), threading.Event()
    parent = os.getpid()

    class Syncs(QuickDisk):
        def sync(self, fd: int) -> None:
            if os.getpid() == parent and threading.current_thread() is not threading.main_thread():
                syncing.set()
                assert forked.wait(PATIENCE)
            super().sync(fd)

    os.register_at_fork(after_in_parent=forked.set)
    with open_on(Syncs(), path, sync="always") as broker:
        mail = broker.queue("mail")
        mail.publish("before")
        leader = threading.Thread(target=mail.publish, args=("leader's",))
        leader.start()
        assert syncing.wait(PATIENCE)
        assert forked_while(lambda: mail.publish("follows"), "wait", lambda: mail.publish("child's")) == 0
        leader.join()
        assert sorted(ready(mail)) == ["before", "child's", "follows", "leader's"]


def test_no_lock_of_the_standard_library_is_kept_from_the_child():
    """In Python 3.11 a cached_property has one for all objects: a thread of the parent may hold it."""
    for module in pkgutil.walk_packages(mq.__path__, "mq."):
        if module.name.endswith("__main__"):
            continue
        try:
            found = importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name == "matplotlib"  # the only extra that tests do without
            continue
        for home in vars(found).values():
            if isinstance(home, type):
                assert not [name for name, it in vars(home).items() if isinstance(it, cached_property)]


# ── a store that cannot be taken leave of ──────────────────────────────────────────


class ClosesBadly(RealDisk):
    """In a child of this process, the first descriptor that is closed was closed already."""

    def __init__(self) -> None:
        super().__init__()
        self.parent, self.closed = os.getpid(), 0

    def close(self, fd: int) -> None:  # type: ignore[override]
        os.close(fd)
        if os.getpid() != self.parent:
            self.closed += 1
            if self.closed == 1:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@pytest.mark.parametrize("bad", range(3))
def test_a_store_that_fails_in_the_hook_leaves_the_others_usable_and_says_so_itself(tmp_path, bad):
    """P12.  It keeps none of the parent's locks either."""
    brokers = [
        open_on(ClosesBadly() if number == bad else RealDisk(), tmp_path / str(number)) for number in range(3)
    ]
    queues = [broker.queue("mail") for broker in brokers]
    message = None
    for queue in queues:
        queue.publish("parent's")
        message = queue.receive()

    def work() -> list[object]:
        names = opened(tmp_path)
        for number, queue in enumerate(queues):
            if number == bad:
                for _ in range(2):
                    with pytest.raises(mq.StorageError, match=r"a fork.*Bad file.*open the store again here"):
                        queue.publish("child's")
                with pytest.raises(mq.StorageError):
                    queue.receive(timeout=1)
                brokers[number].close()
                with pytest.raises(mq.Closed):
                    queue.publish("child's")
                with open_on(RealDisk(), tmp_path / str(number)) as again:
                    again.queue("mail").publish("child's")
            else:
                queue.publish("child's")
        leave_well(message)  # nothing: it is the parent's
        return names

    held = in_child(work)
    assert [name for name in held if not name.endswith("mark")] == []
    for broker, queue in zip(brokers, queues, strict=True):
        assert ready(queue) == ["child's"]
        assert queue.stats().in_flight == 1
        broker.close()


@pytest.mark.parametrize("home, name", [(Channel, "after_fork"), (Store, "maintenance_type")])
def test_no_memory_in_the_hook_costs_one_store_in_the_child_and_no_lock(path, home, name, monkeypatch):
    with mq.open(path) as broker, mq.open(path.with_name("other")) as other:
        mail, letters = broker.queue("mail"), other.queue("letters")
        parent, plain = os.getpid(), getattr(home, name)

        def no_memory(first: Any, *args: Any, **options: Any) -> object:
            its = (broker._store, broker._store.waiters)
            if os.getpid() != parent and (first in its or getattr(first, "_hub", None) in its):
                raise MemoryError
            return plain(first, *args, **options)

        monkeypatch.setattr(home, name, staticmethod(no_memory) if isinstance(plain, type) else no_memory)

        def work() -> list[str]:
            with pytest.raises(mq.StorageError) as refused:
                mail.publish("child's")
            letters.publish("child's")
            return [type(refused.value.__cause__).__name__, *opened(path)]

        error, *names = in_child(work)
        assert error == "MemoryError"
        assert [each for each in names if each != "mark"] == []
        mail.publish("parent's")
        assert ready(letters) == ["child's"]


# ── what cannot be shared ──────────────────────────────────────────────────────────


def test_the_child_of_who_has_a_store_alone_is_told_so(path):
    with mq.open(path, exclusive=True) as broker:
        mail = broker.queue("mail")
        mail.publish("before")
        message = mail.receive()
        uses = [lambda: mail.publish("x"), lambda: mail.receive(timeout=0), message.ack, broker.flush]
        for use in uses:
            with pytest.raises(mq.Closed, match=r"exclusively before a fork.*open it again"):
                in_child(use)
        in_child(lambda: leave_well(message))
        in_child(broker.close)
        with pytest.raises(mq.StoreLocked) as refused:
            in_child(lambda: mq.open(path))
        assert refused.value.pid == os.getpid()
        mail.publish("after")
        message.ack()
        assert ready(mail) == ["after"]
    assert in_child(lambda: ready(mq.open(path).queue("mail"))) == ["after"]


def test_memory_is_the_parents_alone():
    with mq.open(":memory:") as broker:
        mail = broker.queue("mail")
        mail.publish("before")
        message = mail.receive()
        for use in (lambda: mail.publish("x"), lambda: mail.receive(), message.ack, mail.stats):
            with pytest.raises(mq.Closed, match="private to the process that opened it"):
                in_child(use)
        in_child(lambda: leave_well(message))
        in_child(broker.close)
        assert in_child(lambda: mq.open(":memory:").queues()) == []
        message.ack()
        mail.publish("after")
        assert ready(mail) == ["after"]
