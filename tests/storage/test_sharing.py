"""Two stores on one disk, as two processes have them: what one does when the other is in the midst of it.

Each is led through one interleaving, step by step; nothing runs beside.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import maintaining
from faults import EIO, GO_ON, Faulty, Image, failing
from logfiles import IDENTITY
from opened import NOW, SEGMENT_BYTES, bodies, open_on

import mq
from mq.api.broker import Broker
from mq.engine.replica import READS_MAX, Replica
from mq.engine.turn import VOID
from mq.storage import disk as disk_module
from mq.storage import locks, record, shared, syncing
from mq.storage.log import Log
from mq.storage.walk import walk

KIND, MS = 17, 1_700_000_000_000


class Shared(Image):
    """A memory disk whose files have locks."""

    def __init__(self, files: Any = None) -> None:
        super().__init__(files)
        self._locks: dict[int, bool] = {}  # by descriptor: whether it is a shared one

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        file = self._file(fd)
        others = [each for at, each in self._locks.items() if at != fd and self._open[at] is file]
        if others and not (shared and all(others)):
            self._locks.pop(fd, None)
            return False
        self._locks[fd] = shared
        return True

    def unlocker(self, fd: int) -> Any:
        return lambda: self._locks.pop(fd, None)

    def close(self, fd: int, /) -> None:
        super().close(fd)
        self._locks.pop(fd, None)

    def pause(self, seconds: float) -> None:
        pass

    def open_count(self) -> int:
        return len(self._open)


def two(disk: Shared, sync: str = "never", segment_bytes: int = SEGMENT_BYTES) -> tuple[Broker, Broker]:
    """Both know of the queue, and have what the other wrote."""
    one, other = (open_on(disk, sync=sync, segment_bytes=segment_bytes) for _ in range(2))
    one.queue("a").publish(b"first")
    assert bodies(other) == [b"first"]
    return one, other


def claimed_and_there(disk: Shared) -> None:
    """Whatever the page claims as synced is on the disk."""
    words = shared.read_mark(disk, "s/mark", disk.files()["s/mark"][:8])
    written, synced = disk.files(), disk.synced_files()
    for path, data in written.items():
        if "/log/" in path:
            base = int(path[-24:-4])
            upto = max(0, words[shared.SYNCED] - base + 72)
            assert synced[path][:upto] == data[:upto], path


def with_garbage(broker: Broker) -> None:
    queue = broker.queue("a")
    for _ in range(8):
        queue.publish(bytes(300))
    for message in queue.receive_many(9):
        message.ack()


class FullAsExt4(Shared):
    """Once it is full, what is to be reserved makes the file longer before it fails, as on ext4."""

    full = False

    def __init__(self) -> None:
        super().__init__()
        self._preallocates = True
        self.meanwhile: Callable[[], object] = lambda: None

    def allocate(self, fd: int, offset: int, size: int) -> None:
        if not self.full or self._file(fd) is self._files["s/reserve"]:
            return super().allocate(fd, offset, size)
        super().allocate(fd, offset, size // 2)
        self.meanwhile()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:
        if self.full and offset + len(data) > self.size(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pwrite(fd, data, offset)


def test_room_that_another_process_could_not_reserve_is_not_believed():
    """One that follows without LOCK sees the file longer than it is in a moment."""
    disk = FullAsExt4()
    one, other = two(disk, segment_bytes=2 << 20)
    for _ in range(4):
        one.queue("a").publish(bytes(600 << 10))  # goes on in a second segment
    disk.full, disk.meanwhile = True, other._store.replica.keep_up
    for broker in (one, other):
        with pytest.raises(mq.DiskFull):
            broker.queue("a").publish(bytes(500 << 10))
    assert len(bodies(one)) == 5


# ── syncing ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", ["show", "enter", "entered"])
def test_a_sync_between_two_steps_of_going_on_in_the_others_segment_claims_no_more_than_it_synced(
    monkeypatch, step
):
    disk = Shared()
    one, other = two(disk)
    for n in range(6):
        one.queue("a").publish(b"%d" % n * 400)
    log, syncs = other._store.replica.log, []
    owner, name = (log.reader, "show") if step == "show" else (log, "enter")
    plain = getattr(owner, name)

    def sync_in_between(*args: Any) -> None:
        if step == "entered":
            plain(*args)
        log.syncing.sync_now()  # another thread, which waits for the disk
        syncs.append(log.synced)
        claimed_and_there(disk)
        if step != "entered":
            plain(*args)

    monkeypatch.setattr(owner, name, sync_in_between)
    assert len(bodies(other)) == 7
    assert len(syncs) > 1


def test_the_end_that_a_sync_claims_is_the_one_it_looked_at(monkeypatch):
    """The page's end moves while it is read; where it has gone to may be in a segment not known here."""
    disk = Shared()
    one, other = two(disk)
    one.queue("a").publish(b"x" * 200)
    log = other._store.replica.log

    class Moving:
        """The page: between two looks at the end, the other process goes on in two more segments."""

        def __init__(self, words: memoryview) -> None:
            self.words = words

        def __getitem__(self, index: int) -> int:
            value = self.words[index]
            if index == shared.END:
                for _ in range(4):
                    one.queue("a").publish(b"y" * 400)
            return value

        def __setitem__(self, index: int, value: int) -> None:
            self.words[index] = value

    monkeypatch.setattr(log, "mark", Moving(log.mark))
    log.syncing.sync_now()
    claimed_and_there(disk)


