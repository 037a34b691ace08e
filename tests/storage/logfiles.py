"""Log files made of small parts, so that a test reads like the picture of the file that it needs.

    segment(publish(b"one"), publish(b"two", claims=ALL), cut(9, publish(b"three")))

A part is a function of the place where it will stand.  `claims` is what its record says
is synced: NOTHING (position 0), ALL (everything before it), or a position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from mq.delivery import records
from mq.storage import look, record, walk
from mq.storage.identity import Identity
from mq.storage.segment import HEADER_BYTES, Segment, encode_header

IDENTITY = Identity("00112233445566778899aabbccddeeff", bytes.fromhex("0123456789abcdef"))
OTHER = Identity("ffeeddccbbaa99887766554433221100", bytes.fromhex("fedcba9876543210"))
CREATED_MS = 1_700_000_000_000
CAPACITY = 1024
NOTHING, ALL = 0, -1
QUEUE = 1


class Place(NamedTuple):
    segment: Segment
    lsn: int


Part = Callable[[Place], bytes]


def items_of(walked: walk.Walk, file: walk.File) -> Iterator[look.Found | look.Gap]:
    """What stands in *file* of a log that was walked, one by one."""
    for part in walked.runs(file):
        if isinstance(part, look.Gap):
            yield part
        else:
            yield from (look.found_in(file.segment, event, part.dropped) for event in part.stretch.events())


class File(NamedTuple):
    """A segment's file, and where its parts begin; `starts[-1]` is the end of the last."""

    segment: Segment
    data: bytes
    starts: list[int]

    @property
    def name(self) -> str:
        return self.segment.name

    @property
    def end(self) -> int:
        return self.starts[-1]


def segment(
    *parts: Part, base: int = 0, capacity: int = CAPACITY, void_from: int | None = None, number: int = 0,
    head: int = 0, identity: Identity = IDENTITY, fence: bool = True, claims: int = NOTHING,
) -> File:  # fmt: skip
    """A segment with its header, its fence unless *fence* is False, and *parts*."""
    own = Segment(number, base, capacity, CREATED_MS, record.seed(identity.key, base))
    data, starts = encode_header(identity, own), []
    if fence:
        parts = (_fence(base if void_from is None else void_from, head, claims), *parts)
    for part in parts:
        starts.append(base + len(data) - HEADER_BYTES)
        data += part(Place(own, starts[-1]))
    return File(own, data, [*starts[fence:], base + len(data) - HEADER_BYTES])


def entry(
    kind: int, payload: bytes = b"", *, claims: int = NOTHING, flags: int = 0, queue: int = QUEUE, ms: int = 0
) -> Part:
    def part(place: Place) -> bytes:
        synced = place.lsn if claims == ALL else claims
        return record.encode(place.segment.seed, place.lsn, synced, ms, kind, flags, queue, payload)

    return part


def declare(name: str = "a", *, claims: int = NOTHING) -> Part:
    return entry(records.DECLARE, msgspec.msgpack.encode({"name": name}), claims=claims)


def publish(body: bytes, *, claims: int = NOTHING, more: bool = False) -> Part:
    """A message; *more*: its group goes on."""
    return entry(records.PUBLISH, body, claims=claims, flags=record.CONTINUES if more else 0)


def deliver(id: int, *, claims: int = NOTHING) -> Part:
    return entry(records.DELIVER, records.DELIVER_PAYLOAD.pack(id, CREATED_MS + 30_000), claims=claims)


def ack(id: int, size: int, *, claims: int = NOTHING) -> Part:
    return entry(records.ACK, records.ACK_PAYLOAD.pack(id, size), claims=claims)


def closed(*, claims: int = NOTHING) -> Part:
    return entry(record.CLOSED, queue=0, claims=claims)


def zeros(count: int) -> Part:
    return lambda place: bytes(count)


def raw(data: bytes) -> Part:
    return lambda place: data


def cut(count: int, part: Part) -> Part:
    """The first *count* bytes of it: what a crash leaves."""
    return lambda place: part(place)[:count]


def flip(part: Part, at: int, bit: int = 0) -> Part:
    """One bit of it inverted."""

    def flipped(place: Place) -> bytes:
        data = bytearray(part(place))
        data[at] ^= 1 << bit
        return bytes(data)

    return flipped


def mark(synced: int, identity: Identity = IDENTITY) -> bytes:
    """The page, claiming *synced*."""
    words = [int.from_bytes(identity.key, "little"), synced, 0, synced]
    return b"".join(word.to_bytes(8, "little") for word in words).ljust(4096, b"\0")


def store(*files: File, synced: int | None = None, identity: Identity = IDENTITY) -> dict[str, bytes]:
    """The files of a store in the directory "s"; without *synced* there is no mark."""
    made = {f"s/log/{file.name}": file.data for file in files}
    made["s/FORMAT"] = identity.line()
    if synced is not None:
        made["s/mark"] = mark(synced)
    return made


def _fence(void_from: int, head: int, claims: int) -> Part:
    def part(place: Place) -> bytes:
        own = place.segment
        payload = record.FENCE_PAYLOAD.pack(void_from, head, own.capacity, own.created_ms)
        return entry(record.FENCE, payload, queue=0, claims=claims)(place)

    return part
