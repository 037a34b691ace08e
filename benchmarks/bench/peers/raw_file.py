"""No queue: a `write` of each body, and an `fdatasync` if it is to be durable.  Less cannot be done."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import Any

from benchmarks.bench.peer import Base, Durability, Guarantees, Peer

LENGTH = Struct("<I")


class RawFile(Base):
    def __init__(self, directory: Path, durability: Durability, shared: bool) -> None:
        self._file = os.open(directory / "raw", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._sync = durability == "durable"

    def publish(self, body: bytes, /) -> None:
        os.write(self._file, LENGTH.pack(len(body)) + body)
        if self._sync:
            os.fdatasync(self._file)

    def publish_many(self, bodies: list[bytes], /) -> None:
        os.write(self._file, b"".join([LENGTH.pack(len(body)) + body for body in bodies]))
        if self._sync:
            os.fdatasync(self._file)

    def receive(self, timeout: float, /) -> None:
        raise NotImplementedError("a file is no queue")

    def receive_many(self, limit: int, /) -> Sequence[Any]:
        raise NotImplementedError("a file is no queue")

    def body(self, message: Any, /) -> bytes:
        raise NotImplementedError("a file is no queue")

    def ack(self, message: Any, /) -> None:
        raise NotImplementedError("a file is no queue")

    def ack_many(self, messages: Sequence[Any], /) -> None:
        raise NotImplementedError("a file is no queue")

    def remaining(self) -> Iterator[bytes]:
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)
            while head := file.read(LENGTH.size):
                yield file.read(LENGTH.unpack(head)[0])

    def close(self) -> None:
        os.close(self._file)


PEER = Peer(
    name="raw",
    title="write, fdatasync",
    guarantees=Guarantees(
        on_return="yes with fdatasync, else with the kernel",
        killed="nothing",
        power="nothing; OS-buffered: what the kernel had not written back",
        processes="no queue: nothing finds a torn end, and nothing is received",
        redelivery="-",
    ),
    open=RawFile,
    version=platform.python_version,
    receives=False,
    floor=True,
)