def test_who_syncs_after_somebody_died_in_a_sync_takes_void_bytes_for_what_they_are():
    """A process died in a write, and was fenced off; another one in the sync of that."""
    disk = Image()
    mark = memoryview(bytearray(4096)).cast("Q")
    log = Log(disk, "log", IDENTITY, mark, [], 0, 1024)
    log.rotation.begin_segment(MS, 0, 0, void_from=0)
    log.closing.said_open, log.room = True, log.allocated
    log.append(MS, KIND, 0, 1, b"whole")
    torn = record.encode(log.segments[0].seed, log.end, 0, 0, KIND, 0, 1, b"torn" * 20)[:50]
    disk.pwrite(log.fd, torn, log.end - log.shift)
    mark[shared.DIRTY] = 1
    log.following.adopt(MS)
    assert (len(log.segments), mark[shared.DIRTY]) == (2, 0)
    log.append(MS, KIND, 0, 1, b"behind the fence")
    mark[shared.SYNCING] = 1
    log.sync(log.end)
    assert (log.synced, mark[shared.SYNCING], log.failure.error) == (log.end, 0, None)
    assert disk.synced_files() == disk.files()


def test_who_syncs_after_somebody_died_in_a_sync_looks_whether_all_is_there():
    disk = Image()
    mark = memoryview(bytearray(4096)).cast("Q")
    log = Log(disk, "log", IDENTITY, mark, [], 0, 1024)
    log.rotation.begin_segment(MS, 0, 0, void_from=0)
    log.closing.said_open, log.room = True, log.allocated
    lost = log.append(MS, KIND, 0, 1, b"its page was dropped after the sync had failed")
    log.append(MS, KIND, 0, 1, b"more")
    disk.pwrite(log.fd, bytes(40), lost - log.shift)
    mark[shared.SYNCING] = 1
    with pytest.raises(mq.StoreFailed, match="outcome is unknown"):
        log.sync(log.end)
    assert mark[shared.FAILED] == 1


@pytest.mark.parametrize("inside", [False, True], ids=["outside of a turn", "inside of one"])
def test_who_writes_again_after_a_death_in_a_sync_has_the_lock(inside):
    """Another process could append to the page that is just written, and its bytes would go with it."""
    disk = Shared()
    faulty = Faulty(disk)
    one, other = two(disk)
    third = open_on(faulty, sync="always")
    for broker in (one, third):
        broker.queue("a").publish(b"both have said that the log is open")
    held = []

    def look(name: str, args: tuple[Any, ...]) -> Any:
        if name in ("pwrite_direct", "forget", "pwrite") and one._store.turn.mark[shared.SYNCING]:
            held.append(not disk.lock(other._store.turn.locks.fd))
        return GO_ON

    one.queue("a").publish(b"not synced")
    one._store.turn.mark[shared.SYNCING] = one._store.replica.log.end
    store = third._store
    faulty.hook = look
    with maintaining(store) as (log, _, _):
        if inside:
            log.sync(log.end)
    log.sync(log.end)
    assert held[-1:] == [True]
    assert set(held) == {True}
    assert one._store.turn.mark[shared.SYNCING] == 0
    claimed_and_there(disk)
    one.queue("a").publish(b"the lock is free again")
    assert len(bodies(other)) >= 4


