"""What a process does, step by step, when the disk is full or fails.  Jobs for children; they assert."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mq
from mq.storage.record import HEADER_BYTES

from . import faults
from .processes import PATIENCE_SECONDS
from .traffic import PAGE_BYTES, number_of


def overwrite(path: str, text: str, sync: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.pwrite(fd, text.encode(), 0)
    if sync:
        os.fsync(fd)
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(directory)


# ── full ───────────────────────────────────────────────────────────────────────────

SEGMENT_BYTES = 1 << 20
BODY_BYTES = 9000


def publish_until_full(queue: mq.Queue[Any], start: int = 0) -> int:
    """How many messages there was room for, numbered on from *start*."""
    count = 0
    try:
        while True:
            queue.publish(full_body(start + count))
            count += 1
    except mq.DiskFull:
        return count


def full_body(number: int) -> bytes:
    return f"{number}:".encode() + random.Random(number).randbytes(BODY_BYTES)


def until_there_is_room(queue: mq.Queue[Any], number: int) -> None:
    """Publish, as soon as the cleaner has made room."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            queue.publish(full_body(number))
            return
        except mq.DiskFull:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)  # not for time to pass, but for the cleaner


def fill_and_drain(path: str) -> None:
    """A full disk can be drained, and then there is room again, without a re-open."""
    with mq.open(path, segment_bytes=SEGMENT_BYTES) as broker:
        queue = broker.queue("mail")
        for cycle in range(2):
            count = publish_until_full(queue)
            assert count > 200, f"room for only {count} in cycle {cycle}"
            while more := publish_until_full(queue, count):  # ext4 gives room back a moment later
                count += more
            assert queue.stats().ready == count
            for number in range(count):
                message = queue.receive(timeout=0)
                assert message
                assert message.raw == full_body(number)
                message.ack()
            assert queue.receive(timeout=0) is None
            until_there_is_room(queue, 0)
            message = queue.receive(timeout=0)
            assert message
            message.ack()


def fill_and_be_helped(path: str, ballast: str) -> int:
    """Another program removes a file: publishing goes on, without a re-open.  How many messages there are."""
    with mq.open(path, segment_bytes=SEGMENT_BYTES) as broker:
        queue = broker.queue("mail")
        count = publish_until_full(queue)
        os.unlink(ballast)
        until_there_is_room(queue, count)
        more = publish_until_full(queue, count + 1)
        assert more > 200
        return count + 1 + more


def fill_and_die(path: str) -> int:
    """Leave the store as the full disk left it, without closing; how many messages are in it."""
    return publish_until_full(mq.open(path, segment_bytes=SEGMENT_BYTES).queue("mail"))


def outgrow_the_limit(path: str, limit_bytes: int) -> int:
    """Files may not grow beyond the limit (EFBIG): refused, nothing torn; how many messages there are."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with mq.open(path) as broker:
        queue = broker.queue("mail")
        queue.publish(full_body(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
        count = 1 + publish_until_full(queue, 1)
        assert publish_until_full(queue, count) == 0
        assert count > 10
        message = queue.receive(timeout=0)
        assert message
        message.release()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        queue.publish(full_body(count))
        return count + 1


def drain(path: str, count: int) -> str:
    """Everything is there, in order, and can be settled; the verdict."""
    with mq.open(path, segment_bytes=SEGMENT_BYTES) as broker:
        queue = broker.queue("mail")
        for number in range(count):
            message = queue.receive(timeout=0)
            assert message, f"{number} of {count} is gone"
            assert message.raw == full_body(number)
            message.ack()
        assert queue.receive(timeout=0) is None
        return broker._store.replica.verdict.value


# ── failed ─────────────────────────────────────────────────────────────────────────


def fail_once(path: str, call: str, error: int) -> None:
    """One call fails once; from then on nothing is tried again, and everything is refused."""
    broker = mq.open(path)
    queue = broker.queue("mail")
    for number in range(3):
        queue.publish(full_body(number))
    held = queue.receive(timeout=0)
    assert held
    faults.arm(call, "/log/", 1, 1, error)
    refused(lambda: queue.publish(full_body(3)))
    assert faults.seen() == 1
    faults.arm("*", "/log/", 0, 0, 0)
    for attempt in (
        lambda: queue.publish(full_body(4)), lambda: queue.publish_many([full_body(5)]),
        lambda: queue.receive(timeout=0), held.ack, held.nack, broker.flush,
    ):  # fmt: skip
        refused(attempt)
    assert faults.seen() == 0, "tried again"


def refused(attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except mq.StoreFailed:
        return
    raise AssertionError("the store has failed, and goes on")


def write_over_bad_blocks(path: str, ready: str, go: str) -> None:
    """Publish one message; once told to, another, which the disk cannot take."""
    broker = mq.open(path)
    queue = broker.queue("mail")
    queue.publish(full_body(0))
    end_at_a_page(broker)
    log = broker._store.replica.log
    Path(ready).write_text(str(log.segments[-1].offset(log.end)))
    until_there_is(go)
    refused(lambda: queue.publish(full_body(1)))
    refused(lambda: queue.publish(full_body(2)))


def until_there_is(path: str) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not os.path.exists(path):
        assert time.monotonic() < give_up
        time.sleep(0.001)  # not for time to pass, but for the other process


def outgrow_bad_blocks(path: str, ready: str, go: str) -> None:
    """Publish one message; once told to, more than its segment holds; told again, bring it to the disk."""
    broker = mq.open(path, sync="never", segment_bytes=SEGMENT_BYTES)
    queue = broker.queue("mail")
    queue.publish(full_body(0))
    end_at_a_page(broker)
    broker.flush()
    log = broker._store.replica.log
    Path(ready).write_text(str(log.segments[-1].offset(log.end)))
    until_there_is(go)
    number = 1
    while len(log.segments) < 2:
        queue.publish(full_body(number))
        number += 1
    assert log.synced < log.segments[0].limit < log.end
    Path(ready + "-2").touch()
    until_there_is(go + "-2")
    refused(broker.flush)


def end_at_a_page(broker: mq.Broker) -> None:
    """What is written next begins a page: see WeakDisk."""
    padding = broker.queue("padding")
    padding.publish(b"")
    log = broker._store.replica.log
    padding.publish(bytes(-(log.segments[-1].offset(log.end) + HEADER_BYTES) % PAGE_BYTES))
    assert log.segments[-1].offset(log.end) % PAGE_BYTES == 0


def numbers(path: str) -> list[int]:
    """The numbers of what is there, and whole."""
    with mq.open(path) as broker:
        queue = broker.queue("mail")
        found = [message.raw for message in (*queue.peek(1000), *queue.peek(1000, state="in_flight"))]
    ours = sorted(map(number_of, found))
    assert sorted(found) == sorted(map(full_body, ours))
    return ours
