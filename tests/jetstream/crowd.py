"""Processes that use one store while its servers are mistreated, and note what they were told.

    python crowd.py ROLE URL NOTES SEED FIRST

    publish   to "mail", one message or a batch; to "lines", in groups; to "jobs"
    consume   from "mail", and acks, nacks, releases, or keeps
    carry     from "jobs" to "done", each in one transaction
    follow    from "lines", whose messages have groups

Before a call goes the intention, after it the answer.  A call that fails is noted, and the process goes on: a
store on a cluster needs no other opening.  SIGTERM ends it, behind the call that it is in.

    try mail 12 13                      told mail 12 13               numbers
    got mail 12 9071 1                  number, id, attempt
    back mail 12                        a nack or a release is next
    ack mail 12                         acked mail 12
    carry jobs 5                        carried jobs 5
    failed StoreFailed publish …        took 2.031 publish            seconds, of a slow call
"""

from __future__ import annotations

import faulthandler
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from noted import Notes

import mq
from mq.nats import following, trimming

NEVER = 3600.0  # a visibility timeout that outlives every test: what is received again was given back before
SHORT = 2.0  # of "lines", where a message whose holder was killed comes again
GROUPS = 3
SLOW_SECONDS = 1.0
SOON = 0.5  # until a receiver that finds nothing does something else


def body(number: int) -> bytes:
    """Follows from the number, so that an altered or misplaced one is told apart."""
    return f"{number}:".encode() + random.Random(number).randbytes(number * 7919 % 700)


def number_of(raw: bytes) -> int:
    digits = raw.partition(b":")[0]
    return int(digits) if digits.isdigit() else -1


class Worker:
    def __init__(self, broker: mq.Broker, notes: str, seed: str, first: int) -> None:
        self._broker, self._chance, self._number = broker, random.Random(seed), first
        self.note = Notes(notes).write

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """One call of mq: how it failed, or how long it took, is noted."""
        begin = time.monotonic()
        try:
            yield
        except mq.StaleReceipt:
            self.note("stale", name)
        except mq.StorageError as error:
            self.note("failed", type(error).__name__, name, str(error).replace("\n", " "))
        finally:
            if (seconds := time.monotonic() - begin) > SLOW_SECONDS:
                self.note("took", round(seconds, 3), name)

    # ── roles ──────────────────────────────────────────────────────────────────────

    def publish(self) -> None:
        name = self._chance.choice(["mail", "mail", "lines", "jobs"])
        count = self._chance.choice([1, 1, 1, 2, 5]) if name == "mail" else 1
        numbers = range(self._number, self._number + count)
        self._number += count
        queue = self._broker.queue(name)
        group: dict[str, Any] = {"group": f"g{numbers[0] % GROUPS}"} if name == "lines" else {}
        self.note("try", name, *numbers)
        with self.call("publish"):
            if count > 1:
                queue.publish_many([body(number) for number in numbers])
            else:
                queue.publish(body(numbers[0]), **group)
            self.note("told", name, *numbers)

    def consume(self) -> None:
        queue = self._broker.queue("mail")
        with self.call("receive"):
            for message in queue.receive_many(self._chance.choice([1, 1, 3]), timeout=SOON):
                self._settle("mail", message, self._chance.random())

    def follow(self) -> None:
        with self.call("receive"):
            if message := self._broker.queue("lines").receive(timeout=SOON):
                self._settle("lines", message, self._chance.random())

    def _settle(self, name: str, message: mq.Delivery[Any], fate: float) -> None:
        number = self._got(name, message)
        if fate < 0.85:
            self.note("ack", name, number)
            with self.call("ack"):
                message.ack()
                self.note("acked", name, number)
        elif fate < 0.97:
            self.note("back", name, number)
            with self.call("back"):
                message.release() if name == "mail" and fate < 0.91 else message.nack(delay=0)
        # else: it is held until its visibility timeout passes

    def carry(self) -> None:
        with self.call("receive"):
            if message := self._broker.queue("jobs").receive(timeout=SOON):
                number = self._got("jobs", message)
                self.note("carry", "jobs", number)
                with self.call("transaction"):
                    with self._broker.transaction() as transaction:
                        transaction.publish("done", message.raw)
                        transaction.ack(message)
                    self.note("carried", "jobs", number)

    def _got(self, name: str, message: mq.Delivery[Any]) -> int:
        number = number_of(message.raw)
        verb = "got" if message.raw == body(number) else "altered"
        self.note(verb, name, number, message.id, message.attempts)
        return number


def be_busy() -> None:
    """Trim the stream all the time, and keep checkpoints, though there is little to trim."""
    small = [
        (trimming, "FLOOR_BYTES", 16 << 10), (trimming, "CHECKPOINT_BYTES", 8 << 10),
        (following, "GROWN_BYTES", 4 << 10), (following, "FENCE_MESSAGES", 8),
    ]  # fmt: skip
    for module, name, value in small:
        assert hasattr(module, name)
        setattr(module, name, value)
    for method in (trimming.StreamMaintenance.run, trimming.StreamCheckpoints.is_due):
        assert len(method.__defaults__ or ()) == 1
        method.__defaults__ = (8 << 10,)


def declare(broker: mq.Broker) -> None:
    for name in ("mail", "jobs", "done"):
        broker.queue(name, visibility_timeout=NEVER)
    broker.queue("lines", visibility_timeout=SHORT, backoff=mq.Backoff(0.01, 1, 0.01, 0))


def work(role: str, url: str, notes: str, seed: str, first: str) -> None:
    be_busy()
    faulthandler.register(signal.SIGUSR1)  # where its threads are, if it hangs
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    while not stopping:
        try:
            broker = mq.open(url)
        except mq.CorruptStore:
            raise
        except mq.StorageError:
            continue  # no server answers just now
        with broker:
            worker = Worker(broker, notes, seed, int(first))
            worker.note("open")
            step: Callable[[], None] = getattr(worker, role)
            while not stopping:
                step()
            worker.note("end")


if __name__ == "__main__":
    work(*sys.argv[1:])
