"""Ctrl-C anywhere, in any thread: nothing is lost, nobody waits for ever, nobody else's file is closed.

Whatever an interrupted operation left behind, the next one mends.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from faults import CHANGES, GO_ON, Faulty, Image
from interrupting import PATIENCE, Work, in_time, interrupted
from opened import contents

import mq
from mq.api.broker import Broker
from mq.delivery.now import Now
from mq.delivery.queue import QueueState
from mq.engine.store import Store
from mq.storage import commit, record, shared
from mq.storage import syncing as syncing_module
from mq.storage.commit import GroupCommit
from mq.storage.disk import Disk
from mq.storage.real_disk import RealDisk

SEGMENT_BYTES = 1024
HEAD_BYTES = record.HEADER_BYTES + record.HEAD_PAYLOAD.size
GLIMPSE = 0.03  # seconds: what would be wrong is seen by then, and what is right takes no notice


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def opened(
    disk: Disk, clock: Clock | None = None, *, path: str = "s", sync: str | float = "always",
    background: bool = False,
) -> Broker:  # fmt: skip
    return Broker(
        Store(
            path, sync=sync, read_only=False, segment_bytes=SEGMENT_BYTES, clock=clock or Clock(),
            disk=disk, background=background,
        )
    )  # fmt: skip


def everything(broker: Broker) -> list[bytes]:
    """The bodies, sorted."""
    return sorted(held.body for held in contents(broker).values())


# ── one operation, interrupted anywhere ────────────────────────────────────────────


class Shared(Image):
    """Locks count here, so that a second store on it is what another process's would be."""

    def __init__(self) -> None:
        super().__init__()
        self._locks: dict[int, tuple[bytearray, bool]] = {}

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        file = self._file(fd)
        others = [held for by, (at, held) in self._locks.items() if at is file and by != fd]
        if others and not (shared and all(others)):
            return False
        self._locks[fd] = file, shared
        return True

    def unlocker(self, fd: int) -> Callable[[], object]:
        return partial(self._locks.pop, fd, None)

    def close(self, fd: int, /) -> None:
        super().close(fd)
        self._locks.pop(fd, None)


class Scene:
    """A store with messages in every place that there is, three that are held; and somebody else."""

    def __init__(self) -> None:
        self.disk, self.clock = Shared(), Clock()
        self.broker = opened(self.disk, self.clock)
        self.queue = self.broker.queue("a", visibility_timeout=20.0)
        for number in range(8):
            self.queue.publish(b"%d" % number)
        nacked, delayed, released, *self.held = [self.queue.receive(timeout=0) for _ in range(6)]
        nacked.nack(delay=0)
        delayed.nack(delay=5)
        released.release()
        self.clock.now += 6  # and the delay is over
        self.again = self.queue.receive(timeout=0)
        self.queue.publish(bytes(500))
        self.other = opened(self.disk, self.clock)
        self.bodies = everything(self.other)

    def killed(self) -> Broker:
        """What would be opened if the process died now."""
        return opened(Image(self.disk.files()), self.clock)

    def drained(self, broker: Broker) -> list[bytes]:
        """All that the queue hands out until it is empty, once all timeouts have passed."""
        self.clock.now += 1000
        found = []
        while message := broker.queue("a").receive(timeout=0):
            found.append(message.raw)
            message.ack()
        return sorted(found)


def publish_after_a_death_in_a_sync(scene: Scene) -> None:
    """What is not synced is written again, with the turn."""
    mark = scene.other._store.turn.mark
    mark[shared.SYNCING] = mark[shared.END]
    scene.queue.publish(b"new")


Operation = Callable[[Scene], object]
OPERATIONS: dict[str, Operation] = {
    "publish": lambda s: s.queue.publish(b"new"),
    "publish into a new segment": lambda s: s.queue.publish(bytes(600)),
    "publish after a death in a sync": publish_after_a_death_in_a_sync,
    "publish to a new queue": lambda s: s.broker.queue("b").publish(b"new"),
    "publish_many": lambda s: s.queue.publish_many([b"new", b"newer"]),
    "declare": lambda s: s.broker.queue("a", visibility_timeout=3.0),
    "receive": lambda s: s.queue.receive(timeout=0),
    "receive_many": lambda s: s.queue.receive_many(3, timeout=0),
    "ack": lambda s: s.held[0].ack(),
    "ack_many": lambda s: s.queue.ack_many(s.held),
    "nack": lambda s: s.held[0].nack(delay=3),
    "release": lambda s: s.held[0].release(),
    "extend": lambda s: s.held[0].extend(50),
    "purge": lambda s: s.queue.purge(),
    "peek": lambda s: s.queue.peek(100),
    "stats": lambda s: s.broker.stats(),
    "flush": lambda s: s.broker.flush(),
    "maintenance": lambda s: s.broker._store.maintenance.run(1),
}
MAY_END = {"ack": {b"3"}, "ack_many": {b"3", b"4", b"5"}, "purge": {b"1", b"2", b"6", b"7", bytes(500)}}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interruption_anywhere_loses_nothing_and_stops_nobody(name, places):
    """P1, P2: whatever the operation left undone, the next one sees what the log says."""
    for at in places(5):
        scene = Scene()
        if not in_time(lambda scene=scene, at=at: interrupted(lambda: OPERATIONS[name](scene), at)):
            break
        in_time(lambda scene=scene: all_is_well(scene, MAY_END.get(name, set())))
    assert at > 4, "nothing was interrupted"


