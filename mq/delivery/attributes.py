"""What a message is beside its body: what its publisher said, and what became of it since.

    the body                  ← where a PUBLISH record begins
    Attributes, msgpack         only if the publisher said anything
    their length, u32
    Changes, msgpack            in a RELOCATE record, if anything changed
    their length, u32

Attributes with their length are a trailer: it is read from the end, and the body, which may be large,
is not cut out.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Annotated, Final, Protocol

import msgspec

# What the indexes have room for: decoding refuses other numbers.
Priority = Annotated[int, msgspec.Meta(ge=0, le=255)]
Instant = Annotated[int, msgspec.Meta(ge=0)]  # ms since 1970


class Attributes(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What a publisher said beside the body.  Stored only if it said anything."""

    priority: Priority = msgspec.field(default=0, name="p")
    due: Instant = msgspec.field(default=0, name="d")  # wall time; 0: at once
    expires: Instant = msgspec.field(default=0, name="e")  # wall time; 0: never
    group: str | None = msgspec.field(default=None, name="g")
    headers: dict[str, str] = msgspec.field(default_factory=dict, name="h")
    dedup_id: str | None = msgspec.field(default=None, name="k")
    dedup_until: Instant = msgspec.field(default=0, name="u")  # store time
    topic: str | None = msgspec.field(default=None, name="t")  # None: published to its queue


class Failed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One failed attempt.  Store time, ms."""

    at: int
    attempt: int
    reason: str


class Changes(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What a message has become that its attributes do not say."""

    expires: Instant = msgspec.field(default=0, name="e")  # instead of what the attributes say
    origin: str | None = msgspec.field(default=None, name="o")
    failures: tuple[Failed, ...] = msgspec.field(default=(), name="f")
    received: tuple[Instant, Instant] | None = msgspec.field(default=None, name="r")  # see traits.py, `first`


class Sliced(Protocol):
    """Bytes, or what is not held in memory and gives bytes when it is sliced."""

    def __getitem__(self, part: slice, /) -> bytes: ...


NO_ATTRIBUTES: Final = Attributes()


def topic_key(topic: str, dedup_id: str) -> str:
    """Under what a dedup id of a topic is remembered, among those of all topics."""
    return f"{topic}\0{dedup_id}"


CHANGES_BYTES_MAX: Final = 64 << 10  # five failures with a reason each take 6 KiB at most
TRAILER_LENGTH: Final = Struct("<I")

_encode: Final = msgspec.msgpack.Encoder().encode
decode_attributes: Final = msgspec.msgpack.Decoder(Attributes).decode
decode_changes: Final = msgspec.msgpack.Decoder(Changes).decode
encode_changes: Final[Callable[[Changes], bytes]] = _encode


def trailer(part: Attributes | Changes) -> bytes:
    """*part* as msgpack, then its length: to be put behind what it is about."""
    data = _encode(part)
    return data + TRAILER_LENGTH.pack(len(data))


def cut_trailer(buffer: Sliced, start: int, stop: int) -> tuple[bytes, int]:
    """The trailer at the end of buffer[start:stop] without its length, and where it begins.

    struct.error if it would begin before *start*.
    """
    begin = trailer_at(buffer, start, stop)
    return buffer[begin : stop - TRAILER_LENGTH.size], begin


def trailer_at(buffer: Sliced, start: int, stop: int) -> int:
    """Where the trailer at the end of buffer[start:stop] begins; struct.error if before *start*."""
    if stop - start < TRAILER_LENGTH.size:
        raise StructError("it is too short for a trailer")
    (length,) = TRAILER_LENGTH.unpack(buffer[stop - TRAILER_LENGTH.size : stop])
    begin: int = stop - TRAILER_LENGTH.size - length
    if begin < start:
        raise StructError(f"a trailer of {length} bytes is longer than what it is part of")
    return begin