def test_a_leader_in_doubt_does_not_wait_for_a_thread_that_follows_it():
    """That one is in its turn, and waits for the leader, which waits for the turn."""
    disk = Shared()
    store = open_on(disk)._store
    queue = Broker(store).queue("a")
    queue.publish(b"said to be open")
    log, waits, leading, met = store.replica.log, [], threading.Event(), threading.Event()
    plain = log.syncing._wait_to_sync

    def wait_for_a_follower() -> None:
        if not waits:
            waits.append(threading.get_ident())
            leading.set()
            while not log.syncing.commit._followers:
                met.wait(0.001)  # not for time to pass, but for the other thread
        plain()

    log.syncing._wait_to_sync = wait_for_a_follower  # type: ignore[method-assign]
    with maintaining(store):
        log.append(int(NOW * 1000), KIND, 0, 1, b"")
        end = log.end
    store.turn.mark[shared.SYNCING] = end
    leader = threading.Thread(target=log.sync, args=(end,), daemon=True)
    leader.start()
    assert leading.wait(60)
    with maintaining(store):
        log.sync(end)
        assert log.synced == end
    leader.join(60)
    assert not leader.is_alive()
    assert (store.turn.mark[shared.SYNCING], log.failure.error) == (0, None)


def test_a_turn_that_is_not_to_be_had_leaves_the_outcome_open(monkeypatch):
    """The message is in the log: it is not said that it is not."""
    disk = Shared()
    one, other = two(disk, sync="always")
    other.queue("a").publish(b"said to be open")
    monkeypatch.setattr(locks, "LOCK_SECONDS", 1e-9)
    log = other._store.replica.log
    with maintaining(other._store):
        log.append(int(NOW * 1000), KIND, 0, 1, b"")
    other._store.replica.applied = log.end
    log.mark[shared.SYNCING] = log.end
    assert disk.lock(one._store.turn.locks.fd)
    with pytest.raises(mq.StoreFailed, match=r"in the log, and perhaps not on .* has held its lock"):
        log.sync(log.end)
    assert log.failure.error is None
    one._store.turn.locks.unlock()
    log.sync(log.end)
    assert log.synced == log.end


def test_a_process_that_syncs_for_ever_leaves_the_outcome_open(monkeypatch):
    """Nobody is told that nothing was published."""
    disk = Shared()
    one, other = two(disk, sync="always")
    monkeypatch.setattr(syncing, "SYNC_SECONDS", 0.0)
    one._store.turn.mark[shared.SYNCER] = 4711
    assert disk.lock(one._store.turn.page_fd)
    with pytest.raises(mq.StoreFailed, match=r"process 4711 .* perhaps not on the disk"):
        other.queue("a").publish(b"in doubt")
    one._store.replica.log.sync_lock.unlock()
    assert bodies(one) == [b"first", b"in doubt"]
    other.queue("a").publish(b"goes on")


# ── ids ────────────────────────────────────────────────────────────────────────────


def test_what_stands_behind_a_closing_record_counts_when_it_is_on_the_disk():
    """Else a power cut leaves the closing record as the last one, and ids are given out again."""
    disk = Shared()
    faulty = Faulty(disk)
    open_on(disk).close()
    one, other = open_on(faulty, sync="never"), open_on(disk, sync="never")

    class Died(BaseException):
        pass

    def die_at_a_sync(name: str, args: tuple[Any, ...]) -> Any:
        if name == "sync":
            raise Died
        return GO_ON

    log = one._store.replica.log
    faulty.hook = die_at_a_sync
    with pytest.raises(Died):  # between the record that says open, and its sync
        one.queue("a").publish(b"never")
    disk.unlocker(one._store.turn.locks.fd)()
    disk.unlocker(one._store.turn.locks._presence)()
    disk.unlocker(one._store.turn.page_fd)()
    assert log.end > other._store.replica.log.end
    given = other.queue("a").publish(b"given out, not synced")
    with open_on(Image(disk.synced_files())) as after_power_cut:
        assert after_power_cut.queue("a").publish(b"new") > given


# ── the head ───────────────────────────────────────────────────────────────────────


def test_who_follows_a_head_does_not_say_it_on_the_page():
    """It may have moved on since."""
    disk = Shared()
    one, other = two(disk)
    for _ in range(8):
        one.queue("a").publish(bytes(300))
    for message in one.queue("a").receive_many(9):
        message.ack()
    assert bodies(other) == []
    said: list[int] = []

    class Noting:
        def __init__(self, words: memoryview) -> None:
            self.words = words

        def __getitem__(self, index: int) -> int:
            return self.words[index]

        def __setitem__(self, index: int, value: int) -> None:
            if index == shared.HEAD:
                said.append(value)
            self.words[index] = value

    other._store.replica.log.mark = Noting(other._store.replica.log.mark)  # type: ignore[assignment]
    one._store.maintenance.run()
    assert one._store.replica.log.head > 0
    assert other.queue("a").stats().ready == 0
    assert other._store.replica.log.head == one._store.replica.log.head
    assert said == []


