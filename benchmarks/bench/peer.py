"""A peer: what Python programs use as a queue, and what the bench asks of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from benchmarks.bench.waiting import Bell

Durability = Literal["durable", "buffered"]
"""When a publish returns: the message is on the disk | it is with the kernel, and survives the process."""


class Guarantees(NamedTuple):
    """A few words each, for the table."""

    on_return: str  # durable, after a publish has returned
    killed: str  # what `kill -9` loses
    power: str  # what a power cut loses
    processes: str  # whether several may use a store at once
    redelivery: str  # what becomes of a message whose receiver dies


class Queue(Protocol):
    """The open store of a peer, with one queue in it.  Any thread may call anything but `close`."""

    def publish(self, body: bytes, /) -> object: ...
    def publish_many(self, bodies: list[bytes], /) -> object: ...

    def receive(self, timeout: float, /) -> Any:
        """The next message, or None after *timeout* seconds."""

    def receive_many(self, limit: int, /) -> Sequence[Any]:
        """Up to *limit* messages that are there; none if the queue is empty."""

    def body(self, message: Any, /) -> bytes: ...
    def ack(self, message: Any, /) -> object: ...
    def ack_many(self, messages: Sequence[Any], /) -> object: ...

    def tidy(self) -> None:
        """What a program does now and then, so that the disk does not fill up with what was acked."""

    def remaining(self) -> Iterable[bytes]:
        """The bodies of all that is not acked and not in flight.  They may be gone afterwards."""

    def close(self) -> None: ...

    def kill(self) -> None:
        """Die as by `kill -9`, with all processes that belong to the store."""

    def pids(self) -> list[int]:
        """The processes that work for this one, whose memory and processor time are the peer's too."""


class Base:
    """What most peers have in common: no processes of their own, and nothing to tidy."""

    def tidy(self) -> None:
        return None

    def close(self) -> None:
        return None

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def pids(self) -> list[int]:
        return []


class OneByOne(ABC):
    """For peers without batches: a batch is a loop."""

    @abstractmethod
    def publish(self, body: bytes, /) -> object: ...
    @abstractmethod
    def take(self) -> Any: ...
    @abstractmethod
    def ack(self, message: Any, /) -> object: ...

    def publish_many(self, bodies: list[bytes], /) -> None:
        for body in bodies:
            self.publish(body)

    def receive_many(self, limit: int, /) -> list[Any]:
        found: list[Any] = []
        while len(found) < limit and (message := self.take()) is not None:
            found.append(message)
        return found

    def ack_many(self, messages: Sequence[Any], /) -> None:
        for message in messages:
            self.ack(message)


class Waiting(ABC):
    """For peers that cannot wait: `receive` sleeps on a bell that `publish` rings in the same process.

    With other processes it looks once a millisecond as well.
    """

    bell: Bell

    @abstractmethod
    def take(self) -> Any:
        """The next message, or None."""

    def receive(self, timeout: float, /) -> Any:
        message = self.take()
        if message is None and timeout > 0:
            message = self.bell.wait(self.take, timeout)
        return message


Opener = Callable[[Path, Durability, bool], Queue]


def installed(module: str) -> str:
    """Why a peer that needs *module* cannot run here; empty if it can."""
    return "" if importlib.util.find_spec(module) else f"the package {module} is not installed"


def version_of(distribution: str) -> str:
    return importlib.metadata.version(distribution)


@dataclass(frozen=True)
class Peer:
    name: str  # as in --peers
    title: str
    guarantees: Guarantees
    open: Opener  # the directory, the durability, and whether other processes use the store too
    version: Callable[[], str]
    missing: Callable[[], str] = lambda: ""  # why it cannot run here; empty if it can
    durabilities: tuple[Durability, ...] = ("durable", "buffered")
    processes: bool = False  # several may use a store at once
    receives: bool = True
    acks: bool = True  # else what is received is gone already
    forget: Callable[[Path], None] | None = None  # removes what makes opening quick, if it can do without
    stays: bool = True  # what was published is there after the store was closed
    survives: bool = True  # ... and after the process was killed
    floor: bool = False  # no queue: what the disk alone takes


def bodies_of(queue: Queue, messages: Iterable[Any]) -> Iterator[bytes]:
    return map(queue.body, messages)
