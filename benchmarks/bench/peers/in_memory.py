"""The queue of textbooks, in memory: a Condition, a deque, an id by uuid4, leases in a dict."""

from __future__ import annotations

import platform
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.bench.peer import Base, Durability, Guarantees, Peer

Message = tuple[str, bytes]

LEASE_SECONDS = 30.0


class InMemory(Base):
    def __init__(self, directory: Path, durability: Durability, shared: bool) -> None:
        self._condition = threading.Condition()
        self._ready: deque[Message] = deque()
        self._leased: dict[str, tuple[float, bytes]] = {}

    def publish(self, body: bytes, /) -> str:
        id = str(uuid.uuid4())
        with self._condition:
            self._ready.append((id, body))
            self._condition.notify()
        return id

    def publish_many(self, bodies: list[bytes], /) -> list[str]:
        messages = [(str(uuid.uuid4()), body) for body in bodies]
        with self._condition:
            self._ready.extend(messages)
            self._condition.notify(len(messages))
        return [id for id, _ in messages]

    def receive(self, timeout: float, /) -> Message | None:
        with self._condition:
            if not self._ready and not (timeout and self._condition.wait_for(lambda: self._ready, timeout)):
                return None
            return self._lease(self._ready.popleft())

    def receive_many(self, limit: int, /) -> list[Message]:
        with self._condition:
            count = min(limit, len(self._ready))
            return [self._lease(self._ready.popleft()) for _ in range(count)]

    def _lease(self, message: Message) -> Message:
        id, body = message
        self._leased[id] = time.monotonic() + LEASE_SECONDS, body
        return message

    def body(self, message: Message, /) -> bytes:
        return message[1]

    def ack(self, message: Message, /) -> None:
        with self._condition:
            del self._leased[message[0]]

    def ack_many(self, messages: Sequence[Message], /) -> None:
        with self._condition:
            for id, _ in messages:
                del self._leased[id]

    def remaining(self) -> Iterable[bytes]:
        return [body for _, body in self._ready]


PEER = Peer(
    name="in-memory",
    title="in memory",
    guarantees=Guarantees(
        on_return="no",
        killed="everything",
        power="everything",
        processes="no",
        redelivery="after its lease, as long as the process lives",
    ),
    open=InMemory,
    version=platform.python_version,
    durabilities=("buffered",),
    stays=False,
    survives=False,
)