def all_is_well(scene: Scene, may_end: set[bytes]) -> None:
    broker = scene.broker
    scene.other.queue("a").publish(b"other")
    scene.queue.publish(b"after")
    assert contents(broker) == contents(scene.killed()) == contents(scene.other)
    scene.other.close()
    found = scene.drained(broker)
    assert {b"after", b"other"} <= set(found)
    assert set(scene.bodies) - set(found) <= may_end
    assert len(found) == len(set(found))
    broker.close()
    assert opened(scene.disk, scene.clock).queue("a").peek() == []


def test_a_close_that_was_interrupted_anywhere_loses_nothing(places):
    for at in places(5):
        scene = Scene()
        if not in_time(lambda scene=scene, at=at: interrupted(scene.broker.close, at)):
            break
        in_time(scene.broker.close)
        assert scene.drained(scene.killed()) == scene.bodies
        assert in_time(lambda scene=scene: scene.drained(scene.other)) == scene.bodies
        scene.other.close()
        assert everything(opened(scene.disk, scene.clock)) == []
    assert at > 20, "nothing was interrupted"


# ── questions to a queue ───────────────────────────────────────────────────────────


def tried(now: Now) -> QueueState:
    """Messages 1 to 5 are ready again at *now*: timed out, nacked or released.  6 was not tried."""
    queue = QueueState(1, "a")
    for id in range(1, 9):
        queue.publish(id, 1)
    for id in range(1, 9):
        if id != 6:
            queue.deliver(id, 100 + id, now.store - 5 + 50 * (id == 7), 0)
    queue.nack(2, now.wall - 1)
    queue.release(3)
    queue.nack(4, 0)
    queue.ack(8, 1)  # its deadline stays in the index
    return queue


@pytest.mark.usefixtures("no_backoff_after_timeouts")
@pytest.mark.parametrize("limit", [2, 9])
def test_a_look_at_who_is_next_that_is_interrupted_forgets_nobody(limit):
    now = Now(1_700_000_000_000, 1_700_000_000_000)
    for at in itertools.count(1):
        queue = tried(now)
        if not interrupted(lambda queue=queue, at=at: queue.heads(now, limit), at):
            break
        assert queue.head(now) == 1
        assert queue.heads(now, 9) == [1, 2, 3, 4, 5, 6]
        assert [queue.head(now) for id in range(1, 7) if queue.deliver(id, 200 + id, now.store + 9, 0)] == [
            2, 3, 4, 5, 6, None,
        ]  # fmt: skip
    assert at > 20, "nothing was interrupted"


@pytest.mark.parametrize("look", [lambda queue, now: queue.head(now), lambda queue, now: queue.heads(now, 9)])
def test_nobody_is_forgotten_whose_time_has_not_come_after_all(look):
    """The wall clock was set back, so who was ready is not any more; then he is again."""
    late, early = Now(2_000_000, 2_000_000), Now(2_000_000, 1_000_000)
    for at in itertools.count(1):
        queue = QueueState(1, "a")
        queue.publish(1, 1)
        queue.deliver(1, 100, late.store + 9, 0)
        queue.nack(1, late.wall - 1)
        assert queue.head(late) == 1
        if not interrupted(lambda queue=queue: look(queue, early), at):
            break
        assert queue.head(early) is None
        assert queue.head(late) == 1
    assert at > 3, "nothing was interrupted"


# ── those who wait for the disk ────────────────────────────────────────────────────


