"""The loops that are timed.  Those with an end in time look at the clock once in a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.bench.bodies import Ledger, stop
from benchmarks.bench.peer import Queue, bodies_of

LOOK = 20  # operations between two looks at the clock
BATCH = 100
FILL = 1000  # messages in a batch, where batches are not what is measured
RECEIVE_SECONDS = 60.0  # nothing for so long: something is stuck


class Stuck(Exception):
    """A receiver waited, and nothing came."""


def each(operation: Callable[[Any], object], items: list[Any], until: float) -> int:
    """Do *operation* with each of *items*, up to the time *until*; with how many it was done."""
    for first in range(0, len(items), LOOK):
        for item in items[first : first + LOOK]:
            operation(item)
        if time.perf_counter() >= until:
            return min(len(items), first + LOOK)
    return len(items)


def batches(bodies: list[bytes], size: int) -> list[list[bytes]]:
    return [bodies[first : first + size] for first in range(0, len(bodies), size)]


def fill(queue: Queue, bodies: list[bytes], until: float = float("inf")) -> int:
    """Publish *bodies*, up to the time *until*; how many."""
    done = 0
    for batch in batches(bodies, FILL):
        queue.publish_many(batch)
        done += len(batch)
        if time.perf_counter() >= until:
            break
    return done


def receive_each(queue: Queue, count: int, until: float) -> list[bytes]:
    """Receive and ack *count* messages, one at a time, up to the time *until*; their bodies."""
    receive, ack, body = queue.receive, queue.ack, queue.body
    bodies: list[bytes] = []
    while len(bodies) < count and time.perf_counter() < until:
        for _ in range(min(LOOK, count - len(bodies))):
            message = receive(0)
            if message is None:
                return bodies
            bodies.append(body(message))
            ack(message)
    return bodies


def receive_batches(queue: Queue, size: int, until: float) -> list[bytes]:
    """Receive and ack all that is there, so many at a time, up to the time *until*; the bodies."""
    bodies: list[bytes] = []
    while time.perf_counter() < until and (messages := queue.receive_many(size)):
        bodies += bodies_of(queue, messages)
        queue.ack_many(messages)
    return bodies


def consume(queue: Queue, size: int) -> list[bytes]:
    """Receive and ack until a message says stop; the bodies before it.  *size*: of a body."""
    receive, ack, body, last = queue.receive, queue.ack, queue.body, stop(size)
    bodies: list[bytes] = []
    while True:
        message = receive(RECEIVE_SECONDS)
        if message is None:
            raise Stuck(f"nothing came for {RECEIVE_SECONDS:.0f} s")
        found = body(message)
        ack(message)
        if found == last:
            return bodies
        bodies.append(found)


def drain(queue: Queue, until: float, ledger: Ledger) -> bool:
    """Receive and ack all that is there; False if the time *until* comes first."""
    while messages := queue.receive_many(FILL):
        ledger.found(bodies_of(queue, messages))
        queue.ack_many(messages)
        queue.tidy()
        if time.perf_counter() > until:
            return False
    return True
