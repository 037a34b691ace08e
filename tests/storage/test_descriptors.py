"""Descriptors: none is left open, and when no more are to be had, nothing is lost and nothing blamed."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from faults import EIO, ENOSPC, GO_ON, Faulty, Image, failing
from logfiles import CAPACITY, cut, declare, publish, segment, store
from opened import NOW, bodies, open_on

from mq.api.broker import Broker
from mq.errors import Closed, CorruptStore, MqError, StorageError, StoreFailed
from mq.storage.real_disk import RealDisk
from mq.storage.shared import FAILED, NO_LIMIT

EMFILE = errno.EMFILE
BODIES = [b"%d" % number * 300 for number in range(9)]  # three segments' worth


def torn():
    """A store that recovery has much to do with: a torn end, and a segment that was begun."""
    first = segment(declare(), publish(b"one"), cut(9, publish(b"two")))
    return Image(store(first, segment(base=CAPACITY, number=1, fence=False, void_from=0)))


# ── none is left open ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [EIO, ENOSPC, EMFILE], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "method", ["open", "pread", "pwrite", "allocate", "size", "sync", "sync_directory", "rename", "names"]
)
def test_an_opening_that_fails_leaves_no_file_open(method, code):
    after, failed = 0, 0
    while True:
        image = torn()
        faulty = Faulty(image, failing(method, code, after=after, times=1))
        try:
            broker = open_on(faulty)
        except MqError:
            failed += 1
        else:
            faulty.hook = None
            broker.close()
        assert not image._open, f"{method} number {after + 1}"
        if faulty.counts[method] <= after:
            break
        after += 1
    # A full disk has room for an opening: less is asked for, and the room kept back is taken.
    assert failed or (method, code) == ("allocate", ENOSPC)


@pytest.mark.parametrize("look", [lambda queue: queue.peek(20), lambda queue: queue.receive(timeout=0)])
def test_who_reads_while_the_broker_is_closed_opens_nothing_again(look):
    image = Image()
    faulty = Faulty(image)
    broker = open_on(faulty, sync="never")
    queue = broker.queue("a")
    for body in BODIES:
        queue.publish(body)
    reading, closed = threading.Event(), threading.Event()
    caught: list[BaseException] = []

    def hook(name, args):
        if name == "pread" and threading.current_thread() is reader:
            reading.set()
            assert closed.wait(60)
        return GO_ON

    def read():
        try:
            look(queue)
        except MqError as error:
            caught.append(error)

    reader = threading.Thread(target=read)
    faulty.hook = hook
    reader.start()
    assert reading.wait(60)
    broker.close()
    closed.set()
    reader.join()
    assert [type(each) for each in caught] == [Closed]
    assert not image._open


def test_a_reader_that_has_read_the_log_anew_has_one_set_of_files_open():
    """Also one whose body was just being read from the log as it was before."""
    image = Image()
    writer = open_on(image)
    writer.queue("a").publish(b"first")
    before = len(image._open)
    reader = open_on(image, read_only=True)
    old = reader._store.replica.log
    assert bodies(reader) == [b"first"]
    writer.queue("a").publish_many([b"second"] * 3)
    assert len(bodies(reader)) == 4
    with pytest.raises(Closed):
        old.read(old.segments[0].base)
    assert len(image._open) == before + 2  # the directory, and the segment
    reader.close()
    assert len(image._open) == before


# ── there are no more to be had ────────────────────────────────────────────────────


class Limited(Faulty):
    """Opens nothing of the log while `full`."""

    def __init__(self, disk, code=EMFILE):
        super().__init__(disk, self._refuse)
        self.code, self.full = code, False

    def _refuse(self, name, args):
        # The real disk opens a directory to sync it.
        if self.full and name in ("open", "sync_directory") and args[0].startswith("s/log"):
            raise OSError(self.code, os.strerror(self.code))
        return GO_ON


@pytest.mark.parametrize("code, advice", [(EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max")])
def test_a_body_that_no_file_can_be_opened_for_is_not_called_damaged(code, advice):
    disk = Limited(Image(), code)
    with open_on(disk) as broker:
        queue = broker.queue("a")
        for body in BODIES:
            queue.publish(body)
    broker = open_on(disk)
    queue = broker.queue("a")
    disk.full = True
    for look in (lambda: queue.peek(9), lambda: queue.receive(timeout=0), broker.stats):
        with pytest.raises(StorageError, match=advice) as caught:
            look()
        assert not isinstance(caught.value, CorruptStore)
    received = queue.receive_many(9, timeout=0)  # those in files that are open
    assert len(received) < 9
    disk.full = False
    received += queue.receive_many(9, timeout=0)
    assert sorted((each.raw, each.attempts) for each in received) == [(body, 1) for body in BODIES]
    broker.close()


@pytest.mark.parametrize("only", ["open", "sync_directory"])
def test_a_rotation_that_gets_no_file_is_tried_again(only):
    """Nothing was written that could be lost."""
    image = Image()
    faulty = Faulty(image)
    broker = open_on(faulty, sync="never")
    queue = broker.queue("a")
    published = [b"kept"]
    queue.publish(b"kept")
    faulty.hook = failing(only, EMFILE)
    with pytest.raises(StorageError, match="ulimit"):
        for body in BODIES:
            queue.publish(body)
            published.append(body)
    faulty.hook = None
    for body in BODIES:
        queue.publish(body)
    assert bodies(broker) == published + BODIES
    assert broker._store.replica.log.failure.error is None
    broker.close()
    with open_on(image) as again:
        assert bodies(again) == published + BODIES


def test_a_sync_that_gets_no_file_has_not_failed():
    """It says that the outcome is open, and the next one brings everything to the disk."""
    image = Image()
    disk = Limited(image)
    broker = open_on(disk, sync="never")
    queue = broker.queue("a")
    for body in BODIES:
        queue.publish(body)
    # As in a process that came when the first segments were full: it has no descriptor of them.
    broker._store.replica.log._close_earlier(NO_LIMIT, 0)
    disk.full = True
    for _ in range(2):
        with pytest.raises(StoreFailed, match=r"perhaps not on the disk: .*ulimit"):
            broker.flush()
    disk.full = False
    queue.publish(b"more")
    broker.flush()
    with open_on(Image(image.synced_files())) as after_power_cut:
        assert bodies(after_power_cut) == [*BODIES, b"more"]
    broker.close()


def test_maintenance_that_gets_no_file_goes_on_later():
    disk = Limited(Image())
    broker = open_on(disk, sync="never")
    queue = broker.queue("a")
    for body in BODIES * 3:
        queue.publish(body)
        queue.receive(timeout=0).ack()
    before = len(broker._store.replica.log.segments)
    disk.full = True
    broker._store.maintenance.run()
    assert broker._store.maintenance.cleaning.trouble is None
    disk.full = False
    broker._store.maintenance.run()
    assert len(broker._store.replica.log.segments) < before
    broker.close()


# ── which file a descriptor is of cannot be told ───────────────────────────────────


def published(broker: Broker, clock: list[float]) -> Iterator[list[bytes]]:
    """The life of a store: after each step, what was acknowledged since the last."""
    queue = broker.queue("a")
    for body in BODIES[:4]:
        queue.publish(body)
        yield [body]
        clock[0] += 1.5  # it is looked at once a second
    queue.publish_many([b"many", b"more"])
    yield [b"many", b"more"]
    broker.flush()
    assert queue.receive(timeout=0).raw == BODIES[0]
    broker.close()


@pytest.mark.parametrize("sync", ["always", "never"])
@pytest.mark.parametrize("method", ["owns", "inode"])
def test_a_file_system_that_does_not_say_which_file_that_is_is_not_taken_for_the_program(method, sync):
    """One error that is no OSError, nothing is lost, and nothing stays open or locked."""
    for after in itertools.count():
        image, safe = Image(), []
        clock = [NOW]
        faulty = Faulty(image, failing(method, EIO, after=after, times=1))
        said = ""
        try:
            broker = open_on(faulty, sync=sync, clock=lambda clock=clock: clock[0])
            try:
                for bodies_of_step in published(broker, clock):
                    safe += bodies_of_step
            finally:
                broker.close()
        except MqError as error:
            said = str(error)
        assert "program" not in said
        assert "replaced" not in said
        assert not image._open, after
        with open_on(image) as again:
            found = bodies(again)
            assert [body for body in found if body in safe] == safe
        if faulty.counts[method] <= after:
            break
        if sync == "always" and said:
            with open_on(Image(image.synced_files())) as after_power_cut:
                assert set(safe) <= set(bodies(after_power_cut))
    assert after > 5


def test_a_descriptor_that_is_not_open_is_told_from_a_file_system_that_fails(tmp_path, monkeypatch):
    disk = RealDisk()
    fd = disk.open(str(tmp_path / "file"), write=True, create=True)
    plain = os.fstat

    def fail(of: int) -> os.stat_result:
        raise OSError(EIO, os.strerror(EIO))

    monkeypatch.setattr(os, "fstat", fail)
    for ask in (disk.inode, disk.owns):
        with pytest.raises(OSError, match="Input/output error"):
            ask(fd)
    disk.close(fd)
    monkeypatch.setattr(os, "fstat", plain)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert disk.inode(fd) is None
    assert not disk.owns(fd)


def test_a_new_file_whose_owner_cannot_be_told_is_not_left_open(tmp_path, monkeypatch):
    disk, plain, opened = RealDisk(), os.fstat, []

    def fail(of: int) -> os.stat_result:
        opened.append(of)
        if len(opened) > 1:
            raise OSError(EIO, os.strerror(EIO))
        return plain(of)

    monkeypatch.setattr(os, "fstat", fail)
    with pytest.raises(OSError, match="Input/output error"):
        disk.open(str(tmp_path / "file"), write=True, create=True)
    monkeypatch.setattr(os, "fstat", plain)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_sync_that_is_not_believed_fails_the_store_for_all(tmp_path):
    """The system did not say that it was this file which it has synced."""
    image = Image()
    faulty = Faulty(image)
    broker = open_on(faulty)
    broker.queue("a").publish(b"one")
    log = broker._store.replica.log

    def untold(name: str, args: tuple[Any, ...]) -> Any:
        if name == "owns" and faulty.synced:
            raise OSError(EIO, os.strerror(EIO))
        faulty.synced = faulty.synced or name == "sync"
        return GO_ON

    faulty.synced, faulty.hook = False, untold
    before = log.synced
    with pytest.raises(StoreFailed, match=r"Input/output error.*re-open"):
        broker.queue("a").publish(b"two")
    assert log.synced == before
    assert log.mark[FAILED]
    faulty.hook = None
    with pytest.raises(StoreFailed):
        broker.queue("a").publish(b"three")
    broker.close()
    with open_on(image) as again:
        assert bodies(again) == [b"one", b"two"]
