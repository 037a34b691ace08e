"""What the processes do that will be killed, and how they note what the store told them.

A note goes to a file outside of the store (noted.py).  Before a call goes the intention,
after it the answer:

    opening                            open always
    try mail 12 13                     told mail 12:9071 13:9153        number:id
    got mail 12 1                      number, attempt
    ack mail 12                        acked mail 12
    release mail 12
    flush                              flushed
    closing                            closed
    failed DiskFull …                  the last call was refused, and why
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import noted

import mq
from mq.engine import checkpoints, cleaning, maintenance
from mq.storage import cleaner, rewrite, rotation

from . import faults

QUEUES = ("mail", "jobs")
SEGMENT_BYTES = 16 << 10
PAGE_BYTES = 4096
SYNC_FILE_RANGE_WRITE_AND_WAIT = 7

Fault = tuple[str, str, int, int, int]  # see faults.arm


class Notes(noted.Notes):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._noted: mq.MqError | None = None

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Note an error of the tree that comes through here; once, however often it does."""
        try:
            yield
        except mq.MqError as error:
            if error is not self._noted:
                self._noted = error
                self.write("failed", type(error).__name__, str(error).replace("\n", " "))
            raise


def body(queue: str, number: int) -> bytes:
    """Follows from queue and number, so that an altered or misplaced one is told apart."""
    return f"{number}:{queue}:".encode() + random.Random(number).randbytes(number * 7919 % 3000)


def number_of(raw: bytes) -> int:
    digits = raw.partition(b":")[0]
    return int(digits) if digits.isdigit() else -1


def be_busy() -> None:
    """Cleaner and checkpoints have something to do all the time, in small slices."""
    small: list[tuple[Any, str, int]] = [
        (checkpoints, "CHECKPOINT_SHARE", 0), (maintenance, "CLOSING_BYTES", 1 << 10),
        (cleaning, "PRESSED_SEGMENTS", 0), (cleaner, "SLICE_RECORDS", 3),
        (rotation, "ALLOCATE_BYTES", 4 << 10), (rewrite, "FOLIO_BYTES", 4 << 10),
    ]  # fmt: skip
    for module, name, value in small:
        assert hasattr(module, name)
        setattr(module, name, value)
    for method in (maintenance.Maintenance.run, checkpoints.Checkpoints.is_due):
        assert method.__defaults__ == (checkpoints.CHECKPOINT_BYTES,)
        method.__defaults__ = (8 << 10,)


def traffic(
    path: str, notes_path: str, seed: str, sync: str | float, first: int, kind: str, operations: int = 0,
    fault: Fault | None = None,
) -> None:  # fmt: skip
    """Publish, consume or both, without end or for so many *operations*; numbers count from *first*."""
    notes, chance = Notes(notes_path), random.Random(seed)
    if kind == "busy":
        be_busy()
    notes.write("opening")
    with suppress(mq.MqError), meeting(fault), open_noted(path, sync, notes) as broker:
        worker = Worker(broker, notes, chance, first)
        steps: list[Callable[[], None]] = {
            "publish": [worker.publish],
            "consume": [worker.consume],
            "busy": [worker.publish, worker.consume, worker.consume],
        }[kind]
        done = 0
        while not operations or done < operations:
            done += 1
            chance.choice([*steps * 20, worker.flush])()


@contextmanager
def open_noted(path: str, sync: str | float, notes: Notes, **options: Any) -> Iterator[mq.Broker]:
    with notes.failures():
        with mq.open(path, sync=sync, segment_bytes=SEGMENT_BYTES, **options) as broker:
            notes.write("open", sync)
            try:
                with notes.failures():  # at once: closing may take a while, and be killed
                    yield broker
            finally:
                notes.write("closing")
        notes.write("closed")


@contextmanager
def meeting(fault: Fault | None) -> Iterator[None]:
    if fault:
        faults.arm(*fault)
    try:
        yield
    finally:
        if fault:
            faults.disarm()


