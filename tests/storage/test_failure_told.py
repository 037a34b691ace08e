"""A store that failed: somebody is told.  Whoever comes next; and if nobody comes, whoever closes it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from faults import EIO, GO_ON, Faulty, Image, failing
from interrupting import PATIENCE, in_time
from opened import NOW, SEGMENT_BYTES, open_on

import mq
from mq.api.broker import Broker
from mq.engine.store import Store


class FailingThread:
    """The hook of a disk: the first fdatasync of one thread fails, and `failed` says when it has."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.failed = threading.Event()

    def __call__(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "sync" and threading.current_thread().name == self._name and not self.failed.is_set():
            self.failed.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return GO_ON


@pytest.fixture
def disk() -> Faulty:
    return Faulty(Image())


def syncing_in_the_background(disk: Faulty) -> Broker:
    store = Store(
        "s", sync=0.001, read_only=False, segment_bytes=SEGMENT_BYTES, clock=lambda: NOW, disk=disk,
        background=False,
    )  # fmt: skip
    return Broker(store)


def failed_in_the_background(disk: Faulty) -> tuple[Broker, mq.Queue[bytes]]:
    """A store whose background sync has failed, after all that was published had returned."""
    broker = syncing_in_the_background(disk)
    queue = broker.queue("a")
    disk.hook = hook = FailingThread("mq-sync")
    queue.publish(b"returned")
    assert hook.failed.wait(PATIENCE)
    broker._store._flusher.worker.join()  # it has nothing to do any more
    return broker, queue


def test_close_tells_of_a_background_sync_that_failed_if_nobody_else_was_told(disk):
    """P1: the message is perhaps not on the disk, and close() stands for the last sync."""
    broker, _ = failed_in_the_background(disk)
    with pytest.raises(mq.StoreFailed, match="re-open"):
        broker.close()
    broker.close()  # once is enough


TELLING: dict[str, Callable[[Broker, mq.Queue[bytes]], object]] = {
    "publish": lambda broker, queue: queue.publish(b"refused"),
    "receive": lambda broker, queue: queue.receive(timeout=0),
    "flush": lambda broker, queue: broker.flush(),
    "stats": lambda broker, queue: queue.stats(),
}


@pytest.mark.parametrize("name", TELLING)
def test_whoever_comes_next_is_told_and_then_close_is_quiet(disk, name):
    broker, queue = failed_in_the_background(disk)
    with pytest.raises(mq.StoreFailed):
        TELLING[name](broker, queue)
    broker.close()


def test_a_failure_that_struck_a_caller_is_not_told_again_at_close(disk):
    broker = open_on(disk)
    queue = broker.queue("a")
    disk.hook = failing("sync", EIO, times=1)
    with pytest.raises(mq.StoreFailed):
        queue.publish(b"unknown")
    broker.close()


@pytest.mark.parametrize("kind", ["sync", "pwrite"])
def test_a_failure_in_maintenance_is_told_at_close_if_nobody_comes(disk, kind):
    broker = open_on(disk, sync="never")
    queue = broker.queue("a")
    queue.publish(b"stays")
    for _ in range(8):
        queue.publish(bytes(300))
    for message in queue.receive_many(9):
        if message.raw != b"stays":
            message.ack()
    disk.hook = failing(kind, EIO, times=1)
    broker._store.maintenance.run()
    assert disk.counts["unlink"] == 0, "nothing failed"
    with pytest.raises(mq.StoreFailed):
        broker.close()


def test_a_failure_of_the_cleaning_at_close_is_told(disk):
    """It moves messages, and syncs; all that was published before rests on that sync."""
    broker = open_on(disk, sync="never")
    queue = broker.queue("a")
    for _ in range(8):
        queue.publish(bytes(300))
        queue.receive(timeout=0).ack()
    disk.hook = failing("sync", EIO, times=1)
    with pytest.raises(mq.StoreFailed):
        broker.close()


def test_flush_on_a_failed_store_raises_also_when_nothing_is_pending(disk):
    """It says that all is on the disk; and nothing can be said of a store that failed."""
    broker = open_on(disk)
    queue = broker.queue("a")
    queue.publish(b"there")
    disk.hook = failing("pwrite", EIO, times=1)
    with pytest.raises(mq.StoreFailed):
        queue.publish(b"unknown")
    for _ in range(2):
        with pytest.raises(mq.StoreFailed):
            broker.flush()
    broker.close()


def test_what_a_caller_met_first_is_not_told_again_because_maintenance_met_it_too(disk):
    broker = open_on(disk, sync="never")
    queue = broker.queue("a")
    for _ in range(8):
        queue.publish(bytes(300))
        queue.receive(timeout=0).ack()
    cleaning = failing("pwrite", EIO, times=1)

    def hook(name: str, args: tuple[Any, ...]) -> Any:
        if name == "sync" and disk.hook is hook:  # the cleaner is at work, and lets others come in
            disk.hook = cleaning
            with pytest.raises(mq.StoreFailed):
                in_time(lambda: queue.publish(b"unknown"))
        return GO_ON

    disk.hook = hook
    broker._store.maintenance.run()
    assert disk.hook is cleaning
    assert broker._store.maintenance.cleaning.trouble, "it met nothing"
    broker.close()


class Held:
    """The hook of a disk: its first fdatasync waits until it may go, and then fails."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "sync" and not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(PATIENCE)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return GO_ON


@pytest.mark.parametrize("wait", ["publish", "flush"])
def test_who_waited_for_a_sync_that_failed_is_told_though_another_has_closed_the_store(disk, wait):
    """P1: the first publisher leads, and its broker is closed by the time the second one looks."""
    broker = open_on(disk)
    queue = broker.queue("a")
    queue.publish(b"stays")
    disk.hook = hook = Held()
    commit = broker._store.replica.log.syncing.commit

    def lead() -> None:
        with broker:
            queue.publish(b"unknown")

    with ThreadPoolExecutor() as pool:
        leader = pool.submit(lead)
        assert hook.begun.wait(PATIENCE)
        follower = pool.submit(*((queue.publish, b"unknown too") if wait == "publish" else (broker.flush,)))
        give_up = time.monotonic() + PATIENCE
        while not commit._followers and time.monotonic() < give_up:
            time.sleep(0.001)
        hook.go.set()
        for told in leader, follower:
            with pytest.raises(mq.StoreFailed):
                told.result(PATIENCE)
