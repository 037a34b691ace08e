"""How a body becomes bytes, and bytes a body.

    bytes, bytearray, memoryview    as they are
    str                             UTF-8
    anything else                   msgpack, by msgspec

A record says which of the three its body is, so it comes back as it was given.  Behind the body there
may be attributes, and beside it what has happened to the message: both are `More`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mq import exact
from mq.delivery import records
from mq.delivery.attributes import Attributes
from mq.delivery.traits import PLAIN, Traits
from mq.errors import BadBody, UsageError

BODY_BYTES_MAX: Final = 64 << 20
BYTES: Final = (bytes, bytearray, memoryview)
BYTES_ALONE: Final = {bytes}

_encode: Final = msgspec.msgpack.Encoder().encode


def encode_body(body: object) -> tuple[int, bytes]:
    """How *body* was given, and the bytes to store; UsageError if it cannot be stored."""
    if type(body) is bytes:
        flags, raw = records.BYTES, body
    elif exact.is_a(body, str):
        try:
            flags, raw = records.TEXT, str.encode(body)  # not as a subclass encodes itself
        except UnicodeEncodeError as error:
            raise UsageError(f"the text cannot be stored as UTF-8: {error.reason}") from None
    elif (data := exact.data(body)) is not None:
        flags, raw = records.BYTES, data
    elif getattr(type(body), "_is_no_body", False):  # its options would be stored with it, and not hold
        raise UsageError(
            f"an mq.{exact.kind(body)} is for publish_many: here give its body, and its options by name"
        )
    else:
        try:
            flags, raw = records.MSGPACK, _encode(body)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError(
                f"a body of type {exact.kind(body)} cannot be stored: {exact.told(error)}"
            ) from None
    if len(raw) > BODY_BYTES_MAX:
        raise UsageError(
            f"the body has {len(raw):,} bytes; {BODY_BYTES_MAX:,} is the most: store the data elsewhere"
            " and publish where it is"
        )
    return flags, raw


def encode_bodies(given: list[object], kinds: set[type]) -> tuple[list[int], list[bytes]]:
    """`encode_body` for many, of these *kinds*: how each was given, and its bytes."""
    if kinds == BYTES_ALONE and max(map(len, given)) <= BODY_BYTES_MAX:  # type: ignore[arg-type]
        return [records.BYTES] * len(given), given  # type: ignore[return-value]  # as a rule
    flags: list[int] = []
    raw: list[bytes] = []
    for body in given:
        how, data = encode_body(body)
        flags.append(how)
        raw.append(data)
    return flags, raw


class Decoder:
    """Bodies of one type."""

    def __init__(self, type: Any) -> None:
        """*type*: what structures are decoded and validated into; None: whatever comes."""
        self._type = type
        try:
            self._decode = msgspec.msgpack.Decoder(Any if type is None else type).decode
        except (TypeError, ValueError) as error:
            raise UsageError(f"messages cannot be of type {exact.shown(type)}: {exact.told(error)}") from None

    def decode(self, queue: str, id: int, flags: int, raw: bytes) -> Any:
        """The body of message *id* in *queue*, or in a history (""); BadBody if it does not fit the type."""
        kind = flags & records.BODY_BITS
        try:
            if kind == records.MSGPACK:
                return self._decode(raw)
            plain = raw if kind == records.BYTES else raw.decode()
            # Bytes are builtin: else text would be taken for base64, and come back as other bytes.
            return plain if self._type is None else msgspec.convert(plain, self._type, builtin_types=BYTES)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            where, whose = (f"in queue {queue!r}", "queue") if queue else ("of the history", "topic")
            raise BadBody(
                f"message {id} {where} does not fit the {whose}'s type: {error}; message.raw has its bytes"
            ) from None


class More(msgspec.Struct, frozen=True, gc=False):
    """What most messages do not have."""

    said: Attributes
    traits: Traits
    size: int  # of all that was published


def more_of(flags: int, published: bytes, traits: Traits) -> tuple[bytes, More | None]:
    """The body, and what there is beside it."""
    if not flags & records.ATTRIBUTED and traits is PLAIN:
        return published, None
    said, body = records.attributes_of(flags, published)
    return body, More(said, traits, len(published))
