"""The room kept back, where it cannot be: each time an error of the tree that says what to do."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
from faults import ENOSPC, GO_ON, Faulty, failing

import mq
from mq.api.broker import Broker
from mq.delivery import records
from mq.delivery.state import State
from mq.engine import pressure
from mq.engine.store import Store
from mq.storage.real_disk import RealDisk
from mq.storage.reserve import Reserve


def open_on(disk, path, segment_bytes: int = 1 << 20) -> Broker:
    return Broker(
        Store(
            str(path), sync="never", read_only=False, segment_bytes=segment_bytes, clock=None, disk=disk,
            background=False,
        )
    )  # fmt: skip


def test_a_directory_in_its_place_is_named(tmp_path):
    """Publishing is refused, for a full disk could not be drained; everything else goes on."""
    path = tmp_path / "data"
    with mq.open(path) as broker:
        broker.queue("mail").publish(b"kept")
    reserve = path / "reserve"
    reserve.unlink()
    reserve.mkdir()
    with mq.open(path) as broker:
        queue = broker.queue("mail")
        with pytest.raises(mq.StorageError, match=r"reserve: this is a directory.*move it elsewhere"):
            queue.publish(b"more")
        queue.receive(timeout=0).ack()
        reserve.rmdir()
        queue.publish(b"more")


def test_a_full_disk_with_a_directory_in_its_place_is_a_full_disk(tmp_path):
    """There is no room in it that could be given to an ack."""
    path = tmp_path / "data"
    faulty = Faulty(RealDisk())
    broker = open_on(faulty, path)
    queue = broker.queue("mail")
    queue.publish(bytes(900_000))
    message = queue.receive(timeout=0)
    (path / "reserve").unlink()
    (path / "reserve").mkdir()
    broker._store.replica.log.room = broker._store.replica.log.allocated = 0
    faulty.hook = failing("allocate", ENOSPC)
    with pytest.raises(mq.DiskFull):
        for _ in range(10_000):
            message.extend(60)
    faulty.hook = None
    message.ack()
    broker.close()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
def test_where_no_room_can_be_reserved_it_is_not_asked_for(code, tmp_path, monkeypatch):
    """Some file systems cannot, and not every C library makes up for it."""

    def refuse(fd, offset, size):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with mq.open(tmp_path / "data", segment_bytes=4096) as broker:
        queue = broker.queue("mail")
        ids = [queue.publish(bytes(1000)) for _ in range(10)]
    with mq.open(tmp_path / "data") as broker:
        assert [message.id for message in broker.queue("mail").peek(20)] == ids


def test_a_disk_that_fails_to_reserve_room_is_not_one_that_cannot(tmp_path, monkeypatch):
    def refuse(fd, offset, size):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(mq.StorageError):
        mq.open(tmp_path / "data")


# ── what is left of it for which record ────────────────────────────────────────────


class Alike(State):
    """So many messages, whatever they are."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total = total


@pytest.mark.parametrize("total", [0, 1, 1000, 10_000_000])
def test_who_is_more_important_may_take_more(total):
    """An ack all, a delivery what acks leave, all else what deliveries leave, a publish nothing."""
    leaves = [
        pressure.kept(Alike(total), kinds, 1)[1]
        for kinds in ([records.ACK], [records.DELIVER], [records.NACK], [records.RELOCATE], [records.DECLARE])
    ]
    assert leaves[0] == 0
    assert leaves == sorted(leaves)
    assert leaves[2] - leaves[1] >= 40 * total
    assert leaves[1] >= 36 * total
    for kinds in ([records.PUBLISH], [records.PUBLISH, records.ACK]):
        whole, _ = pressure.kept(Alike(total), kinds, 1)
        assert whole - leaves[2] >= 24 * total
        # A publish comes by again before so many more have arrived that it would not do for them.
        assert whole >= pressure.kept(Alike(total + pressure.UNSEEN + 1), [records.NACK], 1)[1] - 24 * total


def test_a_batch_is_published_only_if_all_of_it_can_be_settled():
    assert pressure.kept(Alike(0), [records.PUBLISH], 1_000_000)[0] > 76_000_000