class Worker:
    def __init__(self, broker: mq.Broker, notes: Notes, chance: random.Random, first: int) -> None:
        self._broker, self._notes, self._chance, self._number = broker, notes, chance, first
        self._queues = [broker.queue(name) for name in QUEUES]

    def publish(self) -> None:
        queue, count = self._chance.choice(self._queues), self._chance.choice([1, 1, 1, 2, 5])
        numbers = range(self._number, self._number + count)
        self._number += count
        bodies = [body(queue.name, each) for each in numbers]
        self._notes.write("try", queue.name, *numbers)
        ids = queue.publish_many(bodies) if count > 1 else [queue.publish(bodies[0])]
        told = (f"{number}:{id}" for number, id in zip(numbers, ids, strict=True))
        self._notes.write("told", queue.name, *told)

    def consume(self) -> None:
        queue = self._chance.choice(self._queues)
        for message in queue.receive_many(
            self._chance.choice([1, 1, 3, 8]), timeout=0, visibility_timeout=0.2
        ):
            number = number_of(message.raw)
            verb = "got" if message.raw == body(queue.name, number) else "altered"
            self._notes.write(verb, queue.name, number, message.attempts)
            try:
                self._settle(queue.name, number, message)
            except mq.StaleReceipt:
                self._notes.write("stale", number)

    def _settle(self, queue: str, number: int, message: mq.Delivery[object]) -> None:
        fate = self._chance.random()
        if fate < 0.8:
            self._notes.write("ack", queue, number)
            message.ack()
            self._notes.write("acked", queue, number)
        elif fate < 0.9:
            message.nack(delay=0.01)
        elif fate < 0.95:
            self._notes.write("release", queue, number)
            message.release()
        # else: its visibility timeout will pass

    def flush(self) -> None:
        self._notes.write("flush")
        self._broker.flush()
        self._notes.write("flushed")


def reopen(path: str, notes_path: str, fault: Fault | None = None) -> None:
    """Open the store, and close it: there is nothing in this but recovery, to be killed."""
    notes = Notes(notes_path)
    notes.write("opening")
    be_busy()
    with suppress(mq.MqError), meeting(fault), open_noted(path, "always", notes):
        pass


def compact(path: str, notes_path: str) -> None:
    """What `mq compact` does, as the command does it."""
    from mq.cli import main

    notes = Notes(notes_path)
    notes.write("opening")
    notes.write("closing")  # which comes at the end of it
    sys.argv = ["mq", "--store", path, "compact"]
    be_busy()
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, None)


def look(path: str, read_only: bool = False, close: bool = True) -> dict[str, Any]:
    """The verdict; by queue: number, id, attempts, whether the body is whole; and the ready ids in order."""
    now = time.time()  # stands still, so that nothing becomes ready between two looks
    broker = mq.open(path, read_only=read_only, segment_bytes=SEGMENT_BYTES, clock=lambda: now)
    queues = {}
    for name in broker.queues():
        queue = broker.queue(name)
        messages = [*queue.peek(10**6), *queue.peek(10**6, state="delayed")]
        messages += queue.peek(10**6, state="in_flight")
        rows = [
            (number_of(each.raw), each.id, each.attempts, each.raw == body(name, number_of(each.raw)))
            for each in messages
        ]
        queues[name] = {"messages": sorted(rows), "ready": [each.id for each in queue.peek(10**6)]}
    found = {"verdict": broker._store.replica.verdict.value, "queues": queues}
    if close:
        broker.close()
    return found


def sync_some(path: str, seed: str) -> None:
    """Write some pages back, as the kernel may at any time: in no order, and nothing waits for it."""
    chance = random.Random(seed)
    write_back = ctypes.CDLL(None, use_errno=True).sync_file_range
    write_back.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    directory = os.path.join(path, "log")
    for name in sorted(os.listdir(directory))[-3:] if os.path.isdir(directory) else []:
        try:
            fd = os.open(os.path.join(directory, name), os.O_RDONLY)
        except FileNotFoundError:  # the cleaner was quicker
            continue
        last = len(os.pread(fd, 1 << 20, 0).rstrip(b"\0")) // PAGE_BYTES
        for page in range(max(0, last - 8), last + 1):
            if chance.random() < 0.5:
                write_back(fd, page * PAGE_BYTES, PAGE_BYTES, SYNC_FILE_RANGE_WRITE_AND_WAIT)
        os.close(fd)
