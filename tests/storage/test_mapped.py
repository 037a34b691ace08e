"""The end of the log where it is mapped: what is copied there, read there, and when it is closed."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import open_on

import mq
from mq.engine.turn import VOID
from mq.storage.log import Log
from mq.storage.mapped import COPY_BYTES_MAX, NOWHERE, STEP_BYTES, Mapped
from mq.storage.real_disk import RealDisk
from mq.storage.window import FileWindow, Window

SEGMENT_BYTES = 1 << 20


class Mapping(RealDisk):
    """Maps on any file system; counts the calls, and remembers the windows."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.windows: list[Window] = []
        self.most = 0  # that were open at once
        self.write_error = 0

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:  # type: ignore[override]
        self.counts["pread"] += 1
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:  # type: ignore[override]
        self.counts["pwrite"] += 1
        if self.write_error:
            raise OSError(self.write_error, os.strerror(self.write_error))
        return os.pwrite(fd, data, offset)

    def may_map(self, path: str) -> bool:
        return True

    def window(self, fd: int, offset: int, size: int) -> Window | None:
        found = super().window(fd, offset, size)
        assert found
        self.windows.append(found)
        self.most = max(self.most, self.open_windows())
        return found

    def open_windows(self) -> int:
        return sum(not is_closed(each) for each in self.windows)


def is_closed(window: Window) -> bool:
    try:
        window[0:0]
    except ValueError:
        return True
    return False


@pytest.fixture
def disk() -> Mapping:
    return Mapping()


@pytest.fixture
def broker(tmp_path: Path, disk: Mapping) -> Iterator[mq.Broker]:
    with opened(tmp_path, disk) as broker:
        yield broker


def opened(path: Path, disk: RealDisk, sync: str | float = "never") -> mq.Broker:
    return open_on(disk, path / "data", sync=sync, segment_bytes=SEGMENT_BYTES, background=False)


def bodies(queue: mq.Queue[Any]) -> list[bytes]:
    return [each.raw for each in queue.peek(10_000)]


def test_nothing_is_asked_of_the_system_to_publish_receive_and_ack(broker, disk):
    queue = broker.queue("q")
    queue.publish(b"first")
    disk.counts.clear()
    for number in range(200):
        queue.publish(b"%d" % number)
    queue.publish_many([b"several"] * 20)
    with queue.receive(timeout=0) as message:
        assert message.raw == b"first"
    queue.receive_many(200, timeout=0)
    assert disk.counts == {}


def test_what_others_appended_is_read_where_it_is_mapped(broker, disk, tmp_path):
    queue = broker.queue("q")
    queue.publish(b"first")
    with opened(tmp_path, RealDisk()) as other:
        other.queue("q").publish(b"second")
        disk.counts.clear()
        assert bodies(queue) == [b"first", b"second"]
        assert disk.counts == {}


@pytest.mark.parametrize("sync, mapped", [("always", False), ("never", True), (3600.0, True)])
def test_where_each_publish_waits_for_the_disk_nothing_is_mapped(tmp_path, disk, sync, mapped):
    with opened(tmp_path, disk, sync) as broker:
        broker.queue("q").publish(b"x")
        assert bool(disk.windows) == mapped


