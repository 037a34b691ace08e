"""The room kept back, where it cannot be: each time an error of the tree that says what to do."""

from __future__ import annotations

import errno
import os

import pytest
from faults import ENOSPC, Faulty, failing

import mq
from mq.broker import Broker
from mq.storage.disk import RealDisk
from mq.store import Store


def open_on(disk, path) -> Broker:
    return Broker(
        Store(
            str(path), sync="never", read_only=False, segment_bytes=1 << 20, clock=None, disk=disk,
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
    broker._store.log._room = broker._store.log._allocated = 0
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