class Led:
    """A commit whose first sync does not end before somebody follows."""

    def __init__(self) -> None:
        self.synced = 0
        self.commit = GroupCommit(lambda: self.synced, self._sync)
        self.follower: Work | None = None

    def _sync(self) -> None:
        if self.follower is None:
            self.follower = Work(lambda: self.commit.wait(2))
            while not self.commit._followers and self.follower.is_alive():
                self.follower.join(0.001)
        self.synced += 1


def test_whoever_follows_an_interrupted_leader_goes_on(monkeypatch):
    """The follower looks again after a while, and leads if nobody does."""
    monkeypatch.setattr(commit, "LEADER_SECONDS", 0.01)
    for at in itertools.count(1):
        led = Led()
        more = interrupted(lambda led=led: led.commit.wait(1), at)
        if led.follower:
            led.follower.result()
        in_time(lambda led=led: led.commit.wait(3))
        if not more:
            break
    assert at > 5, "nothing was interrupted"


class Mending:
    """A log that is read anew while others use it: the hook of a disk.

    A publish of the thread `mender` is interrupted between log and state, and its next one mends
    that.  In the middle of it, before its call number `stands_at`, it stands still until `go_on`;
    then that call may fail.  One other thread may be held in an fdatasync.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stands_at = 3
        self._mender: threading.Thread | None = None
        self._interrupting = False
        self._fails = False
        self.held_in_sync: Callable[[], bool] = lambda: False
        self.syncing, self.sync_on = threading.Event(), threading.Event()
        self.interrupted, self.mending, self.go_on = (threading.Event() for _ in range(3))
        publish = QueueState.publish

        def interrupting(state: QueueState, id: int, size: int) -> None:
            if self._interrupting and threading.current_thread() is self._mender:
                self._interrupting = False
                self.interrupted.set()
                raise KeyboardInterrupt
            publish(state, id, size)

        monkeypatch.setattr(QueueState, "publish", interrupting)

    def hook(self, name: str, args: tuple[Any, ...]) -> Any:
        if threading.current_thread() is self._mender:
            self.stands_at -= self.interrupted.is_set()
            if self.stands_at == 0:
                self.mending.set()
                assert self.go_on.wait(PATIENCE)
                if self._fails:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
        elif name == "sync" and self.held_in_sync():
            self.held_in_sync = lambda: False
            self.syncing.set()
            assert self.sync_on.wait(PATIENCE)
        return GO_ON

    def begin(self, queue: mq.Queue[bytes], *, fails: bool = False) -> Work:
        """The mender, at work; it may fail."""

        def work() -> None:
            self._mender = threading.current_thread()
            self._interrupting, self._fails = True, fails
            with pytest.raises(KeyboardInterrupt):
                queue.publish(b"interrupted")
            if fails:
                with pytest.raises(mq.StorageError):
                    queue.publish(b"refused")
            else:
                queue.publish(b"next")

        return Work(work)

    def reach(self, mender: Work) -> None:
        """Let go of who is held in a sync, once the mender waits for that, and wait for the mender."""
        assert self.interrupted.wait(PATIENCE)
        mender.join(GLIMPSE)
        self.sync_on.set()
        while not self.mending.wait(0.01) and mender.is_alive():
            pass

    def finish(self, mender: Work, beside: threading.Thread) -> None:
        """Let the mender go on, after whoever uses the log beside it had time to do so."""
        beside.join(4 * GLIMPSE)  # whoever leads waits for company, as long as the last sync took
        self.go_on.set()
        mender.result()


@pytest.fixture
def disk() -> Faulty:
    return Faulty(RealDisk())


@pytest.fixture
def mending(monkeypatch, disk) -> Mending:
    found = Mending(monkeypatch)
    disk.hook = found.hook
    return found


def is_thread(name: str) -> Callable[[], bool]:
    return lambda: threading.current_thread().name == name


def my_thread(name: str, before: set[threading.Thread]) -> threading.Thread:
    """The one of that name that was not there *before*."""
    (found,) = [each for each in threading.enumerate() if each.name == name and each not in before]
    return found


def test_a_publish_that_waits_for_the_disk_while_the_log_is_read_anew_returns(tmp_path, disk, monkeypatch):
    """There is no moment at which the log has no file to sync."""
    for at in itertools.count(1):
        mending = Mending(monkeypatch)
        mending.stands_at, disk.hook = at, mending.hook
        broker = opened(disk, path=str(tmp_path / str(at)))
        queue = broker.queue("a")
        queue.publish(b"before")
        mending.held_in_sync = lambda: True
        leader = Work(lambda queue=queue: queue.publish(b"leader"))
        assert mending.syncing.wait(PATIENCE)
        follower = Work(lambda queue=queue: queue.publish(b"follower"))
        while queue.stats().ready < 3:
            follower.join(0.001)
        mender = mending.begin(queue)
        mending.reach(mender)
        mending.finish(mender, follower)
        leader.result()
        follower.result()
        assert everything(broker) == [b"before", b"follower", b"interrupted", b"leader", b"next"]
        broker.close()
        if not mending.mending.is_set():
            break
    assert at > 10, "it never stood still"


@pytest.mark.parametrize("fails", [False, True], ids=["mended at once", "the first mending fails"])
def test_the_background_sync_survives_a_mending(tmp_path, disk, mending, fails):
    before = set(threading.enumerate())
    broker = opened(disk, path=str(tmp_path), sync=0.001)
    queue = broker.queue("a")
    mending.held_in_sync = is_thread("mq-sync")
    queue.publish(b"before")
    assert mending.syncing.wait(PATIENCE)
    queue.publish(b"not synced")
    flusher = my_thread("mq-sync", before)
    mender = mending.begin(queue, fails=fails)
    mending.reach(mender)
    mending.finish(mender, flusher)
    flusher.join(GLIMPSE if fails else 0)
    mending.syncing.clear()
    mending.held_in_sync = is_thread("mq-sync")
    queue.publish(b"after")
    assert mending.syncing.wait(PATIENCE), "nobody syncs any more"
    broker.close()


def test_the_background_sync_goes_on_though_another_process_once_synced_for_too_long(
    tmp_path, disk, monkeypatch
):
    """It could not take its turn; that is nothing that stays."""
    monkeypatch.setattr(syncing_module, "SYNC_SECONDS", 0.0)
    refused, syncing = [], threading.Event()

    def hook(name: str, args: tuple[Any, ...]) -> Any:
        if threading.current_thread().name == "mq-sync":
            if name == "lock" and len(refused) < 2:
                refused.append(name)
                return False
            if name == "sync":
                syncing.set()
        return GO_ON

    disk.hook = hook
    broker = opened(disk, path=str(tmp_path), sync=0.001)
    broker.queue("a").publish(b"stays")
    assert syncing.wait(PATIENCE), "nobody syncs any more"
    assert len(refused) == 2
    broker.close()


def test_the_cleaner_survives_a_mending(tmp_path, disk, mending):
    before = set(threading.enumerate())
    cleaned, unlinked = threading.Event(), threading.Event()

    def hook(name: str, args: tuple[Any, ...]) -> Any:
        if name == "may_map":
            return False  # what is appended is seen here then
        if threading.current_thread().name == "mq-maintenance":
            if name == "pwrite" and len(args[1]) == HEAD_BYTES and args[1][20] == record.HEAD:
                cleaned.set()  # what lived in the oldest segment is moved, and about to be synced
            if name == "unlink":
                unlinked.set()
        return mending.hook(name, args)

    disk.hook = hook
    broker = opened(disk, path=str(tmp_path), sync="never", background=True)
    queue = broker.queue("a")

    def traffic(enough: threading.Event) -> None:
        for _ in range(10_000):
            queue.publish(bytes(300))
            queue.receive(timeout=0).ack()
            if enough.wait(0.001):
                return
        pytest.fail("nothing was cleaned")

    queue.publish(b"stays")
    queue.receive(timeout=0)
    mending.held_in_sync = lambda: threading.current_thread() is leader
    ready = threading.Event()
    leader = Work(lambda: ready.wait(PATIENCE) and broker.flush())
    ready.set()
    assert mending.syncing.wait(PATIENCE)
    traffic(cleaned)
    cleaner = my_thread("mq-maintenance", before)
    mender = mending.begin(queue)
    mending.reach(mender)
    mending.finish(mender, cleaner)
    leader.result()
    unlinked.clear()
    traffic(unlinked)
    assert cleaner.is_alive()
    broker.close()


# ── closing ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("at_work", ["sync", "sync_directory", "unlink"])
def test_an_interrupted_close_keeps_the_lock_until_the_cleaner_is_done(tmp_path, disk, at_work):
    """Else another process would recover, and write, while this one still does."""
    before = set(threading.enumerate())
    busy, go_on = threading.Event(), threading.Event()
    let_go, late = threading.Event(), []
    locks: list[int] = []

    def hook(name: str, args: tuple[Any, ...]) -> Any:
        if name == "lock":
            locks.append(args[0])
        if name == "close" and closing and args[0] in locks:
            let_go.set()
        if name == at_work and threading.current_thread().name == "mq-maintenance":
            busy.set()
            assert go_on.wait(PATIENCE)
        if let_go.is_set() and name in CHANGES:
            late.append(name)
        return GO_ON

    disk.hook = hook
    closing: list[Work] = []
    broker = opened(disk, path=str(tmp_path), sync="never", background=True)
    queue = broker.queue("a")
    queue.publish(b"stays")
    queue.receive(timeout=0)
    for _ in range(10_000):
        queue.publish(bytes(300))
        queue.receive(timeout=0).ack()
        if busy.wait(0.001):
            break
    cleaner = my_thread("mq-maintenance", before)
    worker, times = broker._store.maintenance.worker, itertools.count()
    join = worker.join

    def interrupted_join() -> None:
        if not next(times):
            raise KeyboardInterrupt
        join()

    worker.join = interrupted_join
    closing.append(Work(broker.close))
    closing[0].join(4 * GLIMPSE)
    go_on.set()
    with pytest.raises(KeyboardInterrupt):
        closing[0].result()
    cleaner.join(PATIENCE)
    assert not cleaner.is_alive()
    assert let_go.is_set()
    assert late == []
    with opened(RealDisk(), path=str(tmp_path)) as again:
        assert everything(again) == [b"stays"]


# ── descriptors ────────────────────────────────────────────────────────────────────


class Descriptors(Image):
    """Notes who closes a descriptor that is closed; interrupts once, after a chosen close."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupt_at, self.closes = 0, 0
        self.twice: list[int] = []

    def close(self, fd: int, /) -> None:
        if fd not in self._open:
            self.twice.append(fd)
        self._open.pop(fd, None)
        self.closes += 1
        if self.closes == self.interrupt_at:
            raise KeyboardInterrupt