def test_acks_go_on_in_another_file_if_this_one_may_not_grow(tmp_path):
    """EFBIG, from RLIMIT_FSIZE: it is the file that is full, and the reserve is of no use."""
    faulty = Faulty(RealDisk())
    broker = open_on(faulty, tmp_path / "data", 4 << 20)
    queue = broker.queue("mail")
    queue.publish(b"")
    log = broker._store.replica.log
    held, longest = log.reserve.size(), faulty.disk.size(log.fd)

    def hook(name, args):
        if name == "allocate" and args[1] + args[2] > longest:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return GO_ON

    faulty.hook = hook
    with pytest.raises(mq.DiskFull):
        queue.publish(bytes(longest))
    message = queue.receive(timeout=0)
    for _ in range(longest // 40):
        message.extend(60)
    message.ack()
    assert len(log.segments) > 1
    assert log.reserve.size() == held
    faulty.hook = None
    broker.close()


def test_a_thread_that_cleans_a_full_disk_rests_when_there_is_nothing_to_do(tmp_path, monkeypatch):
    broker = open_on(RealDisk(), tmp_path / "data")
    broker.queue("mail").publish(b"")
    maintenance = broker._store.maintenance
    monkeypatch.setattr(maintenance.worker, "runs", lambda: True)
    monkeypatch.setattr(maintenance.worker, "ring", lambda: pytest.fail("it wakes itself"))
    broker._store.replica.log.reserve.full = True
    maintenance.run()
    monkeypatch.undo()
    broker.close()


def test_only_so_much_is_given_as_is_to_be_left(tmp_path):
    reserve = Reserve(RealDisk(), str(tmp_path / "reserve"))
    assert not reserve.give(1)
    reserve.hold(1 << 20)
    assert reserve.give(100_000, 900_000)
    assert reserve.give(100_000, 900_000)
    assert 900_000 <= reserve.size() < 920_000
    assert not reserve.give(100_000, 900_000)
    assert reserve.has(900_000)
    assert reserve.give(1 << 20)
    assert not os.path.exists(tmp_path / "reserve")
    assert reserve.has(1 << 20)
    assert reserve.size() == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_room_that_cannot_be_looked_at_is_kept(tmp_path, number):
    """A process that has no descriptor left is not one whose file is gone: others settle with that room."""
    path, faulty = tmp_path / "reserve", Faulty(RealDisk())
    reserve = Reserve(faulty, str(path))
    reserve.hold(1 << 20)
    faulty.hook = failing("open", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        reserve.has(2 << 20)
    faulty.hook = failing("open", number)
    with pytest.raises(mq.StorageError, match="reserve"):
        reserve.give(1 << 20)
    faulty.hook = None
    assert path.stat().st_size == 1 << 20
    assert reserve.has(2 << 20)
    assert reserve.size() == 1 << 20


def test_a_signal_is_no_sign_of_a_missing_file(tmp_path):
    faulty = Faulty(RealDisk())
    reserve = Reserve(faulty, str(tmp_path / "reserve"))
    reserve.hold(1 << 20)
    for use in (reserve.size, lambda: reserve.give(1), lambda: reserve.shrink(0)):
        faulty.hook = timing_out
        with pytest.raises(TimeoutError, match="of a handler"):
            use()
    assert (tmp_path / "reserve").stat().st_size == 1 << 20


def timing_out(name: str, arguments: object) -> object:
    raise TimeoutError("of a handler")


class FewNames(RealDisk):
    """A disk with plenty of room, and so many inodes."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__()
        self._all, self._most = path, most

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        if create and not os.path.exists(path) and len(list(self._all.rglob("*"))) >= self._most:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return super().open(path, write=write, create=create)


@pytest.mark.parametrize("most", [12, 14])
def test_a_disk_without_inodes_is_cleaned_once_it_is_drained(tmp_path, most):
    """The reserve is removed for its inode, so it cannot be asked whether there is room for copies."""
    broker = open_on(FewNames(tmp_path, most), tmp_path / "data", 64 << 10)
    queue = broker.queue("mail")
    with pytest.raises(mq.DiskFull):
        for _ in range(10_000):
            queue.publish(bytes(1000))
    before = broker.stats().segments
    while batch := queue.receive_many(100, timeout=0):
        queue.ack_many(batch)
    assert queue.stats()[:3] == (0, 0, 0)
    for _ in range(1000):  # far more than went in before
        queue.publish(bytes(1000))
        queue.receive(timeout=0).ack()
    assert broker.stats().segments < before
    broker.close()


def test_a_process_whose_files_may_not_grow_works_beside_one_that_has_made_them_long(tmp_path):
    """Its write behind the limit (EFBIG) is no failure of the disk, nor of the store for others."""
    longest, (soft, hard) = 1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_on(RealDisk(), tmp_path / "data", 8 << 20) as broker:
        queue = broker.queue("mail")
        queue.publish_many([bytes(1000)] * 2000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, hard))  # what Python ignores SIGXFSZ for
        try:
            with open_on(RealDisk(), tmp_path / "data", 8 << 20) as limited:
                limited.queue("mail").publish(b"more")  # in another segment
                limited.queue("mail").receive(timeout=0).ack()
                with pytest.raises(mq.DiskFull):
                    limited.queue("mail").publish(bytes(longest))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        queue.publish(b"more")
        assert queue.stats()[:2] == (2001, 0)


@pytest.mark.parametrize("allowed", [8 << 10, 100_000 + 4096 + 200], ids=["behind it", "across it"])
def test_a_limit_on_files_that_is_lowered_below_the_room_reserved_fails_no_other_process(tmp_path, allowed):
    """The room that this process had looked at is longer than its files may be by now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with mq.open(tmp_path / "data", sync="never") as broker, mq.open(tmp_path / "data") as other:
        queue = broker.queue("mail")
        queue.publish(bytes(100_000))  # longer than what is made ready to be copied to
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, hard))
            for _ in range(2):
                with pytest.raises(mq.DiskFull, match="nothing was done"):
                    queue.publish(bytes(5000))  # its first half looks like all of it
            queue.receive(timeout=0).ack()  # in another segment
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        other.queue("mail").publish(b"other's")
        queue.publish(b"more")
        assert [each.body for each in queue.peek(9)] == [b"other's", b"more"]
    with mq.open(tmp_path / "data") as again:
        assert [each.body for each in again.queue("mail").peek(9)] == [b"other's", b"more"]