def test_a_head_that_moves_while_the_page_is_looked_at_is_no_damage():
    """Its segments are gone, and the end that was read is from before it moved."""
    disk = Shared()
    one, other = two(disk)
    with_garbage(one)
    one.queue("a").publish(b"last")

    class Moving:
        """The page: after the first look at the end, the other process cleans."""

        looked = False

        def __init__(self, words: memoryview) -> None:
            self.words = words

        def __getitem__(self, index: int) -> int:
            value = self.words[index]
            if index == shared.END and not self.looked:
                self.looked = True
                one._store.maintenance.run()
            return value

        def __setitem__(self, index: int, value: int) -> None:
            self.words[index] = value

    store = other._store
    store.turn.mark = Moving(store.turn.mark)  # type: ignore[assignment]
    with store.turn.mutex:
        store.turn.leave()
        state, found, _ = store.replica._read_and(lambda found, upto: None)
        store.turn.leave()
    assert store.turn.mark.looked and found.head == one._store.replica.log.head > 0
    assert state.total() == 1


def test_a_reader_that_looks_at_the_page_while_the_head_moves_sees_no_damage():
    """The page is read word by word: the end may be from before the head moved."""
    disk = Shared()
    with open_on(disk, sync="never") as broker:
        with_garbage(broker)
        broker.queue("a").publish(b"last")
        faulty = Faulty(disk)

        def clean_in_the_midst(name: str, args: tuple[Any, ...]) -> Any:
            page = name == "pread" and args[1] == 4096
            if page and disk._open[args[0]] is disk._files["s/mark"] and faulty.counts["lock"]:
                faulty.hook = None
                before = disk.pread(*args)
                broker._store.maintenance.run()
                return before[:16] + disk.pread(*args)[16:]
            return GO_ON

        faulty.hook = clean_in_the_midst
        with open_on(faulty, read_only=True) as reader:
            assert faulty.hook is None and broker._store.replica.log.head > 0
            assert bodies(reader) == [b"last"]


@pytest.mark.parametrize("moment", range(1, 4))
def test_a_walk_beside_a_cleaner_misses_no_segment(moment):
    """P7: one that went between two looks is not damage."""
    disk = Shared()
    with open_on(disk, sync="never") as broker:
        with_garbage(broker)
        faulty, looks = Faulty(disk), 0

        def clean_before(name: str, args: tuple[Any, ...]) -> Any:
            nonlocal looks
            if name == "names" and args[0] == "s/log":
                looks += 1
                if looks == moment:
                    with_garbage(broker)
                    broker._store.maintenance.run()
            return GO_ON

        faulty.hook = clean_before
        found = walk(faulty, "s", KIND)
        assert (found.problem, found.missing) == (None, [])
        assert looks > 1


# ── cleaning ───────────────────────────────────────────────────────────────────────


def test_a_head_that_another_process_repeats_while_its_segment_is_dropped_costs_no_other_segment(monkeypatch):
    """P1: the cleaner dropped the oldest that it knew, and by then that was the next one."""
    disk = Shared()
    one, other = two(disk)
    ids = [one.queue("a").publish(b"%d" % n * 300) for n in range(9)]
    log, plain = one._store.replica.log, one._store.replica.log.sync

    def sync_and_be_followed(upto: int) -> None:
        plain(upto)
        with maintaining(other._store) as (others, now_ms, _):
            others.append_head(now_ms, others.head)  # as who joins does before it appends

    monkeypatch.setattr(log, "sync", sync_and_be_followed)
    dropped = log.segments[0]
    assert one._store.maintenance.cleaning.clean() > 0
    assert log.segments[0].base == log.head == dropped.limit
    assert log.mark[shared.HEAD] == log.head
    for files in (disk.files(), disk.synced_files()):
        with open_on(Image(files)) as reopened:
            assert [each.id for each in reopened.queue("a").peek(20)][1:] == ids


