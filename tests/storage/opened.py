"""A store on a disk of the test's choice, and everything that is in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mq.api.broker import Broker
from mq.engine.store import Store
from mq.storage.disk import Disk

NOW = 1_700_000_100.0
SEGMENT_BYTES = 1024


def open_on(
    disk: Disk, *, sync: str = "always", segment_bytes: int = SEGMENT_BYTES, now: float = NOW,
    read_only: bool = False, clock: Callable[[], float] | None = None,
) -> Broker:  # fmt: skip
    """Nothing happens in the background: what is cleaned is cleaned at close."""
    return Broker(
        Store(
            "s",
            sync=sync,
            read_only=read_only,
            segment_bytes=segment_bytes,
            clock=clock or (lambda: now),
            disk=disk,
            background=False,
        )
    )


class Held(NamedTuple):
    """What a queue holds under an id."""

    body: object
    attempts: int
    state: str


def contents(broker: Broker, queues: list[str] | None = None) -> dict[int, Held]:
    """Every message of *queues*, or of all, each read and checked."""
    return {
        message.id: Held(message.body, message.attempts, state)
        for name in queues or broker.queues()
        for state in ("ready", "delayed", "in_flight")
        for message in broker.queue(name).peek(10_000, state=state)
    }


def bodies(broker: Broker) -> list[object]:
    """The bodies, by id."""
    return [held.body for _, held in sorted(contents(broker).items())]