def life(disk: Descriptors) -> None:
    """Everything that opens and closes files: each step may be interrupted."""
    clock = Clock()
    broker = queue = None
    while queue is None:
        try:
            broker = broker or opened(disk, clock)
            queue = broker.queue("a")
            queue.publish(b"stays")
        except KeyboardInterrupt:
            pass

    def garbage() -> None:
        for _ in range(8):
            queue.publish(bytes(300))
        while message := queue.receive(timeout=0):
            if message.raw != b"stays":
                message.ack()

    def interruption() -> None:
        """Between log and state, so that the next step lets go of all files and opens them again."""
        broker._store.replica.applied -= 1

    steps = [garbage, broker.stats, lambda: broker._store.maintenance.run(1), interruption, garbage,
             interruption, broker.close, broker.close]  # fmt: skip
    for step in steps:
        with suppress(KeyboardInterrupt):
            step()


def test_no_descriptor_is_closed_twice_whatever_is_interrupted():
    """Its number may be somebody else's by then."""
    for at in itertools.count(1):
        disk = Descriptors()
        disk.interrupt_at = at
        in_time(lambda disk=disk: life(disk))
        assert disk.twice == []
        if disk.closes < at:
            break
    assert at > 20, "nothing was interrupted"
    assert everything(opened(Image(disk.files()))) == [b"stays"]


