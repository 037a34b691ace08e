"""The state at one message of the stream, kept in an object store beside it, for the next opening.

A checkpoint is a cache: without one, opening reads the whole stream, and nothing else.  It is one object that
holds all: another process may write the next one at any time, and what the first one named would be gone.
"""

from __future__ import annotations

import asyncio
import zlib
from array import array
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import msgspec
from nats.js.api import ObjectMeta, ObjectStoreConfig
from nats.js.errors import APIError, BucketNotFoundError, ObjectNotFoundError
from nats.js.errors import Error as JetStreamError
from nats.js.object_store import ObjectStore

from mq.delivery import snapshot
from mq.delivery.backlog import Arrays, Chunk
from mq.delivery.snapshot import Frozen
from mq.delivery.state import State
from mq.errors import StorageError
from mq.nats.connection import PATIENCE_SECONDS, SILENT, Connection
from mq.nats.fences import NOTHING, Order
from mq.nats.stream import Stream
from mq.storage.crc import crc32c

T = TypeVar("T")

VERSION: Final = 3
LONG_SECONDS: Final = 100.0  # until a long checkpoint has come
NAME: Final = "checkpoint"
CRC_BYTES: Final = 4
LEVEL: Final = 1  # of compression: ids in a row become a tenth
UNUSABLE: Final = (zlib.error, msgspec.MsgspecError)


class Kept(msgspec.Struct, array_like=True):
    """A checkpoint."""

    version: int
    order: Order  # as of the last message that is applied
    last_ms: int
    state: bytes
    arrays: list[bytes]  # of u64, which the state names by their index

    @classmethod
    def nothing(cls, seq: int) -> Self:
        """What stands for a checkpoint where there is none: nothing lives in the messages up to *seq*."""
        return cls(VERSION, NOTHING._replace(last=(seq, 0)), 0, b"", [])

    @classmethod
    def of(cls, order: Order, last_ms: int, frozen: Frozen) -> Self:
        arrays: list[bytes] = []

        def save(words: array[int]) -> tuple[int, ...]:
            arrays.append(words.tobytes())
            return (len(arrays) - 1,)

        state, _, _ = snapshot.encode(frozen, save)
        return cls(VERSION, order, last_ms, b"".join(map(bytes, state)), arrays)

    @property
    def seq(self) -> int:
        """Of the last message that is applied."""
        return self.order.last[0]

    def restore(self) -> State:
        """The state, and nothing of it is left to be loaded."""
        state = snapshot.restore(self.state, self._load)
        state.keep_only(lambda place: False)
        return state

    def _load(self, number: int, priority: int, chunk: Chunk) -> Arrays:
        ids, positions = chunk.saved
        return self._words(ids), None if positions is None else self._words(positions)

    def _words(self, place: tuple[int, ...]) -> array[int]:
        words = array("Q")
        words.frombytes(self.arrays[place[0]])
        return words


def pack(kept: Kept, seed: int) -> bytes:
    data = zlib.compress(msgspec.msgpack.encode(kept), LEVEL)
    return crc32c(data, seed).to_bytes(CRC_BYTES, "little") + data


def unpack(data: bytes, seed: int) -> Kept | None:
    """None if it is damaged, or of another version: then the stream says it, too."""
    if crc32c(data[CRC_BYTES:], seed) != int.from_bytes(data[:CRC_BYTES], "little"):
        return None
    try:
        kept = msgspec.msgpack.decode(zlib.decompress(data[CRC_BYTES:]), type=Kept)
    except UNUSABLE:
        return None
    return kept if kept.version == VERSION else None


# ── in the object store ────────────────────────────────────────────────────────────


def fetch(connection: Connection, stream: Stream) -> Kept | None:
    """The newest checkpoint; None if there is none that is whole."""
    data = _run(connection, _fetch(connection, stream))
    return unpack(data, stream.seed) if data else None


def newest(connection: Connection, stream: Stream) -> int:
    """The sequence at which the newest checkpoint stands; 0: there is none."""
    return _run(connection, _newest(connection, stream)) or 0


def put(connection: Connection, stream: Stream, kept: Kept) -> int:
    """Make it the newest; its size."""
    data = pack(kept, stream.seed)
    if _run(connection, _put(connection, stream, data, str(kept.seq))) is None:
        raise StorageError(stream.path, "no object store for checkpoints can be had")
    return len(data)


def _run(connection: Connection, work: Coroutine[Any, Any, T]) -> T | None:
    """None if it is not there."""
    try:
        return connection.run(work)
    except (BucketNotFoundError, ObjectNotFoundError):
        return None
    except (JetStreamError, *SILENT) as error:
        raise StorageError(connection.path, f"checkpoints: {error or type(error).__name__}") from error


def _bucket(stream: Stream) -> str:
    return stream.name


async def _fetch(connection: Connection, stream: Stream) -> bytes | None:
    store = await connection.nc.jetstream(timeout=PATIENCE_SECONDS).object_store(_bucket(stream))
    for seconds in (
        PATIENCE_SECONDS,
        LONG_SECONDS,
    ):  # what delivers an object may be lost with its server, unsaid
        with suppress(asyncio.TimeoutError):
            async with asyncio.timeout(seconds):
                return (await store.get(NAME)).data
    raise TimeoutError("the newest one does not come")


async def _newest(connection: Connection, stream: Stream) -> int:
    store = await connection.nc.jetstream(timeout=PATIENCE_SECONDS).object_store(_bucket(stream))
    return int((await store.get_info(NAME)).description or 0)


async def _put(connection: Connection, stream: Stream, data: bytes, seq: str) -> bool:
    store = await _store(connection, stream)
    await store.put(NAME, data, ObjectMeta(name=NAME, description=seq))
    return True


async def _store(connection: Connection, stream: Stream) -> ObjectStore:
    js = connection.nc.jetstream(timeout=PATIENCE_SECONDS)
    try:
        return await js.object_store(_bucket(stream))
    except BucketNotFoundError:
        config = ObjectStoreConfig(replicas=stream.replicas)
        try:
            return await js.create_object_store(_bucket(stream), config)
        except APIError:  # another process was first
            return await js.object_store(_bucket(stream))