def test_nothing_is_mapped_where_that_is_not_safe(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(Mapping, "may_map", lambda self, path: False)
    with opened(tmp_path, disk) as broker:
        broker.queue("q").publish(b"x")
        assert not disk.windows


def test_a_log_that_is_a_mount_of_its_own_is_asked_for_where_it_is(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(disk, "may_map", lambda path: not path.endswith("/log"))
    with opened(tmp_path, disk) as broker:
        broker.queue("mail").publish("x")
        assert not disk.windows


def test_there_is_one_at_a_time_and_it_goes_with_its_segment(broker, disk):
    queue, log = broker.queue("q"), broker._store.replica.log
    queue.publish(b"x")
    for segments in range(2, 5):
        while len(log.segments) < segments:
            queue.publish(bytes(60_000))
        before = disk.windows[-1]
        queue.publish(b"x")
        assert before is disk.windows[-1]
        assert not is_closed(before)
    assert disk.open_windows() == disk.most == 1


def test_it_is_closed_before_the_end_is_in_another_segment(broker, monkeypatch):
    """A thread may be reading there, up to the end."""
    queue, enter, closed = broker.queue("q"), Log.enter, []
    queue.publish(b"first")

    def look_and_enter(log: Log, *args: Any) -> None:
        closed.append(log.mapped.first == NOWHERE)
        enter(log, *args)

    monkeypatch.setattr(Log, "enter", look_and_enter)
    broker._store.replica.applied = VOID  # as an interrupted operation leaves it
    queue.publish(b"second")
    assert closed == [True]
    assert bodies(queue) == [b"first", b"second"]


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="no /proc to see what is mapped")
def test_nothing_is_mapped_when_the_store_is_closed(tmp_path):
    """Else its file system could not be unmounted."""
    broker = opened(tmp_path, disk := Mapping())
    broker.queue("q").publish(b"x")
    maps = Path("/proc/self/maps")
    assert f"{tmp_path}/data/log/" in maps.read_text()
    broker.close()
    assert str(tmp_path) not in maps.read_text()
    assert disk.open_windows() == 0


def test_nothing_is_mapped_on_a_full_disk(broker, disk, monkeypatch):
    """There each record is given its room by itself."""
    queue = broker.queue("q")
    queue.publish(b"first")
    assert disk.open_windows() == 1
    broker._store.replica.log.reserve.full = True
    broker._store.replica.log.room = 0
    queue.receive(timeout=0).ack()
    assert disk.open_windows() == 0
    queue.publish(b"x")
    queue.publish(b"there is room again")
    assert disk.open_windows() == 1


@pytest.mark.parametrize("publisher", ["this process", "another"])
def test_however_many_messages_there_are_they_are_taken_out_by_copies(broker, disk, tmp_path, publisher):
    """They came when the room kept back was not looked at, or in another process."""
    queue = broker.queue("q")
    with opened(tmp_path, RealDisk()) as other:
        to = queue if publisher == "this process" else other.queue("q")
        for _ in range(2000):
            to.publish(bytes(100))
        disk.counts.clear()
        for _ in range(2000):
            queue.receive(timeout=0).ack()
    assert disk.counts["pwrite"] < 10


class NearlyFull(Mapping):
    """A disk that has room for the log, and none to keep back; what there was, is found and kept."""

    def __init__(self) -> None:
        super().__init__()
        self.reserve, self.full = -1, False

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        fd = super().open(path, write=write, create=create)
        if path.endswith("/reserve"):
            self.reserve = fd
        elif fd == self.reserve:
            self.reserve = -1
        return fd

    def allocate(self, fd: int, offset: int, size: int) -> None:
        if self.full and fd == self.reserve:
            self.counts["refused"] += 1
            os.truncate(fd, offset + size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(fd, offset, size)


def test_what_takes_messages_out_needs_no_more_room_kept_back(tmp_path):
    """It is asked for now and then only: a full disk takes long to say so."""
    disk, now = NearlyFull(), 1e9
    with open_on(
        disk, tmp_path / "data", sync="never", segment_bytes=SEGMENT_BYTES, clock=lambda: now,
        background=False,
    ) as broker:  # fmt: skip
        queue, reserve = broker.queue("q"), broker._store.replica.log.reserve
        for _ in range(2000):
            queue.publish(bytes(100))
        held, disk.full = reserve.size(), True
        for _ in range(500):
            queue.receive(timeout=0).ack()
        assert 0 < disk.counts["refused"] <= 2
        assert reserve.size() == held
        disk.full, now = False, now + 2
        queue.receive(timeout=0).ack()
        disk.counts.clear()
        for _ in range(1000):
            queue.receive(timeout=0).ack()
        assert disk.counts["pwrite"] < 10


def test_long_records_are_written_and_short_ones_copied_beside_them(broker, disk):
    queue, expected = broker.queue("q"), []
    sizes = (10, COPY_BYTES_MAX + 1, 10, STEP_BYTES + 1, 10, STEP_BYTES, 100_000, 10, 10)
    for number, size in enumerate(sizes):
        expected.append(bytes([65 + number]) * size)
        queue.publish(expected[-1])
    assert bodies(queue) == expected
    assert broker._store.replica.log.mapped.limit
    broker.close()
    with opened(Path(broker._store.path).parent, RealDisk(), "always") as again:
        assert again._store.replica.verdict.value == "clean"
        assert bodies(again.queue("q")) == expected


@pytest.mark.parametrize(
    "code, error", [(0, None), (errno.EIO, mq.StoreFailed), (errno.ENOSPC, mq.StoreFailed)]
)
def test_when_pages_cannot_be_had_a_write_says_why(broker, disk, monkeypatch, code, error):
    queue = broker.queue("q")
    queue.publish(bytes(100))
    monkeypatch.setattr(FileWindow, "ready", lambda self, start, size: False)
    disk.write_error = code
    for number in range(40):
        if error:
            with pytest.raises(error):
                for _ in range(40):
                    queue.publish(bytes(2000))
            break
        queue.publish(b"%d" % number + bytes(2000))
    assert disk.open_windows() == 0
    if not error:
        assert len(bodies(queue)) == 41


@pytest.mark.parametrize("window", [None], ids=["not to be had"])
def test_without_a_window_everything_is_written(tmp_path, disk, monkeypatch, window):
    monkeypatch.setattr(Mapping, "window", lambda self, fd, offset, size: window)
    with opened(tmp_path, disk) as broker:
        queue = broker.queue("q")
        for number in range(20):
            queue.publish(b"%d" % number)
        assert queue.receive(timeout=0).raw == b"0"


class ClosedInTheMidst:
    """A window that another thread closes just before it is read."""

    def __init__(self, tail: Mapped) -> None:
        self.tail, self.window = tail, tail.window
        self.reads = 0
        tail.window = self  # type: ignore[assignment]

    def __getitem__(self, part: slice) -> bytes:
        self.reads += 1
        closer = threading.Thread(target=self.tail.close)
        closer.start()
        closer.join()
        return self.window[part]

    def close(self) -> None:
        self.window.close()


def test_one_that_is_closed_during_a_read_costs_nothing(broker, disk):
    queue = broker.queue("q")
    queue.publish(b"first")
    closed = ClosedInTheMidst(broker._store.replica.log.mapped)
    assert bodies(queue) == [b"first"]
    assert closed.reads == 1
    assert disk.counts["pread"]


def test_one_that_is_closed_while_others_are_followed_costs_nothing(broker, disk, tmp_path):
    queue = broker.queue("q")
    queue.publish(b"first")
    with opened(tmp_path, RealDisk()) as other:
        other.queue("q").publish(b"second")
        closed = ClosedInTheMidst(broker._store.replica.log.mapped)
        assert queue.stats().published == 2
        assert closed.reads == 1


def test_what_is_damaged_in_memory_does_not_pass(broker, disk, tmp_path):
    """P3, P7: the checksum is compared there, too."""
    queue = broker.queue("q")
    ids = [queue.publish(b"a message" * 9) for _ in range(3)]
    log = broker._store.replica.log
    with open(log.reader.path(log.segments[-1]), "r+b") as file:
        file.seek(log.segments[-1].offset(ids[1]) + 30)
        file.write(b"?")
    with pytest.raises(mq.CorruptStore) as damaged:
        log.read(ids[1])
    assert damaged.value.ids == (ids[1],)
    assert log.read(ids[2]).payload == b"a message" * 9


def test_a_limit_on_files_that_is_lowered_later_does_not_concern_what_is_ready(broker, disk):
    """RLIMIT_FSIZE is about writes, and about files that grow."""
    resource = pytest.importorskip("resource")
    queue = broker.queue("q")
    queue.publish(b"first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        queue.publish(b"second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert bodies(queue) == [b"first", b"second"]
