"""mq itself, as this checkout has it; and the mq of another checkout, for a before and after in one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from benchmarks.bench.peer import Base, Durability, Guarantees, Peer, version_of


class Store(Base):
    """The workloads call the library's own functions: nothing of the bench stands between."""

    def __init__(self, directory: Path, durability: Durability, shared: bool) -> None:
        import mq  # here: in a process of another peer there is no mq

        self._broker = mq.open(directory / "mq", sync="always" if durability == "durable" else "never")
        queue = self._broker.queue("bench")
        self._receive_many = queue.receive_many
        self.publish: Callable[[bytes], object] = queue.publish
        self.publish_many: Callable[[list[bytes]], object] = queue.publish_many
        self.receive: Callable[[float], Any] = queue.receive
        self.body: Callable[[Any], bytes] = attrgetter("raw")
        self.ack: Callable[[Any], object] = mq.Delivery.ack
        self.ack_many: Callable[[Sequence[Any]], object] = queue.ack_many

    def receive_many(self, limit: int, /) -> list[Any]:
        return self._receive_many(limit, timeout=0)

    def remaining(self) -> Iterator[bytes]:
        while messages := self.receive_many(1000):
            yield from map(self.body, messages)
            self.ack_many(messages)

    def close(self) -> None:
        self._broker.close()


def remove_checkpoints(directory: Path) -> None:
    shutil.rmtree(directory / "mq" / "checkpoint", ignore_errors=True)


PEER = Peer(
    name="mq",
    title="mq",
    guarantees=Guarantees(
        on_return='yes with sync="always", else with the kernel',
        killed="nothing",
        power="nothing; OS-buffered: what the kernel had not written back",
        processes="yes",
        redelivery="after its visibility timeout, with attempts counted",
    ),
    open=Store,
    version=lambda: version_of("mq"),
    processes=True,
    forget=remove_checkpoints,
)

BEFORE = replace(PEER, name="mq-before", title="mq, before", missing=lambda: "there is no --before")