def test_a_cleaner_that_gets_no_descriptor_just_now_cleans_later(caplog):
    disk = Shared()
    faulty = Faulty(disk)

    def none_for_the_lock(name: str, args: tuple[Any, ...]) -> Any:
        if name == "open" and args[0] == "s/CLEANER":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return GO_ON

    with open_on(faulty, sync="never") as broker:
        with_garbage(broker)
        faulty.hook = none_for_the_lock
        broker._store.maintenance.run()
        assert "ulimit" in caplog.text
        assert broker._store.replica.log.head == 0
        faulty.hook = None
        broker._store.maintenance.run()
        assert broker._store.replica.log.head > 0


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_page_that_was_written_over_with_an_older_one_ends_the_work(interrupted):
    """P1, P10: a process that went on there would write over what was published since."""
    disk = Shared()
    one, other = two(disk)
    page = bytes(disk._files["s/mark"])
    other.queue("a").publish(b"second")
    assert bodies(one) == [b"first", b"second"]
    written = {path: data for path, data in disk.files().items() if "/log/" in path}
    disk._files["s/mark"][:] = page  # as `rsync --inplace` does
    if interrupted:
        one._store.replica.applied = VOID
    for broker in (one, other):
        for _ in range(2):
            with pytest.raises(mq.StoreFailed, match=r"log ends at .* older copy|in another process"):
                broker.queue("a").publish(b"refused")
    for broker in (one, other):
        broker.close()
    assert {path: data for path, data in disk.files().items() if "/log/" in path} == written
    with open_on(disk) as again:
        assert bodies(again) == [b"first", b"second"]


class Stopped(Shared):
    """A process that is stopped while it waits, for an hour; it goes on beside another one that is busy."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.held: Any = None  # what lets go of a lock that another process has
        self._clock, self._naps = clock, 0

    def pause(self, seconds: float) -> None:
        if self.held:
            self._clock[0] += seconds if self._naps else 3600.0
            self._naps += 1
            if self._naps == 2:
                self.held()


@pytest.mark.parametrize("name", ["LOCK", "mark"])
def test_a_process_that_was_stopped_while_it_waited_has_not_waited(monkeypatch, name):
    """What it waits for has been free nearly all the time: no process kept it out."""
    clock = [1000.0]
    disk = Stopped(clock)
    one, other = two(disk, sync="always")
    store = one._store
    fd = store.turn.locks.fd if name == "LOCK" else store.turn.page_fd
    assert disk.lock(fd)
    disk.held = disk.unlocker(fd)
    monkeypatch.setattr(disk_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    other.queue("a").publish(b"second")
    assert bodies(one) == [b"first", b"second"]


def test_a_cleaner_that_does_not_get_the_lock_just_now_cleans_later(monkeypatch):
    disk = Shared()
    one, other = two(disk)
    with_garbage(one)
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.0)
    assert disk.lock(other._store.turn.locks.fd)
    one._store.maintenance.run()
    assert one._store.replica.log.head == 0
    other._store.turn.locks.unlock()
    one._store.maintenance.run()
    assert one._store.replica.log.head > 0


@pytest.mark.parametrize("joins", [True, False], ids=["who joins", "who reads anew"])
def test_all_that_was_read_may_be_gone_before_it_is_used(monkeypatch, joins):
    """Others rotate and clean, while the one that reads stands still."""
    disk = Shared()
    one, other = two(disk)
    plain, read = Replica._read_now, []

    def stand_still(replica: Replica) -> Any:
        found = plain(replica)
        read.append(found[1].segments[-1])
        if len(read) <= READS_MAX:
            for _ in range(3):
                with_garbage(one)
                one._store.maintenance.run()
            assert one._store.replica.log.head >= read[-1].limit
        return found

    monkeypatch.setattr(Replica, "_read_now", stand_still)
    if joins:
        with open_on(disk, sync="never") as third:
            third.queue("a").publish(b"new")
    else:
        other._store.replica.applied = -1
        other.queue("a").publish(b"new")
    assert len(read) == READS_MAX + 1
    assert bodies(one) == bodies(other) == [b"new"]


# ── options ────────────────────────────────────────────────────────────────────────


def test_extending_goes_by_the_timeout_that_another_process_has_just_declared():
    one, other = two(Shared())
    message = other.queue("a").receive(timeout=0)
    one.queue("a", visibility_timeout=1000.0)
    message.extend()
    (seen,) = one.queue("a").peek(state="in_flight")
    assert seen.due_at == message.due_at
    assert seen.due_at.timestamp() == NOW + 1000


# ── descriptors ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["open", "size", "pread"])
def test_a_follower_that_fails_anywhere_leaks_no_descriptor(method):
    """P11."""
    after, failed = 0, True
    while failed:
        disk = Shared()
        faulty = Faulty(disk)
        one, other = open_on(disk, sync="never"), open_on(faulty, sync="never")
        for n in range(6):
            one.queue("a").publish(b"%d" % n * 400)
        faulty.hook = failing(method, EIO, after=after, times=1)
        failed = False
        try:
            assert len(bodies(other)) == 6
        except mq.MqError:
            failed = True
        faulty.hook = None
        assert len(bodies(other)) == 6
        other.close()
        one.close()
        assert disk.open_count() == 0
        after += 1
    assert after > 1
