"""Redis Streams with an append-only file, on a server of this measurement's own on loopback.

The process that opens the store first starts the server, and others find it by a file beside the data.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.bench.peer import Base, Durability, Guarantees, Peer, installed

Message = tuple[bytes, dict[bytes, bytes]]

STREAM, GROUP, FIELD = "bench", "bench", b"b"
START_SECONDS = 300.0  # with a million messages to load
FSYNC: dict[Durability, str] = {"durable": "always", "buffered": "everysec"}


class Server:
    """A redis-server of our own."""

    def __init__(self, directory: Path, durability: Durability) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = (
            f"redis-server --bind 127.0.0.1 --port {self.port} --appendonly yes --save"
            f" --appendfsync {FSYNC[durability]} --daemonize no --logfile redis.log"
        ).split(" ")
        command.insert(command.index("--save") + 1, "")  # no snapshots beside the log
        self.process = subprocess.Popen(command, cwd=directory)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class RedisStream(Base):
    def __init__(self, directory: Path, durability: Durability, shared: bool) -> None:
        import redis

        self._note = directory / "server"
        self._server: Server | None = None
        if self._note.exists():
            port, self._pid = map(int, self._note.read_text().split())
        else:
            self._server = Server(directory, durability)
            port, self._pid = self._server.port, self._server.process.pid
        self._redis = redis.Redis(port=port, protocol=2)
        self._wait_until_loaded(redis)
        if self._server:
            with suppress(redis.ResponseError):  # it is there already
                self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
            self._note.write_text(f"{port} {self._pid}")
        self._consumer = str(os.getpid())

    def _wait_until_loaded(self, redis: Any) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self._redis.ping()
                return
            except (redis.BusyLoadingError, redis.ConnectionError):
                if time.monotonic() > until or (self._server and self._server.process.poll() is not None):
                    raise
                time.sleep(0.001)

    def publish(self, body: bytes, /) -> None:
        self._redis.xadd(STREAM, {FIELD: body})

    def publish_many(self, bodies: list[bytes], /) -> None:
        with self._redis.pipeline(transaction=True) as pipe:
            for body in bodies:
                pipe.xadd(STREAM, {FIELD: body})
            pipe.execute()

    def receive(self, timeout: float, /) -> Message | None:
        found = self._read(1, max(1, int(timeout * 1000)) if timeout else None)
        return found[0] if found else None

    def receive_many(self, limit: int, /) -> list[Message]:
        return self._read(limit, None)

    def _read(self, limit: int, block: int | None) -> list[Message]:
        streams = {STREAM: ">"}
        found = self._redis.xreadgroup(GROUP, self._consumer, streams, count=limit, block=block)
        messages: list[Message] = found[0][1] if found else []
        return messages

    def body(self, message: Message, /) -> bytes:
        return message[1][FIELD]

    def ack(self, message: Message, /) -> None:
        self.ack_many([message])

    def ack_many(self, messages: Sequence[Message], /) -> None:
        """Acked, and deleted: an ack alone leaves the message in the stream."""
        ids = [id for id, _ in messages]
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.xack(STREAM, GROUP, *ids)
            pipe.xdel(STREAM, *ids)
            pipe.execute()

    def remaining(self) -> Iterator[bytes]:
        first = "-"
        while messages := self._redis.xrange(STREAM, min=first, count=10_000):
            yield from (fields[FIELD] for _, fields in messages)
            first = "(" + messages[-1][0].decode()

    def close(self) -> None:
        self._redis.close()
        if self._server:
            self._note.unlink(missing_ok=True)
            self._server.stop()

    def kill(self) -> None:
        self._note.unlink(missing_ok=True)
        os.kill(self._pid, signal.SIGKILL)
        super().kill()

    def pids(self) -> list[int]:
        return [self._pid]


def missing() -> str:
    if not shutil.which("redis-server"):
        return "there is no redis-server on the PATH"
    return installed("redis")


def version() -> str:
    told = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\S+)", told)
    return found[1] if found else "unknown"


PEER = Peer(
    name="redis",
    title="Redis Streams",
    guarantees=Guarantees(
        on_return="yes with appendfsync=always, else (everysec) with the kernel",
        killed="nothing",
        power="nothing; OS-buffered: the last second",
        processes="yes, also over a network; the server is one more",
        redelivery="by hand (XAUTOCLAIM)",
    ),
    open=RedisStream,
    version=version,
    missing=missing,
    processes=True,
)