def test_a_log_whose_letting_go_was_interrupted_is_let_go_of_again():
    for at in itertools.count(1):
        disk = Descriptors()
        broker = opened(disk)
        broker.queue("a").publish(b"stays")
        broker.queue("a").receive(timeout=0)
        disk.interrupt_at = disk.closes + at
        for _ in range(2):
            with suppress(KeyboardInterrupt):
                broker._store.replica.log.close()
        assert disk.twice == []
        if disk.closes < disk.interrupt_at:
            break
    assert at > 2, "nothing was interrupted"


def test_a_follower_that_a_signal_interrupts_leaves_its_leader_and_the_others_alone():
    """An exception out of a handler, wherever the follower waits: no lock is given back twice."""

    class Limit(Exception):
        pass

    def handle(*_: object) -> None:
        raise Limit

    at_the_disk, go_on = threading.Event(), threading.Event()

    def sync() -> None:
        at_the_disk.set()
        assert go_on.wait(PATIENCE)
        synced[0] = 9

    synced = [0]
    commit = GroupCommit(lambda: synced[0], sync)
    leader = Work(lambda: commit.wait(1))
    assert at_the_disk.wait(PATIENCE)
    other = Work(lambda: commit.wait(2))
    before = signal.signal(signal.SIGALRM, handle)
    try:
        for n in range(30):
            with pytest.raises(Limit):
                signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.0001 * n)
                commit.wait(3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    go_on.set()
    leader.result()
    other.result()
    in_time(lambda: commit.wait(3))
